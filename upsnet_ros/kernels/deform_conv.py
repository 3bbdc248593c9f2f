"""Deformable convolution (v1: displaced taps, no modulation), fast on a CPU too."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
import torchvision
from torch import Tensor
from torch.utils.weak import WeakTensorKeyDictionary

from upsnet_ros.kernels import deform_conv_autograd, dispatch

# Samples are gathered and multiplied in blocks of about this many bytes, so that a block is still
# in the cache when the matrix product reads it. Half of it is a little faster on an idle machine,
# and slower on a busy one, where the threads' meetings after each block take long.
_BLOCK_BYTES = 6 * 2**20

# Corners of samples are worked out for about this many outputs at a time. So few are quick for one
# thread, and torch shares no work of less than 32768 elements (here nine an output) among threads:
# where others want the CPU, each meeting of the threads can cost a time slice.
_BAND_PIXELS = 32768 // 9

# What the kernel reads in place of a weight, and of which state of the weight that was made.
_packed_weights: Any = WeakTensorKeyDictionary()


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
) -> Tensor:
    """Convolve ``input`` at taps displaced by ``offset``, by the fastest form at hand.

    A tap at (y, x) reads ``input`` bilinearly with zeros outside, and counts where -1 < y < H and
    -1 < x < W. All channels share one group of offsets. `deform_conv2d_reference` defines the
    result; it is also what runs on CUDA where gradients are asked for, or the kernel does not.

    Args:
        input: (N, C, H, W), contiguous or channels-last.
        offset: (N, 2 * kh * kw, H', W'), in pixels of ``input``: channel 2k is dy and 2k + 1 is dx
            of tap k = row * kw + column.
        weight: (O, C, kh, kw), of the dtype of ``input``.
        bias: (O,), or None.
        stride: Pixels of ``input`` from one output to the next.
        padding: Pixels by which the first taps lie outside ``input``.
        dilation: Pixels of ``input`` from one tap to the next.
        relu: Whether what is below zero becomes zero.

    Returns:
        (N, O, H', W') in the dtype of ``input``, channels-last where ``input`` is.

    Raises:
        ValueError: Where the shapes do not fit each other.
    """
    _check_shapes(input, offset, weight, stride=stride, padding=padding, dilation=dilation)
    tensors = (input, offset, weight) if bias is None else (input, offset, weight, bias)
    wants_gradient = torch.is_grad_enabled() and any(t.requires_grad for t in tensors)
    if input.device.type == "cpu" and wants_gradient and deform_conv_autograd.fits(input, offset):
        corners = partial(
            _bilinear_corners,
            kernel=list(weight.shape[2:]),
            size=input.shape[2:],
            first=(-padding, -padding),
            stride=stride,
            dilation=dilation,
        )
        output = deform_conv_autograd.sample_and_multiply(
            input, offset, weight, bias, corners=corners
        )
        output = _in_format_of(input, output)
        return F.relu(output, inplace=True) if relu else output
    options: dict[str, Any] = {"stride": stride, "padding": padding, "dilation": dilation}
    options["relu"] = relu
    on_cpu = input.device.type == "cpu" and not dispatch.is_interpreted()
    if on_cpu and not wants_gradient:
        return _gather_and_multiply(input, offset, weight, bias, **options)
    if wants_gradient or input.dtype == torch.float64:
        return deform_conv2d_reference(input, offset, weight, bias, **options)
    return dispatch.run(
        "deform_conv",
        input.device,
        kernel=lambda: _launch(input, offset, weight, bias, **options),
        twin=lambda: deform_conv2d_reference(input, offset, weight, bias, **options),
    )


def deform_conv2d_reference(
    input: Tensor,
    offset: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    *,
    stride: int = 1,
    padding: int = 1,
    dilation: int = 1,
    relu: bool = False,
) -> Tensor:
    """What `deform_conv2d` must return: torchvision's operator, which has gradients.

    Half precision is computed in float32, because torchvision rounds positions to the dtype of
    ``input``: by one pixel at 300 in bfloat16.
    """
    exact = torch.promote_types(input.dtype, torch.float32)
    output = torchvision.ops.deform_conv2d(
        input.to(exact),
        offset.to(exact),
        weight.to(exact),
        None if bias is None else bias.to(exact),
        stride=stride,
        padding=padding,
        dilation=dilation,
    )
    if relu:
        output = F.relu(output, inplace=True)
    return _in_format_of(input, output.to(input.dtype))


def _launch(
    input: Tensor, offset: Tensor, weight: Tensor, bias: Tensor | None, **options: Any
) -> Tensor:
    from upsnet_ros.kernels import deform_conv_triton

    packed = _packed(weight, deform_conv_triton.pack_weight)
    return deform_conv_triton.deform_conv2d(input, offset, weight, bias, packed=packed, **options)


def _packed(weight: Tensor, pack: Callable[[Tensor], Tensor]) -> Tensor:
    """Return the packed weight, made once for each state of the weight.

    It stays in its place, so that a graph that reads it sees a weight's changes after the next call
    outside of the graph.
    """
    with torch.inference_mode():
        if weight.is_inference():  # whose changes nobody counts
            return pack(weight)
        state = (weight._version, weight.data_ptr())
        known_state, known = _packed_weights.get(weight, (None, None))
        if known_state == state:
            return known
        packed = pack(weight)
        if weight.is_cuda and torch.cuda.is_current_stream_capturing():
            return packed  # which is there at the replay, not before
        if known is not None and (known.device, known.dtype) == (packed.device, packed.dtype):
            packed = known.copy_(packed)
        _packed_weights[weight] = (state, packed)
        return packed


def _gather_and_multiply(
    input: Tensor,
    offset: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    *,
    stride: int,
    padding: int,
    dilation: int,
    relu: bool,
) -> Tensor:
    """The form for CPUs: sample with ``embedding_bag``, then multiply, block by block.

    A pixel of the channels-last input is a row of a table, and a bilinear sample is a weighted
    sum of four rows, for which torch has a vectorised kernel on CPUs. torchvision's operator
    samples channel by channel instead, and reads one number from each cache line.
    """
    batch, channels = input.shape[:2]
    num_outputs, _, *kernel = weight.shape
    taps = kernel[0] * kernel[1]
    height, width = offset.shape[2:]
    # A table with strides would send embedding_bag down a path ten times slower.
    table = input.contiguous(memory_format=torch.channels_last)
    table = table.permute(0, 2, 3, 1).reshape(batch, -1, channels)
    matrix = weight.permute(2, 3, 1, 0).reshape(taps * channels, num_outputs)
    output = table.new_empty(batch, height, width, num_outputs)

    block = max(1, _BLOCK_BYTES // (taps * channels * table.element_size()))
    band = max(1, _BAND_PIXELS // width)
    for image, pixels in enumerate(table):
        for top in range(0, height, band):
            corners, shares = _bilinear_corners(
                offset[image, :, top : top + band],
                kernel,
                input.shape[2:],
                first=(top * stride - padding, -padding),
                stride=stride,
                dilation=dilation,
            )
            shares = shares.to(pixels.dtype)
            for out, block_corners, block_shares in zip(
                output[image, top : top + band].view(-1, num_outputs).split(block),
                corners.split(block * taps),
                shares.split(block * taps),
                strict=True,
            ):
                samples = F.embedding_bag(
                    block_corners, pixels, per_sample_weights=block_shares, mode="sum"
                ).view(len(out), taps * channels)
                if bias is None:
                    torch.mm(samples, matrix, out=out)
                else:
                    torch.addmm(bias, samples, matrix, out=out)
    if relu:
        output.relu_()
    return _in_format_of(input, output.permute(0, 3, 1, 2))


def _bilinear_corners(
    offset: Tensor,
    kernel: list[int],
    size: torch.Size,
    *,
    first: tuple[int, int],
    stride: int,
    dilation: int,
) -> tuple[Tensor, Tensor]:
    """The pixels that make up each sample of a band, and their shares in it.

    Args:
        offset: (2 * taps, H', W') of the band.
        kernel: Height and width of the kernel.
        size: Height and width of the image that is sampled.
        first: (y, x) of the first tap of the band's first output, before its offset.
        stride: As in `deform_conv2d`.
        dilation: As in `deform_conv2d`.

    Returns:
        int32 and float (H' * W' * taps, 4): pixel numbers y * width + x, and shares. A corner
        outside the image has share 0.
    """
    # Positions need 24 bits even where the features are half precision.
    displacement = offset.to(torch.promote_types(offset.dtype, torch.float32))
    displacement = displacement.permute(1, 2, 0).unflatten(2, (-1, 2))
    row, column = (torch.arange(n) * stride for n in offset.shape[1:])
    tap = torch.arange(kernel[0] * kernel[1])
    tap_row = tap.div(kernel[1], rounding_mode="floor") * dilation
    tap_column = tap.remainder(kernel[1]) * dilation
    y = displacement[..., 0] + ((first[0] + row).view(-1, 1, 1) + tap_row)
    x = displacement[..., 1] + ((first[1] + column).view(-1, 1) + tap_column)
    rows, row_shares = _neighbours(y, size[0])
    columns, column_shares = _neighbours(x, size[1])
    rows *= size[1]
    pixels = torch.stack([row + column for row in rows for column in columns], dim=-1)
    shares = torch.stack([row * column for row in row_shares for column in column_shares], dim=-1)
    return pixels.view(-1, 4), shares.view(-1, 4)


def _neighbours(position: Tensor, size: int) -> tuple[Tensor, Tensor]:
    """The whole places below and above each position on an axis, and their shares in it.

    Returns:
        int32 and float (2, *position.shape). A place not in [0, size) is 0 and has share 0.
    """
    low = position.floor()
    upper = position - low
    places = torch.stack((low, low + 1))
    shares = torch.stack((1 - upper, upper))
    outside = ~((places >= 0) & (places < size))
    # Masked before the cast: a place far outside, or not a number, has no int32.
    return places.masked_fill_(outside, 0).int(), shares.masked_fill_(outside, 0)


def _in_format_of(input: Tensor, output: Tensor) -> Tensor:
    if input.is_contiguous():
        return output.contiguous()
    return output.contiguous(memory_format=torch.channels_last)


def _check_shapes(
    input: Tensor, offset: Tensor, weight: Tensor, *, stride: int, padding: int, dilation: int
) -> None:
    batch, channels, *size = input.shape
    _, weight_channels, *kernel = weight.shape
    if channels != weight_channels:
        raise ValueError(f"input has {channels} channels, but weight takes {weight_channels}")
    span = [dilation * (k - 1) + 1 for k in kernel]
    out = [(s + 2 * padding - n) // stride + 1 for s, n in zip(size, span, strict=True)]
    expected = (batch, 2 * kernel[0] * kernel[1], *out)
    if tuple(offset.shape) != expected:
        raise ValueError(f"offset has shape {tuple(offset.shape)}, but it must be {expected}")
