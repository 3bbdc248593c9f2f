"""Reads and writes serialised images and point clouds without copying the pixels or points.

rclpy converts every message to Python objects and back, which copies the data several times. Here
the few fields before the pixels are parsed in place, and the pixels are a view of the serialised
message. `rclpy.serialization` is the reference implementation.

The format is classic CDR (OMG formal/02-06-51, 15.3), which all ROS 2 middlewares use: after a
4-byte encapsulation header that gives the byte order, numbers are aligned to their size. A string
is its length (including a final zero byte), then its bytes.
"""

from __future__ import annotations

import struct
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from builtin_interfaces.msg import Time
from rclpy.serialization import deserialize_message
from sensor_msgs.msg import CompressedImage, Image, PointCloud2, PointField
from std_msgs.msg import Header

from upsnet_ros.errors import ImageError
from upsnet_ros.messages.results import check_dtype

_BYTE_ORDERS = {b"\x00\x00": ">", b"\x00\x01": "<"}
_ENCAPSULATION = 4  # bytes of the header before the content


@dataclass(frozen=True, slots=True, kw_only=True)
class ReadImage:
    """A sensor_msgs/Image whose ``data`` is a read-only view of the serialised message."""

    header: Header
    height: int
    width: int
    encoding: str
    is_bigendian: int
    step: int
    data: memoryview


@dataclass(frozen=True, slots=True, kw_only=True)
class ReadCompressedImage:
    """A sensor_msgs/CompressedImage whose ``data`` is a read-only view, as in `ReadImage`."""

    header: Header
    format: str
    data: memoryview


@dataclass(frozen=True, slots=True, kw_only=True)
class ReadCloud:
    """A sensor_msgs/PointCloud2 whose ``data`` is a read-only view, as in `ReadImage`."""

    header: Header
    height: int
    width: int
    fields: tuple[PointField, ...]
    is_bigendian: int
    point_step: int
    row_step: int
    data: memoryview
    is_dense: int


def read_image(serialized: bytes) -> ReadImage | Image:
    """Parse a serialised sensor_msgs/Image.

    A message with an unknown encapsulation header is deserialised by rclpy instead.

    Raises:
        ImageError: If the message is cut off or cannot be deserialised.
    """
    reader = _reader(serialized)
    if reader is None:
        return _by_rclpy(serialized, Image)
    return ReadImage(
        header=reader.header(),
        height=reader.unsigned(),
        width=reader.unsigned(),
        encoding=reader.string(),
        is_bigendian=reader.byte(),
        step=reader.unsigned(),
        data=reader.bytes(),
    )


def read_compressed_image(serialized: bytes) -> ReadCompressedImage | CompressedImage:
    """Parse a serialised sensor_msgs/CompressedImage, like `read_image`."""
    reader = _reader(serialized)
    if reader is None:
        return _by_rclpy(serialized, CompressedImage)
    return ReadCompressedImage(header=reader.header(), format=reader.string(), data=reader.bytes())


def read_cloud(serialized: bytes) -> ReadCloud | PointCloud2:
    """Parse a serialised sensor_msgs/PointCloud2, like `read_image`."""
    reader = _reader(serialized)
    if reader is None:
        return _by_rclpy(serialized, PointCloud2)
    return ReadCloud(
        header=reader.header(),
        height=reader.unsigned(),
        width=reader.unsigned(),
        # A count that claims more fields than there are bytes ends at the end of the message.
        fields=tuple(reader.field() for _ in range(reader.unsigned())),
        is_bigendian=reader.byte(),
        point_step=reader.unsigned(),
        row_step=reader.unsigned(),
        data=reader.bytes(),
        is_dense=reader.byte(),
    )


def write_image(pixels: npt.NDArray[Any], encoding: str, header: Header) -> bytes:
    """Serialise an array as a sensor_msgs/Image.

    Equivalent to serialising `upsnet_ros.messages.results.image_message` of the same arguments,
    except that alignment padding is 0 here and uninitialised in rclpy.

    Args:
        pixels: (H, W) or (H, W, C), of exactly the encoding's dtype.
        encoding: mono8, bgr8, rgb8, 16UC1 or 32SC1.
        header: Header of the message.

    Raises:
        TypeError: If ``pixels`` does not have the encoding's dtype.
    """
    check_dtype(pixels, encoding)
    pixels = np.ascontiguousarray(pixels)
    head = _begin(header)
    _append_unsigned(head, pixels.shape[0], pixels.shape[1])
    _append_string(head, encoding)
    head.append(int(sys.byteorder == "big"))
    _append_unsigned(head, pixels.strides[0], pixels.nbytes)
    return b"".join((head, pixels.reshape(-1).view(np.uint8).data))


def write_cloud(
    points: npt.NDArray[np.uint8],
    *,
    header: Header,
    fields: Sequence[PointField],
    is_bigendian: bool,
    is_dense: bool,
) -> bytes:
    """Serialise points as a sensor_msgs/PointCloud2, with rows without padding.

    Args:
        points: uint8 (H, W, S), contiguous, for points of S bytes.
        header: Header of the message.
        fields: Fields of a point.
        is_bigendian: Byte order of the points' values.
        is_dense: Whether all points are valid.
    """
    head = _begin(header)
    height, width, step = points.shape
    _append_unsigned(head, height, width, len(fields))
    for field in fields:
        _append_string(head, field.name)
        _append_unsigned(head, field.offset)
        head.append(field.datatype)
        _append_unsigned(head, field.count)
    head.append(int(is_bigendian))
    _append_unsigned(head, step, width * step, points.nbytes)
    return b"".join((head, points.reshape(-1).data, bytes([is_dense])))


def _begin(header: Header) -> bytearray:
    """Return the beginning of a message with a header, in the machine's byte order."""
    head = bytearray(b"\x00\x01\x00\x00" if sys.byteorder == "little" else b"\x00\x00\x00\x00")
    head += struct.pack("=iI", header.stamp.sec, header.stamp.nanosec)
    _append_string(head, header.frame_id)
    return head


class _Reader:
    """Reads one field after the other; raises `ImageError` where the message ends too early."""

    def __init__(self, content: memoryview, order: str) -> None:
        self._content = content
        self._at = 0
        self._signed, self._unsigned = struct.Struct(f"{order}i"), struct.Struct(f"{order}I")

    def unsigned(self) -> int:
        return self._number(self._unsigned)

    def byte(self) -> int:
        return self._take(1)[0]

    def bytes(self) -> memoryview:
        return self._take(self.unsigned())

    def string(self) -> str:
        # As rclpy does it: up to the first zero byte, with invalid UTF-8 replaced.
        return str(self.bytes(), "utf-8", "replace").partition("\x00")[0]

    def header(self) -> Header:
        stamp = Time(sec=self._number(self._signed), nanosec=self.unsigned())
        return Header(stamp=stamp, frame_id=self.string())

    def field(self) -> PointField:
        return PointField(
            name=self.string(),
            offset=self.unsigned(),
            datatype=self.byte(),
            count=self.unsigned(),
        )

    def _number(self, form: struct.Struct) -> int:
        self._at += -self._at % form.size
        return form.unpack(self._take(form.size))[0]

    def _take(self, size: int) -> memoryview:
        taken = self._content[self._at : self._at + size]
        if len(taken) != size:
            raise ImageError(
                f"the message is cut off: it has only {len(taken)} of the {size} bytes expected"
                f" at offset {self._at}"
            )
        self._at += size
        return taken


def _reader(serialized: bytes) -> _Reader | None:
    order = _BYTE_ORDERS.get(serialized[:2])
    if order is None or len(serialized) < _ENCAPSULATION:
        return None
    return _Reader(memoryview(serialized)[_ENCAPSULATION:], order)


def _by_rclpy(serialized: bytes, message: type) -> Any:
    try:
        return deserialize_message(serialized, message)
    except RuntimeError as error:  # RMWError is one
        begin = serialized[:_ENCAPSULATION].hex(" ")
        raise ImageError(
            f"the message of {len(serialized)} bytes that begins with [{begin}] cannot be read"
        ) from error


def _append_unsigned(to: bytearray, *values: int) -> None:
    to.extend(bytes(-len(to) % 4))  # the encapsulation's length is itself a multiple of 4
    to += struct.pack(f"={len(values)}I", *values)


def _append_string(to: bytearray, text: str) -> None:
    encoded = text.encode().partition(b"\x00")[0] + b"\x00"
    _append_unsigned(to, len(encoded))
    to += encoded
