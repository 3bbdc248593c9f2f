"""Truth and predictions as panoptic JSON and PNG files, as COCO and Cityscapes have them."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from upsnet_ros.datasets.taxonomy import ClassInfo
from upsnet_ros.evaluation.categories import Categories
from upsnet_ros.evaluation.errors import EvaluationError
from upsnet_ros.evaluation.maps import PanopticMap, Segments
from upsnet_ros.evaluation.measures import EvaluationFrame
from upsnet_ros.evaluation.naming import frame_name, place_in_sequence
from upsnet_ros.evaluation.png import read_mask, read_segment_ids

_NAMED = 5


@dataclass(frozen=True, slots=True, kw_only=True)
class Extras:
    """Folders beside the panoptic files; a file belongs to the frame whose name it has.

    Attributes:
        images: The frames themselves, for reports.
        truth_unknown: Masks of objects outside the classes, not 0 where there is one.
        prediction_unknown: Masks of pixels called unknown, not 0 where they are.
        unknown_score: Gray images that grow with the likelihood of unknown.
    """

    images: Path | None = None
    truth_unknown: Path | None = None
    prediction_unknown: Path | None = None
    unknown_score: Path | None = None


@dataclass(frozen=True, slots=True)
class _Entry:
    name: str
    truth: dict[str, Any]
    prediction: dict[str, Any]


@dataclass(frozen=True, slots=True)
class _Folder:
    """The files of a folder by the name of their frame."""

    path: Path
    files: Mapping[str, Path] = field(default_factory=dict)

    def __getitem__(self, name: str) -> Path:
        if name not in self.files:
            raise EvaluationError(f"{name}: there is no file for it in {self.path}")
        return self.files[name]


class PanopticFiles:
    """The frames of two panoptic annotation files.

    Args:
        truth_json: Annotations, images and categories of the truth.
        truth_folder: The PNG files it names.
        prediction_json: Annotations of the prediction.
        prediction_folder: The PNG files it names.
        extras: Further folders.
        allow_missing: Leave out frames that one side lacks, and tell in `notes`.

    Attributes:
        categories: The truth's categories.
        notes: What was left out, a line each.

    Raises:
        EvaluationError: A file is missing or not of this form, the two sets of frames differ, or
            a category is not the truth's.
    """

    def __init__(
        self,
        *,
        truth_json: Path,
        truth_folder: Path,
        prediction_json: Path,
        prediction_folder: Path,
        extras: Extras | None = None,
        allow_missing: bool = False,
    ) -> None:
        extras = extras or Extras()
        self.notes: list[str] = []
        self._truth_folder, self._prediction_folder = truth_folder, prediction_folder
        content = _load(truth_json)
        self.categories = _categories(content, truth_json)
        truth = _annotations(content, truth_json)
        prediction = _annotations(_load(prediction_json), prediction_json)
        self._check_categories(truth, truth_json)
        self._check_categories(prediction, prediction_json)
        missing = {
            f"{prediction_json} lacks frames of the truth": [
                n for n in truth if n not in prediction
            ],
            f"{truth_json} lacks frames of the prediction": [
                n for n in prediction if n not in truth
            ],
            f"{truth_folder} lacks files": _absent(truth, truth_folder),
            f"{prediction_folder} lacks files": _absent(prediction, prediction_folder),
        }
        left_out: set[str] = set()
        for what, names in missing.items():
            if not names:
                continue
            line = f"{what}: {listed(names)}"
            if not allow_missing:
                raise EvaluationError(f"{line} (--allow-missing goes on without them)")
            self.notes.append(f"left out: {line}")
            left_out.update(names)
        self._entries = [
            _Entry(name, truth[name], prediction[name])
            for name in truth
            if name in prediction and name not in left_out
        ]
        if not self._entries:
            raise EvaluationError(f"{truth_json} and {prediction_json} have no frame in common")
        self._images = _folder(extras.images, "*.jpg", "*.jpeg", "*.png")
        self._truth_unknown = _folder(extras.truth_unknown, "*_unknownMask.png", "*.png")
        self._prediction_unknown = _folder(extras.prediction_unknown, "*.png")
        self._unknown_score = _folder(extras.unknown_score, "*.png")

    def __len__(self) -> int:
        return len(self._entries)

    def __getitem__(self, index: int) -> EvaluationFrame:
        """Read the files of frame number ``index``.

        Raises:
            EvaluationError: A file cannot be read, or lacks what is needed; it is named.
        """
        entry = self._entries[index]
        name = entry.name
        sequence, number = place_in_sequence(name)
        truth_unknown, prediction_unknown, score = (
            None if folder is None else read_mask(folder[name])
            for folder in (self._truth_unknown, self._prediction_unknown, self._unknown_score)
        )
        image = None
        if self._images is not None:
            image = cv2.imread(str(self._images[name]), cv2.IMREAD_COLOR)
            if image is None:
                raise EvaluationError(f"{self._images[name]} is no image, or it is damaged")
        return EvaluationFrame(
            name=name,
            sequence=sequence,
            number=number,
            truth=_map(entry.truth, self._truth_folder, trust_areas=True),
            prediction=_map(entry.prediction, self._prediction_folder, trust_areas=False),
            image=None if image is None else image.astype(np.uint8, copy=False),
            truth_unknown=None if truth_unknown is None else truth_unknown > 0,
            prediction_unknown=None if prediction_unknown is None else prediction_unknown > 0,
            unknown_scores={} if score is None else {"unknown_score": score},
        )

    def _check_categories(self, annotations: Mapping[str, dict[str, Any]], path: Path) -> None:
        used = {
            item["category_id"] for row in annotations.values() for item in row["segments_info"]
        }
        try:
            self.categories.places(np.array(sorted(used), np.int64))
        except EvaluationError as error:
            raise EvaluationError(f"{path}: {error}") from None


def listed(names: Iterable[str]) -> str:
    """The first few names, and how many there are."""
    names = list(names)
    more = f" and {len(names) - _NAMED} more" if len(names) > _NAMED else ""
    return ", ".join(names[:_NAMED]) + more


def _load(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_bytes())
    except OSError as error:
        raise EvaluationError(f"cannot read {path}: {error.strerror}") from None
    except ValueError as error:
        raise EvaluationError(f"{path} is no JSON file: {error}") from None
    if not isinstance(content, dict) or not isinstance(content.get("annotations"), list):
        raise EvaluationError(f"{path} has no list of annotations: it is no panoptic file")
    return content


def _categories(content: dict[str, Any], path: Path) -> Categories:
    try:
        return Categories(
            tuple(
                ClassInfo(
                    id=int(row["id"]),
                    name=str(row["name"]),
                    is_thing=bool(row["isthing"]),
                    color=tuple(row.get("color", (128, 128, 128))),
                    semantic_id=place,
                )
                for place, row in enumerate(content["categories"])
            )
        )
    except (KeyError, TypeError) as error:
        raise EvaluationError(
            f"{path}: its categories need id, name and isthing ({type(error).__name__} {error})"
        ) from None


def _annotations(content: dict[str, Any], path: Path) -> dict[str, dict[str, Any]]:
    """Annotations by the name of their frame."""
    annotations: dict[str, dict[str, Any]] = {}
    for row in content["annotations"]:
        try:
            image_id, file_name, segments = row["image_id"], row["file_name"], row["segments_info"]
            complete = all({"id", "category_id"} <= item.keys() for item in segments)
        except (KeyError, TypeError, AttributeError):
            complete = False
        if not complete:
            raise EvaluationError(
                f"{path}: an annotation needs image_id, file_name and segments_info with id and"
                f" category_id, unlike {str(row)[:120]}"
            )
        # COCO's image ids are numbers, which say less than its file names.
        name = image_id if isinstance(image_id, str) else frame_name(file_name)
        if name in annotations:
            raise EvaluationError(f"{path}: there are two annotations of frame {name}")
        annotations[name] = row
    return annotations


def _absent(annotations: Mapping[str, dict[str, Any]], folder: Path) -> list[str]:
    """Names of frames whose PNG is not there."""
    if not folder.is_dir():
        raise EvaluationError(f"there is no folder {folder}")
    present = {path.relative_to(folder).as_posix() for path in folder.rglob("*.png")}
    return [name for name, row in annotations.items() if row["file_name"] not in present]


def _folder(path: Path | None, *patterns: str) -> _Folder | None:
    """The files of the first pattern that any file has."""
    if path is None:
        return None
    if not path.is_dir():
        raise EvaluationError(f"there is no folder {path}")
    matches = (sorted(path.rglob(pattern)) for pattern in patterns)
    found = next(filter(None, matches), [])
    files: dict[str, Path] = {}
    for file in found:
        other = files.setdefault(frame_name(file), file)
        if other != file:
            raise EvaluationError(f"{other} and {file} are both of frame {frame_name(file)}")
    return _Folder(path, files)


def _map(row: dict[str, Any], folder: Path, *, trust_areas: bool) -> PanopticMap:
    infos = row["segments_info"]
    columns: dict[str, Any] = {"crowd": [bool(info.get("iscrowd", 0)) for info in infos]}
    if trust_areas and all("area" in info for info in infos):
        columns["areas"] = [info["area"] for info in infos]
    if all("score" in info for info in infos):
        columns["scores"] = [info["score"] for info in infos]
    path = folder / row["file_name"]
    try:
        segments = Segments.of(
            [info["id"] for info in infos], [info["category_id"] for info in infos], **columns
        )
    except EvaluationError as error:
        raise EvaluationError(f"{path}: {error}") from None
    return PanopticMap(pixels=read_segment_ids(path), segments=segments)
