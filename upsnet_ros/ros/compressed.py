"""JPEG and PNG of a CompressedImage: what they claim to be is read before they are decoded."""

from __future__ import annotations

from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

__all__ = ["MAX_PIXELS", "ImageError", "check_compressed", "check_size", "decode_compressed"]

#: No camera has more; a header that claims more is damaged, or meant to exhaust the memory.
MAX_PIXELS = 1 << 26

_PNG = b"\x89PNG\r\n\x1a\n"
_JPEG = b"\xff\xd8\xff"
_END_OF_JPEG = b"\xff\xd9"
# JPEG segments that hold the size (SOF0 to 15, not DHT, JPG and DAC), and that begins the pixels.
_JPEG_SIZES = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
_JPEG_SCAN = 0xDA
# Pixels that a byte of a file can hold at most: zlib gives 1032 bytes for one, of 8 pixels each,
# and JPEG takes at least a bit for each 8x8 block.
_PNG_PIXELS_A_BYTE = 8 * 1032
_JPEG_PIXELS_A_BYTE = 8 * 64


class ImageError(ValueError):
    """A camera message cannot be read; the message says why."""


def check_size(width: int, height: int) -> None:
    """Raises `ImageError` for an empty image, and for one larger than `MAX_PIXELS`."""
    if width < 1 or height < 1:
        raise ImageError(f"the image is empty: {width}x{height} pixels")
    if width * height > MAX_PIXELS:
        raise ImageError(f"{width}x{height} pixels are more than the {MAX_PIXELS} allowed")


def check_compressed(data: Any) -> None:
    """Checks that ``data`` (bytes-like) is a JPEG or PNG file, whole and of a sane size.

    Raises:
        ImageError: Where it is not.
    """
    raw = bytes(data)
    if not raw:
        raise ImageError("the compressed image is empty")
    if raw.startswith(_PNG):
        width, height = _png_size(raw)
        most = _PNG_PIXELS_A_BYTE * len(raw)
    elif raw.startswith(_JPEG):
        width, height, scan = _jpeg_size(raw)
        # Within the pixels 0xff is always followed by 0 or a restart marker, so this is the end.
        if raw.find(_END_OF_JPEG, scan) < 0:
            raise ImageError(f"the JPEG is cut off after {len(raw)} bytes")
        most = _JPEG_PIXELS_A_BYTE * len(raw)
    else:
        raise ImageError(f"the compressed image is no JPEG or PNG: it begins with {raw[:4]!r}")
    check_size(width, height)
    if width * height > most:
        # A decoder would make room for all of them first.
        raise ImageError(f"{len(raw)} bytes cannot hold the {width}x{height} pixels they claim")


def decode_compressed(data: Any, *, gray: bool = False) -> npt.NDArray[np.uint8]:
    """Decodes what passed `check_compressed`.

    Args:
        data: Bytes-like.
        gray: Give the values as they are stored, in one channel.

    Returns:
        uint8 (H, W, 3) BGR, or (H, W) where ``gray`` is asked for. The pixels lie as the camera
        sent them: an EXIF orientation is not followed, for it would break the camera's calibration.

    Raises:
        ImageError: Where the pixels are damaged.
    """
    flags = cv2.IMREAD_GRAYSCALE if gray else cv2.IMREAD_COLOR
    try:
        pixels = cv2.imdecode(np.frombuffer(data, np.uint8), flags | cv2.IMREAD_IGNORE_ORIENTATION)
    except cv2.error as error:
        raise ImageError(f"the compressed image cannot be decoded: {error.err}") from error
    if pixels is None:
        raise ImageError("the compressed image cannot be decoded: its pixels are damaged")
    return pixels  # type: ignore[return-value]


def _png_size(raw: bytes) -> tuple[int, int]:
    """Width and height of a PNG that has all of its chunks.

    OpenCV makes room for what a chunk claims to hold before it looks whether that is there: 120
    bytes can cost it 2 GB and seconds.
    """
    if raw[12:16] != b"IHDR" or len(raw) < 24:
        raise ImageError("the PNG's header is damaged or cut off")
    at, kind = len(_PNG), b""
    while kind != b"IEND":
        length, kind = int.from_bytes(raw[at : at + 4], "big"), raw[at + 4 : at + 8]
        at += 12 + length  # with its length, its kind and its checksum
        if at > len(raw):
            raise ImageError(f"the PNG is cut off after {len(raw)} bytes, or damaged")
    return int.from_bytes(raw[16:20], "big"), int.from_bytes(raw[20:24], "big")


def _jpeg_size(raw: bytes) -> tuple[int, int, int]:
    """Width, height, and where the first scan begins."""
    width = height = 0
    at = 2
    while at + 9 <= len(raw) and raw[at] == 0xFF:
        marker, length = raw[at + 1], int.from_bytes(raw[at + 2 : at + 4], "big")
        if marker == 0xFF:  # a fill byte
            at += 1
            continue
        if marker == _JPEG_SCAN and width:
            return width, height, at
        if marker in _JPEG_SIZES:
            height = int.from_bytes(raw[at + 5 : at + 7], "big")
            width = int.from_bytes(raw[at + 7 : at + 9], "big")
        at += 2 + length
    raise ImageError(f"the JPEG's header is damaged or cut off ({len(raw)} bytes)")
