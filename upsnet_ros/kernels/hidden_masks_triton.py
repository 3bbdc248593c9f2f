"""Mask removal as rounds of two kernels, and a last one: see `hidden_masks`.

A round counts, tile by tile, how many pixels of each mask are covered by better ones of its class
that the round before kept, and then decides about all at once; the first takes all for kept. Once
nothing changes, the rounds that are left return at once. The last kernel writes the result; where
the rounds were too few for a chain of masks that hide each other, it decides the rest one by one.
"""

# The arguments of kernels get their types when Triton compiles them.
# mypy: disallow-untyped-defs=False, disallow-incomplete-defs=False

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from upsnet_ros.kernels.hidden_masks import Accepted
from upsnet_ros.kernels.masks_triton import mask_logits_at, mask_span, next_member

# Sizes differ by camera: no reason to compile anew.
_VARYING = ["height", "width"]


@triton.jit
def _spans(boxes, place, present):
    """Return the pixels that masks cover: first and past the last in x, and in y."""
    corner = boxes + 4 * place
    far_x = tl.load(corner + 2, mask=present, other=0.0)
    far_y = tl.load(corner + 3, mask=present, other=0.0)
    x1, x2 = mask_span(tl.load(corner, mask=present, other=0.0), far_x)
    y1, y2 = mask_span(tl.load(corner + 1, mask=present, other=0.0), far_y)
    return x1, x2, y1, y2


@triton.jit
def _mask_at(boxes, mask_logits, n, x, y, shown, BINS: tl.constexpr):
    """Return where mask n covers the tile's pixels, int32 (Y, X)."""
    x1, x2 = mask_span(tl.load(boxes + 4 * n), tl.load(boxes + 4 * n + 2))
    y1, y2 = mask_span(tl.load(boxes + 4 * n + 1), tl.load(boxes + 4 * n + 3))
    logits = mask_logits_at(mask_logits + n * (BINS * BINS), x, y, x1, y1, x2, y2, BINS)
    return ((logits > 0) & shown).to(tl.int32)


@triton.jit(do_not_specialize=_VARYING)
def _count_kernel(
    boxes,
    classes,
    mask_logits,
    numbers,
    sure,
    dropped,
    area,
    hidden,
    height,
    width,
    TOTAL: tl.constexpr,
    BINS: tl.constexpr,
    FIRST: tl.constexpr,
    BLOCK_Y: tl.constexpr,
    BLOCK_X: tl.constexpr,
    BLOCK_N: tl.constexpr,
):
    image = tl.program_id(2).to(tl.int64)
    there = tl.minimum(tl.load(numbers + image), TOTAL)
    if tl.load(sure + image) < there:
        first_y = tl.program_id(0) * BLOCK_Y
        first_x = tl.program_id(1) * BLOCK_X
        y = first_y + tl.arange(0, BLOCK_Y)
        x = first_x + tl.arange(0, BLOCK_X)
        shown = (y < height)[:, None] & (x < width)[None, :]
        first = image * TOTAL
        boxes += first * 4
        mask_logits += first * (BINS * BINS)
        place = tl.arange(0, BLOCK_N)
        present = place < there
        x1, x2, y1, y2 = _spans(boxes, place, present)
        reaches_x = (x1 < first_x + BLOCK_X) & (x2 > first_x)
        reaches_y = (y1 < first_y + BLOCK_Y) & (y2 > first_y)
        reaches = present & reaches_x & reaches_y
        # Bit c of the words: whether a mask of class c covers the pixel.
        cover0 = tl.full((BLOCK_Y, BLOCK_X), 0, tl.int32)
        cover1 = cover0
        cover2 = cover0
        n = next_member(reaches, -1, BLOCK_N)
        while n < BLOCK_N:
            mask = _mask_at(boxes, mask_logits, n, x, y, shown, BINS)
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
    numbers,
    sure,
    dropped,
    area,
    hidden,
    THRESHOLD: tl.constexpr,
    TOTAL: tl.constexpr,
    BLOCK_N: tl.constexpr,
):
    image = tl.program_id(0)
    there = tl.minimum(tl.load(numbers + image), TOTAL)
    if tl.load(sure + image) < there:
        place = tl.arange(0, BLOCK_N)
        inside = place < there
        n = image * TOTAL + place
        pixels = tl.load(area + n, mask=inside, other=0)
        kind = tl.load(classes + n, mask=inside, other=0)
        covered = tl.load(hidden + n, mask=inside, other=0).to(tl.float64)
        share = covered / tl.maximum(pixels, 1).to(tl.float64)
        drops = ((pixels == 0) | (kind == 0) | (share > THRESHOLD)).to(tl.int32)
        was = tl.load(dropped + n, mask=inside, other=0)
        # All before the first that changed were decided by what stays as it is, and so was that
        # one: they are sure.
        changed = tl.min(tl.where(inside & (drops != was), place, BLOCK_N), axis=0)
        tl.store(sure + image, tl.minimum(changed + 1, TOTAL))
        tl.store(dropped + n, drops, mask=inside)
        tl.store(hidden + n, place * 0, mask=inside)


@triton.jit(do_not_specialize=_VARYING)
def _finish_kernel(
    boxes,
    classes,
    mask_logits,
    numbers,
    sure,
    dropped,
    area,
    places,
    number,
    blank,
    height,
    width,
    THRESHOLD: tl.constexpr,
    TOTAL: tl.constexpr,
    BINS: tl.constexpr,
    BLOCK_Y: tl.constexpr,
    BLOCK_X: tl.constexpr,
    BLOCK_N: tl.constexpr,
):
    image = tl.program_id(0).to(tl.int64)
    first = image * TOTAL
    there = tl.minimum(tl.load(numbers + image), TOTAL)
    place = tl.arange(0, BLOCK_N)
    inside = place < there
    stays = inside.to(tl.int32) - tl.load(dropped + first + place, mask=inside, other=0)
    start = tl.load(sure + image)
    if start < there:
        boxes += first * 4
        mask_logits += first * (BINS * BINS)
        kinds = tl.load(classes + first + place, mask=inside, other=0).to(tl.int32)
        all_x1, all_x2, all_y1, all_y2 = _spans(boxes, place, inside)
        for n in range(start, there):
            x1, x2 = mask_span(tl.load(boxes + 4 * n), tl.load(boxes + 4 * n + 2))
            y1, y2 = mask_span(tl.load(boxes + 4 * n + 1), tl.load(boxes + 4 * n + 3))
            kind = tl.load(classes + first + n).to(tl.int32)
            pixels = tl.load(area + first + n)
            meets = (all_x1 < x2) & (all_x2 > x1) & (all_y1 < y2) & (all_y2 > y1)
            rivals = (place < n) & (stays > 0) & (kinds == kind) & meets
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
                            cover = cover | _mask_at(boxes, mask_logits, j, x, y, shown, BINS)
                            j = next_member(rivals, j, BLOCK_N)
                        mask = _mask_at(boxes, mask_logits, n, x, y, shown, BINS)
                        covered += tl.sum(tl.sum(mask & cover, axis=1), axis=0)
            share = covered.to(tl.float64) / tl.maximum(pixels, 1).to(tl.float64)
            stayed = (pixels > 0) & (kind > 0) & (share <= THRESHOLD)
            stays = tl.where(place == n, stayed.to(tl.int32), stays)
    rank = tl.cumsum(stays, axis=0) - 1
    total = tl.sum(stays, axis=0)
    tl.store(places + first + rank, place, mask=stays > 0)
    tl.store(number + image, tl.maximum(total, 1))
    tl.store(blank + image, (total == 0).to(tl.uint8))


def accept_masks(
    boxes: Tensor,
    classes: Tensor,
    mask_logits: Tensor,
    numbers: Tensor,
    *,
    size: tuple[int, int],
    threshold: float,
    rounds: int = 4,
    block: tuple[int, int] = (16, 64),
) -> Accepted:
    """Launch the kernels: `hidden_masks.accept_masks`, with tiles of `block`, powers of two.

    ``rounds``, at least 1, is how often all are decided at once before what is left is decided one
    by one. As many as the longest chain of masks that hide each other is enough; in practice that
    is three, and one more says that it was.
    """
    batch, total = boxes.shape[:2]
    # All that starts from zero, zeroed in one launch.
    zeros = torch.zeros(batch * (4 * total + 1), dtype=torch.int32, device=boxes.device)
    dropped, area, hidden, place, sure = zeros.split([batch * total] * 4 + [batch])
    number = torch.empty_like(sure)
    blank = torch.empty_like(sure, dtype=torch.uint8)
    boxes, mask_logits = boxes.float().contiguous(), mask_logits.contiguous()
    classes, numbers = classes.contiguous(), numbers.contiguous()
    detections = (boxes, classes, mask_logits, numbers)
    lengths = {"TOTAL": total, "BLOCK_N": triton.next_power_of_2(total)}
    tiles = {"BINS": mask_logits.shape[-1], "BLOCK_Y": block[0], "BLOCK_X": block[1]}
    grid = (triton.cdiv(size[0], block[0]), triton.cdiv(size[1], block[1]), batch)
    for turn in range(rounds):
        _count_kernel[grid](
            *detections, sure, dropped, area, hidden, *size, FIRST=turn == 0, **lengths, **tiles
        )
        _drop_kernel[(batch,)](
            classes, numbers, sure, dropped, area, hidden, THRESHOLD=threshold, **lengths
        )
    _finish_kernel[(batch,)](
        *detections, sure, dropped, area, place, number, blank, *size,
        THRESHOLD=threshold, num_warps=8, **lengths, **tiles,
    )  # fmt: skip
    return Accepted(place.view(batch, total), number, blank.view(torch.bool))
