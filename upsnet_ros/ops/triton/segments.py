"""Segments as three kernels: see `segments`.

The first counts runs of equal pixels in a row rather than pixels: a run adds its end and takes off
its start, so that a counter is touched by every run that has its value, not by every pixel. The
second, one program, decides about all regions. The third paints.
"""

# The arguments of kernels get their types when Triton compiles them.
# mypy: disallow-untyped-defs=False, disallow-incomplete-defs=False

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from upsnet_ros.ops.segments import LABEL_DIVISOR, VOID, Relabelling, SegmentTable

# Sizes differ by camera: no reason to recompile. The width's being a multiple of 16 lets rows be
# written in wide pieces.
_VARYING = ["map_height", "map_width", "height", "limit"]


@triton.jit
def _value_at(panoptic, at, regions, REGIONS: tl.constexpr):
    """Panoptic values, new ones where there are REGIONS of them; `regions` is the image's."""
    value = tl.load(panoptic + at).to(tl.int32)
    if REGIONS > 0:
        value = tl.load(regions + tl.where(value < 0, REGIONS - 1, value)).to(tl.int32)
    return value


@triton.jit
def _share_at(semantic, at, new_ids, REGIONS: tl.constexpr):
    """Semantic ids, new ones where there are any."""
    share = tl.load(semantic + at).to(tl.int32)
    if REGIONS > 0:
        share = tl.load(new_ids + share).to(tl.int32)
    return share


@triton.jit(do_not_specialize=_VARYING)
def _tally_kernel(
    panoptic,
    semantic,
    rows,
    columns,
    regions,
    new_ids,
    shares,
    bounds,
    map_height,
    map_width,
    height,
    width,
    LAST: tl.constexpr,
    CLASSES: tl.constexpr,
    REGIONS: tl.constexpr,
    BLOCK: tl.constexpr,
):
    y = tl.program_id(0)
    first = tl.program_id(1) * BLOCK
    image = tl.program_id(2).to(tl.int64)
    panoptic += image * map_height * map_width
    semantic += image * map_height * map_width
    shares += image * ((LAST + 1) * CLASSES)
    bounds += image * ((LAST + 1) * 4)
    regions += image * REGIONS
    stop = tl.minimum(first + BLOCK, width)
    x = first + tl.arange(0, BLOCK)
    row = tl.load(rows + y).to(tl.int32) * map_width
    here = row + tl.load(columns + x, mask=x < stop, other=0).to(tl.int32)
    before = row + tl.load(columns + x - 1, mask=(x > first) & (x < stop), other=0).to(tl.int32)
    after = row + tl.load(columns + x + 1, mask=x + 1 < stop, other=0).to(tl.int32)
    value = _value_at(panoptic, here, regions, REGIONS)
    region = tl.where(value < 0, LAST, value)
    share = _share_at(semantic, here, new_ids, REGIONS)
    value_before = _value_at(panoptic, before, regions, REGIONS)
    share_before = _share_at(semantic, before, new_ids, REGIONS)
    value_after = _value_at(panoptic, after, regions, REGIONS)
    share_after = _share_at(semantic, after, new_ids, REGIONS)
    begins = (x == first) | (value_before != value) | (share_before != share)
    ends = (x + 1 == stop) | (value_after != value) | (share_after != share)
    begins = begins & (x < stop)
    ends = ends & (x < stop)

    length = tl.where(ends, x + 1, 0) - tl.where(begins, x, 0)
    counter = shares + share * (LAST + 1) + region
    tl.atomic_add(counter, length, mask=begins | ends, sem="relaxed")
    # Of a region without pixels the zeros stay: how far its corners are from the opposite edges.
    corner = bounds + region * 4
    tl.atomic_max(corner, width - x, mask=begins, sem="relaxed")
    tl.atomic_max(corner + 1, x * 0 + (height - y), mask=begins, sem="relaxed")
    tl.atomic_max(corner + 2, x + 1, mask=ends, sem="relaxed")
    tl.atomic_max(corner + 3, x * 0 + (y + 1), mask=begins, sem="relaxed")


@triton.jit(do_not_specialize=_VARYING)
def _decide_kernel(
    shares,
    bounds,
    classes,
    public_ids,
    labels,
    table,
    count,
    height,
    width,
    limit,
    STUFF: tl.constexpr,
    LAST: tl.constexpr,
    CLASSES: tl.constexpr,
    VOID_ID: tl.constexpr,
    DIVISOR: tl.constexpr,
    MAJORITY: tl.constexpr,
    BLOCK: tl.constexpr,
):
    image = tl.program_id(0)
    shares += image * ((LAST + 1) * CLASSES)
    bounds += image * ((LAST + 1) * 4)
    classes += image * (LAST - STUFF)
    labels += image * (LAST + 1)
    table += image * (LAST * 7)
    region = tl.arange(0, BLOCK)
    valid = region <= LAST
    instance = (region >= STUFF) & (region < LAST)
    area = tl.full((BLOCK,), 0, tl.int32)
    most = tl.full((BLOCK,), -1, tl.int32)
    majority = tl.full((BLOCK,), 0, tl.int32)
    for kind in range(CLASSES):
        share = tl.load(shares + kind * (LAST + 1) + region, mask=valid, other=0)
        area += share
        better = share > most
        most = tl.where(better, share, most)
        majority = tl.where(better, kind, majority)
    own = tl.load(classes + region - STUFF, mask=instance, other=0).to(tl.int32) + STUFF - 1
    to_stuff = (majority < STUFF) & (majority != own) & (2 * most >= area) & MAJORITY
    ids = tl.where(instance, tl.where(to_stuff, majority, own), region)
    ids = tl.where(region >= LAST, VOID_ID, ids)
    corner = bounds + region * 4
    left = tl.load(corner, mask=valid, other=0)
    top = tl.load(corner + 1, mask=valid, other=0)
    right = tl.load(corner + 2, mask=valid, other=0)
    bottom = tl.load(corner + 3, mask=valid, other=0)

    label = tl.full((BLOCK,), 0, tl.int32)
    shown = tl.full((), 0, tl.int32)
    for kind in range(STUFF):
        # Regions without a pixel have area 0 and the lowest of bounds.
        mine = ids == kind
        total = tl.sum(tl.where(mine, area, 0), axis=0)
        if (total >= limit) & (total > 0):
            name = tl.load(public_ids + kind).to(tl.int32)
            label = tl.where(mine, name, label)
            shown += 1
            row = table + kind * 7
            tl.store(row, name)
            tl.store(row + 1, kind)
            tl.store(row + 2, total)
            tl.store(row + 3, width - tl.max(tl.where(mine, left, 0), axis=0))
            tl.store(row + 4, height - tl.max(tl.where(mine, top, 0), axis=0))
            tl.store(row + 5, tl.max(tl.where(mine, right, 0), axis=0) - 1)
            tl.store(row + 6, tl.max(tl.where(mine, bottom, 0), axis=0) - 1)
    for kind in range(STUFF, CLASSES):
        mine = ((ids == kind) & (area > 0)).to(tl.int32)
        number = tl.cumsum(mine, axis=0)
        name = tl.load(public_ids + kind).to(tl.int32)
        label = tl.where(mine > 0, name * DIVISOR + number, label)
    tl.store(labels + region, label, mask=valid)

    thing = instance & (ids >= STUFF) & (area > 0)
    shown += tl.sum(thing.to(tl.int32), axis=0)
    row = table + region * 7
    tl.store(row, label, mask=thing)
    tl.store(row + 1, ids, mask=thing)
    tl.store(row + 2, area, mask=thing)
    tl.store(row + 3, width - left, mask=thing)
    tl.store(row + 4, height - top, mask=thing)
    tl.store(row + 5, right - 1, mask=thing)
    tl.store(row + 6, bottom - 1, mask=thing)
    tl.store(count + image, shown)


@triton.jit(do_not_specialize=_VARYING)
def _paint_kernel(
    panoptic,
    semantic,
    rows,
    columns,
    regions,
    new_ids,
    region_labels,
    public_ids,
    labels,
    unknown,
    public_map,
    map_height,
    map_width,
    height,
    width,
    LAST: tl.constexpr,
    REGIONS: tl.constexpr,
    WANT_SEMANTIC: tl.constexpr,
    BLOCK: tl.constexpr,
):
    y = tl.program_id(0)
    x = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    image = tl.program_id(2).to(tl.int64)
    inside = x < width
    row = tl.load(rows + y).to(tl.int32) * map_width
    here = image * map_height * map_width + row
    here += tl.load(columns + x, mask=inside, other=0).to(tl.int32)
    value = _value_at(panoptic, here, regions + image * REGIONS, REGIONS)
    region = tl.where(value < 0, LAST, value)
    pixel = (image * height + y) * width + x
    label = tl.load(region_labels + image * (LAST + 1) + region)
    tl.store(labels + pixel, label, mask=inside)
    tl.store(unknown + pixel, (value == -1).to(tl.uint8), mask=inside)
    if WANT_SEMANTIC:
        kind = _share_at(semantic, here, new_ids, REGIONS)
        name = tl.load(public_ids + kind)
        tl.store(public_map + pixel, name.to(tl.uint8), mask=inside)


def segment_table(
    panoptic: Tensor,
    semantic: Tensor,
    classes: Tensor,
    public_ids: Tensor,
    rows: Tensor,
    columns: Tensor,
    *,
    num_stuff: int,
    stuff_area_limit: int,
    want_semantic: bool = False,
    majority: bool = True,
    relabelling: Relabelling | None = None,
    block: int = 1024,
) -> SegmentTable:
    """Launch the kernels: `segments.segment_table`, `block` pixels (a power of two) a program."""
    device = panoptic.device
    panoptic, semantic = panoptic.contiguous(), semantic.contiguous()
    classes, public_ids = classes.contiguous(), public_ids.contiguous()
    batch, *map_size = panoptic.shape
    num_classes, last = len(public_ids), num_stuff + classes.shape[1]
    size = (len(rows), len(columns))
    # What starts from zero, zeroed in one launch.
    parts = [(last + 1) * num_classes, (last + 1) * 4, last * 7]
    zeros = torch.zeros(batch * sum(parts), dtype=torch.int32, device=device)
    shares, bounds, table = zeros.split([batch * part for part in parts])
    num_segments = torch.empty(batch, dtype=torch.int32, device=device)
    region_labels = torch.empty(batch, last + 1, dtype=torch.int32, device=device)
    labels = torch.empty((batch, *size), dtype=torch.int32, device=device)
    unknown = torch.empty((batch, *size), dtype=torch.uint8, device=device)
    public_map = torch.empty_like(unknown) if want_semantic else None

    grid_lines = (rows.contiguous(), columns.contiguous())
    # Without a relabelling nothing is read of them.
    new: tuple[Tensor, Tensor] = (panoptic, semantic)
    if relabelling is not None:
        new = (relabelling.regions.contiguous(), relabelling.semantic.contiguous())
    num_regions = 0 if relabelling is None else relabelling.regions.shape[1]
    grid = (size[0], triton.cdiv(size[1], block), batch)
    _tally_kernel[grid](
        panoptic,
        semantic,
        *grid_lines,
        *new,
        shares,
        bounds,
        *map_size,
        *size,
        LAST=last,
        CLASSES=num_classes,
        REGIONS=num_regions,
        BLOCK=block,
    )
    _decide_kernel[(batch,)](
        shares,
        bounds,
        classes,
        public_ids,
        region_labels,
        table,
        num_segments,
        *size,
        stuff_area_limit,
        STUFF=num_stuff,
        LAST=last,
        CLASSES=num_classes,
        VOID_ID=VOID,
        DIVISOR=LABEL_DIVISOR,
        MAJORITY=majority,
        BLOCK=triton.next_power_of_2(last + 1),
    )
    _paint_kernel[grid](
        panoptic,
        semantic,
        *grid_lines,
        *new,
        region_labels,
        public_ids,
        labels,
        unknown,
        unknown if public_map is None else public_map,
        *map_size,
        *size,
        LAST=last,
        REGIONS=num_regions,
        WANT_SEMANTIC=want_semantic,
        BLOCK=block,
    )
    table = table.view(batch, last, 7)
    return SegmentTable(labels, unknown.view(torch.bool), public_map, table, num_segments)
