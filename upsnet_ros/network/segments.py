"""Merges panoptic ids and semantic labels into segments and their table (UPSNet, section 3.4).

Also the heuristic merge of Panoptic FPN (Kirillov et al., CVPR 2019): instances by score, then
stuff. It gives the published quality of weights whose two heads were not trained for UPSNet's
panoptic head. Pixels are unknown where the semantic head predicts a thing but no instance is.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from upsnet_ros.network.instance_head import Detections
from upsnet_ros.network.panoptic_head import (
    Grid,
    HeadOptions,
    PanopticMaps,
    first_max,
    tiles_of,
    upsample_part,
)
from upsnet_ros.network.panoptic_logits import Bounds, check_finite
from upsnet_ros.ops.panoptic import UNKNOWN
from upsnet_ros.ops.segments import LABEL_DIVISOR, Relabelling, SegmentTable

#: Semantic id of void pixels in the final result.
VOID = 255


@dataclass(frozen=True, slots=True)
class Segments:
    """Final segments over an image.

    Attributes:
        semantic: int16 (H, W): stuff class, num_stuff - 1 + c for things of class c, or `VOID`.
        instance: int16 (H, W): 0 for stuff and void, else the instance's number. Numbers count
            the panoptic ids present, so those of regions turned into stuff are missing.
        region: int64 (H, W): row of the tables below.
        region_semantic: int64 (R,): the value of `semantic` in each region.
        region_instance: int64 (R,): the value of `instance` in each region.
        region_area: int64 (R,): pixels of each region, 0 for absent ones. Rows are the
            stuff classes, then the instances in the panoptic head's order, then unknown.
    """

    semantic: Tensor
    instance: Tensor
    region: Tensor
    region_semantic: Tensor
    region_instance: Tensor
    region_area: Tensor


def unify(
    panoptic: Tensor,
    semantic: Tensor,
    classes: Tensor,
    *,
    num_stuff: int,
    num_seg_classes: int,
    stuff_area_limit: int,
    majority: bool = True,
) -> Segments:
    """Let the semantic majority decide about instances, and drop small stuff.

    An instance whose most frequent semantic label is not its own class, but a stuff class with at
    least half of the pixels, becomes that stuff. Afterwards stuff classes with fewer pixels than
    the limit become void.

    Args:
        panoptic: int16 (H, W) as in `PanopticMaps`, or `UNMAPPED`.
        semantic: int16 (H, W), semantic argmax.
        classes: int64 (N,), classes of the instances.
        num_stuff: Number of stuff classes.
        num_seg_classes: Number of semantic classes.
        stuff_area_limit: Pixels a stuff class needs.
        majority: Whether the semantic majority decides about instances at all.
    """
    count = len(classes)
    last = num_stuff + count
    region = torch.where(panoptic < 0, last, panoptic.long())
    pair = region * num_seg_classes + semantic
    shares = torch.bincount(pair.flatten(), minlength=(last + 1) * num_seg_classes)
    shares = shares[: (last + 1) * num_seg_classes].view(last + 1, num_seg_classes)
    area = shares.sum(dim=1)

    rows = slice(num_stuff, last)
    most_area, most = shares[rows].max(dim=1)
    # Class 0 ("nothing found", or a dropped thing) is -1 where there is no stuff: it has no pixels.
    own = (num_stuff - 1 + classes).clamp(min=0)
    to_stuff = (most < num_stuff) & (most != own) & (2 * most_area >= area[rows])
    if not majority:
        to_stuff = torch.zeros_like(to_stuff)
    # Numbers start at 1 and count the instances that own a pixel, converted ones included.
    number = (area[rows] > 0).cumsum(dim=0)

    region_semantic = torch.cat(
        (
            torch.arange(num_stuff, device=area.device),
            torch.where(to_stuff, most, own),
            own.new_tensor([VOID]),
        )
    )
    region_instance = torch.zeros_like(region_semantic)
    region_instance[rows] = torch.where(to_stuff, 0, number)

    # The stand-in for "nothing found" carries a stuff id too, so its pixels count as well.
    totals = area.new_zeros(VOID + 1).index_add_(0, region_semantic, area)
    small = (region_semantic < num_stuff) & (totals[region_semantic] < stuff_area_limit)
    region_semantic = torch.where(small, VOID, region_semantic)
    return Segments(
        semantic=region_semantic.to(torch.int16)[region],
        instance=region_instance.to(torch.int16)[region],
        region=region,
        region_semantic=region_semantic,
        region_instance=region_instance,
        region_area=area,
    )


def segment_table(
    panoptic: Tensor,
    semantic: Tensor,
    classes: Tensor,
    public_ids: Tensor,
    *,
    num_stuff: int,
    stuff_area_limit: int,
    want_semantic: bool = False,
    majority: bool = True,
    relabelling: Relabelling | None = None,
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
        majority: See `unify`.
        relabelling: See `ops.segments.segment_table`, with regions of shape (R,).

    Returns:
        The table of one image: fields as in `SegmentTable`, without the batch.
    """
    if relabelling is not None:
        # Unknown, -1, is the last of the regions.
        panoptic = relabelling.regions[panoptic.long()]
        semantic = relabelling.semantic[semantic.long()]
    segments = unify(
        panoptic,
        semantic,
        classes,
        num_stuff=num_stuff,
        num_seg_classes=len(public_ids),
        stuff_area_limit=stuff_area_limit,
        majority=majority,
    )
    labels = _labels_of_regions(segments, num_stuff, public_ids)
    table = _table(segments, labels, num_stuff=num_stuff)
    return SegmentTable(
        labels.to(torch.int32)[segments.region],
        panoptic == UNKNOWN,
        public_ids.to(torch.uint8)[semantic.long()] if want_semantic else None,
        table.int(),
        (table[:, 2] > 0).sum().int(),
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
    # Things that became stuff count in the row of that stuff, void ones in the last row, which is
    # dropped.
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
    position = torch.arange(length, device=index.device)
    position = position[:, None] if dim == 0 else position
    hits = torch.bincount((index * length + position).flatten(), minlength=count * length)
    present = hits.view(count, length) > 0
    positions = torch.arange(length, device=index.device)
    first = torch.where(present, positions, length).amin(dim=1)
    last = torch.where(present, positions, -1).amax(dim=1)
    return first, last


#: Probability from which on a pixel belongs to a mask.
_MASK_THRESHOLD = 0.5


def merge_by_score(
    semantic: Tensor,
    detections: Detections,
    mask_logits: Tensor,
    *,
    grid: Grid,
    num_stuff: int,
    share: float,
    options: HeadOptions,
) -> tuple[Tensor, PanopticMaps]:
    """Merge one frame.

    Args:
        semantic: Semantic logits float32 (S, h, w), stuff first.
        detections: N detections by descending score; N may be 0.
        mask_logits: Their mask logits, float32 (N, M, M).
        grid: Where to compute.
        num_stuff: Number of stuff classes.
        share: Fraction of a mask that better ones of any class may cover.
        options: What is asked for beside the maps of ids.

    Returns:
        Indices of the accepted detections by descending score, int64 (K,); and the maps, in which
        num_stuff + n stands for the n-th accepted one.

    Raises:
        DivergedError: Logits are NaN or infinite.
    """
    check_finite(semantic, mask_logits, detections.classes)
    instance, accepted = _lay_out(detections, mask_logits, grid=grid, share=share)
    maps = PanopticMaps(
        torch.empty_like(instance),
        torch.empty_like(instance),
        *(
            torch.empty_like(instance, dtype=dtype) if wanted else None
            for dtype, wanted in (
                (torch.uint8, options.unknown_score),
                (torch.uint8, options.confidence),
                (torch.float32, options.max_logit),
            )
        ),
    )
    nowhere = torch.zeros(0, dtype=torch.int64)
    for tile in tiles_of(Bounds(nowhere, nowhere, nowhere, nowhere), grid.size):
        area = (slice(tile.y1, tile.y2), slice(tile.x1, tile.x2))
        logits = upsample_part(semantic, tile, scale=grid.scale, via=grid.via)
        stuff, stuff_id = first_max(logits[:num_stuff])
        thing, thing_id = first_max(logits[num_stuff:])
        is_thing = thing > stuff
        maps.semantic[area] = torch.where(is_thing, num_stuff + thing_id, stuff_id)
        lead = thing - stuff
        rest = stuff_id.masked_fill(lead > options.unknown_margin, UNKNOWN)
        known = instance[area] >= 0
        maps.panoptic[area] = torch.where(known, num_stuff + instance[area], rest)
        best = torch.maximum(stuff, thing)
        if maps.unknown_score is not None:
            score = (torch.sigmoid(lead) * 255).round().to(torch.uint8)
            maps.unknown_score[area] = score.masked_fill(known, 0)
        if maps.confidence is not None:
            probability = (best - logits.logsumexp(dim=0)).exp()
            maps.confidence[area] = (probability * 255).round().to(torch.uint8)
        if maps.max_logit is not None:
            maps.max_logit[area] = best
    return accepted, maps


def _lay_out(
    detections: Detections, mask_logits: Tensor, *, grid: Grid, share: float
) -> tuple[Tensor, Tensor]:
    """Return which accepted detection owns each pixel, int16 (H, W), -1 for none; and which are."""
    device = mask_logits.device
    owner = torch.full(grid.size, -1, dtype=torch.int16, device=device)
    boxes = grid.extents(detections.boxes)
    probabilities = mask_logits.float().sigmoid()
    accepted: list[int] = []
    for n, (x1, y1, x2, y2) in enumerate(boxes.tolist()):
        if x2 <= x1 or y2 <= y1:
            continue
        top, rows = _line(y1, y2, grid.size[0], mask_logits.shape[1], device)
        left, columns = _line(x1, x2, grid.size[1], mask_logits.shape[2], device)
        mask = rows @ probabilities[n] @ columns.T >= _MASK_THRESHOLD
        part = owner[top : top + len(rows), left : left + len(columns)]
        free = mask & (part < 0)
        size, left_over = int(mask.sum()), int(free.sum())
        if size == 0 or (size - left_over) / size > share:
            continue
        part[free] = len(accepted)
        accepted.append(n)
    return owner, torch.tensor(accepted, dtype=torch.int64, device=device)


def _line(
    start: float, stop: float, length: int, bins: int, device: torch.device
) -> tuple[int, Tensor]:
    """Return the first pixel of a box's side, and how its pixels read `bins` values.

    Bilinear at the pixels' centres, with zeros beyond the first and last value. Half a value beyond
    them nothing reaches a half, so that pixels whose centres lie outside of the box are left out.

    Returns:
        The pixel; float32 (pixels, bins).
    """
    first, last = max(0, int(start)), min(length, int(stop) + 1)
    pixels = torch.arange(first, last, dtype=torch.float64, device=device)
    position = ((pixels + 0.5 - start) / (stop - start) * bins - 0.5).float()
    distance = position[:, None] - torch.arange(bins, device=device)
    return first, (1 - distance.abs()).clamp(min=0)
