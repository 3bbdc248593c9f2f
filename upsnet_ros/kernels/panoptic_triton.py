"""The panoptic head as one kernel: see `panoptic`.

A program makes a tile of pixels. It walks over the semantic channels, upsampling each where it
stands, then over the instances, of which it samples only those that reach into the tile; all
others are one candidate, zero. What it keeps of a pixel are the leaders and their numbers.
"""

# The arguments of kernels get their types when Triton compiles them.
# mypy: disallow-untyped-defs=False, disallow-incomplete-defs=False

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from upsnet_ros.kernels.panoptic import SEMANTIC_STRIDE, HeadMaps, axis_table


@triton.jit
def _panoptic_kernel(
    semantic,
    boxes,
    classes,
    mask_logits,
    count,
    row_low,
    row_share,
    column_low,
    column_share,
    panoptic,
    semantic_ids,
    unknown_score,
    confidence,
    max_logit,
    height,
    width,
    cell_rows,
    cell_columns,
    margin,
    STUFF: tl.constexpr,
    CLASSES: tl.constexpr,
    BINS: tl.constexpr,
    WANT_SCORE: tl.constexpr,
    WANT_CONFIDENCE: tl.constexpr,
    WANT_LOGIT: tl.constexpr,
    BLOCK_Y: tl.constexpr,
    BLOCK_X: tl.constexpr,
):
    first_y = tl.program_id(0) * BLOCK_Y
    first_x = tl.program_id(1) * BLOCK_X
    y = first_y + tl.arange(0, BLOCK_Y)
    x = first_x + tl.arange(0, BLOCK_X)
    top = tl.load(row_low + y, mask=y < height, other=0)
    down = tl.load(row_share + y, mask=y < height, other=0.0)[:, None]
    left = tl.load(column_low + x, mask=x < width, other=0)
    right = tl.load(column_share + x, mask=x < width, other=0.0)[None, :]
    upper = top[:, None] * cell_columns
    lower = tl.minimum(top + 1, cell_rows - 1)[:, None] * cell_columns
    near = left[None, :]
    far = tl.minimum(left + 1, cell_columns - 1)[None, :]
    plane = cell_rows * cell_columns

    stuff = tl.full((BLOCK_Y, BLOCK_X), float("-inf"), tl.float32)
    thing = stuff
    stuff_id = tl.full((BLOCK_Y, BLOCK_X), 0, tl.int32)
    thing_id = stuff_id
    total = tl.full((BLOCK_Y, BLOCK_X), 0.0, tl.float32)  # of exp(logit - best)
    for channel in range(CLASSES):
        cells = semantic + channel * plane
        a = tl.load(cells + upper + near).to(tl.float32)
        b = tl.load(cells + upper + far).to(tl.float32)
        c = tl.load(cells + lower + near).to(tl.float32)
        d = tl.load(cells + lower + far).to(tl.float32)
        above = (1 - right) * a + right * b
        below = (1 - right) * c + right * d
        value = (1 - down) * above + down * below
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

    instance = tl.full((BLOCK_Y, BLOCK_X), float("-inf"), tl.float32)
    index = tl.full((BLOCK_Y, BLOCK_X), 0, tl.int32)
    segment = instance
    instances = tl.load(count)
    for n in range(0, instances):
        x1 = tl.load(boxes + 4 * n)
        y1 = tl.load(boxes + 4 * n + 1)
        x2 = tl.load(boxes + 4 * n + 2)
        y2 = tl.load(boxes + 4 * n + 3)
        start_x = x1.to(tl.int32)
        start_y = y1.to(tl.int32)
        stop_x = tl.maximum(x2.to(tl.int32), start_x) + 1
        stop_y = tl.maximum(y2.to(tl.int32), start_y) + 1
        # The segment's far corner is rounded, halves to even.
        whole_x = tl.floor(x2)
        whole_y = tl.floor(y2)
        cut_x = whole_x.to(tl.int32)
        cut_y = whole_y.to(tl.int32)
        part_x = x2 - whole_x
        part_y = y2 - whole_y
        up_x = (part_x > 0.5) | ((part_x == 0.5) & (cut_x % 2 != 0))
        up_y = (part_y > 0.5) | ((part_y == 0.5) & (cut_y % 2 != 0))
        cut_x = cut_x + up_x.to(tl.int32) + 1
        cut_y = cut_y + up_y.to(tl.int32) + 1
        last_x = tl.maximum(stop_x, cut_x)
        last_y = tl.maximum(stop_y, cut_y)
        reaches_x = (start_x < first_x + BLOCK_X) & (last_x > first_x)
        reaches_y = (start_y < first_y + BLOCK_Y) & (last_y > first_y)
        if reaches_x & reaches_y:
            kind = tl.load(classes + n).to(tl.int32)
            cells = semantic + tl.maximum(STUFF - 1 + kind, 0) * plane
            columns = (x >= start_x) & (x < cut_x)
            rows = (y >= start_y) & (y < cut_y) & (kind > 0)
            inside = rows[:, None] & columns[None, :]
            a = tl.load(cells + upper + near, mask=inside, other=0.0).to(tl.float32)
            b = tl.load(cells + upper + far, mask=inside, other=0.0).to(tl.float32)
            c = tl.load(cells + lower + near, mask=inside, other=0.0).to(tl.float32)
            d = tl.load(cells + lower + far, mask=inside, other=0.0).to(tl.float32)
            above = (1 - right) * a + right * b
            below = (1 - right) * c + right * d
            term = (1 - down) * above + down * below

            step_x = tl.div_rn(BINS * 1.0, (stop_x - start_x).to(tl.float32))
            step_y = tl.div_rn(BINS * 1.0, (stop_y - start_y).to(tl.float32))
            place_x = (x - start_x + 0.5) * step_x - 0.5
            place_y = (y - start_y + 0.5) * step_y - 0.5
            place_x = tl.minimum(tl.maximum(place_x, 0.0), BINS - 1.0)
            place_y = tl.minimum(tl.maximum(place_y, 0.0), BINS - 1.0)
            bin_x = place_x.to(tl.int32)
            bin_y = place_y.to(tl.int32)
            share_x = (place_x - bin_x.to(tl.float32))[None, :]
            share_y = (place_y - bin_y.to(tl.float32))[:, None]
            next_x = tl.minimum(bin_x + 1, BINS - 1)[None, :]
            next_y = tl.minimum(bin_y + 1, BINS - 1)[:, None] * BINS
            bin_x = bin_x[None, :]
            bin_y = bin_y[:, None] * BINS
            columns = (x >= start_x) & (x < stop_x)
            rows = (y >= start_y) & (y < stop_y)
            inside = rows[:, None] & columns[None, :]
            mask = mask_logits + n * BINS * BINS
            a = tl.load(mask + bin_y + bin_x, mask=inside, other=0.0).to(tl.float32)
            b = tl.load(mask + bin_y + next_x, mask=inside, other=0.0).to(tl.float32)
            c = tl.load(mask + next_y + bin_x, mask=inside, other=0.0).to(tl.float32)
            d = tl.load(mask + next_y + next_x, mask=inside, other=0.0).to(tl.float32)
            before = (1 - share_y) * a + share_y * c
            behind = (1 - share_y) * b + share_y * d
            value = term + (1 - share_x) * before + share_x * behind
            better = value > instance
            instance = tl.where(better, value, instance)
            index = tl.where(better, n, index)
            segment = tl.maximum(segment, term)
        else:
            better = instance < 0
            instance = tl.where(better, 0.0, instance)
            index = tl.where(better, n, index)
            segment = tl.maximum(segment, 0.0)
    if instances == 0:
        segment = tl.full((BLOCK_Y, BLOCK_X), 0.0, tl.float32)

    known = tl.maximum(stuff, instance)
    ids = tl.where(instance > stuff, STUFF + index, stuff_id)
    lead = thing - segment - known
    ids = tl.where(lead > margin, -1, ids)
    classes_of = tl.where(thing > stuff, STUFF + thing_id, stuff_id)
    pixel = y[:, None] * width + x[None, :]
    shown = (y < height)[:, None] & (x < width)[None, :]
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
    count: Tensor,
    *,
    size: tuple[int, int],
    num_stuff: int,
    scale: float = 1.0,
    unknown_margin: float = 0.0,
    unknown_score: bool = False,
    confidence: bool = False,
    max_logit: bool = False,
    block: tuple[int, int] = (8, 64),
) -> HeadMaps:
    """Launch the kernel: `panoptic.panoptic_maps`, with tiles of `block`, powers of two."""
    num_classes, *cells = semantic.shape
    rows = axis_table(size[0], cells[0], scale / SEMANTIC_STRIDE, semantic.device)
    columns = axis_table(size[1], cells[1], scale / SEMANTIC_STRIDE, semantic.device)

    def new_map(dtype: torch.dtype) -> Tensor:
        return torch.empty(size, dtype=dtype, device=semantic.device)

    panoptic, ids = new_map(torch.int16), new_map(torch.int16)
    score = new_map(torch.uint8) if unknown_score else None
    certain = new_map(torch.uint8) if confidence else None
    highest = new_map(torch.float32) if max_logit else None
    _panoptic_kernel[(triton.cdiv(size[0], block[0]), triton.cdiv(size[1], block[1]))](
        semantic.contiguous(),
        boxes.float().contiguous(),
        classes,
        mask_logits.contiguous(),
        count,
        *rows,
        *columns,
        panoptic,
        ids,
        # Where a map is not wanted, nothing is written to what stands in its place.
        panoptic if score is None else score,
        panoptic if certain is None else certain,
        panoptic if highest is None else highest,
        *size,
        *cells,
        float(unknown_margin),
        STUFF=num_stuff,
        CLASSES=num_classes,
        BINS=mask_logits.shape[-1],
        WANT_SCORE=unknown_score,
        WANT_CONFIDENCE=confidence,
        WANT_LOGIT=max_logit,
        BLOCK_Y=block[0],
        BLOCK_X=block[1],
    )
    return HeadMaps(panoptic, ids, score, certain, highest)
