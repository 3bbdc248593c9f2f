"""Boxes decoded and clipped by one kernel: see `decode`."""

# The arguments of kernels get their types when Triton compiles them.
# mypy: disallow-untyped-defs=False, disallow-incomplete-defs=False

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from upsnet_ros.kernels.decode import MAX_LOG_SCALE, Weights

# Lists are as long as a camera's image has anchors: no reason to compile anew.
_VARYING = ["count", "box_list", "delta_list", "place_list", "place_one", "height", "width"]


@triton.jit(do_not_specialize=_VARYING)
def _decode_kernel(
    boxes,
    deltas,
    place,
    output,
    count,
    box_list,
    delta_list,
    place_list,
    place_one,
    height,
    width,
    EACH: tl.constexpr,  # deltas of a box
    WEIGHT_X: tl.constexpr,
    WEIGHT_Y: tl.constexpr,
    WEIGHT_W: tl.constexpr,
    WEIGHT_H: tl.constexpr,
    LARGEST: tl.constexpr,
    BLOCK: tl.constexpr,
):
    number = tl.program_id(1).to(tl.int64)
    i = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    inside = i < count
    at = tl.load(place + number * place_list + i * place_one, mask=inside, other=0)
    box = boxes + number * box_list + at // EACH * 4
    delta = deltas + number * delta_list + at * 4
    x1 = tl.load(box, mask=inside, other=0.0)
    y1 = tl.load(box + 1, mask=inside, other=0.0)
    w = tl.load(box + 2, mask=inside, other=0.0) - x1 + 1
    h = tl.load(box + 3, mask=inside, other=0.0) - y1 + 1
    dx = tl.load(delta, mask=inside, other=0.0).to(tl.float32)
    dy = tl.load(delta + 1, mask=inside, other=0.0).to(tl.float32)
    dw = tl.load(delta + 2, mask=inside, other=0.0).to(tl.float32)
    dh = tl.load(delta + 3, mask=inside, other=0.0).to(tl.float32)
    cx = tl.div_rn(dx, WEIGHT_X) * w + (x1 + 0.5 * w)
    cy = tl.div_rn(dy, WEIGHT_Y) * h + (y1 + 0.5 * h)
    w = tl.exp(tl.minimum(tl.div_rn(dw, WEIGHT_W), LARGEST)) * w
    h = tl.exp(tl.minimum(tl.div_rn(dh, WEIGHT_H), LARGEST)) * h
    right = (width - 1).to(tl.float32)
    bottom = (height - 1).to(tl.float32)
    to = output + (number * count + i) * 4
    tl.store(to, tl.minimum(tl.maximum(cx - 0.5 * w, 0.0), right), mask=inside)
    tl.store(to + 1, tl.minimum(tl.maximum(cy - 0.5 * h, 0.0), bottom), mask=inside)
    tl.store(to + 2, tl.minimum(tl.maximum(cx + 0.5 * w - 1, 0.0), right), mask=inside)
    tl.store(to + 3, tl.minimum(tl.maximum(cy + 0.5 * h - 1, 0.0), bottom), mask=inside)


def decode_at(
    boxes: Tensor,
    deltas: Tensor,
    place: Tensor,
    *,
    weights: Weights,
    size: tuple[int, int],
    block: int = 128,
) -> Tensor:
    """Launch the kernel: `decode.decode_at`, ``block`` boxes (a power of two) a program."""
    boxes, deltas = boxes.contiguous(), deltas.contiguous()
    lists, count = place.shape
    output = torch.empty(lists, count, 4, dtype=torch.float32, device=boxes.device)
    _decode_kernel[(triton.cdiv(count, block), lists)](
        boxes,
        deltas,
        place,
        output,
        count,
        0 if len(boxes) == 1 else boxes.stride(0),
        deltas.stride(0),
        *place.stride(),
        *size,
        EACH=deltas.shape[1] // boxes.shape[1],
        WEIGHT_X=weights[0],
        WEIGHT_Y=weights[1],
        WEIGHT_W=weights[2],
        WEIGHT_H=weights[3],
        LARGEST=MAX_LOG_SCALE,
        BLOCK=block,
    )
    return output
