"""Camera bytes to the network's input, and bytes resized as Pillow does: see `ops.camera_input`.

A program of the first kernel makes a part of a row: it works out the colours of the four source
pixels around each of its own, from the bytes as they are, and blends them. One of the second makes
a part of what a line becomes, from as many source pixels as its table has weights.
"""

# The arguments of kernels get their types when Triton compiles them.
# mypy: disallow-untyped-defs=False, disallow-incomplete-defs=False

from __future__ import annotations

import math

import torch
import triton
import triton.language as tl
from torch import Tensor

from upsnet_ros.ops.camera_input import (
    BAYER_RED,
    BLUE_OF_U,
    BYTES_PER_PIXEL,
    GREEN_OF_U,
    GREEN_OF_V,
    LUMA,
    RED_OF_V,
    WEIGHT_BITS,
    YUV422_BYTES,
    LineWeights,
)


@triton.jit
def _source(pixel, inverse, source):
    """Return the source pixel below resized ones, and the next one's share."""
    # In float64, as the reference.
    position = (pixel.to(tl.float64) + 0.5) * inverse - 0.5
    position = tl.minimum(tl.maximum(position, 0.0), (source - 1).to(tl.float64))
    low = position.to(tl.int32)
    return low, (position - low.to(tl.float64)).to(tl.float32)


# Sizes differ by camera: no reason to recompile.
_VARYING = ["source_height", "source_width", "height", "width", "padded_height", "padded_width"]


@triton.jit(do_not_specialize=_VARYING, do_not_specialize_on_alignment=["images"])
def _camera_kernel(
    images,
    output,
    source_height,
    source_width,
    height,
    width,
    padded_height,
    padded_width,
    inverse: tl.float64,
    mean_blue,
    mean_green,
    mean_red,
    LAYOUT: tl.constexpr,  # bgr, rgb, mono, bayer or yuv
    BYTES: tl.constexpr,  # of a pixel
    FIRST: tl.constexpr,  # bayer: red's row; yuv: luma's byte
    SECOND: tl.constexpr,  # bayer: red's column; yuv: U's byte
    THIRD: tl.constexpr,  # yuv: V's byte
    Y_FACTOR: tl.constexpr,
    RED_V: tl.constexpr,
    GREEN_V: tl.constexpr,
    GREEN_U: tl.constexpr,
    BLUE_U: tl.constexpr,
    CORNERS: tl.constexpr,  # source pixels for each of the result: 4, or 1 where sizes agree
    BLOCK: tl.constexpr,
):
    y = tl.program_id(0)
    x = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    number = tl.program_id(2).to(tl.int64)
    image = images + number * source_height * source_width * BYTES
    inside = (x < width) & (y < height)
    top = tl.minimum(y, source_height - 1)
    left = tl.minimum(x, source_width - 1)
    if CORNERS == 4:
        top, down = _source(y, inverse, source_height)
        left, right = _source(x, inverse, source_width)
    blue = tl.full((BLOCK,), 0.0, tl.float32)
    green = blue
    red = blue
    for corner in tl.static_range(CORNERS):
        below = corner // 2
        beyond = corner % 2
        row = tl.minimum(top + below, source_height - 1)
        column = tl.minimum(left + beyond, source_width - 1)
        if LAYOUT == "bgr" or LAYOUT == "rgb":
            at = image + (row * source_width + column) * 3
            b = tl.load(at, mask=inside, other=0).to(tl.int32)
            g = tl.load(at + 1, mask=inside, other=0).to(tl.int32)
            r = tl.load(at + 2, mask=inside, other=0).to(tl.int32)
            if LAYOUT == "rgb":
                b, r = r, b
        elif LAYOUT == "mono":
            b = tl.load(image + row * source_width + column, mask=inside, other=0).to(tl.int32)
            g = b
            r = b
        elif LAYOUT == "yuv":
            pair = image + (row * source_width + column // 2 * 2) * 2
            luma = tl.load(pair + FIRST + column % 2 * 2, mask=inside, other=0).to(tl.int32)
            u = tl.load(pair + SECOND, mask=inside, other=0).to(tl.int32) - 128
            v = tl.load(pair + THIRD, mask=inside, other=0).to(tl.int32) - 128
            # The rounding half of the 2**20 parts is in from here on.
            luma = tl.maximum(luma - 16, 0) * Y_FACTOR + 524288
            b = tl.minimum(tl.maximum((luma + BLUE_U * u) >> 20, 0), 255)
            g = tl.minimum(tl.maximum((luma + GREEN_V * v + GREEN_U * u) >> 20, 0), 255)
            r = tl.minimum(tl.maximum((luma + RED_V * v) >> 20, 0), 255)
        else:
            # Mirrored about the outermost line, which keeps the pattern.
            before_y = tl.where(row > 0, row - 1, 1) * source_width
            after_y = tl.where(row + 1 < source_height, row + 1, source_height - 2) * source_width
            before_x = tl.where(column > 0, column - 1, 1)
            after_x = tl.where(column + 1 < source_width, column + 1, source_width - 2)
            here = image + row * source_width
            up = image + before_y
            low = image + after_y
            own = tl.load(here + column, mask=inside, other=0).to(tl.int32)
            beside = tl.load(here + before_x, mask=inside, other=0).to(tl.int32)
            beside += tl.load(here + after_x, mask=inside, other=0).to(tl.int32)
            above = tl.load(up + column, mask=inside, other=0).to(tl.int32)
            above += tl.load(low + column, mask=inside, other=0).to(tl.int32)
            corners = tl.load(up + before_x, mask=inside, other=0).to(tl.int32)
            corners += tl.load(up + after_x, mask=inside, other=0).to(tl.int32)
            corners += tl.load(low + before_x, mask=inside, other=0).to(tl.int32)
            corners += tl.load(low + after_x, mask=inside, other=0).to(tl.int32)
            cross = (beside + above + 2) >> 2
            beside = (beside + 1) >> 1
            above = (above + 1) >> 1
            corners = (corners + 2) >> 2
            in_row = row % 2 == FIRST
            in_column = column % 2 == SECOND
            r = tl.where(
                in_row, tl.where(in_column, own, beside), tl.where(in_column, above, corners)
            )
            b = tl.where(
                in_row, tl.where(in_column, corners, above), tl.where(in_column, beside, own)
            )
            g = tl.where(in_row == in_column, cross, own)
        b = b.to(tl.float32) - mean_blue
        g = g.to(tl.float32) - mean_green
        r = r.to(tl.float32) - mean_red
        if CORNERS == 4:
            # A share is 1 - right on the left, and right beyond; the same vertically.
            share_x = (1 - beyond) * (1 - right) + beyond * right
            share_y = (1 - below) * (1 - down) + below * down
            blue += share_x * share_y * b
            green += share_x * share_y * g
            red += share_x * share_y * r
        else:
            blue = b
            green = g
            red = r
    at = output + ((number * padded_height + y) * padded_width + x) * 3
    shown = x < padded_width
    kind = output.dtype.element_ty
    tl.store(at, tl.where(inside, blue, 0.0).to(kind), mask=shown)
    tl.store(at + 1, tl.where(inside, green, 0.0).to(kind), mask=shown)
    tl.store(at + 2, tl.where(inside, red, 0.0).to(kind), mask=shown)


def camera_input(
    images: Tensor,
    encoding: str,
    *,
    scale: float,
    size: tuple[int, int],
    padded: tuple[int, int],
    means: tuple[float, float, float],
    dtype: torch.dtype,
    block: int = 256,
) -> Tensor:
    """Launch the kernel: `ops.camera_input`, ``block`` pixels (a power of two) a program."""
    first = second = third = 0
    if encoding in BAYER_RED:
        layout = "bayer"
        first, second = BAYER_RED[encoding]
    elif encoding in YUV422_BYTES:
        layout = "yuv"
        first, second, third = YUV422_BYTES[encoding]
    else:
        layout = encoding.removesuffix("8")
    batch = len(images)
    output = torch.empty((batch, *padded, 3), dtype=dtype, device=images.device)
    _camera_kernel[(padded[0], triton.cdiv(padded[1], block), batch)](
        images.contiguous(),
        output,
        *images.shape[1:3],
        *size,
        *padded,
        1 / scale,
        *(float(mean) for mean in means),
        LAYOUT=layout,
        BYTES=BYTES_PER_PIXEL[encoding],
        FIRST=first,
        SECOND=second,
        THIRD=third,
        Y_FACTOR=LUMA,
        RED_V=RED_OF_V,
        GREEN_V=GREEN_OF_V,
        GREEN_U=GREEN_OF_U,
        BLUE_U=BLUE_OF_U,
        CORNERS=1 if scale == 1.0 else 4,
        BLOCK=block,
    )
    return output.permute(0, 3, 1, 2)


@triton.jit(do_not_specialize=["source", "pixels", "inner", "taps"])
def _resize_kernel(
    images,
    output,
    low,
    weights,
    source,
    pixels,
    inner,
    taps,
    BITS: tl.constexpr,
    BLOCK: tl.constexpr,
):
    outer = tl.program_id(0).to(tl.int64)
    value = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    shown = value < pixels * inner
    pixel = value // inner
    first = tl.load(low + pixel, mask=shown, other=0)
    line = images + outer * source * inner + value % inner
    total = tl.full((BLOCK,), 1 << (BITS - 1), tl.int32)
    for tap in range(taps):
        at = tl.minimum(first + tap, source - 1)
        weight = tl.load(weights + tap * pixels + pixel, mask=shown, other=0)
        total += weight * tl.load(line + at * inner, mask=shown, other=0).to(tl.int32)
    total = tl.minimum(tl.maximum(total >> BITS, 0), 255)
    tl.store(output + outer * pixels * inner + value, total.to(tl.uint8), mask=shown)


def resize_line(images: Tensor, dim: int, line: LineWeights, *, block: int = 512) -> Tensor:
    """Launch the kernel: `camera_input.resize_line_reference`; ``block`` bytes a program."""
    shape = list(images.shape)
    source, shape[dim] = shape[dim], len(line.low)
    output = torch.empty(shape, dtype=torch.uint8, device=images.device)
    # Lines one after the other, each of pixels of so many values.
    outer, inner = math.prod(shape[:dim]), math.prod(shape[dim + 1 :])
    _resize_kernel[(outer, triton.cdiv(shape[dim] * inner, block))](
        images.contiguous(),
        output,
        *line,
        source,
        shape[dim],
        inner,
        len(line.weights),
        BITS=WEIGHT_BITS,
        BLOCK=block,
    )
    return output
