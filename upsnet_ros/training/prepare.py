"""From a labelled image to what the losses need, on the CPU, before the network runs."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from upsnet_ros.datasets.base import VOID, Sample, Thing
from upsnet_ros.datasets.shapes import Bitmask, Shape
from upsnet_ros.inference.preprocess import Geometry, preprocess
from upsnet_ros.training.settings import Quirks

#: Bins a side of mask targets and of the region-wise semantic loss.
MASK_SIZE = 28
#: The semantic and panoptic heads compute at a quarter of the network's input size.
QUARTER = 4


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Prepared:
    """One image, ready for `TrainingNetwork`.

    Attributes:
        name: Of the sample.
        seed: Of every random choice made for this image.
        geometry: How the image came to the network's grid.
        data: float32 (3, H, W), the network's input; H and W are the padded size.
        boxes: float32 (N, 4) of all objects, in pixels of the labelled image.
        classes: int64 (N,), from 1.
        crowd: bool (N,).
        shapes: Shapes of all objects.
        semantic: uint8 (H, W), `VOID` in the padding.
        semantic_quarter: uint8 (H / 4, W / 4).
        unknown_quarter: bool (H / 4, W / 4), objects outside the taxonomy.
        crowd_quarter: bool (H / 4, W / 4), groups.
        roi_semantic: uint8 (M, 28, 28): ``semantic`` inside the boxes of the M objects that are no
            groups.
        masks_quarter: uint8 (M, H / 4, W / 4): 1 where the object is.
    """

    name: str
    seed: int
    geometry: Geometry
    data: Tensor
    boxes: Tensor
    classes: Tensor
    crowd: Tensor
    shapes: tuple[Shape, ...]
    semantic: Tensor
    semantic_quarter: Tensor
    unknown_quarter: Tensor
    crowd_quarter: Tensor
    roi_semantic: Tensor
    masks_quarter: Tensor

    def to(self, device: torch.device) -> Prepared:
        """Return a copy with all tensors on the device."""
        return self._with(lambda tensor: tensor.to(device, non_blocking=True))

    def pin_memory(self) -> Prepared:
        """Return a copy in pinned memory; the data loader calls this."""
        return self._with(lambda tensor: tensor.pin_memory())

    def _with(self, change: Callable[[Tensor], Tensor]) -> Prepared:
        values: dict[str, Any] = {entry.name: getattr(self, entry.name) for entry in fields(self)}
        changed: dict[str, Any] = {
            k: change(v) if isinstance(v, Tensor) else v for k, v in values.items()
        }
        return Prepared(**changed)


def nearest_index(length: int, factor: float) -> npt.NDArray[np.intp]:
    """Return which of ``length`` pixels each pixel of a line resized by factor shows.

    OpenCV's rule for INTER_NEAREST, which fixes how labels were resized in the original.
    """
    positions = np.arange(max(1, round(length * factor))) * (1 / factor)
    return np.minimum(np.floor(positions).astype(np.intp), length - 1)


def _padded(values: npt.NDArray[np.uint8], size: tuple[int, int], fill: int) -> Tensor:
    height, width = size
    out = np.full((*values.shape[:-2], height, width), fill, np.uint8)
    out[..., : values.shape[-2], : values.shape[-1]] = values
    return torch.from_numpy(out)


def _roi_semantic(
    semantic: npt.NDArray[np.uint8], boxes: npt.NDArray[np.float32], scale: float
) -> npt.NDArray[np.uint8]:
    """Cut the labels of the network's grid (unpadded) to boxes of the labelled image.

    The far corners are left out, except where nothing would be left, as in the original.
    """
    height, width = semantic.shape
    crops = np.empty((len(boxes), MASK_SIZE, MASK_SIZE), np.uint8)
    corners = np.around(boxes * np.float32(scale)).astype(int)
    for (x1, y1, x2, y2), crop in zip(corners.tolist(), crops, strict=True):
        x1, y1 = min(x1, width - 1), min(y1, height - 1)
        part = semantic[y1 : max(y2, y1 + 1), x1 : max(x2, x1 + 1)]
        cv2.resize(part, (MASK_SIZE, MASK_SIZE), dst=crop, interpolation=cv2.INTER_NEAREST)
    return crops


def _outlined(thing: Thing) -> Thing:
    shape = thing.shape
    return replace(thing, shape=shape.outline()) if isinstance(shape, Bitmask) else thing


def prepare(
    sample: Sample, geometry: Geometry, *, num_stuff: int, seed: int, quirks: Quirks
) -> Prepared:
    """Resize image and labels to the network's grid.

    Args:
        sample: The labelled image, already augmented.
        geometry: Of its size.
        num_stuff: Number of stuff classes.
        seed: Of the random choices that will be made for this image.
        quirks: Habits of the original to keep.
    """
    scale, padded = geometry.scale, geometry.padded
    things: Sequence[Thing] = sample.things
    if quirks.masks_by_bounds:
        things = [_outlined(thing) for thing in things]
    boxes = np.array([thing.box for thing in things], np.float32).reshape(-1, 4)
    crowd = np.array([thing.crowd for thing in things], bool)

    rows, columns = (nearest_index(side, scale) for side in sample.size)
    semantic = sample.semantic[np.ix_(rows, columns)]
    quarter_rows = rows[nearest_index(len(rows), 1 / QUARTER)]
    quarter_columns = columns[nearest_index(len(columns), 1 / QUARTER)]
    quarter = (padded[0] // QUARTER, padded[1] // QUARTER)

    painted = list(things) if quirks.crowd_shifts_panoptic_masks else []
    painted = (painted or [thing for thing in things if not thing.crowd])[: int((~crowd).sum())]
    masks = np.zeros((len(painted), len(quarter_rows), len(quarter_columns)), np.uint8)
    for mask, thing in zip(masks, painted, strict=True):
        mask[:] = thing.shape.paint(quarter_rows, quarter_columns)
    groups = np.zeros((len(quarter_rows), len(quarter_columns)), np.uint8)
    for thing in things:
        if thing.crowd:
            groups |= thing.shape.paint(quarter_rows, quarter_columns)
    unknown = np.zeros_like(groups)
    if sample.unknown is not None:
        unknown[:] = sample.unknown[np.ix_(quarter_rows, quarter_columns)]

    image = torch.from_numpy(np.ascontiguousarray(sample.image))
    return Prepared(
        name=sample.name,
        seed=seed,
        geometry=geometry,
        data=preprocess(image, geometry, dtype=torch.float32)[0],
        boxes=torch.from_numpy(boxes),
        classes=torch.tensor(
            [thing.semantic_id - num_stuff + 1 for thing in things], dtype=torch.int64
        ),
        crowd=torch.from_numpy(crowd),
        shapes=tuple(thing.shape for thing in things),
        semantic=_padded(semantic, padded, VOID),
        semantic_quarter=_padded(
            sample.semantic[np.ix_(quarter_rows, quarter_columns)], quarter, VOID
        ),
        unknown_quarter=_padded(unknown, quarter, 0).bool(),
        crowd_quarter=_padded(groups, quarter, 0).bool(),
        roi_semantic=torch.from_numpy(_roi_semantic(semantic, boxes[~crowd], scale)),
        masks_quarter=_padded(masks, quarter, VOID),
    )
