"""Compressed images (JPEG, PNG, TIFF) of messages: checked, decoded, and written as JPEG.

Messages come from the network and may contain anything. A file that is damaged, cut off, or would
cost far more memory or time than its size suggests raises an `ImageError` that says what is wrong.
"""

from __future__ import annotations

import os
import re
import struct
from dataclasses import dataclass
from enum import IntEnum
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from upsnet_ros.datasets.images import MAX_PIXELS_VARIABLE, max_pixels
from upsnet_ros.errors import ImageError, SettingsError

#: Largest accepted image, pixels. No camera has more; a header that claims more is damaged or meant
#: to exhaust the memory. The environment variable for files (`MAX_PIXELS_VARIABLE`) overrides it.
MAX_PIXELS = 1 << 26

#: Most scans accepted in a JPEG. Encoders write about ten, and even a tiny scan can cost a pass
#: over the whole image.
MAX_SCANS = 32

#: Quality of the JPEGs that nodes publish and the web page shows, 0 to 100.
_JPEG_QUALITY = 95

_PNG = b"\x89PNG\r\n\x1a\n"
_JPEG = b"\xff\xd8\xff"
_TIFF = {b"II*\x00": "<", b"MM\x00*": ">"}
# Upper bounds on pixels per compressed byte. zlib expands a byte to at most 1032, of 8 pixels each;
# JPEG needs at least one bit per 8x8 block; LZW in a TIFF expands a byte to at most 2730 values of
# 8 bits.
_PNG_PIXELS_PER_BYTE = 8 * 1032
_JPEG_PIXELS_PER_BYTE = 8 * 64
_TIFF_PIXELS_PER_BYTE = 2730


def check_size(width: int, height: int) -> None:
    """Raise `ImageError` if an image is empty or larger than `MAX_PIXELS`."""
    if width < 1 or height < 1:
        raise ImageError(f"the image is empty: {width}x{height} pixels")
    limit = _max_pixels()
    if width * height > limit:
        raise ImageError(
            f"{width}x{height} pixels are more than the {limit} allowed ({MAX_PIXELS_VARIABLE} sets"
            " another limit)"
        )


def _max_pixels() -> int:
    if not os.environ.get(MAX_PIXELS_VARIABLE):
        return MAX_PIXELS
    try:
        return max_pixels()
    except SettingsError as error:  # for a callback, which counts the image and lives on
        raise ImageError(str(error)) from None


def is_tiff(data: Any) -> bool:
    """Return whether ``data`` (bytes-like) starts with a TIFF signature."""
    return bytes(data[:4]) in _TIFF


def check_compressed(data: Any) -> None:
    """Check that ``data`` (bytes-like) is a complete JPEG, PNG or TIFF file of an allowed size.

    Raises:
        ImageError: If it is not.
    """
    raw = bytes(data)
    if not raw:
        raise ImageError("the compressed image is empty")
    if raw.startswith(_PNG):
        (width, height), per_byte = _png_size(raw), _PNG_PIXELS_PER_BYTE
    elif raw.startswith(_JPEG):
        jpeg = _read_jpeg(raw)
        (width, height), per_byte = (jpeg.width, jpeg.height), _JPEG_PIXELS_PER_BYTE
    elif is_tiff(raw):
        (width, height), per_byte = _tiff_size(raw), _TIFF_PIXELS_PER_BYTE
    else:
        raise ImageError(
            f"the compressed image is not a JPEG, PNG or TIFF: it begins with {raw[:4]!r}"
        )
    check_size(width, height)
    if width * height > per_byte * len(raw):
        # A decoder would allocate memory for all of them first.
        raise ImageError(f"{len(raw)} bytes cannot hold the {width}x{height} pixels they claim")


def decode_compressed(data: Any) -> npt.NDArray[Any]:
    """Decode an image that passed `check_compressed`.

    Returns:
        uint8 or uint16 (H, W, C) with C = 1 (gray), 3 (BGR) or 4 (BGRA): depth and channels as
        stored in the file. EXIF orientation is ignored, because rotating the image would
        invalidate the camera calibration.

    Raises:
        ImageError: If the pixels are damaged.
    """
    raw = bytes(data)
    complete = True
    if raw.startswith(_JPEG):
        jpeg = _read_jpeg(raw)
        raw, complete = jpeg.tidied(raw), jpeg.has_end
    try:
        pixels = cv2.imdecode(np.frombuffer(raw, np.uint8), cv2.IMREAD_UNCHANGED)
    except cv2.error as error:
        raise ImageError(f"the compressed image cannot be decoded: {error.err}") from error
    if pixels is None and not complete:
        raise ImageError(f"the JPEG is cut off after {len(raw)} bytes")
    if pixels is None:
        raise ImageError("the compressed image cannot be decoded: its pixels are damaged")
    pixels = pixels.reshape(*pixels.shape[:2], -1)
    if pixels.dtype not in (np.uint8, np.uint16) or pixels.shape[2] not in (1, 3, 4):
        raise ImageError(
            f"the compressed image has {pixels.shape[2]} channels of {pixels.dtype}; expected 1, 3"
            " or 4 channels of 8 or 16 bits"
        )
    return pixels


def _png_size(raw: bytes) -> tuple[int, int]:
    """Return width and height of a PNG after checking that all of its chunks are present.

    OpenCV allocates the claimed size of a chunk before it checks that the data is there: a file of
    120 bytes can cost 2 GB and seconds.
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


def encode_jpeg(bgr: npt.NDArray[np.uint8]) -> bytes:
    """Return an image, uint8 (H, W, 3) BGR or (H, W), as a JPEG."""
    _, encoded = cv2.imencode(".jpg", bgr, [cv2.IMWRITE_JPEG_QUALITY, _JPEG_QUALITY])
    return encoded.tobytes()


# JPEG markers: frame headers with the size (SOF0 to SOF15 without DHT, JPG and DAC), start of scan,
# and markers without a payload.
_JPEG_FRAMES = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
_JPEG_SEQUENTIAL = frozenset({0xC0, 0xC1, 0xC9})
_JPEG_SCAN = 0xDA
_JPEG_ALONE = frozenset({0x01, *range(0xD0, 0xD9)})
_JPEG_END = b"\xff\xd9"
# The next marker. Like libjpeg, skip any bytes before it, fill bytes included.
_MARKER = re.compile(rb"\xff([\x01-\xfe])")
# Bytes that cameras pad their buffers with after the image.
_PADDING = (b"\x00", b"\xff")
# libjpeg reads some bytes ahead of the pixel that it decodes.
_READ_AHEAD = 16


@dataclass(frozen=True, slots=True, kw_only=True)
class _Jpeg:
    """A JPEG's header.

    Attributes:
        width: Pixels.
        height: Pixels.
        segments: (begin, end) of each header segment in the file.
        scan: Where the first scan begins.
        has_end: Whether an end marker follows.
    """

    width: int
    height: int
    segments: tuple[tuple[int, int], ...]
    scan: int
    has_end: bool

    def tidied(self, raw: bytes) -> bytes:
        """Return the file without what would make libjpeg warn on stderr for every frame.

        Bytes between header segments are removed. If there is no end marker, the padding is cut to
        what libjpeg reads ahead: if pixels are missing, decoding then fails instead of decoding the
        padding as pixels.
        """
        end = len(raw)
        if not self.has_end:
            end = len(raw.rstrip(raw[-1:])) if raw[-1:] in _PADDING else end
        gaps = self.scan - 2 - sum(end - begin for begin, end in self.segments)
        if self.has_end and not gaps:
            return raw
        parts = [raw[:2], *(raw[begin:end] for begin, end in self.segments), raw[self.scan : end]]
        return b"".join(parts) + (b"" if self.has_end else bytes(_READ_AHEAD))


def _read_jpeg(raw: bytes) -> _Jpeg:
    """Parse a JPEG's header and count its scans, in one pass.

    Raises:
        ImageError: If the header is damaged, the file is cut off, or it has too many scans.
    """
    width = height = components = 0
    sequential = False
    segments: list[tuple[int, int]] = []
    at = 2
    while True:
        found = _MARKER.search(raw, at)
        if found is None or found.end() + 8 > len(raw):
            raise ImageError(f"the JPEG's header is damaged or cut off ({len(raw)} bytes)")
        marker, at = raw[found.end() - 1], found.end()
        begin = at - 2
        if marker in _JPEG_ALONE:
            continue
        if marker == _JPEG_SCAN and width:
            break
        if marker in (_JPEG_SCAN, _JPEG_END[1]):
            raise ImageError(f"the JPEG's header is damaged: it has no size ({len(raw)} bytes)")
        if marker in _JPEG_FRAMES:
            sequential = marker in _JPEG_SEQUENTIAL
            height, width, components = struct.unpack_from(">HHB", raw, at + 3)
        at += max(2, int.from_bytes(raw[at : at + 2], "big"))
        segments.append((begin, at))
    if sequential and raw[at + 2] >= components:
        scans = 1  # contains the whole image; libjpeg ignores further scans
    else:
        scans = raw.count(bytes((0xFF, _JPEG_SCAN)), begin)  # cannot occur in entropy-coded data
        sequential = False
    if scans > MAX_SCANS:
        raise ImageError(f"the JPEG has {scans} scans, more than the {MAX_SCANS} allowed")
    has_end = raw.find(_JPEG_END, begin) >= 0
    # Without an end marker, libjpeg can tell only for a single scan that it is complete.
    if not has_end and not (sequential and raw[-2:] in (2 * one for one in _PADDING)):
        raise ImageError(f"the JPEG is cut off after {len(raw)} bytes")
    return _Jpeg(width=width, height=height, segments=tuple(segments), scan=begin, has_end=has_end)


class _Tag(IntEnum):
    WIDTH = 256
    HEIGHT = 257
    BITS = 258
    COMPRESSION = 259
    PHOTOMETRIC = 262
    CHANNELS = 277
    PLANES = 284
    TILE_WIDTH = 322
    TILE_HEIGHT = 323
    SAMPLE_FORMAT = 339


_TAGS = frozenset(int(tag) for tag in _Tag)


# Supported TIFFs: images as cameras and OpenCV write them, whose decoded size is bounded by the
# file size. Fax codes, embedded JPEG, palettes and floats are not supported.
_TIFF_SUPPORTED = {
    _Tag.BITS: {8, 16},
    _Tag.COMPRESSION: {1, 5, 8, 32773, 32946},  # none, LZW, deflate, PackBits, deflate
    _Tag.PHOTOMETRIC: {0, 1, 2},  # gray, gray, RGB
    _Tag.CHANNELS: {1, 3, 4},
    _Tag.PLANES: {1},
    _Tag.SAMPLE_FORMAT: {1},  # unsigned
}
_TIFF_TYPES = {3: "H", 4: "I"}  # short and long
_TIFF_ENTRY = 12  # bytes


def _tiff_size(raw: bytes) -> tuple[int, int]:
    """Return width and height of the first image of a TIFF.

    Raises:
        ImageError: If the header is damaged, or the kind of image is not supported.
    """
    try:
        tags = _tiff_tags(raw)
    except (struct.error, ValueError, KeyError):
        raise ImageError(f"the TIFF's header is damaged or cut off ({len(raw)} bytes)") from None
    for tag, supported in _TIFF_SUPPORTED.items():
        value = tags.get(tag, 1)  # 1 is the default of all these tags
        if value not in supported:
            known = ", ".join(str(one) for one in sorted(supported))
            raise ImageError(f"the TIFF's {tag.name.lower()} is {value}; {known} can be read")
    limit = _max_pixels()
    if tags.get(_Tag.TILE_WIDTH, 0) * tags.get(_Tag.TILE_HEIGHT, 0) > limit:
        raise ImageError(f"the TIFF's tiles are larger than the {limit} pixels allowed")
    return tags.get(_Tag.WIDTH, 0), tags.get(_Tag.HEIGHT, 0)


def _tiff_tags(raw: bytes) -> dict[_Tag, int]:
    """Return the values of the tags in `_Tag`; for per-channel values, the largest.

    Raises:
        struct.error: If the file ends before a value.
        ValueError: If a tag has no value, or is repeated (readers disagree on which one counts).
        KeyError: If a value is not an integer of 16 or 32 bits.
    """
    order = _TIFF[raw[:4]]
    (directory,) = struct.unpack_from(f"{order}I", raw, 4)
    (count,) = struct.unpack_from(f"{order}H", raw, directory)
    tags: dict[_Tag, int] = {}
    for index in range(count):
        at = directory + 2 + index * _TIFF_ENTRY
        number, kind, values = struct.unpack_from(f"{order}HHI", raw, at)
        if number not in _TAGS:
            continue
        tag = _Tag(number)
        if tag in tags:
            raise ValueError(f"{tag.name} is repeated")
        form = struct.Struct(order + _TIFF_TYPES[kind])
        at += 8
        if values * form.size > 4:  # the entry holds the offset of the values
            (at,) = struct.unpack_from(f"{order}I", raw, at)
        tags[tag] = max(form.unpack_from(raw, at + i * form.size)[0] for i in range(min(values, 4)))
    return tags
