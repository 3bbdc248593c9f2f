"""Labels of an image's pixels, and a row for every segment that there could be."""

from __future__ import annotations

import torch
from torch import Tensor

from upsnet_ros.kernels.segments import LABEL_DIVISOR, SegmentTable
from upsnet_ros.network.panoptic_head import UNKNOWN
from upsnet_ros.network.segments import VOID, Segments, unify


def segment_table(
    panoptic: Tensor,
    semantic: Tensor,
    classes: Tensor,
    public_ids: Tensor,
    *,
    num_stuff: int,
    stuff_area_limit: int,
    want_semantic: bool = False,
) -> SegmentTable:
    """Unify an image's maps and describe its segments.

    Args:
        panoptic: int16 (H, W): stuff class, num_stuff + n, or `UNKNOWN`.
        semantic: int16 (H, W), semantic argmax.
        classes: int64 (N,), classes of the instances.
        public_ids: int64 (S,), public id of each semantic id.
        num_stuff: Number of stuff classes.
        stuff_area_limit: Pixels a stuff class needs.
        want_semantic: Whether to fill `SegmentTable.semantic`.

    Returns:
        The table of one image: fields as in `SegmentTable`, without the batch.
    """
    segments = unify(
        panoptic,
        semantic,
        classes,
        num_stuff=num_stuff,
        num_seg_classes=len(public_ids),
        stuff_area_limit=stuff_area_limit,
    )
    labels = _labels_of_regions(segments, num_stuff, public_ids)
    table = _table(segments, labels, num_stuff=num_stuff)
    return SegmentTable(
        labels.to(torch.int32)[segments.region],
        panoptic == UNKNOWN,
        public_ids.to(torch.uint8)[semantic.long()] if want_semantic else None,
        table.int(),
        (table[:, 2] > 0).sum().int()[None],
    )


def _labels_of_regions(segments: Segments, num_stuff: int, public_ids: Tensor) -> Tensor:
    """Return the label of each region, int64 (R,): things numbered within their class."""
    semantic = segments.region_semantic
    present = segments.region_area > 0
    void = semantic == VOID
    # The stand-in for "nothing found" has a stuff id and is no thing.
    thing = present & ~void & (semantic >= num_stuff)
    same = (semantic[:, None] == semantic) & thing
    number = torch.tril(same).sum(dim=1)
    ids = public_ids[semantic.masked_fill(void, 0)]
    return torch.where(thing, ids * LABEL_DIVISOR + number, ids).masked_fill(void, 0)


def _table(segments: Segments, labels: Tensor, *, num_stuff: int) -> Tensor:
    """Return label, semantic id, area and bounds of each segment, int64 (R - 1, 7)."""
    semantic = segments.region_semantic
    count = len(labels)
    # What became stuff counts in that stuff's row, and what is void in the last, which is cut off.
    row = torch.where(semantic < num_stuff, semantic, torch.arange(count, device=labels.device))
    row = row.masked_fill(semantic == VOID, count - 1)
    area = torch.zeros_like(labels).index_add_(0, row, segments.region_area)
    present = segments.region_area > 0

    def merged(bounds: Tensor, reduce: str) -> Tensor:
        start = torch.full_like(bounds, -1 if reduce == "amax" else torch.iinfo(bounds.dtype).max)
        bounds = torch.where(present, bounds, start)
        return start.scatter_reduce(0, row, bounds, reduce)

    (y1, y2), (x1, x2) = (_bounds(segments.region, count, dim) for dim in (0, 1))
    corners = [merged(x1, "amin"), merged(y1, "amin"), merged(x2, "amax"), merged(y2, "amax")]
    name = torch.zeros_like(labels).scatter_reduce(0, row, labels * present, "amax")
    kind = torch.zeros_like(labels).scatter_reduce(0, row, semantic * present, "amax")
    table = torch.stack((name, kind, area, *corners), dim=1)
    return (table * (area > 0)[:, None])[:-1]


def _bounds(index: Tensor, count: int, dim: int) -> tuple[Tensor, Tensor]:
    """Return the first and last row (dim 0) or column (dim 1) where index (H, W) has each value."""
    length = index.shape[dim]
    place = torch.arange(length, device=index.device)
    place = place[:, None] if dim == 0 else place
    hits = torch.bincount((index * length + place).flatten(), minlength=count * length)
    present = hits.view(count, length) > 0
    positions = torch.arange(length, device=index.device)
    first = torch.where(present, positions, length).amin(dim=1)
    last = torch.where(present, positions, -1).amax(dim=1)
    return first, last
