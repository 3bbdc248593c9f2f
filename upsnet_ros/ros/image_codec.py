"""Camera messages in, pixels out: one function over raw and compressed images.

Messages come off a network and may hold anything. Nothing is read before it was checked, and every
malformed message is answered with an `ImageError` that says what is wrong with it.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from upsnet_ros.ros.compressed import ImageError, check_compressed, check_size, decode_compressed
from upsnet_ros.ros.converters import BgrImage, PlainImage, converter

__all__ = ["ImageError", "check", "read_pixels", "to_bgr"]


@dataclass(frozen=True, slots=True)
class _Layout:
    """How an encoding lies in memory.

    Attributes:
        channels: Values of a pixel, in its row.
        bits: Of a value.
        divides: What (height, width) must be multiples of.
        half_planes: Further planes of half the image's height: 1 where colour follows below.
        plain: The 8-bit encoding's name that both converters know; empty where they know none.
    """

    channels: int
    bits: int = 8
    divides: tuple[int, int] = (1, 1)
    half_planes: int = 0
    plain: str = ""


def _layouts() -> dict[str, _Layout]:
    channels = {"mono": 1, "bgr": 3, "rgb": 3, "bgra": 4, "rgba": 4}
    channels |= {f"bayer_{pattern}": 1 for pattern in ("rggb", "bggr", "gbrg", "grbg")}
    table = {
        f"{name}{bits}": _Layout(count, bits, plain=f"{name}8")
        for name, count in channels.items()
        for bits in (8, 16)
    }
    table |= {"8UC1": table["mono8"], "8UC3": table["bgr8"]}
    for plain, alias in (("yuv422", "uyvy"), ("yuv422_yuy2", "yuyv")):
        table[plain] = table[alias] = _Layout(2, divides=(1, 2), plain=plain)
    table["nv12"] = table["nv21"] = _Layout(1, divides=(2, 2), half_planes=1)
    return table


_LAYOUTS = _layouts()
# The short names of encodings that have several, by the long ones.
_SHORT = {"yuv422": "uyvy", "yuv422_yuy2": "yuyv"}
_TWO_PLANES = {"nv12": cv2.COLOR_YUV2BGR_NV12, "nv21": cv2.COLOR_YUV2BGR_NV21}


def check(msg: Any) -> None:
    """Checks a sensor_msgs Image or CompressedImage in a time that does not grow with a raw image.

    Raises:
        ImageError: Where `to_bgr` could not read it.
    """
    if hasattr(msg, "format"):
        check_compressed(msg.data)
        return
    layout = _LAYOUTS.get(msg.encoding)
    if layout is None:
        known = ", ".join(_LAYOUTS)
        raise ImageError(f"encoding {msg.encoding!r} is not known; known are {known}")
    check_size(msg.width, msg.height)
    if msg.height % layout.divides[0] or msg.width % layout.divides[1]:
        raise ImageError(f"{msg.width}x{msg.height} pixels cannot be {msg.encoding}: odd size")
    row = msg.width * layout.channels * layout.bits // 8
    if msg.step < row:
        raise ImageError(f"step {msg.step} is smaller than a row's {row} bytes")
    expected = msg.step * _rows(msg.height, layout)
    if len(msg.data) != expected:
        raise ImageError(f"data holds {len(msg.data)} bytes, step and height ask for {expected}")


def to_bgr(msg: Any) -> BgrImage:
    """The pixels of a camera message.

    Args:
        msg: A sensor_msgs Image (any encoding of the table above, rows padded or not, either byte
            order) or CompressedImage (JPEG or PNG).

    Returns:
        uint8 (H, W, 3), BGR, C-contiguous. A view of the message's own data for bgr8 and 8UC3
        without row padding, a new array otherwise.

    Raises:
        ImageError: Where the message is malformed or of an unknown encoding.
    """
    check(msg)
    if hasattr(msg, "format"):
        mosaic = _bayer_mosaic(msg.format)
        pixels = decode_compressed(msg.data, gray=bool(mosaic))
        return _convert(pixels[:, :, None], mosaic, _LAYOUTS[mosaic]) if mosaic else pixels
    layout = _LAYOUTS[msg.encoding]
    return _convert(_pixels(msg, layout), msg.encoding, layout)


def read_pixels(msg: Any, *, takes: Callable[[str], bool]) -> tuple[npt.NDArray[np.uint8], str]:
    """The pixels of a camera message, as they came where the reader takes them so.

    Args:
        msg: As `to_bgr` takes it.
        takes: Whether an encoding of 8 bits (bgr8, rgb8, mono8, bayer_rggb8, yuyv, uyvy, ...) need
            not be made BGR.

    Returns:
        The pixels and their encoding: a view of the message's data, uint8 (H, W) for a single byte
        a pixel, else (H, W, bytes), whose rows may have gaps between them; or `to_bgr` and bgr8.

    Raises:
        ImageError: Where the message is malformed or of an unknown encoding.
    """
    layout = None if hasattr(msg, "format") else _LAYOUTS.get(msg.encoding)
    if layout is None or not layout.plain or layout.bits != 8 or layout.plain == "bgr8":
        return to_bgr(msg), "bgr8"
    encoding = _SHORT.get(layout.plain, layout.plain)
    # A mosaic of a single row or column has pixels of two colours at most.
    if not takes(encoding) or min(msg.height, msg.width) < 2:
        return to_bgr(msg), "bgr8"
    check(msg)
    pixels = _pixels(msg, layout)
    return (pixels[:, :, 0] if layout.channels == 1 else pixels), encoding


def _rows(height: int, layout: _Layout) -> int:
    return height + height * layout.half_planes // 2


def _pixels(msg: Any, layout: _Layout) -> npt.NDArray[Any]:
    """The values (rows, W, channels) as a view of the data that skips the rows' padding."""
    size = layout.bits // 8
    dtype = np.dtype(f"{'>' if msg.is_bigendian else '<'}u{size}")
    return np.ndarray(
        shape=(_rows(msg.height, layout), msg.width, layout.channels),
        dtype=dtype,
        buffer=msg.data,
        strides=(msg.step, layout.channels * size, size),
    )


def _convert(pixels: npt.NDArray[Any], encoding: str, layout: _Layout) -> BgrImage:
    if layout.bits == 16:
        # To the nearest of 256 levels, without floats: 65535 is 255 * 257.
        pixels = ((pixels.astype(np.uint32) + 128) // 257).astype(np.uint8)
    pixels = np.ascontiguousarray(pixels)
    if layout.plain == "bgr8":
        return pixels
    if not layout.plain:
        return cv2.cvtColor(pixels[:, :, 0], _TWO_PLANES[encoding])  # type: ignore[return-value]
    height, width, channels = pixels.shape
    image = PlainImage(
        height, width, layout.plain, sys.byteorder == "big", width * channels, pixels.reshape(-1)
    )
    return converter()(image)


def _bayer_mosaic(image_format: str) -> str:
    """The 8-bit Bayer encoding of what a CompressedImage holds; empty where it holds a picture."""
    # image_transport compresses a Bayer image as the gray values that it is, and says in `format`
    # what it was, how it is compressed, and as what: "bayer_rggb8; png compressed ", but
    # "rgb8; jpeg compressed bgr8" for a colour image.
    source, _, rest = image_format.partition(";")
    layout = _LAYOUTS.get(source.strip())
    if (
        layout is None
        or not source.startswith("bayer_")
        or rest.rstrip().endswith(("bgr8", "rgb8"))
    ):
        return ""
    return layout.plain
