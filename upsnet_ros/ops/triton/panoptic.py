"""The panoptic head as one kernel: see `ops.panoptic`.

A program computes a tile of pixels. It loops over the semantic channels, which it interpolates, and
then over those instances that overlap the tile; all others are one candidate with value 0 and the
lowest of their indices. For each pixel it keeps the largest values and their ids.
"""

# The arguments of kernels get their types when Triton compiles them.
# mypy: disallow-untyped-defs=False, disallow-incomplete-defs=False

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from upsnet_ros.ops.panoptic import GridTables, HeadMaps, MapOptions
from upsnet_ros.ops.triton.mask_removal import mask_logits_at, mask_span, next_member


@triton.jit
def line_taps(lows, weights, pixel, pixels, cells, stride, TAPS: tl.constexpr):
    """Return the offsets of the cells that pixels of a line read, and their weights: three each.

    With two taps, the third has no weight and must not be read.
    """
    shown = pixel < pixels
    low = tl.load(lows + pixel, mask=shown, other=0)
    first = tl.load(weights + pixel, mask=shown, other=0.0)
    second = tl.load(weights + pixels + pixel, mask=shown, other=0.0)
    third = second
    if TAPS == 3:
        third = tl.load(weights + 2 * pixels + pixel, mask=shown, other=0.0)
    after = tl.minimum(low + 1, cells - 1)
    last = tl.minimum(low + 2, cells - 1)
    return low * stride, after * stride, last * stride, first, second, third


@triton.jit
def _line(row, x0, x1, x2, u0, u1, u2, mask, TAPS: tl.constexpr):
    """Return a row of cells at the columns of a tile."""
    a = tl.load(row + x0[None, :], mask=mask, other=0.0).to(tl.float32)
    b = tl.load(row + x1[None, :], mask=mask, other=0.0).to(tl.float32)
    value = u0[None, :] * a + u1[None, :] * b
    if TAPS == 3:
        c = tl.load(row + x2[None, :], mask=mask, other=0.0).to(tl.float32)
        value += u2[None, :] * c
    return value


@triton.jit
def _interpolated(cells, y0, y1, y2, v0, v1, v2, x0, x1, x2, u0, u1, u2, mask, TAPS: tl.constexpr):
    """Return a channel at the pixels of a tile, of what `line_taps` gives of rows and columns."""
    above = _line(cells + y0[:, None], x0, x1, x2, u0, u1, u2, mask, TAPS)
    below = _line(cells + y1[:, None], x0, x1, x2, u0, u1, u2, mask, TAPS)
    value = v0[:, None] * above + v1[:, None] * below
    if TAPS == 3:
        value += v2[:, None] * _line(cells + y2[:, None], x0, x1, x2, u0, u1, u2, mask, TAPS)
    return value


@triton.jit
def semantic_leaders(
    semantic, channel_stride, y0, y1, y2, v0, v1, v2, x0, x1, x2, u0, u1, u2, mask,
    STUFF: tl.constexpr, CLASSES: tl.constexpr, TAPS: tl.constexpr, WANT_CONFIDENCE: tl.constexpr,
):  # fmt: skip
    """Return the best stuff and thing logit with their ids, and the sum of exp(logit - best).

    The sum is meaningless unless WANT_CONFIDENCE.
    """
    stuff = tl.full(mask.shape, float("-inf"), tl.float32)
    thing = stuff
    stuff_id = tl.full(mask.shape, 0, tl.int32)
    thing_id = stuff_id
    total = tl.full(mask.shape, 0.0, tl.float32)
    for channel in range(CLASSES):
        cells = semantic + channel * channel_stride
        value = _interpolated(
            cells, y0, y1, y2, v0, v1, v2, x0, x1, x2, u0, u1, u2, mask, TAPS
        )  # fmt: skip
        if WANT_CONFIDENCE:
            best = tl.maximum(stuff, thing)
            highest = tl.maximum(best, value)
            total = total * tl.exp(best - highest) + tl.exp(value - highest)
        if channel < STUFF:
            better = value > stuff
            stuff = tl.where(better, value, stuff)
            stuff_id = tl.where(better, channel, stuff_id)
        else:
            better = value > thing
            thing = tl.where(better, value, thing)
            thing_id = tl.where(better, channel - STUFF, thing_id)
    return stuff, stuff_id, thing, thing_id, total


@triton.jit
def store_maps(
    panoptic, semantic_ids, unknown_score, confidence, max_logit, pixel, mask,
    ids, share, stuff, stuff_id, thing, thing_id, total,
    STUFF: tl.constexpr, WANT_SCORE: tl.constexpr, WANT_CONFIDENCE: tl.constexpr,
    WANT_LOGIT: tl.constexpr,
):  # fmt: skip
    """Write the maps of a tile: panoptic ids, the unknown channel's share, and of the leaders."""
    classes_of = tl.where(thing > stuff, STUFF + thing_id, stuff_id)
    tl.store(panoptic + pixel, ids.to(tl.int16), mask=mask)
    tl.store(semantic_ids + pixel, classes_of.to(tl.int16), mask=mask)
    if WANT_SCORE:
        tl.store(unknown_score + pixel, (share * 255 + 0.5).to(tl.uint8), mask=mask)
    if WANT_CONFIDENCE:
        tl.store(confidence + pixel, (255 / total + 0.5).to(tl.uint8), mask=mask)
    if WANT_LOGIT:
        tl.store(max_logit + pixel, tl.maximum(stuff, thing), mask=mask)


@triton.jit
def _segment_stop(far):
    """Return the pixel after a segment's last: its far corner is rounded, halves to even."""
    whole = tl.floor(far)
    stop = whole.to(tl.int32)
    part = far - whole
    up = (part > 0.5) | ((part == 0.5) & (stop % 2 != 0))
    return stop + up.to(tl.int32) + 1


# Sizes and strides differ by camera and must not cause recompilation. The width is specialised:
# if it is a multiple of 16, rows are written in wide pieces.
_VARYING = ["height", "cell_rows", "cell_columns"]
_VARYING += ["image_stride", "channel_stride", "row_stride", "column_stride"]


@triton.jit(do_not_specialize=_VARYING)
def _panoptic_kernel(
    semantic,
    boxes,
    classes,
    mask_logits,
    counts,
    unknown_margin,
    first_row,
    row_weights,
    first_column,
    column_weights,
    panoptic,
    semantic_ids,
    unknown_score,
    confidence,
    max_logit,
    height,
    width,
    cell_rows,
    cell_columns,
    image_stride,
    channel_stride,
    row_stride,
    column_stride,
    STUFF: tl.constexpr,
    CLASSES: tl.constexpr,
    INSTANCES: tl.constexpr,
    BINS: tl.constexpr,
    TAPS: tl.constexpr,
    WANT_SCORE: tl.constexpr,
    WANT_CONFIDENCE: tl.constexpr,
    WANT_LOGIT: tl.constexpr,
    BLOCK_Y: tl.constexpr,
    BLOCK_X: tl.constexpr,
    BLOCK_N: tl.constexpr,
):
    first_y = tl.program_id(0) * BLOCK_Y
    first_x = tl.program_id(1) * BLOCK_X
    image = tl.program_id(2).to(tl.int64)
    y = first_y + tl.arange(0, BLOCK_Y)
    x = first_x + tl.arange(0, BLOCK_X)
    shown = (y < height)[:, None] & (x < width)[None, :]
    y0, y1, y2, v0, v1, v2 = line_taps(
        first_row, row_weights, y, height, cell_rows, row_stride, TAPS
    )
    x0, x1, x2, u0, u1, u2 = line_taps(
        first_column, column_weights, x, width, cell_columns, column_stride, TAPS
    )
    semantic += image * image_stride
    stuff, stuff_id, thing, thing_id, total = semantic_leaders(
        semantic, channel_stride, y0, y1, y2, v0, v1, v2, x0, x1, x2, u0, u1, u2, shown,
        STUFF, CLASSES, TAPS, WANT_CONFIDENCE,
    )  # fmt: skip

    boxes += image * (INSTANCES * 4)
    classes += image * INSTANCES
    mask_logits += image * (INSTANCES * BINS * BINS)
    count = tl.minimum(tl.load(counts + image), INSTANCES)
    lane = tl.arange(0, BLOCK_N)
    present = lane < count
    corner = boxes + 4 * lane
    right = tl.load(corner + 2, mask=present, other=0.0)
    bottom = tl.load(corner + 3, mask=present, other=0.0)
    start_x, stop_x = mask_span(tl.load(corner, mask=present, other=0.0), right)
    start_y, stop_y = mask_span(tl.load(corner + 1, mask=present, other=0.0), bottom)
    last_x = tl.maximum(stop_x, _segment_stop(right))
    last_y = tl.maximum(stop_y, _segment_stop(bottom))
    reaches_x = (start_x < first_x + BLOCK_X) & (last_x > first_x)
    reaches_y = (start_y < first_y + BLOCK_Y) & (last_y > first_y)
    reaches = present & reaches_x & reaches_y

    instance = tl.full((BLOCK_Y, BLOCK_X), float("-inf"), tl.float32)
    index = tl.full((BLOCK_Y, BLOCK_X), 0, tl.int32)
    segment = instance
    n = next_member(reaches, -1, BLOCK_N)
    while n < BLOCK_N:
        far_x = tl.load(boxes + 4 * n + 2)
        far_y = tl.load(boxes + 4 * n + 3)
        left, mask_right = mask_span(tl.load(boxes + 4 * n), far_x)
        top, mask_bottom = mask_span(tl.load(boxes + 4 * n + 1), far_y)
        kind = tl.load(classes + n).to(tl.int32)
        columns = (x >= left) & (x < _segment_stop(far_x))
        rows = (y >= top) & (y < _segment_stop(far_y)) & (kind > 0)
        cells = semantic + tl.maximum(STUFF - 1 + kind, 0) * channel_stride
        inside = shown & rows[:, None] & columns[None, :]
        term = _interpolated(
            cells, y0, y1, y2, v0, v1, v2, x0, x1, x2, u0, u1, u2, inside, TAPS
        )  # fmt: skip
        logits = mask_logits + n * (BINS * BINS)
        value = term + mask_logits_at(logits, x, y, left, top, mask_right, mask_bottom, BINS)
        better = value > instance
        instance = tl.where(better, value, instance)
        index = tl.where(better, n, index)
        segment = tl.maximum(segment, term)
        n = next_member(reaches, n, BLOCK_N)
    # The first of equal values wins, so a zero before the leader beats the leader's zero.
    absent = tl.min(tl.where(present & (reaches == 0), lane, BLOCK_N), axis=0)
    if absent < BLOCK_N:
        zero = (instance < 0) | ((instance == 0) & (absent < index))
        instance = tl.where(zero, 0.0, instance)
        index = tl.where(zero, absent, index)
        segment = tl.maximum(segment, 0.0)
    if count <= 0:
        segment = tl.full((BLOCK_Y, BLOCK_X), 0.0, tl.float32)

    known = tl.maximum(stuff, instance)
    ids = tl.where(instance > stuff, STUFF + index, stuff_id)
    lead = thing - segment - known
    ids = tl.where(lead > tl.load(unknown_margin), -1, ids)
    pixel = image * height * width + y[:, None] * width + x[None, :]
    store_maps(
        panoptic, semantic_ids, unknown_score, confidence, max_logit, pixel, shown,
        ids, 1 / (1 + tl.exp(-lead)), stuff, stuff_id, thing, thing_id, total,
        STUFF, WANT_SCORE, WANT_CONFIDENCE, WANT_LOGIT,
    )  # fmt: skip


def panoptic_maps(
    semantic: Tensor,
    boxes: Tensor,
    classes: Tensor,
    mask_logits: Tensor,
    counts: Tensor,
    unknown_margin: Tensor,
    tables: GridTables,
    *,
    options: MapOptions,
    in_place: bool = False,
    block: tuple[int, int] = (8, 64),
) -> HeadMaps:
    """Launch the kernel: `panoptic.panoptic_maps`, with tiles of `block`, powers of two.

    Semantic logits whose channels lie side by side are read ``in_place`` or copied into planes.
    """
    if not in_place:
        semantic = semantic.contiguous()
    batch, num_classes, *cells = semantic.shape
    instances, size = boxes.shape[1], tables.size
    maps = new_maps(semantic, size, options)
    _panoptic_kernel[(triton.cdiv(size[0], block[0]), triton.cdiv(size[1], block[1]), batch)](
        semantic,
        boxes.float().contiguous(),
        classes.contiguous(),
        mask_logits.contiguous(),
        counts.contiguous(),
        unknown_margin,
        *tables.rows,
        *tables.columns,
        # If a map is not wanted, nothing is written to this substitute.
        *(maps.panoptic if own is None else own for own in maps),
        *size,
        *cells,
        *semantic.stride(),
        STUFF=options.num_stuff,
        CLASSES=num_classes,
        INSTANCES=instances,
        BINS=mask_logits.shape[-1],
        TAPS=tables.taps,
        WANT_SCORE=options.unknown_score,
        WANT_CONFIDENCE=options.confidence,
        WANT_LOGIT=options.max_logit,
        BLOCK_Y=block[0],
        BLOCK_X=block[1],
        BLOCK_N=triton.next_power_of_2(instances),
    )
    return maps


def new_maps(semantic: Tensor, size: tuple[int, int], options: MapOptions) -> HeadMaps:
    """Return the maps of semantic logits (B, S, h, w), to be filled."""

    def new_map(dtype: torch.dtype) -> Tensor:
        return semantic.new_empty((len(semantic), *size), dtype=dtype)

    return HeadMaps(
        new_map(torch.int16),
        new_map(torch.int16),
        new_map(torch.uint8) if options.unknown_score else None,
        new_map(torch.uint8) if options.confidence else None,
        new_map(torch.float32) if options.max_logit else None,
    )
