"""Bias and coarser level added to a level by one kernel: see `merge`."""

# The arguments of kernels get their types when Triton compiles them.
# mypy: disallow-untyped-defs=False, disallow-incomplete-defs=False

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

# Sizes differ by camera and by batch: no reason to compile anew.
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

    The result may lie ``in_place`` of a channels-last ``own``. A program takes ``block`` pixels and
    channels, powers of two.
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
