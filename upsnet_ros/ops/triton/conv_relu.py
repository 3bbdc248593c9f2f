"""Triton kernels of `ops.conv_relu`: bias and ReLU, and the stem's bias, ReLU and max pooling."""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

# The arguments of kernels get their types when Triton compiles them.
# mypy: disallow-untyped-defs=False, disallow-incomplete-defs=False


# Sizes differ by camera and by batch: no reason to recompile.
@triton.jit(do_not_specialize=["count"])
def _bias_relu_kernel(
    features,
    bias,
    output,
    count,
    CHANNELS: tl.constexpr,
    HAS_BIAS: tl.constexpr,
    BLOCK: tl.constexpr,
    BLOCK_C: tl.constexpr,
):
    pixel = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    channel = tl.program_id(1) * BLOCK_C + tl.arange(0, BLOCK_C)
    shown = (pixel < count)[:, None] & (channel < CHANNELS)[None, :]
    at = pixel[:, None] * CHANNELS + channel[None, :]
    value = tl.load(features + at, mask=shown, other=0.0).to(tl.float32)
    if HAS_BIAS:
        value += tl.load(bias + channel, mask=channel < CHANNELS, other=0.0).to(tl.float32)[None, :]
    value = tl.maximum(value, 0.0)
    tl.store(output + at, value.to(output.dtype.element_ty), mask=shown)


def bias_relu(
    x: Tensor,
    bias: Tensor | None,
    *,
    in_place: bool = False,
    block: tuple[int, int] = (16, 256),
) -> Tensor:
    """Launch the kernel: `conv_relu.bias_relu_reference`, channels-last.

    The result may lie ``in_place`` of a channels-last ``x``. A program computes ``block`` pixels
    and channels, powers of two.
    """
    batch, channels, height, width = x.shape
    x = x.contiguous(memory_format=torch.channels_last)
    output = x if in_place else torch.empty_like(x)
    count = batch * height * width
    block_c = min(block[1], triton.next_power_of_2(channels))
    _bias_relu_kernel[(triton.cdiv(count, block[0]), triton.cdiv(channels, block_c))](
        x,
        x if bias is None else bias,
        output,
        count,
        CHANNELS=channels,
        HAS_BIAS=bias is not None,
        BLOCK=block[0],
        BLOCK_C=block_c,
    )
    return output


# The arguments of kernels get their types when Triton compiles them.
# mypy: disallow-untyped-defs=False, disallow-incomplete-defs=False


# Sizes differ by camera and by batch: no reason to recompile.
_VARYING = ["count", "in_height", "in_width", "out_height", "out_width"]


@triton.jit(do_not_specialize=_VARYING)
def _relu_pool_kernel(
    features,
    bias,
    output,
    count,
    in_height,
    in_width,
    out_height,
    out_width,
    CHANNELS: tl.constexpr,
    HAS_BIAS: tl.constexpr,
    BLOCK: tl.constexpr,
    BLOCK_C: tl.constexpr,
):
    pixel = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    channel = tl.arange(0, BLOCK_C)
    valid = pixel < count
    known = (channel < CHANNELS)[None, :]
    column = pixel % out_width
    row = (pixel // out_width) % out_height
    image = (pixel // (out_width * out_height)).to(tl.int64)
    best = tl.full((BLOCK, BLOCK_C), float("-inf"), tl.float32)
    for tap in tl.static_range(9):
        y = 2 * row - 1 + tap // 3
        x = 2 * column - 1 + tap % 3
        inside = valid & (y >= 0) & (y < in_height) & (x >= 0) & (x < in_width)
        at = ((image * in_height + y) * in_width + x) * CHANNELS
        value = tl.load(
            features + at[:, None] + channel[None, :],
            mask=inside[:, None] & known,
            other=float("-inf"),
        )
        best = tl.maximum(best, value.to(tl.float32))
    if HAS_BIAS:
        best += tl.load(bias + channel, mask=channel < CHANNELS, other=0.0).to(tl.float32)[None, :]
    best = tl.maximum(best, 0.0)
    to = output + pixel.to(tl.int64)[:, None] * CHANNELS + channel[None, :]
    tl.store(to, best.to(output.dtype.element_ty), mask=valid[:, None] & known)


def relu_pool(x: Tensor, bias: Tensor | None, *, block: int = 32) -> Tensor:
    """Launch the kernel: `relu_pool.relu_pool_reference`, ``block`` pixels (power of 2) each."""
    channels_last = x.permute(0, 2, 3, 1).contiguous()
    batch, in_height, in_width, channels = channels_last.shape
    out_height, out_width = ((side + 1) // 2 for side in (in_height, in_width))
    output = x.new_empty(batch, out_height, out_width, channels)
    count = batch * out_height * out_width
    _relu_pool_kernel[(triton.cdiv(count, block),)](
        channels_last,
        output if bias is None else bias,
        output,
        count,
        in_height,
        in_width,
        out_height,
        out_width,
        CHANNELS=channels,
        HAS_BIAS=bias is not None,
        BLOCK=block,
        BLOCK_C=triton.next_power_of_2(channels),
    )
    result = output.permute(0, 3, 1, 2)
    return result if x.is_contiguous(memory_format=torch.channels_last) else result.contiguous()
