"""Non-maximum suppression as two kernels: see `nms`.

The first writes for each box, as bits, which better ones overlap it. The second, a program for a
list, solves the chain of decisions without walking along it: all are kept at first, everyone is
decided at once, and that is repeated until nothing changes. The k-th box is right after k rounds at
the latest, because it looks only at better ones; few rounds do where chains are short.
"""

# The arguments of kernels get their types when Triton compiles them.
# mypy: disallow-untyped-defs=False, disallow-incomplete-defs=False

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from upsnet_ros.kernels.nms import Kept

#: Bits of a word.
_BITS = 32


# Lists are shorter where an image is small: no reason to compile anew.
@triton.jit(do_not_specialize=["count", "num_words"])
def _overlap_kernel(
    boxes,
    groups,
    words,
    count,
    num_words,
    THRESHOLD: tl.constexpr,
    HAS_GROUPS: tl.constexpr,
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
    x2 = tl.load(mine + 2, mask=row, other=0.0)[:, None] + 1
    y2 = tl.load(mine + 3, mask=row, other=0.0)[:, None] + 1
    other_x1 = tl.load(other, mask=column, other=0.0)[None, :]
    other_y1 = tl.load(other + 1, mask=column, other=0.0)[None, :]
    other_x2 = tl.load(other + 2, mask=column, other=0.0)[None, :] + 1
    other_y2 = tl.load(other + 3, mask=column, other=0.0)[None, :] + 1
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
    numbers,
    index,
    kept_numbers,
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
    there = i < tl.minimum(tl.load(numbers + image), count)
    rows = words + (image.to(tl.int64) * count + i) * num_words
    rivals = tl.load(
        rows[:, None] + word[None, :],
        mask=there[:, None] & (word < num_words)[None, :],
        other=0,
    )
    kept = there.to(tl.int32)
    changed = 1
    while changed > 0:
        packed = tl.sum(tl.reshape(kept, (WORDS, BITS)) << bit[None, :], axis=1)
        beaten = tl.max(((rivals & packed[None, :]) != 0).to(tl.int32), axis=1)
        decided = there.to(tl.int32) * (1 - beaten)
        changed = tl.sum((decided != kept).to(tl.int32), axis=0)
        kept = decided
    rank = tl.cumsum(kept, axis=0) - 1
    tl.store(index + image * limit + rank, i, mask=(kept > 0) & (rank < limit))
    tl.store(kept_numbers + image, tl.minimum(tl.sum(kept, axis=0), limit))


def batched_nms(
    boxes: Tensor,
    numbers: Tensor,
    threshold: float,
    *,
    limit: int,
    groups: Tensor | None = None,
    rows: int = 128,
) -> Kept:
    """Launch the kernels: `nms.batched_nms`, ``rows`` boxes (a power of two) a program at first."""
    batch, count = boxes.shape[:2]
    index = torch.zeros(batch, limit, dtype=torch.int32, device=boxes.device)
    number = torch.empty(batch, dtype=torch.int32, device=boxes.device)
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
            ROWS=rows,
            BITS=_BITS,
        )
    all_words = triton.next_power_of_2(num_words)
    _suppress_kernel[(batch,)](
        words,
        numbers.contiguous(),
        index,
        number,
        count,
        num_words,
        limit,
        BLOCK=all_words * _BITS,
        WORDS=all_words,
        BITS=_BITS,
        # Threads enough to keep the bits of 1024 boxes, 128 KiB, in registers.
        num_warps=max(1, min(16, all_words // 2)),
    )
    return Kept(index, number)
