"""Evaluates many frames in one or several processes, and merges partial results exactly.

Workers return a `PartialResult`: picklable counts of a few kilobytes per frame, plus snapshots
(small pictures for reports). Merging partial results in any order and grouping gives the same
metrics as evaluating all frames at once.
"""

from __future__ import annotations

import heapq
import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import count
from typing import Any, Protocol

import cv2
import numpy as np
import numpy.typing as npt

from upsnet_ros.drawing.birds_eye_view import draw_birds_eye_view, reach_of
from upsnet_ros.errors import EvaluationError
from upsnet_ros.evaluation.maps import Categories, PanopticMap, ranks_of
from upsnet_ros.evaluation.metrics import (
    EvaluationFrame,
    EvaluationResult,
    FrameMeasures,
    Metrics,
    measure,
    summarise,
)
from upsnet_ros.evaluation.points import LabelledCloud, PointLabels

#: Longest side, in pixels.
SIZE = 640
_JPEG = [cv2.IMWRITE_JPEG_QUALITY, 82]
_PNG = [cv2.IMWRITE_PNG_COMPRESSION, 6]  # 9 takes five times as long for 7 % fewer bytes

TRUTH_BIT, PREDICTION_BIT = 1, 2

#: The code of unknown points in place of 1 + class index.
UNKNOWN_POINT = 0xFFFF
# Height of views from above, pixels, and the greys of their rings and background.
_VIEW_HEIGHT, _INK, _PAPER = 480, 170, 235


@dataclass(frozen=True, slots=True, kw_only=True)
class Snapshot:
    """Encoded image files in memory, all of the same size except the views from above.

    Attributes:
        name: Name of the frame.
        width: Width in pixels.
        height: Height in pixels.
        image: JPEG, or None if the frame has no image.
        truth: PNG of the ground truth: red and green are the low and high byte of 1 + class index
            (0: void), blue is the grey of lines: 255 along the outlines of segments.
        prediction: The same for the prediction.
        unknown: Gray PNG: `TRUTH_BIT` for unknown objects in the ground truth plus
            `PREDICTION_BIT` for pixels predicted as unknown; None if the frame has neither mask.
    """

    name: str
    width: int
    height: int
    image: bytes | None
    truth: bytes
    prediction: bytes
    unknown: bytes | None
    truth_points: bytes | None = None
    prediction_points: bytes | None = None


def take_snapshot(frame: EvaluationFrame, categories: Categories) -> Snapshot:
    """Return small pictures of a frame, at most `SIZE` pixels wide and high."""
    height, width = frame.truth.pixels.shape
    scale = min(1.0, SIZE / max(height, width))
    size = (max(1, round(width * scale)), max(1, round(height * scale)))
    image = None
    if frame.image is not None:
        image = _encoded(".jpg", cv2.resize(frame.image, size, interpolation=cv2.INTER_AREA), _JPEG)
    truth_points = prediction_points = None
    if frame.cloud is not None:
        truth_points = _view_of(frame.cloud, frame.cloud.truth, categories)
        prediction_points = _view_of(frame.cloud, frame.cloud.prediction, categories)
    return Snapshot(
        name=frame.name,
        width=size[0],
        height=size[1],
        image=image,
        truth=_encoded(".png", _class_image(frame.truth, size, categories), _PNG),
        prediction=_encoded(".png", _class_image(frame.prediction, size, categories), _PNG),
        unknown=_unknown(frame, size),
        truth_points=truth_points,
        prediction_points=prediction_points,
    )


def _class_image(
    side: PanopticMap, size: tuple[int, int], categories: Categories
) -> npt.NDArray[np.uint8]:
    """Return uint8 (h, w, 3) BGR: outline, high byte and low byte of the class index."""
    ids = _reduced(side.pixels.astype(np.int32), size)
    known = categories.indices(side.segments.classes) + 1
    indices = np.concatenate(([0], known, [0]))[ranks_of(ids, side.segments.ids)]
    outline = np.zeros(ids.shape, bool)
    outline[:, 1:] |= ids[:, 1:] != ids[:, :-1]
    outline[1:] |= ids[1:] != ids[:-1]
    return np.stack((outline * 255, indices >> 8, indices & 255), axis=-1).astype(np.uint8)


def _unknown(frame: EvaluationFrame, size: tuple[int, int]) -> bytes | None:
    bits = np.zeros((size[1], size[0]), np.uint8)
    sides = ((frame.truth_unknown, TRUTH_BIT), (frame.prediction_unknown, PREDICTION_BIT))
    for mask, bit in sides:
        if mask is not None:
            bits |= _reduced(mask.astype(np.uint8), size) * np.uint8(bit)
    if frame.truth_unknown is None and frame.prediction_unknown is None:
        return None
    return _encoded(".png", bits, _PNG)


def _view_of(cloud: LabelledCloud, side: PointLabels, categories: Categories) -> bytes:
    ids = np.array([info.id for info in categories.classes])
    codes = ranks_of(side.class_ids, ids)
    codes[codes > len(ids)] = 0
    codes[side.unknown] = UNKNOWN_POINT
    view = draw_birds_eye_view(
        cloud.xyz,
        np.stack((np.zeros_like(codes), codes >> 8, codes & 255), axis=-1).astype(np.uint8),
        axes=cloud.axes,
        reach=reach_of(cloud.xyz, cloud.axes),
        on_top=side.unknown,
        height=_VIEW_HEIGHT,
        ink=(_INK, 0, 0),
        paper=(_PAPER, 0, 0),
    )
    return _encoded(".png", view, _PNG)


def _reduced(pixels: npt.NDArray[Any], size: tuple[int, int]) -> npt.NDArray[Any]:
    return cv2.resize(pixels, size, interpolation=cv2.INTER_NEAREST)


def _encoded(ending: str, pixels: npt.NDArray[Any], options: list[int]) -> bytes:
    encoded, data = cv2.imencode(ending, pixels, options)
    if not encoded:
        raise RuntimeError(f"cannot encode a {ending} image of shape {pixels.shape}")
    return data.tobytes()


class SnapshotSelector:
    """Selects a bounded number of snapshots from a stream of frames.

    Half of them are the frames with the lowest quality, the other half are evenly spaced.

    Args:
        capacity: Maximum number of snapshots.
    """

    def __init__(self, capacity: int) -> None:
        self._worst_capacity = capacity // 2
        self._spread_capacity = capacity - self._worst_capacity
        self._worst: list[tuple[float, int, Snapshot]] = []
        self._spread: list[tuple[int, Snapshot]] = []
        self._stride = 1
        self._numbers = count()

    def add(self, snapshot: Snapshot, quality: float) -> None:
        """Add a snapshot; one with undefined quality (nan) is never among the worst."""
        number = next(self._numbers)
        if self._worst_capacity and not math.isnan(quality):
            item = (-quality, -number, snapshot)  # the heap's top is the best of the worst
            if len(self._worst) < self._worst_capacity:
                heapq.heappush(self._worst, item)
            else:
                heapq.heappushpop(self._worst, item)
        if number % self._stride == 0:
            self._spread.append((number, snapshot))
            if len(self._spread) > self._spread_capacity:
                self._stride *= 2
                self._spread = [entry for entry in self._spread if entry[0] % self._stride == 0]

    def snapshots(self) -> list[Snapshot]:
        """Return the selected snapshots in the order they were added."""
        kept = {-number: snapshot for _, number, snapshot in self._worst} | dict(self._spread)
        return [kept[number] for number in sorted(kept)]


@dataclass(frozen=True, slots=True, kw_only=True)
class Series:
    """A time series for a plot, such as latency.

    Attributes:
        title: Title of the plot, with the unit.
        times: Seconds from the start.
        values: A value for each time; nan breaks the line.
        marks: Times of single events in seconds, such as dropped frames.
        marks_title: Legend of the events.
    """

    title: str
    times: Sequence[float]
    values: Sequence[float]
    marks: Sequence[float] = ()
    marks_title: str = ""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class PartialResult:
    """The result for some of the frames of an evaluation.

    Attributes:
        categories: The classes.
        frames: The counts of each frame.
        pictures: Selected snapshots for a report, each with the PQ of its frame.
        notes: Remarks, such as frames left out, one line each.
        series: Time series, such as latency.
    """

    categories: Categories
    frames: tuple[FrameMeasures, ...]
    pictures: tuple[tuple[Snapshot, float], ...] = ()
    notes: tuple[str, ...] = ()
    series: tuple[Series, ...] = ()

    @classmethod
    def from_frames(
        cls,
        evaluated: Iterable[EvaluatedFrame],
        categories: Categories,
        *,
        pictures: int = 0,
        notes: Iterable[str] = (),
        series: Iterable[Series] = (),
    ) -> PartialResult:
        """Collect evaluated frames.

        Args:
            evaluated: The frames.
            categories: The classes.
            pictures: Maximum number of snapshots to keep.
            notes: Remarks; iterated after the last frame.
            series: Time series; iterated after the last frame.
        """
        selector, frames, qualities = SnapshotSelector(pictures), [], {}
        for item in evaluated:
            frames.append(item.measures)
            if item.snapshot is not None and pictures:
                selector.add(item.snapshot, item.quality)
                qualities[item.snapshot.name] = item.quality
        return cls(
            categories=categories,
            frames=tuple(frames),
            pictures=tuple((shot, qualities[shot.name]) for shot in selector.snapshots()),
            notes=tuple(notes),
            series=tuple(series),
        )

    @classmethod
    def merged(cls, parts: Iterable[PartialResult]) -> PartialResult:
        """Merge partial results.

        Raises:
            EvaluationError: There are none, or they have different classes.
        """
        parts = list(parts)
        if not parts:
            raise EvaluationError("there is nothing to evaluate")
        categories = parts[0].categories
        if any(part.categories != categories for part in parts):
            raise EvaluationError("inputs with different classes cannot be evaluated together")
        return cls(
            categories=categories,
            frames=tuple(frame for part in parts for frame in part.frames),
            pictures=tuple(picture for part in parts for picture in part.pictures),
            notes=tuple(note for part in parts for note in part.notes),
            series=tuple(series for part in parts for series in part.series),
        )

    def result(self) -> EvaluationResult:
        """Return the metrics."""
        return summarise(self.frames, self.categories)

    def snapshots(self, capacity: int) -> list[Snapshot]:
        """Return at most ``capacity`` snapshots, in the order of the frames."""
        selector = SnapshotSelector(capacity)
        for shot, quality in self.pictures:
            selector.add(shot, quality)
        return selector.snapshots()


# Small, so that the progress bar moves and processes finish at about the same time.
_FRAMES_PER_TASK = 4


class FrameSource(Protocol):
    """Frames by index, and their classes; worker processes get copies of the source."""

    categories: Categories

    def __len__(self) -> int:
        """Number of frames."""

    def __getitem__(self, index: int) -> EvaluationFrame:
        """Read frame number ``index``."""


@dataclass(frozen=True, slots=True)
class EvaluatedFrame:
    """The result for one frame.

    Attributes:
        measures: The counts of all metrics.
        quality: PQ of the frame; nan if it has no segments.
        snapshot: Small pictures, or None if not requested.
    """

    measures: FrameMeasures
    quality: float
    snapshot: Snapshot | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Evaluator:
    """Evaluates frames with fixed settings.

    Attributes:
        metrics: The metrics to compute.
        snapshots: Whether to keep small pictures.
    """

    metrics: Metrics
    snapshots: bool = False

    def evaluate(self, frame: EvaluationFrame, categories: Categories) -> EvaluatedFrame:
        """Evaluate one frame."""
        measures = measure(frame, categories, self.metrics)
        quality = float(measures.panoptic.quality(categories).all[0])
        snapshot = take_snapshot(frame, categories) if self.snapshots else None
        return EvaluatedFrame(measures, quality, snapshot)

    def stream(
        self, frames: Iterable[EvaluationFrame], categories: Categories
    ) -> Iterator[EvaluatedFrame]:
        """Evaluate frames one by one in this process."""
        return (self.evaluate(frame, categories) for frame in frames)

    def spread(self, source: FrameSource, processes: int) -> Iterator[EvaluatedFrame]:
        """Read and evaluate the frames of a source in worker processes; yield results in order.

        Raises:
            EvaluationError: From `measure` or the source; the worker processes are stopped.
        """
        if processes <= 1:
            frames = (source[index] for index in range(len(source)))
            yield from self.stream(frames, source.categories)
            return
        # Imported here because a single process does not need it.
        from upsnet_ros.processes.task_pool import in_order

        chunks = [
            range(start, min(start + _FRAMES_PER_TASK, len(source)))
            for start in range(0, len(source), _FRAMES_PER_TASK)
        ]
        for evaluated in in_order(partial(_reader, self, source), chunks, processes=processes):
            yield from evaluated


def _reader(
    evaluator: Evaluator, source: FrameSource
) -> Callable[[range], Iterable[EvaluatedFrame]]:
    """Return a function that evaluates some frames of a source in a worker process."""

    def read(indices: range) -> list[EvaluatedFrame]:
        return [evaluator.evaluate(source[index], source.categories) for index in indices]

    return read
