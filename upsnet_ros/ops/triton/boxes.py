"""Triton kernels of `ops.boxes`: decoding and non-maximum suppression.

The first writes for each box, as bits, which better ones overlap it. The second, a program for a
list, solves the chain of decisions without walking along it: all are kept at first, everyone is
decided at once, and that is repeated until nothing changes. The k-th box is right after k rounds at
the latest, because it looks only at better ones; few rounds do where chains are short.

Of lists that are too long for that, of which few boxes are kept, a third kernel walks along each
list until it has them.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from upsnet_ros.ops.boxes import INCLUSIVE, LARGEST_LIST, MAX_LOG_SCALE, Kept, Weights

# The arguments of kernels get their types when Triton compiles them.
# mypy: disallow-untyped-defs=False, disallow-incomplete-defs=False


# Lists are as long as a camera's image has anchors: no reason to recompile.
_VARYING = ["count", "box_list", "delta_list", "index_list", "index_one", "height", "width"]


@triton.jit(do_not_specialize=_VARYING)
def _decode_kernel(
    boxes,
    deltas,
    indices,
    output,
    count,
    box_list,
    delta_list,
    index_list,
    index_one,
    height,
    width,
    EACH: tl.constexpr,  # deltas of a box
    WEIGHT_X: tl.constexpr,
    WEIGHT_Y: tl.constexpr,
    WEIGHT_W: tl.constexpr,
    WEIGHT_H: tl.constexpr,
    LARGEST: tl.constexpr,
    EDGE: tl.constexpr,
    BLOCK: tl.constexpr,
):
    row = tl.program_id(1).to(tl.int64)
    i = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    inside = i < count
    at = tl.load(indices + row * index_list + i * index_one, mask=inside, other=0)
    box = boxes + row * box_list + at // EACH * 4
    delta = deltas + row * delta_list + at * 4
    x1 = tl.load(box, mask=inside, other=0.0)
    y1 = tl.load(box + 1, mask=inside, other=0.0)
    w = tl.load(box + 2, mask=inside, other=0.0) - x1 + EDGE
    h = tl.load(box + 3, mask=inside, other=0.0) - y1 + EDGE
    dx = tl.load(delta, mask=inside, other=0.0).to(tl.float32)
    dy = tl.load(delta + 1, mask=inside, other=0.0).to(tl.float32)
    dw = tl.load(delta + 2, mask=inside, other=0.0).to(tl.float32)
    dh = tl.load(delta + 3, mask=inside, other=0.0).to(tl.float32)
    cx = tl.div_rn(dx, WEIGHT_X) * w + (x1 + 0.5 * w)
    cy = tl.div_rn(dy, WEIGHT_Y) * h + (y1 + 0.5 * h)
    w = tl.exp(tl.minimum(tl.div_rn(dw, WEIGHT_W), LARGEST)) * w
    h = tl.exp(tl.minimum(tl.div_rn(dh, WEIGHT_H), LARGEST)) * h
    right = width.to(tl.float32) - EDGE
    bottom = height.to(tl.float32) - EDGE
    to = output + (row * count + i) * 4
    tl.store(to, tl.minimum(tl.maximum(cx - 0.5 * w, 0.0), right), mask=inside)
    tl.store(to + 1, tl.minimum(tl.maximum(cy - 0.5 * h, 0.0), bottom), mask=inside)
    tl.store(to + 2, tl.minimum(tl.maximum(cx + 0.5 * w - EDGE, 0.0), right), mask=inside)
    tl.store(to + 3, tl.minimum(tl.maximum(cy + 0.5 * h - EDGE, 0.0), bottom), mask=inside)


def decode_at(
    boxes: Tensor,
    deltas: Tensor,
    indices: Tensor,
    *,
    weights: Weights,
    size: tuple[int, int],
    edge: float = INCLUSIVE,
    block: int = 128,
) -> Tensor:
    """Launch the kernel: `ops.boxes.decode_at`, ``block`` boxes (a power of two) a program."""
    boxes, deltas = boxes.contiguous(), deltas.contiguous()
    lists, count = indices.shape
    output = torch.empty(lists, count, 4, dtype=torch.float32, device=boxes.device)
    _decode_kernel[(triton.cdiv(count, block), lists)](
        boxes,
        deltas,
        indices,
        output,
        count,
        0 if len(boxes) == 1 else boxes.stride(0),
        deltas.stride(0),
        *indices.stride(),
        *size,
        EACH=deltas.shape[1] // boxes.shape[1],
        WEIGHT_X=weights[0],
        WEIGHT_Y=weights[1],
        WEIGHT_W=weights[2],
        WEIGHT_H=weights[3],
        LARGEST=MAX_LOG_SCALE,
        EDGE=edge,
        BLOCK=block,
    )
    return output


#: Bits of a word.
_BITS = 32


# Lists are shorter where an image is small: no reason to recompile.
@triton.jit(do_not_specialize=["count", "num_words"])
def _overlap_kernel(
    boxes,
    groups,
    words,
    count,
    num_words,
    THRESHOLD: tl.constexpr,
    HAS_GROUPS: tl.constexpr,
    EDGE: tl.constexpr,
    ROWS: tl.constexpr,
    BITS: tl.constexpr,
):
    first = tl.program_id(0).to(tl.int64) * count
    i = tl.program_id(1) * ROWS + tl.arange(0, ROWS)
    word = tl.program_id(2)
    bit = tl.arange(0, BITS)
    j = word * BITS + bit
    mine = boxes + (first + i) * 4
    other = boxes + (first + j) * 4
    row = i < count
    column = j < count
    x1 = tl.load(mine, mask=row, other=0.0)[:, None]
    y1 = tl.load(mine + 1, mask=row, other=0.0)[:, None]
    x2 = tl.load(mine + 2, mask=row, other=0.0)[:, None] + EDGE
    y2 = tl.load(mine + 3, mask=row, other=0.0)[:, None] + EDGE
    other_x1 = tl.load(other, mask=column, other=0.0)[None, :]
    other_y1 = tl.load(other + 1, mask=column, other=0.0)[None, :]
    other_x2 = tl.load(other + 2, mask=column, other=0.0)[None, :] + EDGE
    other_y2 = tl.load(other + 3, mask=column, other=0.0)[None, :] + EDGE
    width = tl.minimum(x2, other_x2) - tl.maximum(x1, other_x1)
    height = tl.minimum(y2, other_y2) - tl.maximum(y1, other_y1)
    shared = tl.maximum(width, 0.0) * tl.maximum(height, 0.0)
    either = (x2 - x1) * (y2 - y1) + (other_x2 - other_x1) * (other_y2 - other_y1) - shared
    rivals = (tl.div_rn(shared, either) > THRESHOLD) & (j[None, :] < i[:, None]) & column[None, :]
    if HAS_GROUPS:
        group = tl.load(groups + first + i, mask=row, other=0)[:, None]
        other_group = tl.load(groups + first + j, mask=column, other=0)[None, :]
        rivals = rivals & (group == other_group)
    value = tl.sum(rivals.to(tl.int32) << bit[None, :], axis=1)
    tl.store(words + (first + i) * num_words + word, value, mask=row)


# The number of words says whether rows of them are read in wide pieces.
@triton.jit(do_not_specialize=["count", "limit"])
def _suppress_kernel(
    words,
    counts,
    index,
    kept_counts,
    count,
    num_words,
    limit,
    BLOCK: tl.constexpr,
    WORDS: tl.constexpr,
    BITS: tl.constexpr,
):
    image = tl.program_id(0)
    i = tl.arange(0, BLOCK)
    word = tl.arange(0, WORDS)
    bit = tl.arange(0, BITS)
    valid = i < tl.minimum(tl.load(counts + image), count)
    rows = words + (image.to(tl.int64) * count + i) * num_words
    rivals = tl.load(
        rows[:, None] + word[None, :],
        mask=valid[:, None] & (word < num_words)[None, :],
        other=0,
    )
    kept = valid.to(tl.int32)
    changed = 1
    while changed > 0:
        packed = tl.sum(tl.reshape(kept, (WORDS, BITS)) << bit[None, :], axis=1)
        beaten = tl.max(((rivals & packed[None, :]) != 0).to(tl.int32), axis=1)
        decided = valid.to(tl.int32) * (1 - beaten)
        changed = tl.sum((decided != kept).to(tl.int32), axis=0)
        kept = decided
    rank = tl.cumsum(kept, axis=0) - 1
    tl.store(index + image * limit + rank, i, mask=(kept > 0) & (rank < limit))
    tl.store(kept_counts + image, tl.minimum(tl.sum(kept, axis=0), limit))


@triton.jit(do_not_specialize=["count", "limit"])
def _walk_kernel(
    boxes,
    groups,
    counts,
    index,
    kept_counts,
    count,
    limit,
    THRESHOLD: tl.constexpr,
    HAS_GROUPS: tl.constexpr,
    EDGE: tl.constexpr,
    BLOCK: tl.constexpr,
):
    image = tl.program_id(0)
    first = image.to(tl.int64) * count
    valid_count = tl.minimum(tl.load(counts + image), count)
    lane = tl.arange(0, BLOCK)
    kept_x1 = tl.full((BLOCK,), 0.0, tl.float32)
    kept_y1 = tl.full((BLOCK,), 0.0, tl.float32)
    kept_x2 = tl.full((BLOCK,), 0.0, tl.float32)
    kept_y2 = tl.full((BLOCK,), 0.0, tl.float32)
    kept_group = tl.full((BLOCK,), 0, tl.int64)
    kept_index = tl.full((BLOCK,), 0, tl.int32)
    kept = tl.full((), 0, tl.int32)
    i = tl.full((), 0, tl.int32)
    while (i < valid_count) & (kept < limit):
        mine = boxes + (first + i) * 4
        x1 = tl.load(mine)
        y1 = tl.load(mine + 1)
        x2 = tl.load(mine + 2) + EDGE
        y2 = tl.load(mine + 3) + EDGE
        width = tl.minimum(x2, kept_x2) - tl.maximum(x1, kept_x1)
        height = tl.minimum(y2, kept_y2) - tl.maximum(y1, kept_y1)
        shared = tl.maximum(width, 0.0) * tl.maximum(height, 0.0)
        either = (x2 - x1) * (y2 - y1) + (kept_x2 - kept_x1) * (kept_y2 - kept_y1) - shared
        rivals = (tl.div_rn(shared, either) > THRESHOLD) & (lane < kept)
        if HAS_GROUPS:
            group = tl.load(groups + first + i).to(tl.int64)
            rivals = rivals & (group == kept_group)
        stays = 1 - tl.max(rivals.to(tl.int32), axis=0)
        new = (lane == kept) & (stays > 0)
        kept_x1 = tl.where(new, x1, kept_x1)
        kept_y1 = tl.where(new, y1, kept_y1)
        kept_x2 = tl.where(new, x2, kept_x2)
        kept_y2 = tl.where(new, y2, kept_y2)
        if HAS_GROUPS:
            kept_group = tl.where(new, group, kept_group)
        kept_index = tl.where(new, i, kept_index)
        kept += stays
        i += 1
    tl.store(index + image * limit + lane, kept_index, mask=lane < limit)
    tl.store(kept_counts + image, kept)


def batched_nms(
    boxes: Tensor,
    counts: Tensor,
    threshold: float,
    *,
    limit: int,
    groups: Tensor | None = None,
    edge: float = INCLUSIVE,
    rows: int = 128,
) -> Kept:
    """Launch the kernels of `ops.boxes.batched_nms`, ``rows`` boxes (power of two) per program."""
    batch, count = boxes.shape[:2]
    if count > LARGEST_LIST:
        return _walk(boxes, counts, threshold, limit=limit, groups=groups, edge=edge)
    index = torch.zeros(batch, limit, dtype=torch.int32, device=boxes.device)
    kept_counts = torch.empty(batch, dtype=torch.int32, device=boxes.device)
    num_words = max(1, triton.cdiv(count, _BITS))
    words = torch.empty(batch, count, num_words, dtype=torch.int32, device=boxes.device)
    boxes = boxes.float().contiguous()
    if count:
        _overlap_kernel[(batch, triton.cdiv(count, rows), num_words)](
            boxes,
            boxes if groups is None else groups.contiguous(),
            words,
            count,
            num_words,
            THRESHOLD=threshold,
            HAS_GROUPS=groups is not None,
            EDGE=edge,
            ROWS=rows,
            BITS=_BITS,
        )
    all_words = triton.next_power_of_2(num_words)
    _suppress_kernel[(batch,)](
        words,
        counts.contiguous(),
        index,
        kept_counts,
        count,
        num_words,
        limit,
        BLOCK=all_words * _BITS,
        WORDS=all_words,
        BITS=_BITS,
        # Threads enough to keep the bits of 1024 boxes, 128 KiB, in registers.
        num_warps=max(1, min(16, all_words // 2)),
    )
    return Kept(index, kept_counts)


def _walk(
    boxes: Tensor,
    counts: Tensor,
    threshold: float,
    *,
    limit: int,
    groups: Tensor | None,
    edge: float,
) -> Kept:
    """Launch the kernel for long lists, which stops at ``limit`` boxes."""
    batch, count = boxes.shape[:2]
    index = torch.empty(batch, limit, dtype=torch.int32, device=boxes.device)
    kept_counts = torch.empty(batch, dtype=torch.int32, device=boxes.device)
    boxes = boxes.float().contiguous()
    block = triton.next_power_of_2(limit)
    _walk_kernel[(batch,)](
        boxes,
        boxes if groups is None else groups.contiguous(),
        counts.contiguous(),
        index,
        kept_counts,
        count,
        limit,
        THRESHOLD=threshold,
        HAS_GROUPS=groups is not None,
        EDGE=edge,
        BLOCK=block,
        num_warps=max(1, min(8, block // 32)),
    )
    return Kept(index, kept_counts)
