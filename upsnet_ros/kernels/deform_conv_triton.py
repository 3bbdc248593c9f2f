"""Deformable convolution as one implicit matrix product: see `deform_conv`.

Rows are outputs, columns are output channels, and the inner dimension runs over taps and channels.
A program samples the rows' operand as it goes, four corners in float32, and multiplies it at once:
the matrix of samples, 9 C numbers a pixel, is never written.
"""

# The arguments of kernels get their types when Triton compiles them.
# mypy: disallow-untyped-defs=False, disallow-incomplete-defs=False

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

# Sizes differ by camera and by batch: no reason to compile anew.
_VARYING = ["count", "in_height", "in_width", "out_height", "out_width"]
_VARYING += ["offset_image", "offset_channel", "offset_row", "offset_column"]


@triton.jit(do_not_specialize=_VARYING)
def _deform_conv_kernel(
    pixels,
    offset,
    weight,
    bias,
    output,
    count,
    in_height,
    in_width,
    out_height,
    out_width,
    offset_image,
    offset_channel,
    offset_row,
    offset_column,
    STRIDE: tl.constexpr,
    PADDING: tl.constexpr,
    DILATION: tl.constexpr,
    CHANNELS: tl.constexpr,
    OUTPUTS: tl.constexpr,
    KERNEL_ROWS: tl.constexpr,
    KERNEL_COLUMNS: tl.constexpr,
    HAS_BIAS: tl.constexpr,
    RELU: tl.constexpr,
    WIDEN: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_K: tl.constexpr,
):
    m = tl.program_id(0) * BLOCK_M + tl.arange(0, BLOCK_M)
    n = tl.program_id(1) * BLOCK_N + tl.arange(0, BLOCK_N)
    there = m < count
    column = m % out_width
    row = (m // out_width) % out_height
    image = (m // (out_width * out_height)).to(tl.int64)
    displaced = offset + image * offset_image + row * offset_row + column * offset_column
    base = image * in_height * in_width
    result = tl.full((BLOCK_M, BLOCK_N), 0.0, tl.float32)
    for tap in range(KERNEL_ROWS * KERNEL_COLUMNS):
        tap_row = (tap // KERNEL_COLUMNS) * DILATION - PADDING
        tap_column = (tap % KERNEL_COLUMNS) * DILATION - PADDING
        at = displaced + 2 * tap * offset_channel
        y = (row * STRIDE + tap_row) + tl.load(at, mask=there, other=0.0).to(tl.float32)
        x = (column * STRIDE + tap_column) + tl.load(at + offset_channel, mask=there, other=0.0).to(
            tl.float32
        )
        # What is far outside, or not a number, has no place as an integer.
        counts = there & (y > -1) & (y < in_height) & (x > -1) & (x < in_width)
        y = tl.where(counts, y, 0.0)
        x = tl.where(counts, x, 0.0)
        top = tl.floor(y)
        left = tl.floor(x)
        down = y - top
        right = x - left
        top = top.to(tl.int32)
        left = left.to(tl.int32)
        in_top = counts & (top >= 0)
        in_bottom = counts & (top + 1 < in_height)
        in_left = left >= 0
        in_right = left + 1 < in_width
        corner = (base + top * in_width + left) * CHANNELS
        for start in range(0, CHANNELS, BLOCK_K):
            k = start + tl.arange(0, BLOCK_K)
            channels = (k < CHANNELS)[None, :]
            a = pixels + corner[:, None] + k[None, :]
            c = a + in_width * CHANNELS
            mask_a = (in_top & in_left)[:, None] & channels
            mask_b = (in_top & in_right)[:, None] & channels
            mask_c = (in_bottom & in_left)[:, None] & channels
            mask_d = (in_bottom & in_right)[:, None] & channels
            sample = (
                tl.load(a, mask=mask_a, other=0.0).to(tl.float32)
                * ((1 - down) * (1 - right))[:, None]
            )
            sample += (
                tl.load(a + CHANNELS, mask=mask_b, other=0.0).to(tl.float32)
                * ((1 - down) * right)[:, None]
            )
            sample += (
                tl.load(c, mask=mask_c, other=0.0).to(tl.float32) * (down * (1 - right))[:, None]
            )
            sample += (
                tl.load(c + CHANNELS, mask=mask_d, other=0.0).to(tl.float32)
                * (down * right)[:, None]
            )
            weights = tl.load(
                weight + (tap * CHANNELS + k)[:, None] * OUTPUTS + n[None, :],
                mask=(k < CHANNELS)[:, None] & (n < OUTPUTS)[None, :],
                other=0.0,
            )
            factor = sample.to(weight.dtype.element_ty)
            if WIDEN:  # the interpreter multiplies no bfloat16
                factor = factor.to(tl.float32)
                weights = weights.to(tl.float32)
            result = tl.dot(factor, weights, result, input_precision="ieee")
    if HAS_BIAS:
        result += tl.load(bias + n, mask=n < OUTPUTS, other=0.0).to(tl.float32)[None, :]
    if RELU:
        result = tl.maximum(result, 0.0)
    tl.store(
        output + m.to(tl.int64)[:, None] * OUTPUTS + n[None, :],
        result.to(output.dtype.element_ty),
        mask=there[:, None] & (n < OUTPUTS)[None, :],
    )


def pack_weight(weight: Tensor) -> Tensor:
    """Return the weight (O, C, kh, kw) as the matrix (kh * kw * C, O) that the kernel reads."""
    return weight.permute(2, 3, 1, 0).reshape(-1, weight.shape[0]).contiguous()


def deform_conv2d(
    input: Tensor,
    offset: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    *,
    stride: int = 1,
    padding: int = 1,
    dilation: int = 1,
    relu: bool = False,
    packed: Tensor | None = None,
    block: tuple[int, int, int] | None = None,
) -> Tensor:
    """Launch the kernel: `deform_conv.deform_conv2d`, without gradients.

    ``packed`` is what `pack_weight` made of ``weight`` before, ``relu`` clamps the result at 0, and
    ``block`` is how much of outputs, output channels and input channels a program takes at a time.
    """
    channels_last = input.permute(0, 2, 3, 1).contiguous()
    batch, in_height, in_width, channels = channels_last.shape
    outputs = weight.shape[0]
    out_height, out_width = offset.shape[2:]
    count = batch * out_height * out_width
    output = input.new_empty(batch, out_height, out_width, outputs)
    if block is None:
        # Wide, so that few programs sample the same pixels: two for 256 output channels.
        block = (64, min(128, max(16, triton.next_power_of_2(outputs))), 32)
    grid = (triton.cdiv(count, block[0]), triton.cdiv(outputs, block[1]))
    matrix = pack_weight(weight) if packed is None else packed
    _deform_conv_kernel[grid](
        channels_last,
        offset,
        matrix,
        matrix if bias is None else bias,
        output,
        count,
        in_height,
        in_width,
        out_height,
        out_width,
        *offset.stride(),
        STRIDE=stride,
        PADDING=padding,
        DILATION=dilation,
        CHANNELS=channels,
        OUTPUTS=outputs,
        KERNEL_ROWS=weight.shape[2],
        KERNEL_COLUMNS=weight.shape[3],
        HAS_BIAS=bias is not None,
        RELU=relu,
        WIDEN=input.device.type == "cpu" and weight.dtype == torch.bfloat16,
        BLOCK_M=block[0],
        BLOCK_N=block[1],
        BLOCK_K=block[2],
        # By ptxas for sm_90: four warps, or three stages of 64 channels, would spill registers.
        num_warps=8,
        num_stages=2,
    )
    result = output.permute(0, 3, 1, 2)
    return result.contiguous() if input.is_contiguous() else result
