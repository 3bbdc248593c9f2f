"""Adding up frames to the figures of a whole evaluation."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from itertools import groupby

import numpy as np
import numpy.typing as npt

from upsnet_ros.evaluation.bootstrap import Interval, intervals
from upsnet_ros.evaluation.categories import Categories
from upsnet_ros.evaluation.errors import EvaluationError
from upsnet_ros.evaluation.instance_ap import average_precision
from upsnet_ros.evaluation.measures import EvaluationFrame, FrameMeasures, Metrics, measure
from upsnet_ros.evaluation.overlaps import Overlaps
from upsnet_ros.evaluation.panoptic_quality import PanopticCounts, PanopticQuality
from upsnet_ros.evaluation.semantic import class_ious, mean_iou
from upsnet_ros.evaluation.tracks import TrackQuality, id_switches
from upsnet_ros.evaluation.unknown import UnknownCounts
from upsnet_ros.evaluation.video import WINDOWS, tube_counts


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class InstancePrecision:
    """AP of things: over IoUs from 0.5 to 0.95, at 0.5, and by class id; nan without truth."""

    ap: float
    ap50: float
    classes: dict[int, float]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class EvaluationResult:
    """The figures of an evaluation; fractions, nan where there is nothing to judge.

    Attributes:
        categories: The classes, in the order of all arrays by class.
        frames: The frames, by sequence and number.
        counts: What `quality` was made of.
        quality: PQ, SQ, RQ.
        class_ious: float64 (C,): IoU by class, of pixels.
        mean_iou: Mean of those.
        boundary: Boundary PQ, or None where it was not measured.
        video: VPQ by window, or None where it was not measured.
        tracks: Id switches and their kin, measured with VPQ.
        instances: AP, or None where it was not measured.
        unknown: Counts of unknown objects, or None where no frame tells them.
        intervals: 95 % intervals by figure, of sequences drawn anew; empty with fewer than two.
    """

    categories: Categories
    frames: tuple[FrameMeasures, ...]
    counts: PanopticCounts
    quality: PanopticQuality
    class_ious: npt.NDArray[np.float64]
    mean_iou: float
    boundary: PanopticQuality | None
    video: dict[int, PanopticQuality] | None
    tracks: TrackQuality | None
    instances: InstancePrecision | None
    unknown: UnknownCounts | None
    intervals: dict[str, Interval]

    @property
    def pq(self) -> float:
        """Panoptic quality over all classes that occur."""
        return float(self.quality.all[0])


def evaluate(
    frames: Iterable[EvaluationFrame], categories: Categories, metrics: Metrics | None = None
) -> EvaluationResult:
    """Judge frames one by one, in this process.

    Raises:
        EvaluationError: As `measure` and `summarise`.
    """
    return summarise([measure(frame, categories, metrics) for frame in frames], categories)


def summarise(frames: Iterable[FrameMeasures], categories: Categories) -> EvaluationResult:
    """Add up frames that were measured anywhere, in any order: the figures are the same.

    Raises:
        EvaluationError: There is no frame, two have the same name, or ids do not persist along a
            sequence though VPQ was asked for.
    """
    frames = tuple(sorted(frames, key=lambda frame: (frame.sequence, frame.number, frame.name)))
    if not frames:
        raise EvaluationError("there are no frames to evaluate")
    names = [frame.name for frame in frames]
    if len(set(names)) < len(names):
        twice = next(name for name in names if names.count(name) > 1)
        raise EvaluationError(f"frame {twice} occurs twice")
    size = len(categories)
    counts = sum((frame.panoptic for frame in frames), PanopticCounts.zero(size))
    ious = class_ious(np.sum([frame.pixels for frame in frames], axis=0))
    edges = [frame.boundary for frame in frames if frame.boundary is not None]
    unknown = [frame.unknown for frame in frames if frame.unknown is not None]
    sequences = _sequences(frames)
    return EvaluationResult(
        categories=categories,
        frames=frames,
        counts=counts,
        quality=counts.quality(categories),
        class_ious=ious,
        mean_iou=float(mean_iou(ious)),
        boundary=sum(edges, PanopticCounts.zero(size)).quality(categories) if edges else None,
        video=_video(sequences, categories) if sequences else None,
        tracks=_tracks(sequences, counts, categories) if sequences else None,
        instances=_instances(frames, categories),
        unknown=sum(unknown, UnknownCounts()) if unknown else None,
        intervals=intervals(frames, categories),
    )


@dataclass(frozen=True, slots=True)
class _Sequence:
    """The frames of a sequence that are judged as a video, by number."""

    name: str
    numbers: list[int]
    overlaps: list[Overlaps]


def _sequences(frames: tuple[FrameMeasures, ...]) -> list[_Sequence]:
    tracked = [(frame, frame.overlaps) for frame in frames if frame.overlaps is not None]
    groups = groupby(tracked, lambda item: item[0].sequence)
    return [
        _Sequence(name, [frame.number for frame, _ in group], [overlaps for _, overlaps in group])
        for name, group in ((name, list(items)) for name, items in groups)
    ]


def _video(sequences: list[_Sequence], categories: Categories) -> dict[int, PanopticQuality]:
    qualities = {}
    for window in WINDOWS:
        counts = PanopticCounts.zero(len(categories))
        for one in sequences:
            try:
                counts = counts + tube_counts(one.numbers, one.overlaps, window, categories)
            except EvaluationError as error:
                raise EvaluationError(f"sequence {one.name}: {error}") from None
        qualities[window] = counts.quality(categories)
    return qualities


def _tracks(
    sequences: list[_Sequence], counts: PanopticCounts, categories: Categories
) -> TrackQuality:
    # Windows join no frames that lie farther apart, so ids need not last that long.
    switches = [
        id_switches(one.numbers, one.overlaps, categories, max_gap=max(WINDOWS))
        for one in sequences
    ]
    return TrackQuality.of(counts, np.sum(switches, axis=0), categories)


def _instances(
    frames: tuple[FrameMeasures, ...], categories: Categories
) -> InstancePrecision | None:
    things = [frame.instances for frame in frames if frame.instances is not None]
    if not things:
        return None
    ap, ap50, classes = average_precision(things, categories)
    return InstancePrecision(ap=ap, ap50=ap50, classes=classes)
