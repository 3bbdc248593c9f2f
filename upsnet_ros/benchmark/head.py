"""Benchmark of the panoptic head and post-processing on sampled inputs of a crowded street."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from upsnet_ros.benchmark.measure import Summary, captured, device_ms
from upsnet_ros.inference.predictor import Predictor
from upsnet_ros.network.batched_operators import KernelOperators, Operators
from upsnet_ros.network.batched_selection import (
    ROOM_FOR_EQUALS,
    DetectionLists,
    gather_entries,
    valid_mask,
)
from upsnet_ros.network.panoptic_head import Grid, HeadOptions
from upsnet_ros.network.variants import Variant
from upsnet_ros.ops.mask_removal import Accepted
from upsnet_ros.ops.panoptic import SEMANTIC_STRIDE, HeadMaps
from upsnet_ros.ops.segments import SegmentTable

#: Size of the goal's inputs and number of detections.
SIZE, INSTANCES = (1024, 2048), 100
_SEED = 0

#: Side length of a mask, bins.
_BINS = 28
# Height and width in metres, and frequency, of person, rider, car, truck, bus, train, motorcycle,
# bicycle: Cityscapes' things in order. Classes of other taxonomies use these cyclically.
_EXTENTS = ((1.7, 0.6), (1.7, 0.8), (1.5, 2.6), (3, 4), (3.2, 4), (3.5, 6), (1.3, 1), (1.1, 1.2))
_OFTEN = (0.3, 0.06, 0.4, 0.03, 0.03, 0.01, 0.04, 0.13)
# Cityscapes' focal length as a fraction of the image height; range of distances in metres.
_FOCAL, _NEAREST, _FARTHEST = 2262 / 1024, 12.0, 100.0
# Range of the things' bottom edges, as fractions of the image height: a steep street with room for
# a hundred things.
_FAR_END, _NEAR_END = 0.3, 1.0
# If a box overlaps another of the same kind by more than this fraction of the smaller one, it is
# sampled again: mask removal would drop one of them, and the head is to process all.
_MOST_OVERLAP, _TRIES = 0.2, 200


@dataclass(frozen=True, slots=True)
class HeadInputs:
    """Inputs of the panoptic head, float32 regardless of the network's precision.

    Attributes:
        semantic: Semantic logits (1, S, h, w) at a quarter of the input size, channels-last.
        detections: A list of detections, padded by the room for equal scores.
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
    """Sample the head inputs of a street: patches of classes, boxes of near and distant things.

    Args:
        variant: Variant of the network.
        size: Height and width of the network input, pixels.
        instances: Number of boxes.
        seed: Seed of the random generators.
        device: Device of the tensors.
    """
    rng = np.random.default_rng(seed)
    generator = torch.Generator().manual_seed(seed)
    capacity = instances + ROOM_FOR_EQUALS
    kinds = rng.choice(len(_OFTEN), size=instances, p=_OFTEN)
    boxes, classes, scores = (
        torch.zeros(1, capacity, 4),
        torch.zeros(1, capacity, dtype=torch.int64),
        torch.zeros(1, capacity),
    )
    boxes[0, :instances] = torch.from_numpy(_boxes(kinds, size, rng)).float()
    classes[0, :instances] = torch.from_numpy(kinds % (variant.num_classes - 1) + 1)
    scores[0, :instances] = torch.linspace(0.99, 0.61, instances)
    masks = torch.zeros(1, capacity, _BINS, _BINS)
    masks[0, :instances] = _masks(instances, generator)

    counts = torch.tensor([instances], dtype=torch.int32)
    lists = (x.to(device) for x in (boxes, scores, classes, counts))
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
    """Return the overlap of a box (4,) with boxes (N, 4) as fractions of the smaller area, (N,)."""
    near, far = np.maximum(box[:2], boxes[:, :2]), np.minimum(box[2:], boxes[:, 2:])
    shared = (far - near).clip(0).prod(axis=1)
    areas = np.minimum((boxes[:, 2:] - boxes[:, :2]).prod(axis=1), (box[2:] - box[:2]).prod())
    return shared / areas.clip(1e-9)


def _masks(count: int, generator: torch.Generator) -> Tensor:
    """Return mask logits (count, M, M): ellipses that fill most of the box, with noisy edges."""
    line = torch.linspace(-1, 1, _BINS)
    distance = (line[:, None] ** 2 + line**2).expand(count, -1, -1)
    return 6 * (0.9 - distance) + torch.randn(count, _BINS, _BINS, generator=generator)


def _semantic(classes: int, size: tuple[int, int], generator: torch.Generator) -> Tensor:
    """Return semantic logits (1, S, h, w): patches about a hundred pixels wide, with some noise."""
    cells = [-(-side // SEMANTIC_STRIDE) for side in size]
    coarse = torch.randn(1, classes, 9, 17, generator=generator) * 4
    patches = F.interpolate(coarse, size=cells, mode="bicubic", align_corners=False)
    return patches + 0.1 * torch.randn(patches.shape, generator=generator)


@dataclass(frozen=True, slots=True, kw_only=True)
class HeadFigures:
    """Device times on sampled inputs, in milliseconds; measured in a CUDA graph on a GPU.

    Attributes:
        size: Height and width of the network input.
        instances: Number of detections.
        accepted: Number of detections left after mask removal.
        accept_ms: Mask removal.
        maps_ms: Panoptic head.
        segments_ms: Labels, unknown mask and segment table.
        all_ms: All three in sequence.
    """

    size: tuple[int, int]
    instances: int
    accepted: int
    accept_ms: Summary
    maps_ms: Summary
    segments_ms: Summary
    all_ms: Summary


class _Head:
    """The three operators, each on the outputs of the previous ones."""

    def __init__(self, predictor: Predictor, size: tuple[int, int], instances: int) -> None:
        self._size = size
        device, self._variant = predictor.device, predictor.variant
        self._operators: Operators = KernelOperators() if device.type == "cuda" else Operators()
        inputs = draw_head_inputs(
            self._variant,
            size=size,
            instances=instances,
            seed=_SEED,
            device=device,
        )
        self._semantic = inputs.semantic
        self._detections = self._operators.worth_computing(inputs.detections)
        self._masks = inputs.mask_logits[:, : self._detections.scores.shape[1]]
        self._margin = torch.zeros(1, device=device)
        public_ids = torch.tensor(predictor.taxonomy.public_ids.tolist())
        self._public_ids = public_ids.to(device)
        self._grid = Grid(size)
        self._tables = self._grid.tables((self._semantic.shape[2], self._semantic.shape[3]), device)
        self._rows, self._columns = (torch.arange(side, device=device) for side in size)
        self.accepted = self.accept()
        self._kept = self._keep()
        self._maps = self.maps()

    def accept(self) -> Accepted:
        share = self._variant.mask_overlap_threshold
        return self._operators.accept(self._detections, self._masks, size=self._size, share=share)

    def _keep(self) -> tuple[DetectionLists, Tensor]:
        indices, counts, blank = self.accepted
        stays = valid_mask(counts, indices.shape[1]) & ~blank[:, None]
        masks = gather_entries(self._masks, indices) * stays[..., None, None]
        return self._detections.select(indices, counts), masks

    def maps(self) -> HeadMaps:
        return self._operators.head(
            self._semantic,
            *self._kept,
            self._margin,
            grid=self._grid,
            tables=self._tables,
            num_stuff=self._variant.num_stuff,
            options=HeadOptions(),
        )

    def segments(self) -> SegmentTable:
        return self._operators.segments(
            self._maps.panoptic,
            self._maps.semantic,
            self._kept[0].classes,
            self._public_ids,
            self._rows,
            self._columns,
            num_stuff=self._variant.num_stuff,
            stuff_area_limit=self._variant.stuff_area_limit,
            want_semantic=False,
        )

    def all(self) -> SegmentTable:
        self.accepted = self.accept()
        self._kept = self._keep()
        self._maps = self.maps()
        return self.segments()


@torch.inference_mode()
def measure_head(
    predictor: Predictor,
    *,
    warmup: int,
    iterations: int,
    size: tuple[int, int] = SIZE,
    instances: int = INSTANCES,
) -> HeadFigures:
    """Measure mask removal, panoptic head and post-processing.

    Args:
        predictor: Predictor whose device and variant are used.
        warmup: Number of calls before the measured ones.
        iterations: Number of measured calls.
        size: Height and width of the network input; by default the goal's.
        instances: Number of detections; by default the goal's.

    Raises:
        RuntimeError: If the operators cannot be captured in a graph.
    """
    head, device = _Head(predictor, size, instances), predictor.device
    times = {}
    for name in ("accept", "maps", "segments", "all"):
        with captured(getattr(head, name), device) as function:
            times[name] = Summary.of(
                device_ms(function, device, warmup=warmup, iterations=iterations)
            )
    return HeadFigures(
        size=size,
        instances=instances,
        accepted=int(head.accepted.counts),
        accept_ms=times["accept"],
        maps_ms=times["maps"],
        segments_ms=times["segments"],
        all_ms=times["all"],
    )
