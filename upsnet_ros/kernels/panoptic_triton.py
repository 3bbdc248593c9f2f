"""The panoptic head as one kernel: see `panoptic`.

A program makes a tile of pixels. It walks over the semantic channels, upsampling each where it
stands, then over those instances that reach into the tile; all others are one candidate, zero, at
the first of their places. What it keeps of a pixel are the leaders and their numbers.
"""

# The arguments of kernels get their types when Triton compiles them.
# mypy: disallow-untyped-defs=False, disallow-incomplete-defs=False

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from upsnet_ros.kernels.masks_triton import mask_logits_at, mask_span, next_member
from upsnet_ros.kernels.panoptic import SEMANTIC_STRIDE, HeadMaps


@triton.jit
def _cells(pixel, cells_per_pixel, cells):
    """Return between which cells pixels lie: the lower, the upper, and the upper one's share."""
    # In float64, as the twin; there are few of them.
    place = (pixel.to(tl.float64) + 0.5) * cells_per_pixel - 0.5
    place = tl.minimum(tl.maximum(place, 0.0), (cells - 1).to(tl.float64))
    low = place.to(tl.int32)
    return low, tl.minimum(low + 1, cells - 1), (place - low.to(tl.float64)).to(tl.float32)


@triton.jit
def _segment_stop(far):
    """Return the pixel after a segment's last: its far corner is rounded, halves to even."""
    whole = tl.floor(far)
    stop = whole.to(tl.int32)
    part = far - whole
    up = (part > 0.5) | ((part == 0.5) & (stop % 2 != 0))
    return stop + up.to(tl.int32) + 1


@triton.jit
def _upsampled(cells, upper, lower, near, far, right, down, mask):
    a = tl.load(cells + upper + near, mask=mask, other=0.0).to(tl.float32)
    b = tl.load(cells + upper + far, mask=mask, other=0.0).to(tl.float32)
    c = tl.load(cells + lower + near, mask=mask, other=0.0).to(tl.float32)
    d = tl.load(cells + lower + far, mask=mask, other=0.0).to(tl.float32)
    above = (1 - right) * a + right * b
    below = (1 - right) * c + right * d
    return (1 - down) * above + down * below


# Sizes and strides differ by camera: no reason to compile anew. The width's being a multiple of 16
# lets rows be written in wide pieces.
_VARYING = ["height", "cell_rows", "cell_columns"]
_VARYING += ["image_stride", "channel_stride", "row_stride", "column_stride"]


@triton.jit(do_not_specialize=_VARYING)
def _panoptic_kernel(
    semantic,
    boxes,
    classes,
    mask_logits,
    numbers,
    unknown_margin,
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
    cells_per_pixel: tl.float64,
    STUFF: tl.constexpr,
    CLASSES: tl.constexpr,
    INSTANCES: tl.constexpr,
    BINS: tl.constexpr,
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
    upper, lower, down = _cells(y, cells_per_pixel, cell_rows)
    near, far, right = _cells(x, cells_per_pixel, cell_columns)
    upper = upper[:, None] * row_stride
    lower = lower[:, None] * row_stride
    down = down[:, None]
    near = near[None, :] * column_stride
    far = far[None, :] * column_stride
    right = right[None, :]
    semantic += image * image_stride

    stuff = tl.full((BLOCK_Y, BLOCK_X), float("-inf"), tl.float32)
    thing = stuff
    stuff_id = tl.full((BLOCK_Y, BLOCK_X), 0, tl.int32)
    thing_id = stuff_id
    total = tl.full((BLOCK_Y, BLOCK_X), 0.0, tl.float32)  # of exp(logit - best)
    for channel in range(CLASSES):
        cells = semantic + channel * channel_stride
        value = _upsampled(cells, upper, lower, near, far, right, down, shown)
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

    boxes += image * (INSTANCES * 4)
    classes += image * INSTANCES
    mask_logits += image * (INSTANCES * BINS * BINS)
    number = tl.minimum(tl.load(numbers + image), INSTANCES)
    place = tl.arange(0, BLOCK_N)
    present = place < number
    corner = boxes + 4 * place
    x2 = tl.load(corner + 2, mask=present, other=0.0)
    y2 = tl.load(corner + 3, mask=present, other=0.0)
    start_x, stop_x = mask_span(tl.load(corner, mask=present, other=0.0), x2)
    start_y, stop_y = mask_span(tl.load(corner + 1, mask=present, other=0.0), y2)
    last_x = tl.maximum(stop_x, _segment_stop(x2))
    last_y = tl.maximum(stop_y, _segment_stop(y2))
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
        x1, mask_x2 = mask_span(tl.load(boxes + 4 * n), far_x)
        y1, mask_y2 = mask_span(tl.load(boxes + 4 * n + 1), far_y)
        kind = tl.load(classes + n).to(tl.int32)
        columns = (x >= x1) & (x < _segment_stop(far_x))
        rows = (y >= y1) & (y < _segment_stop(far_y)) & (kind > 0)
        cells = semantic + tl.maximum(STUFF - 1 + kind, 0) * channel_stride
        inside = shown & rows[:, None] & columns[None, :]
        term = _upsampled(cells, upper, lower, near, far, right, down, inside)
        logits = mask_logits + n * (BINS * BINS)
        value = term + mask_logits_at(logits, x, y, x1, y1, mask_x2, mask_y2, BINS)
        better = value > instance
        instance = tl.where(better, value, instance)
        index = tl.where(better, n, index)
        segment = tl.maximum(segment, term)
        n = next_member(reaches, n, BLOCK_N)
    # Among equals the first counts, so a zero from before the leader beats the leader's zero.
    absent = tl.min(tl.where(present & (reaches == 0), place, BLOCK_N), axis=0)
    if absent < BLOCK_N:
        zero = (instance < 0) | ((instance == 0) & (absent < index))
        instance = tl.where(zero, 0.0, instance)
        index = tl.where(zero, absent, index)
        segment = tl.maximum(segment, 0.0)
    if number <= 0:
        segment = tl.full((BLOCK_Y, BLOCK_X), 0.0, tl.float32)

    known = tl.maximum(stuff, instance)
    ids = tl.where(instance > stuff, STUFF + index, stuff_id)
    lead = thing - segment - known
    ids = tl.where(lead > tl.load(unknown_margin), -1, ids)
    classes_of = tl.where(thing > stuff, STUFF + thing_id, stuff_id)
    pixel = image * height * width + y[:, None] * width + x[None, :]
    tl.store(panoptic + pixel, ids.to(tl.int16), mask=shown)
    tl.store(semantic_ids + pixel, classes_of.to(tl.int16), mask=shown)
    if WANT_SCORE:
        share = 1 / (1 + tl.exp(-lead))
        tl.store(unknown_score + pixel, (share * 255 + 0.5).to(tl.uint8), mask=shown)
    if WANT_CONFIDENCE:
        tl.store(confidence + pixel, (255 / total + 0.5).to(tl.uint8), mask=shown)
    if WANT_LOGIT:
        tl.store(max_logit + pixel, tl.maximum(stuff, thing), mask=shown)


def panoptic_maps(
    semantic: Tensor,
    boxes: Tensor,
    classes: Tensor,
    mask_logits: Tensor,
    numbers: Tensor,
    unknown_margin: Tensor,
    *,
    size: tuple[int, int],
    num_stuff: int,
    scale: float = 1.0,
    unknown_score: bool = False,
    confidence: bool = False,
    max_logit: bool = False,
    in_place: bool = False,
    block: tuple[int, int] = (8, 64),
) -> HeadMaps:
    """Launch the kernel: `panoptic.panoptic_maps`, with tiles of `block`, powers of two.

    Semantic logits whose channels lie side by side are read ``in_place`` or copied into planes.
    """
    if not in_place:
        semantic = semantic.contiguous()
    batch, num_classes, *cells = semantic.shape
    instances = boxes.shape[1]

    def new_map(dtype: torch.dtype) -> Tensor:
        return torch.empty((batch, *size), dtype=dtype, device=semantic.device)

    panoptic, ids = new_map(torch.int16), new_map(torch.int16)
    score = new_map(torch.uint8) if unknown_score else None
    certain = new_map(torch.uint8) if confidence else None
    highest = new_map(torch.float32) if max_logit else None
    _panoptic_kernel[(triton.cdiv(size[0], block[0]), triton.cdiv(size[1], block[1]), batch)](
        semantic,
        boxes.float().contiguous(),
        classes.contiguous(),
        mask_logits.contiguous(),
        numbers.contiguous(),
        unknown_margin,
        panoptic,
        ids,
        # Where a map is not wanted, nothing is written to what stands in its place.
        panoptic if score is None else score,
        panoptic if certain is None else certain,
        panoptic if highest is None else highest,
        *size,
        *cells,
        *semantic.stride(),
        scale / SEMANTIC_STRIDE,
        STUFF=num_stuff,
        CLASSES=num_classes,
        INSTANCES=instances,
        BINS=mask_logits.shape[-1],
        WANT_SCORE=unknown_score,
        WANT_CONFIDENCE=confidence,
        WANT_LOGIT=max_logit,
        BLOCK_Y=block[0],
        BLOCK_X=block[1],
        BLOCK_N=triton.next_power_of_2(instances),
    )
    return HeadMaps(panoptic, ids, score, certain, highest)
