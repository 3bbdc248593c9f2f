"""Panoptic maps (ground truth or prediction), their classes, and the pixels their segments share.

Overlaps are counted in one pass over two maps. Panoptic quality and related metrics are computed
from these small tables, and tables of several frames can be merged into those of a video.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import PurePath
from typing import Any

import numpy as np
import numpy.typing as npt

from upsnet_ros.datasets.taxonomy import ClassInfo, Taxonomy
from upsnet_ros.errors import EvaluationError, listed
from upsnet_ros.inference.frame import LABEL_DIVISOR, PanopticFrame

IntArray = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Categories:
    """The classes of an evaluation; all per-class arrays of this package use their order.

    Unlike a `Taxonomy`, these may come from a file, in any order and with id 0.

    Attributes:
        classes: The classes; ``semantic_id`` is ignored.

    Raises:
        EvaluationError: There are no classes, or two have the same id.
    """

    classes: tuple[ClassInfo, ...]

    def __post_init__(self) -> None:
        ids = [info.id for info in self.classes]
        if not ids:
            raise EvaluationError("there are no categories to evaluate")
        repeated = sorted({number for number in ids if ids.count(number) > 1})
        if repeated:
            raise EvaluationError(f"categories occur twice: {listed(repeated)}")

    @classmethod
    def from_taxonomy(cls, taxonomy: Taxonomy) -> Categories:
        """Return the classes of a taxonomy."""
        return cls(taxonomy.classes)

    def __len__(self) -> int:
        return len(self.classes)

    @cached_property
    def is_thing(self) -> npt.NDArray[np.bool_]:
        """Bool (C,): whether each class is a thing class."""
        return np.array([info.is_thing for info in self.classes])

    @cached_property
    def _order(self) -> tuple[IntArray, IntArray]:
        ids = np.array([info.id for info in self.classes], np.int64)
        order = np.argsort(ids)
        return ids[order], order

    def indices(self, ids: IntArray) -> IntArray:
        """Return the index in `classes` of each class id.

        Raises:
            EvaluationError: There are ids of no category.
        """
        known, order = self._order
        nearest = np.minimum(np.searchsorted(known, ids), len(known) - 1)
        unknown = known[nearest] != ids
        if unknown.any():
            raise EvaluationError(f"unknown categories: {listed(np.unique(ids[unknown]))}")
        return order[nearest]


_SUFFIX = re.compile(r"_(leftImg8bit|gtFine.*|newImg8bit.*|panoptic)$")
# At most 18 digits, so that the number fits into 64 bits.
_NUMBER = r"(?P<number>\d{1,18})"
#: Names that contain sequence and number.
_FORMS = [
    re.compile(form)
    for form in (
        # Cityscapes-VPS: 0005_0025_frankfurt_000000_001736
        r"(?P<sequence>(?:.*/)?\d{4})_\d{4}_[a-z-]+_\d{6}_(?P<number>\d{6})",
        # Cityscapes: aachen_000000_000019
        r"(?P<sequence>.+_\d{6})_(?P<number>\d{6})",
        # KITTI-STEP: 0002_000000
        r"(?P<sequence>(?:.*/)?\d{4})_(?P<number>\d{6})",
        # VIPER: 001_00001
        r"(?P<sequence>(?:.*/)?\d{3})_(?P<number>\d{5})",
        # BDD100K: b1c66a42-6f7d68ca-0000001
        r"(?P<sequence>(?:.*/)?[0-9a-f]{8}-[0-9a-f]{8})-(?P<number>\d{7})",
        # A folder of numbered frames: clip/00001, clip/frame_0001
        rf"(?P<sequence>.+/.*?){_NUMBER}",
    )
]
#: Any name that ends in a number: 1, frame_0001.
_COUNTER = re.compile(rf"(?P<sequence>.*?){_NUMBER}")


def frame_name(file: str | PurePath) -> str:
    """Return the name of a frame without folder, extension and Cityscapes suffixes."""
    return _SUFFIX.sub("", PurePath(file).stem)


def frame_path(file: PurePath) -> str:
    """Return the name of a frame with its folders: ``clip/00001``."""
    return (file.parent / frame_name(file)).as_posix()


def sequence_position(name: str, *, video: bool = False) -> tuple[str, int]:
    """Return the sequence of a frame, and its number along the sequence, from its name.

    Understands names of Cityscapes, Cityscapes-VPS, KITTI-STEP, VIPER and BDD100K, and numbered
    files in a folder. Any other image is its own sequence: its name and 0.

    Args:
        name: Name of the frame, with or without folders.
        video: Frames are known to come from videos: any trailing number counts.
    """
    for form in (*_FORMS, _COUNTER) if video else _FORMS:
        match = form.fullmatch(name)
        if match:
            return match["sequence"].rstrip("/_-. #") or ".", int(match["number"])
    return name, 0


#: Id of pixels that belong to no segment.
VOID = 0
# Up to this value, counting is faster than sorting.
_COUNTABLE = 1 << 17


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Segments:
    """A table of segments.

    Attributes:
        ids: int64 (S,), unique, without `VOID`.
        classes: int64 (S,) public class ids.
        crowd: bool (S,): groups of unseparated instances; only in ground truth.
        scores: float64 (S,), 0 to 1, or None if the segments have no scores.
        areas: int64 (S,) annotated areas in pixels, as used by the official tools; None: areas are
            counted.
    """

    ids: npt.NDArray[np.int64]
    classes: npt.NDArray[np.int64]
    crowd: npt.NDArray[np.bool_]
    scores: npt.NDArray[np.float64] | None = None
    areas: npt.NDArray[np.int64] | None = None

    @classmethod
    def from_arrays(
        cls,
        ids: npt.ArrayLike,
        classes: npt.ArrayLike,
        *,
        crowd: npt.ArrayLike | None = None,
        scores: npt.ArrayLike | None = None,
        areas: npt.ArrayLike | None = None,
    ) -> Segments:
        """Return a table of segments from sequences of the same length.

        Raises:
            EvaluationError: An id is 0, or occurs twice.
        """
        ids = np.asarray(ids, np.int64).reshape(-1)
        if (ids == VOID).any():
            raise EvaluationError("segment id 0 is reserved: it means void")
        present, counts = np.unique(ids, return_counts=True)
        if (counts > 1).any():
            raise EvaluationError(f"segment id {present[counts > 1][0]} is listed twice")
        none = np.zeros(len(ids), bool)
        return cls(
            ids=ids,
            classes=np.asarray(classes, np.int64).reshape(-1),
            crowd=none if crowd is None else np.asarray(crowd, bool).reshape(-1),
            scores=None if scores is None else np.asarray(scores, np.float64).reshape(-1),
            areas=None if areas is None else np.asarray(areas, np.int64).reshape(-1),
        )

    def __len__(self) -> int:
        return len(self.ids)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class PanopticMap:
    """The segment id of each pixel, and the table of segments.

    Attributes:
        pixels: Integer (H, W) segment ids; `VOID` where there is no segment.
        segments: The table of segments.
    """

    pixels: npt.NDArray[np.integer[Any]]
    segments: Segments


def map_from_frame(frame: PanopticFrame, *, tracks: bool = False) -> PanopticMap:
    """Return the map of a prediction; stuff segments get a score of 1.

    Args:
        frame: The prediction.
        tracks: Use track ids, which persist between frames, as the ids of things.

    Raises:
        EvaluationError: ``tracks`` is set and a thing has no track id, or two have the same.
    """
    stuff, things = frame.stuff, frame.instances
    pixels: npt.NDArray[np.integer[Any]] = frame.labels
    ids = [thing.id for thing in things]
    if tracks:
        if not all(thing.track_id for thing in things):
            raise EvaluationError("there are things without a track id: tracking was off")
        # Above the ids of stuff, which equal class ids.
        track_ids = [LABEL_DIVISOR + thing.track_id for thing in things]
        new_id = np.arange(max([0, *ids, int(pixels.max(initial=0))]) + 1)
        new_id[ids] = track_ids
        pixels, ids = new_id[pixels], track_ids
    return PanopticMap(
        pixels=pixels,
        segments=Segments.from_arrays(
            [segment.id for segment in stuff] + ids,
            [segment.class_id for segment in stuff] + [thing.class_id for thing in things],
            scores=[1.0] * len(stuff) + [thing.score for thing in things],
        ),
    )


def map_from_labels(labels: npt.NDArray[np.integer[Any]], taxonomy: Taxonomy) -> PanopticMap:
    """Return the map of a label image, integer (H, W), with ids as in Cityscapes instanceIds.

    Ids are ``class_id * 1000 + k`` for things and ``class_id`` for stuff. The plain id of a thing
    class is a group of things. Ids outside the taxonomy become void, as in the Cityscapes tools.
    """
    present = _present(labels)
    classes = np.where(present >= LABEL_DIVISOR, present // LABEL_DIVISOR, present)
    known = np.isin(classes, taxonomy.public_ids)
    is_thing = np.array([taxonomy.by_id[c].is_thing for c in classes[known].tolist()], bool)
    pixels = labels
    if not known[present != VOID].all():
        pixels = np.where(np.isin(labels, present[known]), labels, VOID)
    segments = Segments.from_arrays(
        present[known], classes[known], crowd=is_thing & (present[known] < LABEL_DIVISOR)
    )
    return PanopticMap(pixels=pixels, segments=segments)


def _present(labels: npt.NDArray[np.integer[Any]]) -> npt.NDArray[np.int64]:
    """Return the distinct values in ascending order; small ones by counting, which is faster."""
    if labels.size and labels.min() >= 0 and labels.max() < _COUNTABLE:
        return np.flatnonzero(np.bincount(labels.reshape(-1)))
    return np.unique(labels).astype(np.int64)


#: If a table of all pairs would exceed the number of runs by more than this, sorting is used.
_DENSE_PAIRS = 1 << 20


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Overlaps:
    """Shared pixels of T ground-truth segments and P predicted segments.

    Attributes:
        truth: The ground-truth segments.
        prediction: The predicted segments.
        truth_areas: int64 (T,) areas in pixels.
        prediction_areas: int64 (P,) areas in pixels.
        void: int64 (P,): pixels of each predicted segment where the ground truth is void.
        rows: int64 (K,): index into ``truth`` of each pair that shares pixels.
        columns: int64 (K,): index into ``prediction`` of each pair.
        shared: int64 (K,): pixels that the pair shares, at least 1.
    """

    truth: Segments
    prediction: Segments
    truth_areas: IntArray
    prediction_areas: IntArray
    void: IntArray
    rows: IntArray
    columns: IntArray
    shared: IntArray

    @classmethod
    def from_maps(cls, truth: PanopticMap, prediction: PanopticMap) -> Overlaps:
        """Count the shared pixels of a frame.

        As in the official tools, ground-truth segments without pixels stay in the table (and count
        as missed), and ground-truth pixels with an unlisted id belong to no segment but are not
        void.

        Raises:
            EvaluationError: The maps differ in size, the prediction has a pixel with an unlisted
                id, or lists a segment without pixels.
        """
        if truth.pixels.shape != prediction.pixels.shape:
            raise EvaluationError(
                f"the truth has {_size(truth.pixels)} pixels, the prediction"
                f" {_size(prediction.pixels)}"
            )
        truth_values, prediction_values, lengths = _runs(truth.pixels, prediction.pixels)
        # 0 is void, 1 to S are the segments, S + 1 stands for unlisted ids.
        ranks = ranks_of(truth_values, truth.segments.ids)
        others = ranks_of(prediction_values, prediction.segments.ids)
        count = len(prediction.segments)
        unlisted = others == count + 1
        if unlisted.any():
            raise EvaluationError(
                f"segment {prediction_values[unlisted][0]} is in the prediction's pixels, but not"
                " in its list of segments"
            )
        rows, columns, shared = _pairs(ranks, others, lengths, len(truth.segments) + 2, count + 1)
        truth_areas = _sums(rows, shared, len(truth.segments) + 2)[1:-1]
        prediction_areas = _sums(columns, shared, count + 1)[1:]
        if (prediction_areas == 0).any():
            missing = prediction.segments.ids[prediction_areas == 0][0]
            raise EvaluationError(
                f"segment {missing} is in the prediction's list of segments, but not in its pixels"
            )
        on_void = (rows == 0) & (columns > 0)
        both = (rows > 0) & (rows <= len(truth.segments)) & (columns > 0)
        return cls(
            truth=truth.segments,
            prediction=prediction.segments,
            truth_areas=truth_areas,
            prediction_areas=prediction_areas,
            void=_sums(columns[on_void], shared[on_void], count + 1)[1:],
            rows=rows[both] - 1,
            columns=columns[both] - 1,
            shared=shared[both],
        )

    @classmethod
    def merged(cls, frames: Sequence[Overlaps]) -> Overlaps:
        """Merge the frames of a video, in which an id denotes the same segment in all frames.

        Raises:
            EvaluationError: A segment changes its class between frames.
        """
        truth, rows = _merged_segments([frame.truth for frame in frames], "truth")
        prediction, columns = _merged_segments([frame.prediction for frame in frames], "prediction")
        first = np.concatenate([r[frame.rows] for r, frame in zip(rows, frames, strict=True)])
        second = np.concatenate(
            [c[frame.columns] for c, frame in zip(columns, frames, strict=True)]
        )
        shared = np.concatenate([frame.shared for frame in frames])
        pair, index = np.unique(first * max(len(prediction), 1) + second, return_inverse=True)
        row, column = np.divmod(pair, max(len(prediction), 1))
        row_of, column_of = np.concatenate(rows), np.concatenate(columns)
        truth_areas = np.concatenate([frame.truth_areas for frame in frames])
        prediction_areas = np.concatenate([frame.prediction_areas for frame in frames])
        void = np.concatenate([frame.void for frame in frames])
        return cls(
            truth=truth,
            prediction=prediction,
            truth_areas=_sums(row_of, truth_areas, len(truth)),
            prediction_areas=_sums(column_of, prediction_areas, len(prediction)),
            void=_sums(column_of, void, len(prediction)),
            rows=row,
            columns=column,
            shared=_sums(index, shared, len(pair)),
        )


def _runs(
    truth: npt.NDArray[np.integer[Any]], prediction: npt.NDArray[np.integer[Any]]
) -> tuple[IntArray, IntArray, IntArray]:
    """Return both ids and the length of each run of pixels with equal ids, in row-major order.

    There are about a hundred times fewer runs than pixels.
    """
    a, b = truth.reshape(-1), prediction.reshape(-1)
    if a.size == 0:
        return (np.zeros(0, np.int64),) * 3
    first = np.ones(a.size, bool)
    np.not_equal(a[1:], a[:-1], out=first[1:])
    first[1:] |= b[1:] != b[:-1]
    starts = np.flatnonzero(first)
    lengths = np.diff(starts, append=a.size)
    return a[starts].astype(np.int64), b[starts].astype(np.int64), lengths


def ranks_of(values: IntArray, ids: IntArray) -> IntArray:
    """Return 1 + the index in ``ids`` of each value; 0 for void, ``len(ids) + 1`` if not in it."""
    order = np.argsort(ids)
    known = np.concatenate((ids[order], np.array([np.iinfo(np.int64).max])))
    index = np.searchsorted(known, values)
    ranks = np.concatenate((order + 1, np.array([len(ids) + 1])))[index]
    ranks[known[index] != values] = len(ids) + 1
    ranks[values == VOID] = 0
    return ranks


def _pairs(
    rows: IntArray, columns: IntArray, weights: IntArray, height: int, width: int
) -> tuple[IntArray, IntArray, IntArray]:
    """Return row, column and summed weight of each distinct pair, sorted by row and column."""
    keys = rows * width + columns
    if height * width <= _DENSE_PAIRS + len(keys):
        sums = _sums(keys, weights, height * width)
        pairs = np.flatnonzero(sums)
        sums = sums[pairs]
    else:
        pairs, index = np.unique(keys, return_inverse=True)
        sums = _sums(index, weights, len(pairs))
    row, column = np.divmod(pairs, width)
    return row, column, sums


def _sums(indices: IntArray, weights: IntArray, length: int) -> IntArray:
    """Return int64 (length,): the sum of the weights of each index."""
    # bincount adds in float64, which is exact for sums below 2^53 pixels.
    return np.bincount(indices, weights, length).astype(np.int64)


def _merged_segments(tables: Sequence[Segments], side: str) -> tuple[Segments, list[IntArray]]:
    """Return one table of all segments, and the index in it of each segment of each table."""
    ids = np.concatenate([table.ids for table in tables])
    classes = np.concatenate([table.classes for table in tables])
    crowd = np.concatenate([table.crowd for table in tables])
    _, first, index = np.unique(ids, return_index=True, return_inverse=True)
    # Sorted by first occurrence, because the order decides between crowds of one class.
    order = np.argsort(first)
    rank = np.empty_like(order)
    rank[order] = np.arange(len(order))
    first, index = first[order], rank[index]
    changed = classes != classes[first][index]
    if changed.any():
        raise EvaluationError(
            f"segment {ids[changed][0]} of the {side} changes its class from frame to frame: video"
            " quality needs ids that persist along the sequence"
        )
    areas = [table.areas for table in tables if table.areas is not None]
    table = Segments(
        ids=ids[first],
        classes=classes[first],
        crowd=crowd[first],
        areas=_sums(index, np.concatenate(areas), len(first))
        if len(areas) == len(tables)
        else None,
    )
    return table, np.split(index, np.cumsum([len(table) for table in tables])[:-1])


def _size(pixels: npt.NDArray[np.integer[Any]]) -> str:
    return "x".join(str(length) for length in reversed(pixels.shape))
