"""Converts Image and CompressedImage messages to NumPy arrays.

`to_bgr` returns the pixels of any supported camera message as BGR, `read_pixels` keeps encodings
that the caller can process itself, and `plane` reads single-channel images such as labels. Colour
conversion uses cv_bridge if it works on this machine, else rosbags-image.

Messages come from the network and may contain anything. They are checked before they are decoded;
a malformed message raises an `ImageError` that says what is wrong.
"""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import Any, NamedTuple

import cv2
import numpy as np
import numpy.typing as npt

from upsnet_ros.errors import ImageError
from upsnet_ros.messages.compressed import check_compressed, check_size, decode_compressed, is_tiff
from upsnet_ros.processes.child_processes import child_command

BgrImage = npt.NDArray[np.uint8]

_PLANE_TYPES = {"mono8": "u1", "8UC1": "u1", "16UC1": "u2", "mono16": "u2", "32SC1": "i4"}


def plane(msg: Any) -> npt.NDArray[Any]:
    """Return the values of a single-channel image, unconverted.

    Args:
        msg: A sensor_msgs Image in mono8, mono16, 8UC1, 16UC1 or 32SC1; rows may be padded, in
            either byte order.

    Returns:
        uint8, uint16 or int32 (H, W), in the machine's byte order; a view of the message's data
        if possible.

    Raises:
        ImageError: If the encoding is not supported, or step and data do not match the size.
    """
    code = _PLANE_TYPES.get(msg.encoding)
    if code is None:
        raise ImageError(f"encoding {msg.encoding!r} is none of {', '.join(_PLANE_TYPES)}")
    dtype = np.dtype(code).newbyteorder(">" if msg.is_bigendian else "<")
    if msg.step < msg.width * dtype.itemsize or len(msg.data) < msg.step * msg.height:
        raise ImageError(
            f"{len(msg.data)} bytes with step {msg.step} do not hold "
            f"{msg.width}x{msg.height} pixels of {msg.encoding}"
        )
    values = np.ndarray(
        (msg.height, msg.width), dtype, buffer=msg.data, strides=(msg.step, dtype.itemsize)
    )
    return values.astype(dtype.newbyteorder(sys.byteorder), copy=False)


class PlainImage(NamedTuple):
    """The fields of sensor_msgs/Image that both converters read; rows are not padded."""

    height: int
    width: int
    encoding: str
    is_bigendian: int
    step: int
    data: npt.NDArray[np.uint8]


def by_cv_bridge(image: PlainImage) -> BgrImage:
    """Convert an 8-bit single-plane image to BGR with ROS 2's cv_bridge."""
    from cv_bridge import CvBridge

    return CvBridge().imgmsg_to_cv2(image, desired_encoding="bgr8")


def by_rosbags(image: PlainImage) -> BgrImage:
    """Convert an 8-bit single-plane image to BGR with rosbags-image (pure Python on OpenCV)."""
    from rosbags.image import image_to_cvimage

    return image_to_cvimage(image, "bgr8")


@cache
def converter() -> Callable[[PlainImage], BgrImage]:
    """Return the converter that works on this machine, chosen once.

    Raises:
        ImportError: If neither library can be used.
    """
    if importlib.util.find_spec("cv_bridge") and _cv_bridge_works():
        return by_cv_bridge
    try:
        import rosbags.image  # noqa: F401
    except ImportError as error:
        raise ImportError(
            "cannot convert image encodings: install ros-<distro>-cv-bridge or rosbags-image"
        ) from error
    return by_rosbags


def check_cv_bridge() -> None:
    """Convert one pixel with cv_bridge; raises any kind of error if cv_bridge is broken."""
    red_rgb = PlainImage(1, 1, "rgb8", 0, 3, np.array([255, 1, 0], np.uint8))
    if by_cv_bridge(red_rgb).tolist() != [[[0, 1, 255]]]:
        raise RuntimeError("cv_bridge does not convert rgb8 to bgr8")


def _cv_bridge_works() -> bool:
    # In a separate process, because a broken cv_bridge is common and may crash the process: the
    # PyPI wheel is ROS 1 code, and a build for NumPy 1 crashes with NumPy 2.
    command = child_command("upsnet_ros.messages.images")
    return subprocess.run(command, capture_output=True).returncode == 0


@dataclass(frozen=True, slots=True)
class _Layout:
    """Memory layout of an encoding.

    Attributes:
        channels: Values per pixel in a row.
        bits: Bits per value.
        divides: (height, width) must be multiples of these.
        half_planes: Number of additional planes of half the image's height (1 for NV12 chroma).
        plain: Name of the 8-bit encoding that both converters support; empty if there is none.
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
    # OpenCV type names do not define the channels: assume OpenCV's order. 16UC1 is missing because
    # it is a depth image (REP 118).
    table |= {"8UC1": table["mono8"], "8UC3": table["bgr8"], "8UC4": table["bgra8"]}
    table |= {"16UC3": table["bgr16"], "16UC4": table["bgra16"]}
    for plain, alias in (("yuv422", "uyvy"), ("yuv422_yuy2", "yuyv")):
        table[plain] = table[alias] = _Layout(2, divides=(1, 2), plain=plain)
    table["nv12"] = table["nv21"] = _Layout(1, divides=(2, 2), half_planes=1)
    return table


_LAYOUTS = _layouts()
# Short names of encodings that have two names, by the long ones.
_SHORT = {"yuv422": "uyvy", "yuv422_yuy2": "yuyv"}
_DEPTH = frozenset({"16UC1", "32FC1"})  # millimetres and metres, by REP 118
_DEPTH_TEXT = "encoding {!r} is for depth images, but a colour image is needed"
_TWO_PLANES = {"nv12": cv2.COLOR_YUV2BGR_NV12, "nv21": cv2.COLOR_YUV2BGR_NV21}


def check(msg: Any) -> None:
    """Check a sensor_msgs Image or CompressedImage; constant time for a raw image.

    Raises:
        ImageError: If `to_bgr` cannot read the message.
    """
    if hasattr(msg, "format"):
        stored = _stored_encoding(msg.format, tiff=is_tiff(msg.data))
        if stored in _DEPTH:
            raise ImageError(_DEPTH_TEXT.format(stored))
        check_compressed(msg.data)
        return
    layout = _LAYOUTS.get(msg.encoding)
    if layout is None:
        if msg.encoding in _DEPTH:
            raise ImageError(_DEPTH_TEXT.format(msg.encoding))
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
    """Return the pixels of a camera message as BGR.

    Args:
        msg: A sensor_msgs Image (any encoding in `_LAYOUTS`; rows may be padded, in either byte
            order) or CompressedImage (JPEG, PNG or TIFF).

    Returns:
        uint8 (H, W, 3), BGR, C-contiguous. A view of the message's data for bgr8 and 8UC3 without
        row padding, a new array otherwise.

    Raises:
        ImageError: If the message is malformed or its encoding is unknown.
    """
    check(msg)
    if hasattr(msg, "format"):
        return _compressed_to_bgr(msg)
    layout = _LAYOUTS[msg.encoding]
    return _convert(_pixels(msg, layout), msg.encoding, layout)


def read_pixels(msg: Any, *, takes: Callable[[str], bool]) -> tuple[npt.NDArray[np.uint8], str]:
    """Return the pixels of a camera message, unconverted if the caller supports the encoding.

    Args:
        msg: As in `to_bgr`.
        takes: Returns whether the caller supports an 8-bit encoding (rgb8, mono8, bayer_rggb8,
            yuyv, uyvy, ...) directly.

    Returns:
        Pixels and encoding. For a supported encoding, a view of the message's data: uint8 (H, W)
        for one byte per pixel, else uint8 (H, W, bytes per pixel), possibly with row padding.
        Otherwise the result of `to_bgr` and "bgr8".

    Raises:
        ImageError: If the message is malformed or its encoding is unknown.
    """
    layout = None if hasattr(msg, "format") else _LAYOUTS.get(msg.encoding)
    if layout is None or not layout.plain or layout.bits != 8 or layout.plain == "bgr8":
        return to_bgr(msg), "bgr8"
    encoding = _SHORT.get(layout.plain, layout.plain)
    # A Bayer mosaic of a single row or column lacks colours.
    if not takes(encoding) or min(msg.height, msg.width) < 2:
        return to_bgr(msg), "bgr8"
    check(msg)
    pixels = _pixels(msg, layout)
    return (pixels[:, :, 0] if layout.channels == 1 else pixels), encoding


def _rows(height: int, layout: _Layout) -> int:
    return height + height * layout.half_planes // 2


def _pixels(msg: Any, layout: _Layout) -> npt.NDArray[Any]:
    """Return the values (rows, W, channels) as a view of the data that skips the row padding."""
    size = layout.bits // 8
    dtype = np.dtype(f"{'>' if msg.is_bigendian else '<'}u{size}")
    return np.ndarray(
        shape=(_rows(msg.height, layout), msg.width, layout.channels),
        dtype=dtype,
        buffer=msg.data,
        strides=(msg.step, layout.channels * size, size),
    )


def _convert(pixels: npt.NDArray[Any], encoding: str, layout: _Layout) -> BgrImage:
    if pixels.dtype.itemsize == 2:
        # Round to the nearest of 256 levels: 65535 is 255 * 257.
        native = np.ascontiguousarray(pixels, np.uint16)
        pixels = cv2.convertScaleAbs(native, alpha=1 / 257).reshape(pixels.shape)
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


# Encoding of a decoded file by its number of channels, in OpenCV's order.
_OF_CHANNELS = {1: "mono8", 3: "bgr8", 4: "bgra8"}


def _compressed_to_bgr(msg: Any) -> BgrImage:
    tiff = is_tiff(msg.data)
    pixels = decode_compressed(msg.data)
    channels = pixels.shape[2]
    encoding = _stored_encoding(msg.format, tiff=tiff)
    layout = _LAYOUTS.get(encoding)
    if layout is None or not layout.plain or layout.channels != channels:
        encoding = _OF_CHANNELS[channels]
    return _convert(pixels, encoding, _LAYOUTS[encoding])


def _stored_encoding(image_format: str, *, tiff: bool) -> str:
    """Return the encoding of the values stored in a compressed file; empty for a normal image.

    image_transport's plugin converts colour to bgr8 or bgra8 before it writes JPEG and PNG and, in
    ROS 2, everything else to mono8 before it writes JPEG: these files are normal images. A Bayer
    mosaic is stored as gray values in PNG, in ROS 1 also in JPEG, and on request. For TIFF nothing
    is converted, so red and blue of rgb8 are swapped in the file.
    """
    # "rgb8; jpeg compressed bgr8": encoding of the image, codec, encoding given to the codec.
    source, separator, rest = image_format.partition(";")
    source, target = source.strip(), rest.partition("compressed")[2].strip()
    if target:
        return target if target.startswith("bayer_") else ""
    kept = source.startswith("bayer_") or source in _DEPTH or (tiff and separator)
    return source if kept else ""


if __name__ == "__main__":
    check_cv_bridge()
