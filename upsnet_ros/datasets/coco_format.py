"""Reads the COCO panoptic format: a JSON file of annotations, and a PNG of segment ids for each.

Files may come from untrusted sources, so every field is checked on reading. Errors are one line
with the file, the position in it and the value.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import cv2
import numpy as np
import numpy.typing as npt

from upsnet_ros.datasets.images import RGB, RGBA, read_file
from upsnet_ros.datasets.taxonomy import Taxonomy
from upsnet_ros.errors import DatasetError, printable

#: The largest id that three bytes hold.
MAX_SEGMENT_ID = (1 << 24) - 1
_LARGEST = (1 << 31) - 1  # of other ids
_LONGEST = 500  # of names, which stand in tables and messages
_COLORS = {0: "gray", 2: "RGB", 3: "palette", 4: "gray and alpha", 6: "RGBA"}

ImageId = int | str
T = TypeVar("T")


class Segment(NamedTuple):
    """One entry of segments_info; `area` and `score` are None if missing."""

    id: int
    category_id: int
    crowd: bool
    area: int | None
    score: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Category:
    """A category of the file; ``color`` (RGB, 0 to 255) is None if missing."""

    id: int
    name: str
    is_thing: bool
    color: tuple[int, int, int] | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Annotation:
    """The segments of one image.

    Attributes:
        image_id: Id of its image, which also matches it with annotations of other files.
        file_name: Name of the PNG as in the file; resolve it with `file_inside`.
        segments: Its segments, with unique ids.
        video: ``video_id`` of the annotation or its image; None if missing.
        number: ``frame_id`` or ``frame_index`` along the video; None if missing.
    """

    image_id: ImageId
    file_name: str
    segments: tuple[Segment, ...]
    video: ImageId | None
    number: int | None


@dataclass(frozen=True, slots=True, kw_only=True)
class PanopticFile:
    """A panoptic JSON file.

    Attributes:
        path: Path of the file.
        annotations: One per image, in the order of the file.
        images: ``file_name`` by image id, for entries with both.
        categories: The categories, with unique ids; empty if the file has none.
    """

    path: Path
    annotations: tuple[Annotation, ...]
    images: Mapping[ImageId, str]
    categories: tuple[Category, ...]


def read_panoptic_file(path: Path, *, areas: bool = False) -> PanopticFile:
    """Read and check a panoptic JSON file.

    Args:
        path: The file.
        areas: Read the areas of segments; the official tools use them for ground truth only.

    Raises:
        DatasetError: The file cannot be read, or a field is missing or invalid.
    """
    try:
        content = json.loads(path.read_bytes())
    except OSError as error:
        raise DatasetError(f"cannot read {path}: {error.strerror}") from None
    except RecursionError:
        raise DatasetError(f"{path} is not a panoptic file: it is nested too deeply") from None
    except ValueError as error:
        raise DatasetError(f"{path} is not a JSON file: {error}") from None
    if not isinstance(content, dict) or not isinstance(content.get("annotations"), list):
        raise DatasetError(f"{path} has no list of annotations: it is not a panoptic file")
    top = _Row(content, (str(path),))
    images = _images(content)
    annotations = tuple(_annotation(row, images, areas) for row in top.rows("annotations"))
    for image_id in _repeated(annotation.image_id for annotation in annotations):
        name = printable(str(image_id))
        raise DatasetError(f"{path}: there are two annotations of image_id {name}")
    categories = tuple(map(_category, top.rows("categories"))) if "categories" in content else ()
    for number in _repeated(category.id for category in categories):
        raise DatasetError(f"{path}: there are two categories of id {number}")
    names = {
        image_id: row["file_name"]
        for image_id, row in images.items()
        if isinstance(row.get("file_name"), str) and _can_be_a_file(row["file_name"])
    }
    return PanopticFile(path=path, annotations=annotations, images=names, categories=categories)


def file_inside(folder: Path, name: str) -> Path:
    """Return the path of a file named by a dataset; it must be inside the dataset's folder.

    Absolute names and names with ``..`` are accepted if the result is inside the folder. Symbolic
    links in the folder are trusted and followed.

    Raises:
        DatasetError: The file would be outside the folder, or the name is invalid.
    """
    root = os.path.normpath(folder.absolute())
    path = os.path.normpath(Path(root) / name)
    for base in (root, os.path.realpath(root)):
        if os.path.commonpath((base, path)) == base:
            return folder / os.path.relpath(path, base)
    raise DatasetError(f"{printable(name)} lies outside {folder}, the folder of its dataset")


def read_segment_ids(path: Path) -> npt.NDArray[np.uint32]:
    """Return the ids R + 256 G + 65536 B of a PNG, uint32 (H, W); alpha is ignored.

    Raises:
        DatasetError: The file is missing, damaged, too large, or not an 8-bit RGB or RGBA PNG.
    """
    # Imported here because readers of other datasets work without it.
    from kornia_rs.io import decode_image_png_u8

    data, header = read_file(path)
    if header.bits != 8 or header.color not in (RGB, RGBA):
        form = f"a {header.kind}"
        if header.kind == "PNG":
            form = f"{_COLORS.get(header.color, 'of unknown colors')}, {header.bits} bits"
        raise DatasetError(
            f"{printable(str(path))} is {form}; segment ids need an RGB PNG of 8 bits"
        )
    mode = "rgb" if header.color == RGB else "rgba"
    try:
        # Ten times faster than OpenCV; decoding dominates the evaluation of files.
        pixels = decode_image_png_u8(data, (header.height, header.width), mode)
    except Exception as error:  # the decoder raises no specific type
        raise DatasetError(f"{printable(str(path))} is damaged: {printable(str(error))}") from error
    # Four bytes per pixel can be viewed as one integer.
    rgba = cv2.cvtColor(pixels, cv2.COLOR_RGB2RGBA) if mode == "rgb" else pixels
    ids = rgba.view("<u4")[..., 0]
    ids &= np.uint32(MAX_SEGMENT_ID)
    return ids


def rgb_ids(ids: npt.NDArray[np.int32]) -> npt.NDArray[np.uint8]:
    """Return the pixels of a PNG of segment ids: uint8 (H, W, 3) **RGB**, R + 256 G + 65536 B."""
    return np.stack([ids, ids >> 8, ids >> 16], axis=2).astype(np.uint8)


def categories_of(taxonomy: Taxonomy) -> list[dict[str, Any]]:
    """Return the ``categories`` of a panoptic JSON file, in the order of the taxonomy."""
    return [
        {
            "id": info.id,
            "name": info.name,
            "isthing": int(info.is_thing),
            "color": list(info.color),
        }
        for info in taxonomy.classes
    ]


class _Row:
    """A JSON object and its position in the file, with checked access to its fields."""

    __slots__ = ("_values", "_where")

    def __init__(self, values: Any, where: tuple[str | int, ...]) -> None:
        self._values, self._where = values, where
        if not isinstance(values, dict):
            raise DatasetError(f"{_place(where)} is {_shown(values)}, not an object")

    def __contains__(self, key: str) -> bool:
        return key in self._values

    def sibling(self, name: str) -> tuple[str | int, ...]:
        return self._where[0], name

    def rows(self, key: str) -> Iterator[_Row]:
        values, where = self.get(key), (*self._where, key)
        if not isinstance(values, list):
            raise self.error(key, "a list")
        return (_Row(value, (*where, place)) for place, value in enumerate(values))

    def get(self, key: str) -> Any:
        if key not in self._values:
            raise DatasetError(f"{_place(self._where)} has no {key}")
        return self._values[key]

    def failure(self, key: str, text: str) -> DatasetError:
        return DatasetError(f"{_place((*self._where, key))} {text}")

    def error(self, key: str, wanted: str) -> DatasetError:
        return self.failure(key, f"is {_shown(self._values[key])}, not {wanted}")

    def integer(self, key: str, low: int, high: int) -> int:
        value = _whole(self.get(key))
        if value is None or not low <= value <= high:
            raise self.error(key, f"a whole number from {low} to {high}")
        return value

    def number(self, key: str) -> float:
        value = self.get(key)
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise self.error(key, "a number")
        try:
            number = float(value)
        except OverflowError:  # of an integer
            number = math.inf
        if not math.isfinite(number):
            raise self.error(key, "a finite number")
        return number

    def flag(self, key: str) -> bool:
        value = self.get(key)
        if not isinstance(value, int | float) or value not in (0, 1):
            raise self.error(key, "0 or 1")
        return bool(value)

    def text(self, key: str) -> str:
        value = self.get(key)
        if not isinstance(value, str) or len(value) > _LONGEST:
            raise self.error(key, f"a text of at most {_LONGEST} characters")
        return value

    def file_name(self, key: str) -> str:
        name = self.get(key)
        if not isinstance(name, str) or not _can_be_a_file(name):
            raise self.error(key, "the name of a file")
        return name

    def name(self, key: str) -> ImageId:
        value = self.get(key)
        number = _whole(value)
        if number is not None and abs(number) >> 63:
            raise self.error(key, "a whole number of 64 bits")
        return self.text(key) if number is None else number


def _annotation(row: _Row, images: Mapping[ImageId, Mapping[str, Any]], areas: bool) -> Annotation:
    image_id = row.name("image_id")
    image = _Row(images.get(image_id, {}), row.sibling(f"image {image_id}"))
    video = number = None
    for source in (row, image):
        if video is None and "video_id" in source and source.get("video_id") is not None:
            video = source.name("video_id")
        for key in ("frame_id", "frame_index"):
            if number is None and key in source:
                number = _count(source.get(key))
    segments = tuple(_segment(item, areas) for item in row.rows("segments_info"))
    for number in _repeated(segment.id for segment in segments):
        raise row.failure("segments_info", f"lists segment id {number} twice")
    return Annotation(
        image_id=image_id,
        file_name=row.file_name("file_name"),
        segments=segments,
        video=video,
        number=number,
    )


def _segment(row: _Row, areas: bool) -> Segment:
    return Segment(
        id=row.integer("id", 1, MAX_SEGMENT_ID),
        category_id=row.integer("category_id", -_LARGEST, _LARGEST),
        crowd="iscrowd" in row and row.flag("iscrowd"),
        area=row.integer("area", 0, 1 << 53) if areas and "area" in row else None,
        score=row.number("score") if "score" in row else None,
    )


def _category(row: _Row) -> Category:
    return Category(
        id=row.integer("id", -_LARGEST, _LARGEST),
        name=printable(row.text("name")),
        is_thing=row.flag("isthing"),
        color=_color(row),
    )


def _color(row: _Row) -> tuple[int, int, int] | None:
    if "color" not in row or row.get("color") is None:
        return None
    value = row.get("color")
    levels = [_whole(level) for level in value] if isinstance(value, list) else []
    if len(levels) != 3 or not all(level is not None and 0 <= level <= 255 for level in levels):
        raise row.error("color", "three whole numbers from 0 to 255")
    red, green, blue = (int(level or 0) for level in levels)
    return red, green, blue


def _images(content: Mapping[str, Any]) -> dict[ImageId, dict[str, Any]]:
    """Return the entries of ``images`` by id; users check for missing entries."""
    rows = content.get("images")
    found: dict[ImageId, dict[str, Any]] = {}
    for row in rows if isinstance(rows, list) else ():
        image_id = row.get("id") if isinstance(row, dict) else None
        if not isinstance(image_id, str):
            image_id = _whole(image_id)
        if image_id is not None:
            found[image_id] = row
    return found


def _repeated(values: Iterable[T]) -> Iterator[T]:
    """Yield values that occurred before."""
    seen: set[T] = set()
    for value in values:
        if value in seen:
            yield value
        seen.add(value)


def _can_be_a_file(name: str) -> bool:
    """Return whether a name is valid for a file; the file need not exist."""
    try:
        data = os.fsencode(name)
    except UnicodeEncodeError:
        return False
    fits = len(data) < 1024 and all(len(part) < 256 for part in data.split(b"/"))
    return fits and data != b"" and b"\0" not in data


def _whole(value: Any) -> int | None:
    """Return a JSON number without a fraction as int; None for anything else."""
    if isinstance(value, float) and value.is_integer():
        return int(value)
    return value if isinstance(value, int) and not isinstance(value, bool) else None


def _count(value: Any) -> int | None:
    """Return a frame number, which some files store as text; None if invalid."""
    if isinstance(value, str) and value.isdecimal() and len(value) < 19:
        return int(value)
    return _whole(value)


def _place(where: tuple[str | int, ...]) -> str:
    """Return a position as text: ``file.json: annotations[3].segments_info[0].id``."""
    file, *rest = where
    text = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in rest)
    return f"{file}: {text.removeprefix('.')}" if text else str(file)


def _shown(value: Any) -> str:
    if isinstance(value, dict | list):
        return "an object" if isinstance(value, dict) else "a list"
    try:
        text = json.dumps(value)
    except ValueError:  # an integer of thousands of digits
        return "a huge number"
    return printable(text if len(text) <= 60 else f"{text[:57]}...")
