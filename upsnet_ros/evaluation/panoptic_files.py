"""Reads ground truth and predictions from panoptic JSON and PNG files in the COCO format."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePath

import numpy as np
import numpy.typing as npt

from upsnet_ros.datasets.coco_format import (
    Annotation,
    ImageId,
    PanopticFile,
    file_inside,
    read_panoptic_file,
    read_segment_ids,
)
from upsnet_ros.datasets.images import image_files, read_image, read_labels
from upsnet_ros.datasets.taxonomy import ClassInfo
from upsnet_ros.errors import DatasetError, EvaluationError, listed, printable
from upsnet_ros.evaluation.maps import (
    Categories,
    PanopticMap,
    Segments,
    frame_name,
    frame_path,
    sequence_position,
)
from upsnet_ros.evaluation.metrics import EvaluationFrame
from upsnet_ros.evaluation.report import safe_colors

# Extensions in order of preference, if a folder has several files for a frame.
_PHOTOS = (".jpg", ".jpeg", ".png", ".webp", ".tif", ".tiff", ".bmp", ".ppm", ".pgm")
_MASKS = (".png", ".tif", ".tiff", ".bmp", ".pgm", ".webp", ".ppm")


@dataclass(frozen=True, slots=True, kw_only=True)
class Extras:
    """Optional folders with further files, which are matched to frames by name.

    Attributes:
        images: The images, for reports.
        truth_unknown: Masks of objects outside the classes; nonzero means unknown.
        prediction_unknown: Masks of pixels predicted as unknown; nonzero means unknown.
        unknown_score: 8-bit gray images; higher means more likely unknown.
    """

    images: Path | None = None
    truth_unknown: Path | None = None
    prediction_unknown: Path | None = None
    unknown_score: Path | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class _Entry:
    """One frame.

    Attributes:
        name: Name of the frame in reports.
        keys: Names that its files in `Extras` may have, the most likely first.
        image: File name of the image, if the ground truth has it.
        sequence: Sequence of the frame.
        number: Its number along the sequence.
        truth: Its ground-truth annotation.
        prediction: Its predicted annotation.
    """

    name: str
    keys: tuple[str, ...]
    image: str | None
    sequence: str
    number: int
    truth: Annotation
    prediction: Annotation


@dataclass(frozen=True, slots=True)
class _Folder:
    """The files of a folder by frame name, with and without subfolders.

    Attributes:
        path: The folder.
        files: The file of each frame name.
        ambiguous: Two files of each frame name that is not unique.
    """

    path: Path
    files: Mapping[str, Path] = field(default_factory=dict)
    ambiguous: Mapping[str, tuple[Path, Path]] = field(default_factory=dict)

    def find(self, entry: _Entry) -> Path:
        for key in entry.keys:
            if key in self.files:
                return self.files[key]
        for key in entry.keys:
            if key in self.ambiguous:
                one, other = self.ambiguous[key]
                raise EvaluationError(f"{one} and {other} are both of frame {key}")
        raise EvaluationError(f"{entry.name}: there is no file for it in {self.path}")


class PanopticFiles:
    """The frames of two panoptic annotation files.

    Annotations are matched by image_id, as in the official tools. If the files have no image_id in
    common, they are matched by the names of their PNG files.

    Args:
        truth_json: Annotations, images and categories of the ground truth.
        truth_folder: Folder of its PNG files.
        prediction_json: Annotations of the prediction.
        prediction_folder: Folder of its PNG files.
        extras: Further folders.
        allow_missing: Leave out frames that one side lacks and add a note, instead of raising.
        video: Frames come from videos: see `sequence_position`. A ``video_id`` determines the
            sequence regardless of names.

    Attributes:
        categories: The categories of the ground truth.
        notes: One line for each group of frames left out and each disagreement of the files.

    Raises:
        EvaluationError: A file is missing or malformed, the two sets of frames differ, or the
            prediction has a category that the ground truth lacks.
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
        video: bool = False,
    ) -> None:
        extras = extras or Extras()
        self.notes: list[str] = []
        self._truth_folder, self._prediction_folder = truth_folder, prediction_folder
        try:
            truth_file = read_panoptic_file(truth_json, areas=True)
            prediction_file = read_panoptic_file(prediction_json)
        except DatasetError as error:
            raise EvaluationError(str(error)) from error
        self.categories = _categories(truth_file)
        for file in (truth_file, prediction_file):
            self._check_categories(file)
        self._compare_categories(prediction_file, truth_json)
        truth = {annotation.image_id: annotation for annotation in truth_file.annotations}
        prediction = self._joined(prediction_file, truth, truth_folder)
        names = _names(truth_file, truth_folder)
        missing: dict[str, list[ImageId]] = {
            f"{prediction_json} lacks frames of the truth": [
                key for key in truth if key not in prediction
            ],
            f"{truth_json} lacks frames of the prediction": [
                key for key in prediction if key not in truth
            ],
            f"{truth_folder} lacks files": _absent(truth, truth_folder),
            f"{prediction_folder} lacks files": _absent(prediction, prediction_folder),
        }
        left_out: set[ImageId] = set()
        for what, ids in missing.items():
            if not ids:
                continue
            line = f"{what}: {listed(names.get(key, printable(str(key))) for key in ids)}"
            if not allow_missing:
                raise EvaluationError(f"{line} (--allow-missing leaves these frames out)")
            self.notes.append(f"left out: {line}")
            left_out.update(ids)
        kept = [key for key in truth if key in prediction and key not in left_out]
        if not kept:
            raise EvaluationError(f"{truth_json} and {prediction_json} have no frame in common")
        bare = Counter(frame_name(row.file_name) for row in truth.values())
        positions = _positions(
            [truth[key] for key in kept], [names[key] for key in kept], video=video
        )
        self._entries = [
            _Entry(
                name=names[key],
                keys=_keys(
                    names[key],
                    [truth_file.images.get(key), truth[key].file_name, prediction[key].file_name],
                    bare=bare[frame_name(truth[key].file_name)] == 1,
                ),
                image=truth_file.images.get(key),
                sequence=sequence,
                number=number,
                truth=truth[key],
                prediction=prediction[key],
            )
            for key, (sequence, number) in zip(kept, positions, strict=True)
        ]
        self._images = _folder(extras.images, _PHOTOS)
        self._truth_unknown = _folder(extras.truth_unknown, _MASKS, before="_unknownMask")
        self._prediction_unknown = _folder(extras.prediction_unknown, _MASKS)
        self._unknown_score = _folder(extras.unknown_score, _MASKS)

    def __len__(self) -> int:
        return len(self._entries)

    def __getitem__(self, index: int) -> EvaluationFrame:
        """Read the files of frame number ``index``.

        Raises:
            EvaluationError: A file is missing or invalid; the message names it.
        """
        entry = self._entries[index]
        try:
            return EvaluationFrame(
                name=entry.name,
                sequence=entry.sequence,
                number=entry.number,
                truth=_map(entry.truth, self._truth_folder),
                prediction=_map(entry.prediction, self._prediction_folder),
                image=self._image(entry),
                truth_unknown=_mask(self._truth_unknown, entry),
                prediction_unknown=_mask(self._prediction_unknown, entry),
                unknown_scores=_scores(self._unknown_score, entry),
            )
        except DatasetError as error:
            raise EvaluationError(str(error)) from error

    def _image(self, entry: _Entry) -> npt.NDArray[np.uint8] | None:
        if self._images is None:
            return None
        if entry.image is not None:
            path = file_inside(self._images.path, entry.image)
            if path.is_file():
                return read_image(path)
        return read_image(self._images.find(entry))

    def _check_categories(self, file: PanopticFile) -> None:
        used = {item.category_id for row in file.annotations for item in row.segments}
        try:
            self.categories.indices(np.array(sorted(used), np.int64))
        except EvaluationError as error:
            raise EvaluationError(f"{file.path}: {error}") from None

    def _compare_categories(self, prediction: PanopticFile, truth_json: Path) -> None:
        """Add a note if category names differ; predictions are matched by category id."""
        used = {item.category_id for row in prediction.annotations for item in row.segments}
        names = {info.id: info.name for info in self.categories.classes}
        other = [
            f"{row.id} is {row.name!r}, not {names[row.id]!r}"
            for row in prediction.categories
            if row.id in used and row.name != names[row.id]
        ]
        if other:
            self.notes.append(
                f"{prediction.path} has other categories than {truth_json}: {listed(other)}"
            )

    def _joined(
        self, file: PanopticFile, truth: Mapping[ImageId, Annotation], truth_folder: Path
    ) -> dict[ImageId, Annotation]:
        """Return the annotations of the prediction by the image ids of the ground truth."""
        own = {annotation.image_id: annotation for annotation in file.annotations}
        if not own.keys().isdisjoint(truth):
            return own
        by_file = {
            _relative(annotation, self._prediction_folder): annotation
            for annotation in file.annotations
        }
        joined: dict[ImageId, Annotation] = {
            image_id: by_file[path]
            for image_id, annotation in truth.items()
            if (path := _relative(annotation, truth_folder)) in by_file
        }
        if not joined:
            return own
        self.notes.append(f"{file.path} has other image ids than the truth: joined by file names")
        taken = {annotation.image_id for annotation in joined.values()}
        return joined | {key: row for key, row in own.items() if key not in taken}


def _categories(file: PanopticFile) -> Categories:
    missing = any(row.color is None for row in file.categories)
    colors = safe_colors(len(file.categories)) if missing else ()
    try:
        return Categories(
            tuple(
                ClassInfo(
                    id=row.id,
                    name=row.name,
                    is_thing=row.is_thing,
                    color=row.color or colors[index],
                    semantic_id=index,
                )
                for index, row in enumerate(file.categories)
            )
        )
    except EvaluationError as error:
        raise EvaluationError(f"{file.path}: {error}") from None


def _relative(annotation: Annotation, folder: Path) -> str:
    """Return the path of the PNG in its folder, without the suffixes that `frame_path` removes."""
    try:
        path = file_inside(folder, annotation.file_name)
    except DatasetError as error:
        raise EvaluationError(str(error)) from error
    return frame_path(path.relative_to(folder))


def _names(file: PanopticFile, folder: Path) -> dict[ImageId, str]:
    """Return the name of each frame: its image id, or its file path if the id is a number."""
    names = {
        row.image_id: printable(
            row.image_id if isinstance(row.image_id, str) else _relative(row, folder)
        )
        for row in file.annotations
    }
    counts = Counter(names.values())
    return {
        key: name if counts[name] == 1 and name else f"{name} (image_id {key!r})"
        for key, name in names.items()
    }


def _keys(name: str, files: Iterable[str | None], *, bare: bool) -> tuple[str, ...]:
    """Return the names that further files of a frame may have.

    Args:
        name: Name of the frame.
        files: Its image and PNG files.
        bare: Also include names without folders, because they are unique.
    """
    paths = [PurePath(file) for file in files if file is not None]
    short = map(frame_name, paths) if bare else ()
    return tuple(dict.fromkeys([name, *map(frame_path, paths), *short]))


def _positions(
    annotations: Sequence[Annotation], names: Sequence[str], *, video: bool
) -> list[tuple[str, int]]:
    """Return sequence and number of each frame."""
    positions = []
    for annotation, name in zip(annotations, names, strict=True):
        sequence, number = sequence_position(name, video=video)
        if sequence == name:
            path = frame_path(PurePath(annotation.file_name))
            other, number = sequence_position(path, video=video)
            sequence = name if other == path else other
        if annotation.video is not None:
            sequence = f"video {printable(str(annotation.video))}"
        positions.append((sequence, number if annotation.number is None else annotation.number))
    # If the numbers of a sequence are not unique, use the order of the file instead.
    groups: dict[str, list[int]] = {}
    for index, (sequence, _) in enumerate(positions):
        groups.setdefault(sequence, []).append(index)
    for sequence, group in groups.items():
        if len({positions[index][1] for index in group}) < len(group):
            for number, index in enumerate(group):
                positions[index] = (sequence, number)
    return positions


def _absent(annotations: Mapping[ImageId, Annotation], folder: Path) -> list[ImageId]:
    """Return the image ids of the frames whose PNG is missing."""
    if not folder.is_dir():
        raise EvaluationError(f"there is no folder {folder}")
    try:
        return [
            key
            for key, annotation in annotations.items()
            if not file_inside(folder, annotation.file_name).is_file()
        ]
    except DatasetError as error:
        raise EvaluationError(str(error)) from error


def _folder(path: Path | None, endings: Sequence[str], *, before: str = "") -> _Folder | None:
    """Index the files of a folder by frame name.

    Args:
        path: The folder; None: no folder.
        endings: File extensions in order of preference.
        before: A suffix of file names that is not part of the frame name; if any file has it, only
            such files are used.
    """
    if path is None:
        return None
    if not path.is_dir():
        raise EvaluationError(f"there is no folder {path}")
    try:
        found = [file for file in image_files(path, recursive=True) if _ending(file) in endings]
    except DatasetError as error:
        raise EvaluationError(str(error)) from error
    marked = [file for file in found if before and file.stem.endswith(before)]
    files: dict[str, Path] = {}
    ambiguous: dict[str, tuple[Path, Path]] = {}
    for file in sorted(marked or found, key=lambda file: endings.index(_ending(file))):
        inside = file.relative_to(path)
        for key in dict.fromkeys((frame_path(inside), frame_name(inside))):
            other = files.setdefault(key, file)
            if other != file and _ending(other) == _ending(file):
                ambiguous[key] = (other, file)
    return _Folder(path, {k: file for k, file in files.items() if k not in ambiguous}, ambiguous)


def _ending(file: PurePath) -> str:
    return file.suffix.lower()


def _mask(folder: _Folder | None, entry: _Entry) -> npt.NDArray[np.bool_] | None:
    return None if folder is None else read_labels(folder.find(entry)) > 0


def _scores(folder: _Folder | None, entry: _Entry) -> dict[str, npt.NDArray[np.uint8]]:
    if folder is None:
        return {}
    path = folder.find(entry)
    values = read_labels(path)
    if values.max(initial=0) > np.iinfo(np.uint8).max:
        raise EvaluationError(f"{path} has values above 255: scores must be 8-bit gray images")
    return {"unknown_score": values.astype(np.uint8)}


def _map(annotation: Annotation, folder: Path) -> PanopticMap:
    segments = annotation.segments
    areas = [segment.area for segment in segments if segment.area is not None]
    scores = [segment.score for segment in segments if segment.score is not None]
    return PanopticMap(
        pixels=read_segment_ids(file_inside(folder, annotation.file_name)),
        segments=Segments.from_arrays(
            [segment.id for segment in segments],
            [segment.category_id for segment in segments],
            crowd=[segment.crowd for segment in segments],
            areas=areas if len(areas) == len(segments) else None,
            scores=scores if len(scores) == len(segments) else None,
        ),
    )
