"""Drawn inputs of the panoptic head: a crowded street, without a network that sees one."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from upsnet_ros.kernels.panoptic import SEMANTIC_STRIDE
from upsnet_ros.network.static.detections import ROOM_FOR_EQUALS
from upsnet_ros.network.static.lists import DetectionLists
from upsnet_ros.network.variants import Variant

__all__ = ["HeadInputs", "draw_head_inputs"]

#: Cells of a mask's side.
_BINS = 28
# Height and width in metres of person, rider, car, truck, bus, train, motorcycle, bicycle, and how
# often each comes: Cityscapes' things in its order. Of other taxonomies classes have these in turn.
_EXTENTS = ((1.7, 0.6), (1.7, 0.8), (1.5, 2.6), (3, 4), (3.2, 4), (3.5, 6), (1.3, 1), (1.1, 1.2))
_OFTEN = (0.3, 0.06, 0.4, 0.03, 0.03, 0.01, 0.04, 0.13)
# Cityscapes' focal length, of the image's height; and between how many metres things are.
_FOCAL, _NEAREST, _FARTHEST = 2262 / 1024, 12.0, 100.0
# Between which heights they stand: a steep street, on which a hundred have room.
_FAR_END, _NEAR_END = 0.3, 1.0
# Where two boxes of a kind share more of the smaller one, the later is drawn anew: the removal of
# hidden masks would drop one, and the head is to have them all.
_MOST_OVERLAP, _TRIES = 0.2, 200


@dataclass(frozen=True, slots=True)
class HeadInputs:
    """What the network hands to the panoptic head, in float32 whatever its precision.

    Attributes:
        semantic: Logits (1, S, h, w), a quarter of the size, channels-last.
        detections: One list, with its room for equals as padding.
        mask_logits: (1, N, M, M), zeros in the padding.
    """

    semantic: Tensor
    detections: DetectionLists
    mask_logits: Tensor


def draw_head_inputs(
    variant: Variant,
    *,
    size: tuple[int, int],
    instances: int,
    seed: int,
    device: torch.device,
) -> HeadInputs:
    """Draw a street: patches of classes, and boxes as near and far things have.

    Args:
        variant: Of the network whose head it is.
        size: Height and width of the network's input.
        instances: Boxes.
        seed: Of all that is drawn.
        device: Where tensors shall be.
    """
    rng = np.random.default_rng(seed)
    generator = torch.Generator().manual_seed(seed)
    places = instances + ROOM_FOR_EQUALS
    kinds = rng.choice(len(_OFTEN), size=instances, p=_OFTEN)
    boxes, classes, scores = (
        torch.zeros(1, places, 4),
        torch.zeros(1, places, dtype=torch.int64),
        torch.zeros(1, places),
    )
    boxes[0, :instances] = torch.from_numpy(_boxes(kinds, size, rng)).float()
    classes[0, :instances] = torch.from_numpy(kinds % (variant.num_classes - 1) + 1)
    scores[0, :instances] = torch.linspace(0.99, 0.61, instances)
    masks = torch.zeros(1, places, _BINS, _BINS)
    masks[0, :instances] = _masks(instances, generator)

    numbers = torch.tensor([instances], dtype=torch.int32)
    lists = (x.to(device) for x in (boxes, scores, classes, numbers))
    semantic = _semantic(variant.num_seg_classes, size, generator)
    return HeadInputs(
        semantic.to(device, memory_format=torch.channels_last),
        DetectionLists(*lists),
        masks.to(device),
    )


def _boxes(kinds: np.ndarray, size: tuple[int, int], rng: np.random.Generator) -> np.ndarray:
    """Return float64 (N, 4), x1, y1, x2, y2, of things on a street."""
    height, width = size
    limits = np.array([width - 1, height - 1] * 2)
    boxes = np.zeros((0, 4))
    for kind in kinds:
        for _ in range(_TRIES):
            away = np.exp(rng.uniform(np.log(_NEAREST), np.log(_FARTHEST)))
            metre = _FOCAL * height / away
            tall, wide = (metre * length * rng.uniform(0.8, 1.2) for length in _EXTENTS[kind])
            bottom = rng.uniform(_FAR_END, _NEAR_END) * height
            left = rng.uniform(0, width - wide / 2)
            box = np.clip((left, bottom - tall, left + wide, bottom), 0, limits)
            if (_overlaps(box, boxes[kinds[: len(boxes)] == kind]) <= _MOST_OVERLAP).all():
                break
        boxes = np.concatenate((boxes, box[None]))
    return boxes


def _overlaps(box: np.ndarray, boxes: np.ndarray) -> np.ndarray:
    """Return what a box shares with each of others, of the area of the smaller one."""
    near, far = np.maximum(box[:2], boxes[:, :2]), np.minimum(box[2:], boxes[:, 2:])
    shared = (far - near).clip(0).prod(axis=1)
    areas = np.minimum((boxes[:, 2:] - boxes[:, :2]).prod(axis=1), (box[2:] - box[:2]).prod())
    return shared / areas.clip(1e-9)


def _masks(count: int, generator: torch.Generator) -> Tensor:
    """Return logits (count, M, M): ellipses that fill most of the box, with frayed edges."""
    line = torch.linspace(-1, 1, _BINS)
    distance = (line[:, None] ** 2 + line**2).expand(count, -1, -1)
    return 6 * (0.9 - distance) + torch.randn(count, _BINS, _BINS, generator=generator)


def _semantic(classes: int, size: tuple[int, int], generator: torch.Generator) -> Tensor:
    """Return logits (1, S, h, w): patches some hundred pixels wide, with a little noise."""
    cells = [-(-side // SEMANTIC_STRIDE) for side in size]
    coarse = torch.randn(1, classes, 9, 17, generator=generator) * 4
    patches = F.interpolate(coarse, size=cells, mode="bicubic", align_corners=False)
    return patches + 0.1 * torch.randn(patches.shape, generator=generator)
