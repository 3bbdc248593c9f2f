"""Mask removal as rounds of two kernels, and a last one: see `hidden_masks`.

A round counts, tile by tile, how many pixels of each mask are covered by better ones of its class
that the round before accepted, and then decides about all at once. The first round accepts all that
have pixels. Once nothing changes, the rounds that are left return at once. The last kernel writes
the result; where the rounds were too few for a chain of masks that hide each other, it decides one
by one before, from the first decision that was still in doubt.
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
    accepted,
    in_doubt,
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
    if tl.load(in_doubt + image) != 0:
        first_y = tl.program_id(0) * BLOCK_Y
        first_x = tl.program_id(1) * BLOCK_X
        y = first_y + tl.arange(0, BLOCK_Y)
        x = first_x + tl.arange(0, BLOCK_X)
        shown = (y < height)[:, None] & (x < width)[None, :]
        boxes += image * (TOTAL * 4)
        mask_logits += image * (TOTAL * BINS * BINS)
        first = image * TOTAL
        place = tl.arange(0, BLOCK_N)
        present = place < tl.minimum(tl.load(numbers + image), TOTAL)
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
            if FIRST:
                pixels = tl.sum(tl.sum(mask, axis=1), axis=0)
                tl.atomic_add(area + first + n, pixels, sem="relaxed")
            else:
                kind = tl.load(classes + first + n).to(tl.int32)
                word = kind // 32
                bit = kind % 32
                cover = tl.where(word == 0, cover0, tl.where(word == 1, cover1, cover2))
                pixels = tl.sum(tl.sum(mask & (cover >> bit), axis=1), axis=0)
                tl.atomic_add(hidden + first + n, pixels, sem="relaxed")
                paint = (mask * tl.load(accepted + first + n)) << bit
                cover0 = tl.where(word == 0, cover0 | paint, cover0)
                cover1 = tl.where(word == 1, cover1 | paint, cover1)
                cover2 = tl.where(word == 2, cover2 | paint, cover2)
            n = next_member(reaches, n, BLOCK_N)


@triton.jit
def _accept_kernel(
    classes,
    numbers,
    accepted,
    in_doubt,
    area,
    hidden,
    THRESHOLD: tl.constexpr,
    TOTAL: tl.constexpr,
    FIRST: tl.constexpr,
    BLOCK_N: tl.constexpr,
):
    image = tl.program_id(0)
    if tl.load(in_doubt + image) != 0:
        place = tl.arange(0, BLOCK_N)
        inside = place < TOTAL
        n = image * TOTAL + place
        pixels = tl.load(area + n, mask=inside, other=0)
        kind = tl.load(classes + n, mask=inside, other=0)
        stays = inside & (place < tl.load(numbers + image)) & (pixels > 0) & (kind > 0)
        if not FIRST:
            covered = tl.load(hidden + n, mask=inside, other=0).to(tl.float64)
            stays = stays & (covered / tl.maximum(pixels, 1).to(tl.float64) <= THRESHOLD)
            was = tl.load(accepted + n, mask=inside, other=0)
            # All before the first that changed were decided by what stays as it is, and so was
            # that one: what comes after it is in doubt.
            changed = tl.min(tl.where(stays.to(tl.int32) != was, place, BLOCK_N), axis=0)
            tl.store(in_doubt + image, tl.where(changed < BLOCK_N, changed + 1, 0))
            tl.store(hidden + n, place * 0, mask=inside)
        tl.store(accepted + n, stays.to(tl.int32), mask=inside)


@triton.jit(do_not_specialize=_VARYING)
def _finish_kernel(
    boxes,
    classes,
    mask_logits,
    numbers,
    accepted,
    in_doubt,
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
    place = tl.arange(0, BLOCK_N)
    stays = tl.load(accepted + first + place, mask=place < TOTAL, other=0)
    start = tl.load(in_doubt + image)
    if start != 0:
        boxes += first * 4
        mask_logits += first * (BINS * BINS)
        there = tl.minimum(tl.load(numbers + image), TOTAL)
        kinds = tl.load(classes + first + place, mask=place < there, other=0).to(tl.int32)
        all_x1, all_x2, all_y1, all_y2 = _spans(boxes, place, place < there)
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
            decided = (pixels > 0) & (kind > 0) & (share <= THRESHOLD)
            stays = tl.where(place == n, decided.to(tl.int32), stays)
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

    ``rounds`` is how often all are decided at once before the rest is decided one by one. As many
    as the longest chain of masks that hide each other is enough; in practice that is three, and
    one more says that it was.
    """
    batch, total = boxes.shape[:2]
    device = boxes.device
    work = torch.zeros(4, batch, total, dtype=torch.int32, device=device)
    accepted, area, hidden, place = work
    in_doubt = torch.ones(batch, dtype=torch.int32, device=device)
    number = torch.empty_like(in_doubt)
    blank = torch.empty(batch, dtype=torch.uint8, device=device)
    boxes, mask_logits = boxes.float().contiguous(), mask_logits.contiguous()
    classes = classes.contiguous()
    detections = (boxes, classes, mask_logits, numbers)
    lengths = {"TOTAL": total, "BLOCK_N": triton.next_power_of_2(total)}
    tiles = {"BINS": mask_logits.shape[-1], "BLOCK_Y": block[0], "BLOCK_X": block[1]}
    grid = (triton.cdiv(size[0], block[0]), triton.cdiv(size[1], block[1]), batch)
    for turn in range(rounds + 1):
        _count_kernel[grid](
            *detections, accepted, in_doubt, area, hidden, *size,
            FIRST=turn == 0, **lengths, **tiles,
        )  # fmt: skip
        _accept_kernel[(batch,)](
            classes, numbers, accepted, in_doubt, area, hidden,
            THRESHOLD=threshold, FIRST=turn == 0, **lengths,
        )  # fmt: skip
    _finish_kernel[(batch,)](
        *detections, accepted, in_doubt, area, place, number, blank, *size,
        THRESHOLD=threshold, num_warps=8, **lengths, **tiles,
    )  # fmt: skip
    return Accepted(place, number, blank.view(torch.bool))
