"""Mask removal as rounds of two kernels, and a last one: see `ops.mask_removal`.

A round counts, tile by tile, how many pixels of each mask are covered by better ones of its class
that the previous round kept, and then decides about all masks at once; the first round assumes that
all are kept. Once nothing changes, the remaining rounds return immediately. The last kernel writes
the result; if a chain of masks that hide each other is longer than the rounds, it decides the rest
one by one.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from upsnet_ros.ops.boxes import CONTINUOUS, INCLUSIVE
from upsnet_ros.ops.mask_removal import Accepted

# The arguments of kernels get their types when Triton compiles them.
# mypy: disallow-untyped-defs=False, disallow-incomplete-defs=False


@triton.jit
def mask_span(near, far):
    """Return the first pixel of a mask along an axis, and the one after its last."""
    start = near.to(tl.int32)
    return start, tl.maximum(far.to(tl.int32), start) + 1


@triton.jit
def mask_logits_at(logits, x, y, x1, y1, x2, y2, BINS: tl.constexpr):
    """Return a mask's logits (BINS, BINS) at pixels x and y: float32 (Y, X), 0 outside its span.

    Half-pixel centres, edges repeated, as `panoptic.paste`.
    """
    position_x = (x - x1 + 0.5) * tl.div_rn(BINS * 1.0, (x2 - x1).to(tl.float32)) - 0.5
    position_y = (y - y1 + 0.5) * tl.div_rn(BINS * 1.0, (y2 - y1).to(tl.float32)) - 0.5
    position_x = tl.minimum(tl.maximum(position_x, 0.0), BINS - 1.0)
    position_y = tl.minimum(tl.maximum(position_y, 0.0), BINS - 1.0)
    left = position_x.to(tl.int32)
    top = position_y.to(tl.int32)
    right = (position_x - left.to(tl.float32))[None, :]
    down = (position_y - top.to(tl.float32))[:, None]
    far = tl.minimum(left + 1, BINS - 1)[None, :]
    lower = tl.minimum(top + 1, BINS - 1)[:, None] * BINS
    near = left[None, :]
    upper = top[:, None] * BINS
    columns = (x >= x1) & (x < x2)
    rows = (y >= y1) & (y < y2)
    inside = rows[:, None] & columns[None, :]
    a = tl.load(logits + upper + near, mask=inside, other=0.0).to(tl.float32)
    b = tl.load(logits + upper + far, mask=inside, other=0.0).to(tl.float32)
    c = tl.load(logits + lower + near, mask=inside, other=0.0).to(tl.float32)
    d = tl.load(logits + lower + far, mask=inside, other=0.0).to(tl.float32)
    before = (1 - down) * a + down * c
    behind = (1 - down) * b + down * d
    return (1 - right) * before + right * behind


@triton.jit
def _bin_at(logits, row, column, shown, BINS: tl.constexpr):
    """Return a mask's probability at bins, 0 outside of it."""
    rows = ((row >= 0) & (row < BINS))[:, None]
    columns = ((column >= 0) & (column < BINS))[None, :]
    at = row[:, None] * BINS + column[None, :]
    read = shown & rows & columns
    logit = tl.load(logits + at, mask=read, other=0.0).to(tl.float32)
    return tl.where(read, 1 / (1 + tl.exp(-logit)), 0.0)


@triton.jit
def covered_pixels(logits, x, y, x1, y1, x2, y2, shown, BINS: tl.constexpr):
    """Return which pixels a mask in a continuous box covers, bool (Y, X): see `mask_removal`."""
    # A box without width or height has nothing anywhere: all pixels lie beyond its mask.
    filled = tl.minimum(x2 - x1, y2 - y1)
    wide = tl.where(filled > 0, x2 - x1, 1.0).to(tl.float64)
    high = tl.where(filled > 0, y2 - y1, 1.0).to(tl.float64)
    position_x = (x.to(tl.float64) + 0.5 - x1.to(tl.float64)) / wide * BINS - 0.5
    position_y = (y.to(tl.float64) + 0.5 - y1.to(tl.float64)) / high * BINS - 0.5
    position_x = tl.minimum(tl.maximum(position_x, -2.0), BINS + 1.0).to(tl.float32)
    position_y = tl.minimum(tl.maximum(position_y, -2.0), BINS + 1.0).to(tl.float32)
    position_x = tl.where(filled > 0, position_x, -2.0)
    left = tl.floor(position_x)
    top = tl.floor(position_y)
    right = (position_x - left)[None, :]
    down = (position_y - top)[:, None]
    left = left.to(tl.int32)
    top = top.to(tl.int32)
    above = (1 - right) * _bin_at(logits, top, left, shown, BINS)
    above += right * _bin_at(logits, top, left + 1, shown, BINS)
    below = (1 - right) * _bin_at(logits, top + 1, left, shown, BINS)
    below += right * _bin_at(logits, top + 1, left + 1, shown, BINS)
    return shown & ((1 - down) * above + down * below >= 0.5)


@triton.jit
def next_member(members, after, BLOCK: tl.constexpr):
    """Return the lowest index above `after` at which `members`, bool (BLOCK,), is set, or BLOCK."""
    lane = tl.arange(0, BLOCK)
    return tl.min(tl.where(members & (lane > after), lane, BLOCK), axis=0)


# The arguments of kernels get their types when Triton compiles them.
# mypy: disallow-untyped-defs=False, disallow-incomplete-defs=False


# Sizes differ by camera: no reason to recompile.
_VARYING = ["height", "width"]


@triton.jit
def _spans(boxes, lane, present):
    """Return the pixels that masks cover: first and past the last in x, and in y."""
    corner = boxes + 4 * lane
    far_x = tl.load(corner + 2, mask=present, other=0.0)
    far_y = tl.load(corner + 3, mask=present, other=0.0)
    x1, x2 = mask_span(tl.load(corner, mask=present, other=0.0), far_x)
    y1, y2 = mask_span(tl.load(corner + 1, mask=present, other=0.0), far_y)
    return x1, x2, y1, y2


@triton.jit
def _mask_at(boxes, mask_logits, n, x, y, shown, BINS: tl.constexpr, IS_CONTINUOUS: tl.constexpr):
    """Return where mask n covers the tile's pixels, int32 (Y, X)."""
    box = boxes + 4 * n
    left, top = tl.load(box), tl.load(box + 1)
    right, bottom = tl.load(box + 2), tl.load(box + 3)
    logits = mask_logits + n * (BINS * BINS)
    if IS_CONTINUOUS:
        covers = covered_pixels(logits, x, y, left, top, right, bottom, shown, BINS)
    else:
        x1, x2 = mask_span(left, right)
        y1, y2 = mask_span(top, bottom)
        covers = (mask_logits_at(logits, x, y, x1, y1, x2, y2, BINS) > 0) & shown
    return covers.to(tl.int32)


@triton.jit(do_not_specialize=_VARYING)
def _count_kernel(
    boxes,
    classes,
    mask_logits,
    counts,
    sure,
    dropped,
    area,
    hidden,
    height,
    width,
    TOTAL: tl.constexpr,
    BINS: tl.constexpr,
    IS_CONTINUOUS: tl.constexpr,
    FIRST: tl.constexpr,
    BLOCK_Y: tl.constexpr,
    BLOCK_X: tl.constexpr,
    BLOCK_N: tl.constexpr,
):
    image = tl.program_id(2).to(tl.int64)
    valid_count = tl.minimum(tl.load(counts + image), TOTAL)
    if tl.load(sure + image) < valid_count:
        first_y = tl.program_id(0) * BLOCK_Y
        first_x = tl.program_id(1) * BLOCK_X
        y = first_y + tl.arange(0, BLOCK_Y)
        x = first_x + tl.arange(0, BLOCK_X)
        shown = (y < height)[:, None] & (x < width)[None, :]
        first = image * TOTAL
        boxes += first * 4
        mask_logits += first * (BINS * BINS)
        lane = tl.arange(0, BLOCK_N)
        present = lane < valid_count
        x1, x2, y1, y2 = _spans(boxes, lane, present)
        reaches_x = (x1 < first_x + BLOCK_X) & (x2 > first_x)
        reaches_y = (y1 < first_y + BLOCK_Y) & (y2 > first_y)
        reaches = present & reaches_x & reaches_y
        # Bit c of the words: whether a mask of class c covers the pixel.
        cover0 = tl.full((BLOCK_Y, BLOCK_X), 0, tl.int32)
        cover1 = cover0
        cover2 = cover0
        n = next_member(reaches, -1, BLOCK_N)
        while n < BLOCK_N:
            mask = _mask_at(boxes, mask_logits, n, x, y, shown, BINS, IS_CONTINUOUS)
            kind = tl.load(classes + first + n).to(tl.int32)
            word = kind // 32
            bit = kind % 32
            cover = tl.where(word == 0, cover0, tl.where(word == 1, cover1, cover2))
            pixels = tl.sum(tl.sum(mask & (cover >> bit), axis=1), axis=0)
            tl.atomic_add(hidden + first + n, pixels, sem="relaxed")
            if FIRST:
                pixels = tl.sum(tl.sum(mask, axis=1), axis=0)
                tl.atomic_add(area + first + n, pixels, sem="relaxed")
            paint = (mask * (1 - tl.load(dropped + first + n))) << bit
            cover0 = tl.where(word == 0, cover0 | paint, cover0)
            cover1 = tl.where(word == 1, cover1 | paint, cover1)
            cover2 = tl.where(word == 2, cover2 | paint, cover2)
            n = next_member(reaches, n, BLOCK_N)


@triton.jit
def _drop_kernel(
    classes,
    counts,
    sure,
    dropped,
    area,
    hidden,
    THRESHOLD: tl.constexpr,
    TOTAL: tl.constexpr,
    BLOCK_N: tl.constexpr,
):
    image = tl.program_id(0)
    valid_count = tl.minimum(tl.load(counts + image), TOTAL)
    if tl.load(sure + image) < valid_count:
        lane = tl.arange(0, BLOCK_N)
        inside = lane < valid_count
        n = image * TOTAL + lane
        pixels = tl.load(area + n, mask=inside, other=0)
        kind = tl.load(classes + n, mask=inside, other=0)
        covered = tl.load(hidden + n, mask=inside, other=0).to(tl.float64)
        share = covered / tl.maximum(pixels, 1).to(tl.float64)
        drops = ((pixels == 0) | (kind == 0) | (share > THRESHOLD)).to(tl.int32)
        was = tl.load(dropped + n, mask=inside, other=0)
        # All before the first that changed were decided by what stays as it is, and so was that
        # one: they are sure.
        changed = tl.min(tl.where(inside & (drops != was), lane, BLOCK_N), axis=0)
        tl.store(sure + image, tl.minimum(changed + 1, TOTAL))
        tl.store(dropped + n, drops, mask=inside)
        tl.store(hidden + n, lane * 0, mask=inside)


@triton.jit(do_not_specialize=_VARYING)
def _finish_kernel(
    boxes,
    classes,
    mask_logits,
    counts,
    sure,
    dropped,
    area,
    indices,
    accepted_counts,
    blank,
    height,
    width,
    THRESHOLD: tl.constexpr,
    TOTAL: tl.constexpr,
    BINS: tl.constexpr,
    IS_CONTINUOUS: tl.constexpr,
    BLOCK_Y: tl.constexpr,
    BLOCK_X: tl.constexpr,
    BLOCK_N: tl.constexpr,
):
    image = tl.program_id(0).to(tl.int64)
    first = image * TOTAL
    valid_count = tl.minimum(tl.load(counts + image), TOTAL)
    lane = tl.arange(0, BLOCK_N)
    inside = lane < valid_count
    stays = inside.to(tl.int32) - tl.load(dropped + first + lane, mask=inside, other=0)
    start = tl.load(sure + image)
    if start < valid_count:
        boxes += first * 4
        mask_logits += first * (BINS * BINS)
        kinds = tl.load(classes + first + lane, mask=inside, other=0).to(tl.int32)
        all_x1, all_x2, all_y1, all_y2 = _spans(boxes, lane, inside)
        for n in range(start, valid_count):
            x1, x2 = mask_span(tl.load(boxes + 4 * n), tl.load(boxes + 4 * n + 2))
            y1, y2 = mask_span(tl.load(boxes + 4 * n + 1), tl.load(boxes + 4 * n + 3))
            kind = tl.load(classes + first + n).to(tl.int32)
            pixels = tl.load(area + first + n)
            meets = (all_x1 < x2) & (all_x2 > x1) & (all_y1 < y2) & (all_y2 > y1)
            rivals = (lane < n) & (stays > 0) & (kinds == kind) & meets
            covered = tl.full((), 0, tl.int32)
            if (pixels > 0) & (kind > 0) & (tl.sum(rivals.to(tl.int32), axis=0) > 0):
                for top in range(y1, tl.minimum(y2, height), BLOCK_Y):
                    for left in range(x1, tl.minimum(x2, width), BLOCK_X):
                        y = top + tl.arange(0, BLOCK_Y)
                        x = left + tl.arange(0, BLOCK_X)
                        shown = (y < height)[:, None] & (x < width)[None, :]
                        cover = tl.full((BLOCK_Y, BLOCK_X), 0, tl.int32)
                        j = next_member(rivals, -1, BLOCK_N)
                        while j < BLOCK_N:
                            cover = cover | _mask_at(
                                boxes, mask_logits, j, x, y, shown, BINS, IS_CONTINUOUS
                            )
                            j = next_member(rivals, j, BLOCK_N)
                        mask = _mask_at(boxes, mask_logits, n, x, y, shown, BINS, IS_CONTINUOUS)
                        covered += tl.sum(tl.sum(mask & cover, axis=1), axis=0)
            share = covered.to(tl.float64) / tl.maximum(pixels, 1).to(tl.float64)
            stayed = (pixels > 0) & (kind > 0) & (share <= THRESHOLD)
            stays = tl.where(lane == n, stayed.to(tl.int32), stays)
    rank = tl.cumsum(stays, axis=0) - 1
    total = tl.sum(stays, axis=0)
    tl.store(indices + first + rank, lane, mask=stays > 0)
    tl.store(accepted_counts + image, tl.maximum(total, 1))
    tl.store(blank + image, (total == 0).to(tl.uint8))


def accept_masks(
    boxes: Tensor,
    classes: Tensor,
    mask_logits: Tensor,
    counts: Tensor,
    *,
    size: tuple[int, int],
    threshold: float,
    edge: float = INCLUSIVE,
    rounds: int = 4,
    block: tuple[int, int] = (16, 64),
) -> Accepted:
    """Launch the kernels: `ops.mask_removal.accept_masks`, with tiles of `block`, powers of two.

    ``rounds``, at least 1, is how often all are decided at once before what is left is decided one
    by one. As many as the longest chain of masks that hide each other is enough; in practice that
    is three, and one more says that it was.
    """
    batch, total = boxes.shape[:2]
    # All that starts from zero, zeroed in one launch.
    zeros = torch.zeros(batch * (4 * total + 1), dtype=torch.int32, device=boxes.device)
    dropped, area, hidden, indices, sure = zeros.split([batch * total] * 4 + [batch])
    accepted_counts = torch.empty_like(sure)
    blank = torch.empty_like(sure, dtype=torch.uint8)
    boxes, mask_logits = boxes.float().contiguous(), mask_logits.contiguous()
    classes, counts = classes.contiguous(), counts.contiguous()
    detections = (boxes, classes, mask_logits, counts)
    lengths = {"TOTAL": total, "BLOCK_N": triton.next_power_of_2(total)}
    tiles = {"BINS": mask_logits.shape[-1], "BLOCK_Y": block[0], "BLOCK_X": block[1]}
    tiles["IS_CONTINUOUS"] = edge == CONTINUOUS
    grid = (triton.cdiv(size[0], block[0]), triton.cdiv(size[1], block[1]), batch)
    for turn in range(rounds):
        _count_kernel[grid](
            *detections, sure, dropped, area, hidden, *size, FIRST=turn == 0, **lengths, **tiles
        )
        _drop_kernel[(batch,)](
            classes, counts, sure, dropped, area, hidden, THRESHOLD=threshold, **lengths
        )
    _finish_kernel[(batch,)](
        *detections, sure, dropped, area, indices, accepted_counts, blank, *size,
        THRESHOLD=threshold, num_warps=8, **lengths, **tiles,
    )  # fmt: skip
    return Accepted(indices.view(batch, total), accepted_counts, blank.view(torch.bool))
