"""What the kernels of the panoptic head and of mask removal share: instances in tiles of pixels."""

# The arguments of kernels get their types when Triton compiles them.
# mypy: disallow-untyped-defs=False, disallow-incomplete-defs=False

from __future__ import annotations

import triton
import triton.language as tl


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
    place_x = (x - x1 + 0.5) * tl.div_rn(BINS * 1.0, (x2 - x1).to(tl.float32)) - 0.5
    place_y = (y - y1 + 0.5) * tl.div_rn(BINS * 1.0, (y2 - y1).to(tl.float32)) - 0.5
    place_x = tl.minimum(tl.maximum(place_x, 0.0), BINS - 1.0)
    place_y = tl.minimum(tl.maximum(place_y, 0.0), BINS - 1.0)
    left = place_x.to(tl.int32)
    top = place_y.to(tl.int32)
    right = (place_x - left.to(tl.float32))[None, :]
    down = (place_y - top.to(tl.float32))[:, None]
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
def next_member(members, after, BLOCK: tl.constexpr):
    """Return the lowest place above `after` at which `members`, bool (BLOCK,), is set, or BLOCK."""
    place = tl.arange(0, BLOCK)
    return tl.min(tl.where(members & (place > after), place, BLOCK), axis=0)
