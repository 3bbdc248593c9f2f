"""Deformable convolution as one implicit matrix product: see `deform_conv`.

Rows are outputs, columns are output channels, and the inner dimension runs over taps and channels.
A program samples the rows' operand as it goes, four corners in float32, and multiplies it at once:
the matrix of samples, 9 C numbers a pixel, is never written.

There are two kernels. In the first, corners outside of the image are masked. In the second, corners
are clamped to the image and weighted with zero, so that loads need no mask, and one loop runs over
taps and channels, so that Triton can load for the next steps while one is multiplied. Which one
runs, and how wide, is a `Form`; they differ in the order of sums alone.
"""

# The arguments of kernels get their types when Triton compiles them.
# mypy: disallow-untyped-defs=False, disallow-incomplete-defs=False

from __future__ import annotations

import itertools
from dataclasses import dataclass, replace

import torch
import triton
import triton.language as tl
from torch import Tensor


@dataclass(frozen=True, slots=True, kw_only=True)
class Form:
    """How a kernel divides its work.

    Attributes:
        block: Outputs, output channels and input channels of a program at a time: powers of
            two, from 16.
        warps: Of a program.
        stages: Steps whose loads are under way.
        pipelined: Whether it is the second kernel. It takes input channels that are a multiple of
            the block's, and features that are finite.
        channels_outer: Of the second kernel: whether taps change faster than input channels.
    """

    block: tuple[int, int, int] = (64, 128, 32)
    # By ptxas for sm_90: four warps, or three stages of 64 channels, would spill registers.
    warps: int = 8
    stages: int = 2
    pipelined: bool = False
    channels_outer: bool = False


#: What is worth a race on a GPU: none spills registers on sm_90.
FORMS = (
    Form(),
    *(
        Form(
            block=(outputs, 128, channels),
            warps=warps,
            stages=stages,
            pipelined=True,
            channels_outer=channels_outer,
        )
        for (outputs, channels, warps), stages, channels_outer in itertools.product(
            ((64, 32, 8), (64, 64, 8), (128, 32, 8), (128, 64, 8), (64, 64, 4)),
            (1, 2, 3),
            (False, True),
        )
    ),
)
#: The fastest form by input and output channels, as measured on a GPU in half precision. None is
#: measured yet.
FASTEST: dict[tuple[int, int], Form] = {}


def form_of(channels: int, outputs: int, dtype: torch.dtype) -> Form:
    """Return the form for a convolution: the fastest that was measured and takes it."""
    half = dtype in (torch.float16, torch.bfloat16)
    form = FASTEST.get((channels, outputs), Form()) if half else Form()
    if form.pipelined and channels % form.block[2]:
        form = Form()
    # Wide, so that few programs sample the same pixels: two for 256 output channels.
    width = min(form.block[1], max(16, triton.next_power_of_2(outputs)))
    return replace(form, block=(form.block[0], width, form.block[2]))


# Sizes differ by camera and by batch: no reason to recompile.
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
    valid = m < count
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
        y = (row * STRIDE + tap_row) + tl.load(at, mask=valid, other=0.0).to(tl.float32)
        x = (column * STRIDE + tap_column) + tl.load(at + offset_channel, mask=valid, other=0.0).to(
            tl.float32
        )
        # A position far outside, or NaN, cannot be converted to an integer.
        sampled = valid & (y > -1) & (y < in_height) & (x > -1) & (x < in_width)
        y = tl.where(sampled, y, 0.0)
        x = tl.where(sampled, x, 0.0)
        top = tl.floor(y)
        left = tl.floor(x)
        down = y - top
        right = x - left
        top = top.to(tl.int32)
        left = left.to(tl.int32)
        in_top = sampled & (top >= 0)
        in_bottom = sampled & (top + 1 < in_height)
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
        mask=valid[:, None] & (n < OUTPUTS)[None, :],
    )


@triton.jit(do_not_specialize=_VARYING)
def _deform_conv_pipelined_kernel(
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
    CHANNELS_OUTER: tl.constexpr,
):
    output_row = tl.program_id(0) * BLOCK_M + tl.arange(0, BLOCK_M)
    n = tl.program_id(1) * BLOCK_N + tl.arange(0, BLOCK_N)
    # Places beyond the last one work for it again: nothing is masked, so all has to exist.
    m = tl.minimum(output_row, count - 1)
    column = m % out_width
    row = (m // out_width) % out_height
    image = (m // (out_width * out_height)).to(tl.int64)
    displaced = offset + image * offset_image + row * offset_row + column * offset_column
    base = image * in_height * in_width
    result = tl.full((BLOCK_M, BLOCK_N), 0.0, tl.float32)
    taps: tl.constexpr = KERNEL_ROWS * KERNEL_COLUMNS
    parts: tl.constexpr = CHANNELS // BLOCK_K
    for step in range(taps * parts):
        if CHANNELS_OUTER:
            tap = step % taps
            start = step // taps * BLOCK_K
        else:
            tap = step // parts
            start = step % parts * BLOCK_K
        at = displaced + 2 * tap * offset_channel
        y = tl.load(at).to(tl.float32)
        x = tl.load(at + offset_channel).to(tl.float32)
        y += row * STRIDE + (tap // KERNEL_COLUMNS) * DILATION - PADDING
        x += column * STRIDE + (tap % KERNEL_COLUMNS) * DILATION - PADDING
        # A position far outside, or NaN, cannot be converted to an integer.
        sampled = (y > -1) & (y < in_height) & (x > -1) & (x < in_width)
        y = tl.where(sampled, y, 0.0)
        x = tl.where(sampled, x, 0.0)
        top = tl.floor(y)
        left = tl.floor(x)
        down = y - top
        right = x - left
        top = top.to(tl.int32)
        left = left.to(tl.int32)
        up = tl.where(sampled & (top >= 0), 1 - down, 0.0)
        down = tl.where(sampled & (top + 1 < in_height), down, 0.0)
        near = tl.where(left >= 0, 1 - right, 0.0)
        right = tl.where(left + 1 < in_width, right, 0.0)
        bottom = tl.minimum(top + 1, in_height - 1)
        far = tl.minimum(left + 1, in_width - 1)
        top = tl.maximum(top, 0)
        left = tl.maximum(left, 0)
        channel = start + tl.arange(0, BLOCK_K)
        k = channel[None, :]
        a = tl.load(pixels + ((base + top * in_width + left) * CHANNELS)[:, None] + k)
        b = tl.load(pixels + ((base + top * in_width + far) * CHANNELS)[:, None] + k)
        c = tl.load(pixels + ((base + bottom * in_width + left) * CHANNELS)[:, None] + k)
        d = tl.load(pixels + ((base + bottom * in_width + far) * CHANNELS)[:, None] + k)
        sample = a.to(tl.float32) * (up * near)[:, None]
        sample += b.to(tl.float32) * (up * right)[:, None]
        sample += c.to(tl.float32) * (down * near)[:, None]
        sample += d.to(tl.float32) * (down * right)[:, None]
        weights = tl.load(
            weight
            + (tap * CHANNELS + start + tl.arange(0, BLOCK_K))[:, None] * OUTPUTS
            + n[None, :],
            mask=(n < OUTPUTS)[None, :],
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
        output + output_row.to(tl.int64)[:, None] * OUTPUTS + n[None, :],
        result.to(output.dtype.element_ty),
        mask=(output_row < count)[:, None] & (n < OUTPUTS)[None, :],
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
    form: Form | None = None,
) -> Tensor:
    """Launch the kernel: `deform_conv.deform_conv2d`, without gradients.

    ``packed`` is what `pack_weight` made of ``weight`` before, ``relu`` clamps the result at 0, and
    ``form`` is by default that of `form_of`.

    Raises:
        ValueError: The form does not take so many channels.
    """
    channels_last = input.permute(0, 2, 3, 1).contiguous()
    batch, in_height, in_width, channels = channels_last.shape
    outputs = weight.shape[0]
    out_height, out_width = offset.shape[2:]
    count = batch * out_height * out_width
    output = input.new_empty(batch, out_height, out_width, outputs)
    form = form_of(channels, outputs, input.dtype) if form is None else form
    block = form.block
    if form.pipelined and channels % block[2]:
        raise ValueError(f"{form} takes multiples of {block[2]} channels, not {channels}")
    kernel = _deform_conv_pipelined_kernel if form.pipelined else _deform_conv_kernel
    order = {"CHANNELS_OUTER": form.channels_outer} if form.pipelined else {}
    grid = (triton.cdiv(count, block[0]), triton.cdiv(outputs, block[1]))
    matrix = pack_weight(weight) if packed is None else packed
    kernel[grid](
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
        **order,
        num_warps=form.warps,
        num_stages=form.stages,
    )
    result = output.permute(0, 3, 1, 2)
    return result.contiguous() if input.is_contiguous() else result
