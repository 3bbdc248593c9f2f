"""Deformable convolution: the reference, the forms for CPU and CUDA, and their gradient."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.weak import WeakTensorKeyDictionary

from upsnet_ros.ops import dispatch

# Samples are gathered and multiplied in blocks of about this many bytes, so that a block is still
# in the cache when the matrix product reads it. Half of it is a little faster on an idle machine,
# and slower on a busy one, where synchronising threads after each block takes long.
_BLOCK_BYTES = 6 * 2**20

# Corners of samples are worked out for about this many outputs at a time. So few are quick for one
# thread, and torch shares no work of less than 32768 elements (here nine an output) among threads:
# where others want the CPU, each meeting of the threads can cost a time slice.
_BAND_PIXELS = 32768 // 9

# By weight: its version when it was packed, the packed tensor that the kernel reads, and on CUDA
# the event after which it is complete.
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
    if torch.compiler.is_compiling():  # one operator rather than loops over images and blocks
        return deform_conv2d_reference(
            input,
            offset,
            weight,
            bias,
            stride=stride,
            padding=padding,
            dilation=dilation,
            relu=relu,
        )
    if input.device.type == "cpu" and wants_gradient and fits(input, offset):
        corners = partial(
            _bilinear_corners,
            kernel=list(weight.shape[2:]),
            size=input.shape[2:],
            first=(-padding, -padding),
            stride=stride,
            dilation=dilation,
        )
        output = sample_and_multiply(input, offset, weight, bias, corners=corners)
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
        reference=lambda: deform_conv2d_reference(input, offset, weight, bias, **options),
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
    # Late: it imports torch's compiler, too.
    from torchvision.ops import deform_conv2d as operator

    exact = torch.promote_types(input.dtype, torch.float32)
    output = operator(
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
    from upsnet_ros.ops.triton import deform_conv as deform_conv_triton

    packed = _packed(weight, deform_conv_triton.pack_weight)
    return deform_conv_triton.deform_conv2d(input, offset, weight, bias, packed=packed, **options)


def _packed(weight: Tensor, pack: Callable[[Tensor], Tensor]) -> Tensor:
    """Return the packed weight, made once for each state of the weight.

    Its address stays the same, so that a graph that reads it sees a weight's changes after the next
    call outside of the graph.
    """
    with torch.inference_mode():
        if weight.is_inference():  # without a version counter
            return pack(weight)
        state = (weight._version, weight.data_ptr())
        capturing = weight.is_cuda and torch.cuda.is_current_stream_capturing()
        known_state, known, packed_there = _packed_weights.get(weight, (None, None, None))
        if known_state == state:
            # A capture comes after a warm-up on its stream, which has waited.
            if packed_there is not None and not capturing:
                packed_there.wait()  # it may have been packed on another stream
            return known
        packed = pack(weight)
        if capturing:
            return packed  # which is complete at the replay, not before
        if known is not None and (known.device, known.dtype) == (packed.device, packed.dtype):
            packed = known.copy_(packed)
        packed_there = torch.cuda.Event() if weight.is_cuda else None
        if packed_there is not None:
            packed_there.record()
        _packed_weights[weight] = (state, packed, packed_there)
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
    """Return the integer positions below and above each position, and their weights.

    Returns:
        int32 and float (2, *position.shape). A position outside [0, size) is 0 with weight 0.
    """
    low = position.floor()
    upper = position - low
    corners = torch.stack((low, low + 1))
    shares = torch.stack((1 - upper, upper))
    outside = ~((corners >= 0) & (corners < size))
    # Masked before the cast: a position far outside, or NaN, has no int32.
    return corners.masked_fill_(outside, 0).int(), shares.masked_fill_(outside, 0)


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


#: What gives the pixels and shares of the samples of one image: `deform_conv._bilinear_corners`.
Corners = Callable[[Tensor], tuple[Tensor, Tensor]]

#: Samples are kept for the backward pass up to this many bytes; torchvision's operator, ten times
#: slower, keeps none.
LARGEST_SAMPLES = 1 << 30


def fits(input: Tensor, offset: Tensor) -> bool:
    """Whether the samples may be kept."""
    return offset.numel() // 2 * input.shape[1] * 4 <= LARGEST_SAMPLES


def sample_and_multiply(
    input: Tensor, offset: Tensor, weight: Tensor, bias: Tensor | None, *, corners: Corners
) -> Tensor:
    """Convolve as `deform_conv2d` does, in operators that torch can differentiate.

    Half precision is sampled in float32, since torch sums rows of half precision slowly, and
    multiplied as it is, as a convolution is.

    Args:
        input: (N, C, H, W).
        offset: (N, 2 * taps, H', W').
        weight: (O, C, kh, kw).
        bias: (O,), or None.
        corners: Pixel numbers int32 and shares (H' * W' * taps, 4) of the samples of one image,
            from its offsets.

    Returns:
        (N, O, H', W') in the dtype of ``input``.
    """
    with torch.autocast("cpu", enabled=False):
        samples = _sample(input, offset, corners=corners).to(input.dtype)
        matrix = weight.permute(2, 3, 1, 0).flatten(0, 2).to(input.dtype)
        if bias is None:
            output = samples @ matrix
        else:
            output = torch.addmm(bias.to(input.dtype), samples, matrix)
    batch, _, height, width = offset.shape
    return output.view(batch, height, width, -1).permute(0, 3, 1, 2)


def _sample(input: Tensor, offset: Tensor, *, corners: Corners) -> Tensor:
    """Return the samples (N * H' * W', taps * C), at least float32."""
    exact = torch.promote_types(input.dtype, torch.float32)
    input, offset = input.to(exact), offset.to(exact)
    batch, channels, *size = input.shape
    pixels, shares = zip(*(corners(image) for image in offset), strict=True)
    # One table of the pixels of all images, so that one call samples them all.
    first = torch.arange(batch, dtype=torch.int32) * (size[0] * size[1])
    numbers = torch.cat([own + start for own, start in zip(pixels, first, strict=True)])
    table = input.permute(0, 2, 3, 1).reshape(-1, channels)
    samples = F.embedding_bag(numbers, table, per_sample_weights=torch.cat(shares), mode="sum")
    height, width = offset.shape[2:]
    return samples.view(batch * height * width, -1)
