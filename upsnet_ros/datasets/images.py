"""Finds and reads image files, their headers and label maps; errors name the file."""

from __future__ import annotations

import os
import re
import stat
import struct
import sys
import zlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

import cv2
import numpy as np
import numpy.typing as npt

from upsnet_ros.errors import DatasetError, ImageError, SettingsError, printable

_PNG = b"\x89PNG\r\n\x1a\n"
_PNM = re.compile(rb"P[1-6](?:\s|#[^\r\n]*[\r\n])+(\d{1,9})(?:\s|#[^\r\n]*[\r\n])+(\d{1,9})")
_JPEG_MARKER = re.compile(rb"\xff[^\x00\xff]", re.DOTALL)
# JPEG segments that hold the size: SOF0 to 15, not DHT, JPG and DAC.
_JPEG_SIZES = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
# JPEG markers that stand alone: TEM, RST0 to 7 and SOI.
_JPEG_ALONE = frozenset({0x01, *range(0xD0, 0xD9)})
# Tags of a TIFF directory.
_WIDTH, _HEIGHT, _ORIENTATION, _TILE_WIDTH, _TILE_HEIGHT = 256, 257, 274, 322, 323
_TIFF_NUMBERS = {3: "H", 4: "I", 16: "Q"}

#: Colour types of PNG.
GRAY, RGB, PALETTE, GRAY_ALPHA, RGBA = 0, 2, 3, 4, 6


@dataclass(frozen=True, slots=True, kw_only=True)
class Header:
    """The header of an image file.

    Attributes:
        kind: "PNG", "JPEG", "BMP", "TIFF", "WebP" or "PNM".
        width: Width in pixels.
        height: Height in pixels.
        bits: Bits per sample of a PNG; 0 for other formats.
        color: Colour type of a PNG; -1 for other formats.
        upright: The file with the orientation of a TIFF reset, because OpenCV always applies it;
            None if no change is needed.
    """

    kind: str
    width: int
    height: int
    bits: int = 0
    color: int = -1
    upright: bytes | None = None


def read_header(data: bytes) -> Header:
    """Return the header of an image file.

    Args:
        data: The whole file; for a PNG the first 33 bytes suffice.

    Raises:
        ValueError: The format is not supported, or the header is damaged.
    """
    try:
        if data.startswith(_PNG):
            return _png(data)
        if data.startswith(b"\xff\xd8"):
            return _jpeg(data)
        if data.startswith(b"BM"):
            return _bmp(data)
        if data[:4] in (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+"):
            return _tiff(data)
        if data[:4] == b"RIFF" and data[8:12] == b"WEBP":
            return _webp(data)
    except (struct.error, IndexError, KeyError, OverflowError):
        raise ValueError("its header is damaged or cut off") from None
    match = _PNM.match(data[: 1 << 16])  # with room for comments
    if match:
        return Header(kind="PNM", width=int(match[1]), height=int(match[2]))
    raise ValueError("it is not a PNG, JPEG, BMP, TIFF, WebP or PNM file")


def check_png_chunks(data: bytes) -> None:
    """Check that all chunks of a PNG are complete; OpenCV allocates their claimed sizes unchecked.

    Raises:
        ValueError: The file ends inside a chunk or lacks the final chunk.
    """
    at, kind = len(_PNG), b""
    while kind != b"IEND":
        if at + 12 > len(data):
            raise ValueError(f"it is cut off after {len(data)} bytes")
        length, kind = int.from_bytes(data[at : at + 4], "big"), data[at + 4 : at + 8]
        at += 12 + length  # with its length, its kind and its checksum
    if at > len(data):
        raise ValueError(f"it is cut off after {len(data)} bytes")


def indices_as_gray(data: bytes) -> bytes:
    """Return a palette PNG converted to a gray PNG of its indices, with the same bit depth."""
    at, parts = len(_PNG), [_PNG]
    while at < len(data):
        end = at + 12 + int.from_bytes(data[at : at + 4], "big")
        kind = data[at + 4 : at + 8]
        if kind == b"IHDR":
            body = data[at + 8 : at + 17] + bytes([GRAY]) + data[at + 18 : end - 4]
            parts += [data[at : at + 8], body, struct.pack(">I", zlib.crc32(kind + body))]
        elif kind in (b"IDAT", b"IEND"):  # the palette's own chunks mean nothing any more
            parts.append(data[at:end])
        at = end
    return b"".join(parts)


def _png(data: bytes) -> Header:
    if data[12:16] != b"IHDR":
        raise ValueError("its header is damaged")
    width, height, bits, color = struct.unpack_from(">IIBB", data, 16)
    return Header(kind="PNG", width=width, height=height, bits=bits, color=color)


def _jpeg(data: bytes) -> Header:
    at = 2
    while True:
        # Fill bytes, and stray ones, may stand between segments.
        found = _JPEG_MARKER.search(data, at)
        if found is None:
            raise ValueError("its header is damaged or cut off")
        at, marker = found.start(), data[found.end() - 1]
        if marker in _JPEG_ALONE:
            at += 2
            continue
        if marker in _JPEG_SIZES:
            height, width = struct.unpack_from(">HH", data, at + 5)
            return Header(kind="JPEG", width=width, height=height)
        at += 2 + max(2, *struct.unpack_from(">H", data, at + 2))


def _bmp(data: bytes) -> Header:
    (size,) = struct.unpack_from("<I", data, 14)
    width, height = struct.unpack_from("<HH" if size == 12 else "<ii", data, 18)
    return Header(kind="BMP", width=abs(width), height=abs(height))  # negative: from top to bottom


def _webp(data: bytes) -> Header:
    kind = data[12:16]
    if kind == b"VP8X":
        width, height = (1 + int.from_bytes(data[at : at + 3], "little") for at in (24, 27))
    elif kind == b"VP8L":
        (packed,) = struct.unpack_from("<I", data, 21)
        width, height = 1 + (packed & 0x3FFF), 1 + (packed >> 14 & 0x3FFF)
    elif kind == b"VP8 ":
        width, height = (side & 0x3FFF for side in struct.unpack_from("<HH", data, 26))
    else:
        raise ValueError("its header is damaged")
    return Header(kind="WebP", width=width, height=height)


def _tiff(data: bytes) -> Header:
    """Read the first directory; tile sizes count, because decoders allocate whole tiles."""
    order = "<" if data[:2] == b"II" else ">"
    big = data[3 if order == ">" else 2] == ord("+")
    (at,) = struct.unpack_from(f"{order}{'Q' if big else 'I'}", data, 8 if big else 4)
    (count,) = struct.unpack_from(f"{order}{'Q' if big else 'H'}", data, at)
    length, value = (20, 12) if big else (12, 8)
    at += 8 if big else 2
    numbers, upright = {}, None
    # Entries are sorted by tag, and none that matters lies beyond the first thousand.
    for entry in range(at, at + length * min(count, 1000), length):
        tag, kind = struct.unpack_from(f"{order}HH", data, entry)
        if kind in _TIFF_NUMBERS:
            form = f"{order}{_TIFF_NUMBERS[kind]}"
            (numbers[tag],) = struct.unpack_from(form, data, entry + value)
            if tag == _ORIENTATION and numbers[tag] != 1:
                changed = bytearray(data)
                struct.pack_into(form, changed, entry + value, 1)
                upright = bytes(changed)
    return Header(
        kind="TIFF",
        width=max(numbers[_WIDTH], numbers.get(_TILE_WIDTH, 0)),
        height=max(numbers[_HEIGHT], numbers.get(_TILE_HEIGHT, 0)),
        upright=upright,
    )


if TYPE_CHECKING:
    from PIL import Image  # optional: only for training

    #: An image as users have it: see `as_bgr`.
    AnyImage: TypeAlias = npt.NDArray[np.uint8] | str | os.PathLike[str] | Image.Image
else:
    AnyImage = Any

#: Extensions of image files, in lower case; matched case-insensitively.
IMAGE_SUFFIXES = frozenset(
    {".bmp", ".jpeg", ".jpg", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp"}
)
#: Default limit on the pixels of an image, about 11600x11600; small files can claim any size.
MAX_PIXELS = 1 << 27
#: Environment variable that overrides `MAX_PIXELS`.
MAX_PIXELS_VARIABLE = "UPSNET_MAX_PIXELS"
# Upper bounds for the size of a file: bytes per pixel, and bytes of metadata.
_BYTES_A_PIXEL, _BYTES_BESIDE = 16, 1 << 26
#: Below this value, lookup tables are used instead of sorting.
_COUNTABLE = 1 << 17


def image_files(folder: Path, *, recursive: bool = False) -> list[Path]:
    """Return the image files in a folder, by `IMAGE_SUFFIXES`, in natural order.

    Hidden files and folders are skipped, including the ``._name`` files that macOS creates.

    Args:
        folder: The folder, or a link to it.
        recursive: Include subfolders and linked folders; each folder is read once even if links
            form a cycle.

    Raises:
        DatasetError: The folder is missing or cannot be read.
    """
    found: list[Path] = []
    seen: set[tuple[int, int]] = set()
    # Real folders are read before links, so that paths do not go through links unnecessarily.
    folders, links = [folder], list[Path]()
    while folders or links:
        current = folders.pop() if folders else links.pop(0)
        try:
            status = current.stat()
            identity = status.st_dev, status.st_ino
            if identity in seen:
                continue
            seen.add(identity)
            with os.scandir(current) as entries:
                for entry in entries:
                    if entry.name.startswith("."):
                        continue
                    path, is_link = current / entry.name, entry.is_symlink()
                    # For a link to itself, `Path.is_dir` is false but `DirEntry.is_dir` raises.
                    if path.is_dir() if is_link else entry.is_dir():
                        (links if is_link else folders).append(path)
                    elif path.suffix.lower() in IMAGE_SUFFIXES:
                        found.append(path)
        except OSError as error:
            raise DatasetError(f"cannot read folder {_name(current)}: {error.strerror}") from None
        if not recursive:
            break
        links = natural_sorted(links)
    return natural_sorted(found)


def natural_sorted(paths: Iterable[Path]) -> list[Path]:
    """Return paths in natural order: ``frame2`` before ``frame10``."""

    def key(path: Path) -> tuple[list[list[tuple[int, str]]], str]:
        # Digits and text alternate, so entries at the same position have the same type.
        parts = [re.split(r"(\d+)", part) for part in path.parts]
        return [
            [(int(text), "") if text.isdecimal() else (0, text.lower()) for text in texts]
            for texts in parts
        ], str(path)

    return sorted(paths, key=key)


def max_pixels() -> int:
    """Return the limit on the pixels of an image: `MAX_PIXELS` or the environment variable's.

    Raises:
        SettingsError: The environment variable is not a positive integer.
    """
    text = os.environ.get(MAX_PIXELS_VARIABLE, "")
    if not text:
        return MAX_PIXELS
    if not (text.isdecimal() and text.isascii() and len(text) < 19 and int(text)):
        raise SettingsError(f"{MAX_PIXELS_VARIABLE} is {text!r}, not a whole number above 0")
    return int(text)


def read_image(path: Path) -> npt.NDArray[np.uint8]:
    """Return an image as uint8 (H, W, 3), BGR, ignoring EXIF orientation, as labels do.

    Raises:
        DatasetError: The file is missing, not an image, damaged, or larger than `max_pixels`.
    """
    data, header = read_file(path)
    return _decode(path, data, header, cv2.IMREAD_COLOR).astype(np.uint8, copy=False)


def as_bgr(image: AnyImage) -> npt.NDArray[np.uint8]:
    """Return an image as uint8 (H, W, 3), BGR, from whatever users pass as one.

    Args:
        image: An array, which is returned as it is and not checked; a path, which `read_image`
            reads; or a PIL image, converted as `read_image` converts a file of the same mode:
            16-bit values to their high byte, palettes to their colours, CMYK as OpenCV does, alpha
            dropped.

    Raises:
        DatasetError: The file cannot be read; see `read_image`.
        ImageError: It is None or of another type, or a PIL image that cannot be converted.
    """
    if isinstance(image, np.ndarray):
        return image
    if image == "":  # a Path would make it the working folder
        raise DatasetError("the path of the image is empty: name a file")
    if isinstance(image, str | os.PathLike):
        return read_image(Path(image))
    if image is None:
        raise ImageError(
            "the image is None: cv2.imread returns None for a file it cannot read; pass the path"
            " itself to learn why"
        )
    pil = sys.modules.get("PIL.Image")  # whoever has such an image has imported it
    if pil is not None and isinstance(image, pil.Image):
        return _bgr_of_pil(image)
    raise ImageError(
        f"need an image as NumPy array, path or PIL image, got {type(image).__module__}."
        f"{type(image).__qualname__}"
    )


def _bgr_of_pil(image: Image.Image) -> npt.NDArray[np.uint8]:
    limit = max_pixels()
    if image.width * image.height > limit:
        raise ImageError(
            f"the PIL image has {image.width}x{image.height} pixels, and an image may have {limit}:"
            f" set {MAX_PIXELS_VARIABLE} to allow more"
        )
    try:
        if image.mode == "I" or image.mode.startswith("I;16"):
            values = np.asarray(image)
            if values.min(initial=0) < 0 or values.max(initial=0) > 0xFFFF:
                raise ImageError("the PIL image has gray values outside 0 to 65535")
            gray = (values >> 8).astype(np.uint8)
            return np.repeat(gray[..., None], 3, axis=2)
        if image.mode == "F":
            raise ImageError("the PIL image has mode F: convert it to RGB or L first")
        if image.mode == "CMYK":
            return _bgr_of_cmyk(np.asarray(image), tiff=image.format == "TIFF")
        return np.ascontiguousarray(np.asarray(image.convert("RGB"))[..., ::-1])
    except (OSError, SyntaxError) as error:  # PIL reads the pixels of a file only now
        raise ImageError(f"the PIL image cannot be read: {printable(str(error))}") from error


def _bgr_of_cmyk(ink: npt.NDArray[np.uint8], *, tiff: bool) -> npt.NDArray[np.uint8]:
    """Return uint8 (H, W, 3), BGR, of CMYK (H, W, 4), to the bit as OpenCV reads such files."""
    colours, light = ink[..., 2::-1].astype(np.int32), 255 - ink[..., 3:].astype(np.int32)
    # libtiff and OpenCV's reader of JPEG files round in different ways.
    bgr = (255 - colours) * light // 255 if tiff else light - (colours * light >> 8)
    return bgr.astype(np.uint8)


def read_labels(path: Path, *, size: tuple[int, int] | None = None) -> npt.NDArray[np.int32]:
    """Return a label map, int32 (H, W): palette indices, or 8- or 16-bit gray values.

    Args:
        path: A PNG or other lossless image.
        size: Required height and width; None: any.

    Raises:
        DatasetError: The file is missing, not an image, damaged, or has several channels or the
            wrong size.
    """
    data, header = read_file(path)
    step = 1
    if header.color == PALETTE:
        data = indices_as_gray(data)
        step = 255 // ((1 << header.bits) - 1)  # decoders scale fewer bits to 0 to 255
    labels = _decode(path, data, header, cv2.IMREAD_UNCHANGED)
    if header.color == GRAY_ALPHA:
        labels = labels[..., 0]
    if labels.ndim != 2:
        raise DatasetError(f"{_name(path)} has {labels.shape[2]} channels; labels need one")
    if not np.issubdtype(labels.dtype, np.integer):
        raise DatasetError(
            f"{_name(path)} holds values of {labels.dtype}; labels are whole numbers"
        )
    if size is not None:
        check_size(path, (labels.shape[0], labels.shape[1]), size)
    return labels.astype(np.int32) // step if step > 1 else labels.astype(np.int32)


def read_file(path: Path) -> tuple[bytes, Header]:
    """Return the bytes and the checked header of an image file.

    Raises:
        DatasetError: As `read_image`, except that pixels are not decoded.
    """
    limit = max_pixels()
    try:
        # Non-blocking, because opening a pipe without a writer would block forever.
        with open(path, "rb", opener=lambda name, flags: os.open(name, flags | os.O_NONBLOCK)) as f:
            status = os.fstat(f.fileno())
            if not stat.S_ISREG(status.st_mode):
                raise DatasetError(f"{_name(path)} is not a file")
            if status.st_size > limit * _BYTES_A_PIXEL + _BYTES_BESIDE:
                raise DatasetError(
                    f"{_name(path)} has {status.st_size} bytes, more than any image of"
                    f" {limit} pixels"
                )
            data = f.read()
    except FileNotFoundError:
        raise DatasetError(f"there is no file {_name(path)}") from None
    except OSError as error:
        raise DatasetError(f"cannot read {_name(path)}: {error.strerror}") from None
    try:
        header = read_header(data)
        if header.kind == "PNG":
            check_png_chunks(data)
    except ValueError as error:
        raise DatasetError(f"{_name(path)} is not an image, or it is damaged: {error}") from None
    if header.width * header.height > limit:
        raise DatasetError(
            f"{_name(path)} has {header.width}x{header.height} pixels, and an image may have"
            f" {limit}: if you trust it, set {MAX_PIXELS_VARIABLE}={header.width * header.height}"
        )
    return data, header


def _name(path: Path | str) -> str:
    """Return a path as printable text for messages."""
    return printable(str(path))


def _decode(path: Path, data: bytes, header: Header, flags: int) -> npt.NDArray[np.generic]:
    buffer = np.frombuffer(data if header.upright is None else header.upright, np.uint8)
    try:
        pixels = cv2.imdecode(buffer, flags | cv2.IMREAD_IGNORE_ORIENTATION)
    except cv2.error:
        pixels = None
    if pixels is None:
        raise DatasetError(
            f"{_name(path)} is not an image, or it is damaged: its pixels cannot be decoded"
        )
    return pixels


def check_size(path: Path, size: tuple[int, int], wanted: tuple[int, int]) -> None:
    """Raise `DatasetError` unless labels have the size (height, width) of their image."""
    if size != wanted:
        raise DatasetError(
            f"{_name(path)} is {size[1]}x{size[0]} pixels, but its image is {wanted[1]}x{wanted[0]}"
        )


def values_of(ids: npt.NDArray[np.int32]) -> list[int]:
    """Return the distinct values of a map of non-negative ids, in ascending order."""
    if ids.max() < _COUNTABLE:
        return np.flatnonzero(np.bincount(ids.reshape(-1))).tolist()
    return np.unique(ids).tolist()


def semantic_of(
    ids: npt.NDArray[np.int32],
    table: Mapping[int, int],
    *,
    source: Path | str,
    complaint: str = "ids outside the taxonomy",
) -> npt.NDArray[np.uint8]:
    """Return the semantic class of each pixel, uint8 (H, W), by looking up ids (H, W) in a table.

    Raises:
        DatasetError: Ids are not in the table; the message names ``source`` and the ids.
    """
    present = values_of(ids)
    unknown = [value for value in present if value not in table]
    if unknown:
        shown = ", ".join(str(value) for value in unknown[:5])
        raise DatasetError(f"{_name(source)}: {complaint}: {shown}")
    classes = np.array([table[value] for value in present], np.uint8)
    if present[-1] < _COUNTABLE:
        lookup = np.zeros(present[-1] + 1, np.uint8)
        lookup[present] = classes
        return lookup[ids]
    return classes[np.searchsorted(present, ids)]
