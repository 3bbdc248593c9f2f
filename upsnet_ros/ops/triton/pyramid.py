"""Triton kernels of `ops.pyramid`: the top-down step and the sum of class scores.

A program makes part of a row for some classes. It reads pixels with their classes side by side, and
writes planes.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import triton
import triton.language as tl
from torch import Tensor

# The arguments of kernels get their types when Triton compiles them.
# mypy: disallow-untyped-defs=False, disallow-incomplete-defs=False


# Sizes differ by camera and by batch: no reason to recompile.
_VARYING = ["count", "width"]


@triton.jit(do_not_specialize=_VARYING)
def _add_coarse_kernel(
    own,
    coarse,
    bias,
    output,
    count,
    width,
    CHANNELS: tl.constexpr,
    HAS_BIAS: tl.constexpr,
    BLOCK: tl.constexpr,
    BLOCK_C: tl.constexpr,
):
    pixel = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    channel = tl.program_id(1) * BLOCK_C + tl.arange(0, BLOCK_C)
    shown = (pixel < count)[:, None] & (channel < CHANNELS)[None, :]
    column = pixel % width
    line = pixel // width  # rows of all images; each has an even number
    below = (line // 2).to(tl.int64) * (width // 2) + column // 2
    at = pixel.to(tl.int64)[:, None] * CHANNELS + channel[None, :]
    value = tl.load(own + at, mask=shown, other=0.0).to(tl.float32)
    if HAS_BIAS:
        value += tl.load(bias + channel, mask=channel < CHANNELS, other=0.0).to(tl.float32)[None, :]
    value += tl.load(
        coarse + below[:, None] * CHANNELS + channel[None, :], mask=shown, other=0.0
    ).to(tl.float32)
    tl.store(output + at, value.to(output.dtype.element_ty), mask=shown)


def add_coarse(
    own: Tensor,
    coarse: Tensor,
    bias: Tensor | None,
    *,
    in_place: bool = False,
    block: tuple[int, int] = (16, 256),
) -> Tensor:
    """Launch the kernel: `merge.add_coarse_reference`, channels-last.

    The result may lie ``in_place`` of a channels-last ``own``. A program computes ``block`` pixels
    and channels, powers of two.
    """
    batch, channels, height, width = own.shape
    if (*coarse.shape[:2], 2 * coarse.shape[2], 2 * coarse.shape[3]) != own.shape:
        raise ValueError(
            f"levels have shapes {tuple(own.shape)} and {tuple(coarse.shape)}, but the coarser one "
            "must have half as many rows and columns"
        )
    own, coarse = (x.contiguous(memory_format=torch.channels_last) for x in (own, coarse))
    output = own if in_place else torch.empty_like(own)
    count = batch * height * width
    block_c = min(block[1], triton.next_power_of_2(channels))
    _add_coarse_kernel[(triton.cdiv(count, block[0]), triton.cdiv(channels, block_c))](
        own,
        coarse,
        own if bias is None else bias,
        output,
        count,
        width,
        CHANNELS=channels,
        HAS_BIAS=bias is not None,
        BLOCK=block[0],
        BLOCK_C=block_c,
    )
    return output


# The arguments of kernels get their types when Triton compiles them.
# mypy: disallow-untyped-defs=False, disallow-incomplete-defs=False


@triton.jit
def _between(pixel, factor, cells):
    """Return between which cells pixels lie: the lower, the upper, and the upper one's share."""
    # Exact, since factors are powers of two.
    position = tl.maximum((pixel.to(tl.float32) + 0.5) / factor - 0.5, 0.0)
    low = position.to(tl.int32)
    return low, tl.minimum(low + 1, cells - 1), position - low.to(tl.float32)


@triton.jit
def _upsampled(level, image, y, x, channel, shown, height, width, FACTOR: tl.constexpr, CLASSES):
    rows = height // FACTOR
    columns = width // FACTOR
    upper, lower, down = _between(y, FACTOR, rows)
    near, far, right = _between(x, FACTOR, columns)
    right = right[:, None]
    above = level + (image * rows + upper) * columns * CLASSES + channel[None, :]
    below = level + (image * rows + lower) * columns * CLASSES + channel[None, :]
    near = (near * CLASSES)[:, None]
    far = (far * CLASSES)[:, None]
    a = tl.load(above + near, mask=shown, other=0.0).to(tl.float32)
    b = tl.load(above + far, mask=shown, other=0.0).to(tl.float32)
    c = tl.load(below + near, mask=shown, other=0.0).to(tl.float32)
    d = tl.load(below + far, mask=shown, other=0.0).to(tl.float32)
    return (1 - down) * ((1 - right) * a + right * b) + down * ((1 - right) * c + right * d)


# Sizes differ by camera: no reason to recompile. The width's being a multiple of 16 lets rows be
# written in wide pieces.
@triton.jit(do_not_specialize=["height"])
def _sum_levels_kernel(
    p2,
    p3,
    p4,
    p5,
    output,
    height,
    width,
    CLASSES: tl.constexpr,
    BLOCK: tl.constexpr,
    BLOCK_C: tl.constexpr,
):
    y = tl.program_id(0)
    parts = (CLASSES + BLOCK_C - 1) // BLOCK_C
    x = tl.program_id(1) // parts * BLOCK + tl.arange(0, BLOCK)
    channel = tl.program_id(1) % parts * BLOCK_C + tl.arange(0, BLOCK_C)
    image = tl.program_id(2).to(tl.int64)
    shown = (x < width)[:, None] & (channel < CLASSES)[None, :]
    own = p2 + ((image * height + y) * width + x)[:, None] * CLASSES + channel[None, :]
    total = tl.load(own, mask=shown, other=0.0).to(tl.float32)
    total += _upsampled(p3, image, y, x, channel, shown, height, width, 2, CLASSES)
    total += _upsampled(p4, image, y, x, channel, shown, height, width, 4, CLASSES)
    total += _upsampled(p5, image, y, x, channel, shown, height, width, 8, CLASSES)
    plane = (image * CLASSES + channel)[None, :] * height + y
    tl.store(output + plane * width + x[:, None], total, mask=shown)


def sum_levels(levels: Sequence[Tensor], *, block: tuple[int, int] = (32, 32)) -> Tensor:
    """Launch the kernel: `sum_levels.sum_levels`.

    A program computes ``block`` pixels and classes, powers of two.
    """
    batch, classes, height, width = levels[0].shape
    output = torch.empty(levels[0].shape, dtype=torch.float32, device=levels[0].device)
    parts = triton.cdiv(width, block[0]) * triton.cdiv(classes, block[1])
    _sum_levels_kernel[(height, parts, batch)](
        *(level.permute(0, 2, 3, 1).contiguous() for level in levels),
        output,
        height,
        width,
        CLASSES=classes,
        BLOCK=block[0],
        BLOCK_C=block[1],
    )
    return output
