"""From a camera's own bytes to the network's input in one step.

The reference defines the result. Its parts: colours, by `to_bgr`; less the means and resized, as
`inference.preprocess` does on CUDA; padded with zeros, channels-last.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from upsnet_ros.ops import dispatch

#: Offset of a Bayer pattern's red pixel, (row, column), in each square of two by two.
BAYER_RED = {
    "bayer_rggb8": (0, 0),
    "bayer_bggr8": (1, 1),
    "bayer_gbrg8": (1, 0),
    "bayer_grbg8": (0, 1),
}
#: Where the first luma and the two chromas lie in the four bytes of two pixels.
YUV422_BYTES = {"yuyv": (0, 1, 3), "uyvy": (1, 0, 2)}
#: The encodings, under ROS's names, and how many bytes a pixel has.
BYTES_PER_PIXEL = {"bgr8": 3, "rgb8": 3, "mono8": 1}
BYTES_PER_PIXEL |= dict.fromkeys(BAYER_RED, 1) | dict.fromkeys(YUV422_BYTES, 2)

# BT.601 with limited range, in parts of 2**20 and rounded, as cameras' drivers and OpenCV do it.
_PARTS = 20
LUMA, RED_OF_V, GREEN_OF_V, GREEN_OF_U, BLUE_OF_U = (
    round(factor * 2**_PARTS) for factor in (1.164, 1.596, -0.813, -0.391, 2.018)
)


def camera_input(
    images: Tensor,
    encoding: str,
    *,
    scale: float,
    size: tuple[int, int],
    padded: tuple[int, int],
    means: tuple[float, float, float],
    dtype: torch.dtype,
) -> Tensor:
    """Turn camera bytes into the network's input; `camera_input_reference` defines the result.

    Args:
        images: uint8 (B, H, W) for Bayer patterns and mono8, (B, H, W, 3) for bgr8 and rgb8, and
            (B, H, W, 2) for yuyv and uyvy; contiguous.
        encoding: One of `BYTES_PER_PIXEL`.
        scale: Factor from the camera's to the network's pixels; 1 where `size` is the camera's.
        size: Height and width after resizing.
        padded: Height and width of the input.
        means: Subtracted from blue, green and red.
        dtype: Of the network.

    Returns:
        (B, 3, padded height, padded width), channels-last, zero in the padding.
    """
    check(images, encoding)
    options: dict[str, Any] = {
        "scale": scale,
        "size": size,
        "padded": padded,
        "means": means,
        "dtype": dtype,
    }

    def kernel() -> Tensor:
        from upsnet_ros.ops.triton import camera_input as camera_triton

        return camera_triton.camera_input(images, encoding, **options)

    return dispatch.run(
        "camera",
        images.device,
        kernel=kernel,
        reference=lambda: camera_input_reference(images, encoding, **options),
    )


def check(images: Tensor, encoding: str) -> None:
    """Raise ValueError where images (B, H, W) or (B, H, W, bytes) are not of that encoding."""
    if encoding not in BYTES_PER_PIXEL:
        raise ValueError(
            f"encoding {encoding!r} is not known; known are {', '.join(BYTES_PER_PIXEL)}"
        )
    last = BYTES_PER_PIXEL[encoding]
    wanted = "(B, H, W)" if last == 1 else f"(B, H, W, {last})"
    shape = tuple(images.shape)
    if (
        images.dtype != torch.uint8
        or len(shape) != (3 if last == 1 else 4)
        or 0 in shape
        or (last > 1 and shape[3] != last)
    ):
        raise ValueError(f"{encoding} needs uint8 {wanted}, got {images.dtype} {shape}")
    height, width = shape[1:3]
    if (last == 2 and width % 2) or (encoding in BAYER_RED and min(height, width) < 2):
        raise ValueError(f"{width}x{height} pixels cannot be {encoding}")


def camera_input_reference(
    images: Tensor,
    encoding: str,
    *,
    scale: float,
    size: tuple[int, int],
    padded: tuple[int, int],
    means: tuple[float, float, float],
    dtype: torch.dtype,
) -> Tensor:
    """What `camera_input` must return."""
    centred = to_bgr(images, encoding).double()
    for channel, mean in enumerate(means):
        centred[..., channel] -= mean
    centred = centred.float()
    if scale != 1.0:
        for dim in (2, 1):
            length = centred.shape[dim]
            low, share = source_table(size[dim - 1], length, scale, images.device)
            first = centred.index_select(dim, low)
            next_one = centred.index_select(dim, (low + 1).clamp(max=length - 1))
            share = share.view([-1 if axis == dim else 1 for axis in range(4)])
            centred = torch.lerp(first, next_one, share)
    result = centred.new_zeros((len(images), *padded, 3), dtype=dtype)
    result[:, : size[0], : size[1]] = centred
    return result.permute(0, 3, 1, 2)


def source_table(
    pixels: int, source: int, scale: float, device: torch.device | str
) -> tuple[Tensor, Tensor]:
    """Return for each pixel of a resized line the lower source pixel, int32, and the next's share.

    Half-pixel centres, edges repeated; worked out in float64.
    """
    position = torch.arange(pixels, device=device, dtype=torch.float64)
    position = ((position + 0.5) / scale - 0.5).clamp(0, source - 1)
    low = position.floor()
    return low.int(), (position - low).float()


#: Bits behind the point of the weights by which Pillow resizes bytes.
WEIGHT_BITS = 22


class LineWeights(NamedTuple):
    """Of which source pixels the pixels of a resized line are the weighted mean.

    Attributes:
        low: int32 (P,), the first source pixel.
        weights: int32 (taps, P), of that one and the next ones, in parts of 2**22; 0 past the last
            one that counts.
    """

    low: Tensor
    weights: Tensor


class ResizeTables(NamedTuple):
    """How images of a size are resized as Pillow does it: `resize_bytes`.

    Attributes:
        rows: Of the rows, or None where their number stays.
        columns: The same of the columns.
        rows_first: Whether rows are resized before columns.
    """

    rows: LineWeights | None
    columns: LineWeights | None
    rows_first: bool

    @classmethod
    def of(
        cls, source: tuple[int, int], size: tuple[int, int], device: torch.device | str
    ) -> ResizeTables:
        """Make the tables from one height and width to another; copied to the device."""
        rows, columns = (
            None if old == new else _line_weights(old, new, device)
            for old, new in zip(source, size, strict=True)
        )
        lost_rows, lost_columns = source[0] - size[0], source[1] - size[1]
        return cls(rows, columns, lost_rows > max(0, 2 * lost_columns))


def _line_weights(source: int, pixels: int, device: torch.device | str) -> LineWeights:
    scale = source / pixels
    radius = max(scale, 1.0)  # of the triangle
    centre = (np.arange(pixels) + 0.5) * scale
    low = np.maximum(np.trunc(centre - radius + 0.5), 0)
    stop = np.minimum(np.trunc(centre + radius + 0.5), source)
    tap = np.arange((stop - low).max())[:, None]
    shares = np.maximum(1 - np.abs((low + tap + 0.5 - centre) * (1 / radius)), 0)
    shares *= low + tap < stop
    total = np.zeros_like(centre)
    for row in shares:  # one after the other: another order would round otherwise
        total += row
    parts = np.trunc(shares * (1 / total) * (1 << WEIGHT_BITS) + 0.5)
    return LineWeights(*(torch.from_numpy(x.astype(np.int32)).to(device) for x in (low, parts)))


def resize_bytes(images: Tensor, tables: ResizeTables) -> Tensor:
    """Resize uint8 images (B, H, W, C), byte for byte as Pillow's BILINEAR does.

    Each direction is a pass of its own, after which values are bytes again. Columns come first,
    unless the height loses more than twice the pixels that the width does (Pillow 13). A pixel
    is the weighted mean of the source pixels under a triangle about its centre, which is as wide as
    two source pixels, or two of its own where those are wider (antialiasing). The weights are whole
    parts of 2**22, so sums are exact on every device.
    """
    passes = [(2, tables.columns), (1, tables.rows)]
    for dim, line in reversed(passes) if tables.rows_first else passes:
        if line is not None:
            images = _resize_line(images, dim, line)
    return images


def _resize_line(images: Tensor, dim: int, line: LineWeights) -> Tensor:
    def kernel() -> Tensor:
        from upsnet_ros.ops.triton import camera_input as camera_triton

        return camera_triton.resize_line(images, dim, line)

    return dispatch.run(
        "resize_bytes",
        images.device,
        kernel=kernel,
        reference=lambda: resize_line_reference(images, dim, line),
    )


def resize_line_reference(images: Tensor, dim: int, line: LineWeights) -> Tensor:
    """What the kernel must make of rows (dim 1) or columns (dim 2) of uint8 (B, H, W, C)."""
    shape = [-1 if axis == dim else 1 for axis in range(images.dim())]
    total: Tensor | None = None
    for tap, weight in enumerate(line.weights):
        line_index = (line.low + tap).clamp(max=images.shape[dim] - 1)
        part = images.index_select(dim, line_index).int() * weight.view(shape)
        total = part if total is None else total.add_(part)
    assert total is not None
    rounded = total.add_(1 << (WEIGHT_BITS - 1)) >> WEIGHT_BITS
    return rounded.clamp_(0, 255).to(torch.uint8)


def to_bgr(images: Tensor, encoding: str) -> Tensor:
    """Return the colours of camera bytes (..., H, W) or (..., H, W, bytes), uint8 (..., H, W, 3).

    Bayer patterns are interpolated bilinearly: a colour that a pixel lacks is the rounded mean of
    its two or four nearest neighbours that have it. Lines beyond the border are mirrored about the
    outermost one, which keeps the pattern; OpenCV repeats what it has computed inside instead.
    YUV is BT.601 with limited range, and the two pixels of a pair share their chroma.
    """
    if encoding == "bgr8":
        return images
    if encoding == "rgb8":
        return images.flip(-1)
    if encoding == "mono8":
        return images[..., None].expand(*images.shape, 3)
    return _debayer(images, encoding) if encoding in BAYER_RED else _of_yuv(images, encoding)


def _of_yuv(images: Tensor, encoding: str) -> Tensor:
    *lines, width, _ = images.shape
    pairs = images.reshape(*lines, width // 2, 4).int()
    luma, *chroma = YUV422_BYTES[encoding]
    y = (pairs[..., luma::2] - 16).clamp(min=0) * LUMA
    u, v = (pairs[..., index, None] - 128 for index in chroma)
    parts = (y + BLUE_OF_U * u, y + GREEN_OF_V * v + GREEN_OF_U * u, y + RED_OF_V * v)
    colours = torch.stack(parts, dim=-1) + (1 << (_PARTS - 1)) >> _PARTS
    return colours.clamp(0, 255).to(torch.uint8).reshape(*lines, width, 3)


def _debayer(images: Tensor, encoding: str) -> Tensor:
    red_row, red_column = BAYER_RED[encoding]
    height, width = images.shape[-2:]
    planes = images.reshape(-1, 1, height, width).float()
    around = F.pad(planes, (1, 1, 1, 1), mode="reflect").int()

    def shifted(dy: int, dx: int) -> Tensor:
        return around[..., 1 + dy : 1 + dy + height, 1 + dx : 1 + dx + width]

    own = shifted(0, 0)
    beside = shifted(0, -1) + shifted(0, 1)
    above = shifted(-1, 0) + shifted(1, 0)
    corners = shifted(-1, -1) + shifted(-1, 1) + shifted(1, -1) + shifted(1, 1)
    cross = (beside + above + 2) >> 2
    beside, above, corners = (beside + 1) >> 1, (above + 1) >> 1, (corners + 2) >> 2
    y = torch.arange(height, device=images.device)[:, None] % 2 == red_row
    x = torch.arange(width, device=images.device) % 2 == red_column
    red = torch.where(y, torch.where(x, own, beside), torch.where(x, above, corners))
    blue = torch.where(y, torch.where(x, corners, above), torch.where(x, beside, own))
    green = torch.where(y == x, cross, own)
    colours = torch.stack((blue, green, red), dim=-1).to(torch.uint8)
    return colours.reshape(*images.shape, 3)
