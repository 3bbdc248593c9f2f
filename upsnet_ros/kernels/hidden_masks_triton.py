"""Mask removal as rounds of two kernels: see `hidden_masks`.

A round counts, tile by tile, how many pixels of each mask are covered by better ones of its class
that the round before accepted, and then decides about all at once. The first round accepts all that
have pixels. Once nothing changes, the rounds that are left return at once.
"""

# The arguments of kernels get their types when Triton compiles them.
# mypy: disallow-untyped-defs=False, disallow-incomplete-defs=False

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from upsnet_ros.kernels.hidden_masks import Accepted, compact


@triton.jit
def _count_kernel(
    boxes,
    classes,
    mask_logits,
    count,
    accepted,
    changed,
    area,
    hidden,
    height,
    width,
    BINS: tl.constexpr,
    FIRST: tl.constexpr,
    BLOCK_Y: tl.constexpr,
    BLOCK_X: tl.constexpr,
):
    if tl.load(changed) != 0:
        first_y = tl.program_id(0) * BLOCK_Y
        first_x = tl.program_id(1) * BLOCK_X
        y = first_y + tl.arange(0, BLOCK_Y)
        x = first_x + tl.arange(0, BLOCK_X)
        # Bit c of the words: whether a mask of class c covers the pixel.
        cover0 = tl.full((BLOCK_Y, BLOCK_X), 0, tl.int32)
        cover1 = cover0
        cover2 = cover0
        for n in range(0, tl.load(count)):
            x1 = tl.load(boxes + 4 * n).to(tl.int32)
            y1 = tl.load(boxes + 4 * n + 1).to(tl.int32)
            x2 = tl.maximum(tl.load(boxes + 4 * n + 2).to(tl.int32), x1) + 1
            y2 = tl.maximum(tl.load(boxes + 4 * n + 3).to(tl.int32), y1) + 1
            kind = tl.load(classes + n).to(tl.int32)
            stays = tl.load(accepted + n)
            reaches_x = (x1 < first_x + BLOCK_X) & (x2 > first_x)
            reaches_y = (y1 < first_y + BLOCK_Y) & (y2 > first_y)
            if reaches_x & reaches_y:
                step_x = tl.div_rn(BINS * 1.0, (x2 - x1).to(tl.float32))
                step_y = tl.div_rn(BINS * 1.0, (y2 - y1).to(tl.float32))
                place_x = (x - x1 + 0.5) * step_x - 0.5
                place_y = (y - y1 + 0.5) * step_y - 0.5
                place_x = tl.minimum(tl.maximum(place_x, 0.0), BINS - 1.0)
                place_y = tl.minimum(tl.maximum(place_y, 0.0), BINS - 1.0)
                bin_x = place_x.to(tl.int32)
                bin_y = place_y.to(tl.int32)
                share_x = (place_x - bin_x.to(tl.float32))[None, :]
                share_y = (place_y - bin_y.to(tl.float32))[:, None]
                next_x = tl.minimum(bin_x + 1, BINS - 1)[None, :]
                next_y = tl.minimum(bin_y + 1, BINS - 1)[:, None] * BINS
                near_x = bin_x[None, :]
                near_y = bin_y[:, None] * BINS
                rows = (y >= y1) & (y < y2) & (y < height)
                columns = (x >= x1) & (x < x2) & (x < width)
                inside = rows[:, None] & columns[None, :]
                logits = mask_logits + n * BINS * BINS
                a = tl.load(logits + near_y + near_x, mask=inside, other=0.0).to(tl.float32)
                b = tl.load(logits + near_y + next_x, mask=inside, other=0.0).to(tl.float32)
                c = tl.load(logits + next_y + near_x, mask=inside, other=0.0).to(tl.float32)
                d = tl.load(logits + next_y + next_x, mask=inside, other=0.0).to(tl.float32)
                before = (1 - share_y) * a + share_y * c
                behind = (1 - share_y) * b + share_y * d
                mask = (((1 - share_x) * before + share_x * behind) > 0).to(tl.int32)
                word = kind // 32
                bit = kind % 32
                cover = tl.where(word == 0, cover0, tl.where(word == 1, cover1, cover2))
                covered = mask & (cover >> bit)
                if FIRST:
                    tl.atomic_add(area + n, tl.sum(tl.sum(mask, axis=1), axis=0), sem="relaxed")
                else:
                    pixels = tl.sum(tl.sum(covered, axis=1), axis=0)
                    tl.atomic_add(hidden + n, pixels, sem="relaxed")
                paint = (mask * stays) << bit
                cover0 = tl.where(word == 0, cover0 | paint, cover0)
                cover1 = tl.where(word == 1, cover1 | paint, cover1)
                cover2 = tl.where(word == 2, cover2 | paint, cover2)


@triton.jit
def _accept_kernel(
    classes,
    count,
    accepted,
    changed,
    area,
    hidden,
    total,
    THRESHOLD: tl.constexpr,
    FIRST: tl.constexpr,
    BLOCK: tl.constexpr,
):
    if tl.load(changed) != 0:
        n = tl.arange(0, BLOCK)
        inside = n < total
        pixels = tl.load(area + n, mask=inside, other=0)
        kind = tl.load(classes + n, mask=inside, other=0)
        stays = inside & (n < tl.load(count)) & (pixels > 0) & (kind > 0)
        if not FIRST:
            covered = tl.load(hidden + n, mask=inside, other=0).to(tl.float64)
            stays = stays & (covered / tl.maximum(pixels, 1).to(tl.float64) <= THRESHOLD)
            was = tl.load(accepted + n, mask=inside, other=0)
            different = (stays.to(tl.int32) != was).to(tl.int32)
            tl.store(changed, tl.sum(different, axis=0))
            tl.store(hidden + n, n * 0, mask=inside)
        tl.store(accepted + n, stays.to(tl.int32), mask=inside)


def accept_masks(
    boxes: Tensor,
    classes: Tensor,
    mask_logits: Tensor,
    count: Tensor,
    *,
    size: tuple[int, int],
    threshold: float,
    rounds: int = 8,
    block: tuple[int, int] = (16, 64),
) -> Accepted:
    """Launch the kernels: `hidden_masks.accept_masks`, with tiles of `block`, powers of two."""
    total = len(boxes)
    work = torch.zeros(3, total, dtype=torch.int32, device=boxes.device)
    accepted, area, hidden = work
    changed = torch.ones(1, dtype=torch.int32, device=boxes.device)
    boxes, mask_logits = boxes.float().contiguous(), mask_logits.contiguous()
    grid = (triton.cdiv(size[0], block[0]), triton.cdiv(size[1], block[1]))
    for number in range(rounds + 1):
        _count_kernel[grid](
            boxes,
            classes,
            mask_logits,
            count,
            accepted,
            changed,
            area,
            hidden,
            *size,
            BINS=mask_logits.shape[-1],
            FIRST=number == 0,
            BLOCK_Y=block[0],
            BLOCK_X=block[1],
        )
        _accept_kernel[(1,)](
            classes,
            count,
            accepted,
            changed,
            area,
            hidden,
            total,
            THRESHOLD=threshold,
            FIRST=number == 0,
            BLOCK=triton.next_power_of_2(total),
        )
    return compact(accepted > 0, changed == 0)
