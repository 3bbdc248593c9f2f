"""Camera messages read where they lie in a serialised message, and images written likewise.

rclpy turns every message into Python objects and back, which copies an image more often than is
needed. Here the few fields before the pixels are read by their offsets, and the pixels stay where
they are. `rclpy.serialization` is the twin that defines what is right.

The format is classic CDR (OMG formal/02-06-51, 15.3), which all of ROS 2's middlewares use: numbers
are aligned to their size, counted from behind a header of four bytes that gives the byte order; a
string is its length with a final zero byte, then its bytes.
"""

from __future__ import annotations

import struct
import sys
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from builtin_interfaces.msg import Time
from rclpy.serialization import deserialize_message
from sensor_msgs.msg import CompressedImage, Image
from std_msgs.msg import Header

from upsnet_ros.ros.image_codec import ImageError
from upsnet_ros.ros.messages import check_dtype

__all__ = [
    "ReadCompressedImage",
    "ReadImage",
    "read_compressed_image",
    "read_image",
    "write_image",
]

_BYTE_ORDERS = {b"\x00\x00": ">", b"\x00\x01": "<"}
_ENCAPSULATION = 4  # bytes before the content


@dataclass(frozen=True, slots=True, kw_only=True)
class ReadImage:
    """A sensor_msgs/Image; ``data`` is a view of the serialised message, read-only."""

    header: Header
    height: int
    width: int
    encoding: str
    is_bigendian: int
    step: int
    data: memoryview


@dataclass(frozen=True, slots=True, kw_only=True)
class ReadCompressedImage:
    """A sensor_msgs/CompressedImage; ``data`` is a view of the serialised message, read-only."""

    header: Header
    format: str
    data: memoryview


def read_image(serialized: bytes) -> ReadImage | Image:
    """A serialised sensor_msgs/Image; as rclpy reads it where it is in no byte order known here.

    Raises:
        ImageError: Where it is cut off or otherwise no such message.
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
    """A serialised sensor_msgs/CompressedImage; otherwise as `read_image`."""
    reader = _reader(serialized)
    if reader is None:
        return _by_rclpy(serialized, CompressedImage)
    return ReadCompressedImage(header=reader.header(), format=reader.string(), data=reader.bytes())


def write_image(pixels: npt.NDArray[Any], encoding: str, header: Header) -> bytes:
    """What `upsnet_ros.ros.messages.image_message` is once serialised, of the same arguments.

    The bytes that CDR leaves unused to align numbers are 0 here; rclpy leaves there what it finds.
    """
    check_dtype(pixels, encoding)
    pixels = np.ascontiguousarray(pixels)
    head = bytearray(b"\x00\x01\x00\x00" if sys.byteorder == "little" else b"\x00\x00\x00\x00")
    head += struct.pack("=iI", header.stamp.sec, header.stamp.nanosec)
    _append_string(head, header.frame_id)
    _append_unsigned(head, pixels.shape[0], pixels.shape[1])
    _append_string(head, encoding)
    head.append(int(sys.byteorder == "big"))
    _append_unsigned(head, pixels.strides[0], pixels.nbytes)
    return b"".join((head, pixels.reshape(-1).view(np.uint8).data))


class _Reader:
    """Takes one field after the other, and none that the message does not hold whole."""

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
        # To the first zero byte, and with replacements for what is no UTF-8, as rclpy does it.
        return str(self.bytes(), "utf-8", "replace").partition("\x00")[0]

    def header(self) -> Header:
        stamp = Time(sec=self._number(self._signed), nanosec=self.unsigned())
        return Header(stamp=stamp, frame_id=self.string())

    def _number(self, form: struct.Struct) -> int:
        self._at += -self._at % form.size
        return form.unpack(self._take(form.size))[0]

    def _take(self, size: int) -> memoryview:
        taken = self._content[self._at : self._at + size]
        if len(taken) != size:
            raise ImageError(
                f"the message is cut off: of {size} bytes from byte {self._at} on"
                f" {len(taken)} are there"
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
