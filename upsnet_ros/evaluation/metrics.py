"""Counts the metrics of each frame and computes those of an evaluation, with bootstrap intervals.

Frames of one sequence are correlated, so the bootstrap resamples whole sequences with replacement
and computes the metrics from the summed counts of each resample.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import groupby, pairwise

import numpy as np
import numpy.typing as npt

from upsnet_ros.errors import EvaluationError
from upsnet_ros.evaluation.instance_ap import InstancePrecision, Instances, average_precision
from upsnet_ros.evaluation.maps import Categories, Overlaps, PanopticMap
from upsnet_ros.evaluation.panoptic_quality import (
    WINDOWS,
    PanopticCounts,
    PanopticQuality,
    TrackQuality,
    boundary_overlaps,
    class_ious,
    class_pixels,
    id_switches,
    mean_iou,
    tube_counts,
)
from upsnet_ros.evaluation.points import LabelledCloud, PointCounts
from upsnet_ros.evaluation.unknown import UnknownCounts


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class EvaluationFrame:
    """Ground truth and prediction of one image.

    Attributes:
        name: Name of the frame in reports; unique in an evaluation.
        sequence: The sequence it belongs to; empty for a single image.
        number: Its number along the sequence, in camera frames.
        truth: The ground truth.
        prediction: The prediction.
        image: uint8 (H, W, 3) BGR for reports, or None.
        truth_unknown: bool (H, W): pixels of objects outside the classes; None if not annotated.
        prediction_unknown: bool (H, W): pixels predicted as unknown, or None.
        unknown_scores: uint8 (H, W) by name; higher means more likely unknown.
        points: Counts of the labelled points of its time; None without such points.
        cloud: Those points, for reports, or None.
    """

    name: str
    truth: PanopticMap
    prediction: PanopticMap
    sequence: str = ""
    number: int = 0
    image: npt.NDArray[np.uint8] | None = None
    truth_unknown: npt.NDArray[np.bool_] | None = None
    prediction_unknown: npt.NDArray[np.bool_] | None = None
    unknown_scores: Mapping[str, npt.NDArray[np.uint8]] = field(default_factory=dict)
    points: PointCounts | None = None
    cloud: LabelledCloud | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Metrics:
    """Metrics to compute in addition to panoptic quality, mean IoU and unknown objects.

    Attributes:
        boundary: Boundary PQ; several times as expensive as PQ.
        instances: AP of things; predictions need scores.
        video: VPQ and id switches; segment ids must persist along sequences.
    """

    boundary: bool = False
    instances: bool = False
    video: bool = False


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class FrameMeasures:
    """The counts of one frame, a few kilobytes, from which all metrics are computed.

    Attributes:
        name: Name of the frame.
        sequence: Its sequence.
        number: Its number along the sequence.
        panoptic: Counts for PQ.
        pixels: int64 (2, C) for mean IoU: `class_pixels`.
        boundary: Counts for boundary PQ, or None if not requested.
        unknown: Counts of unknown objects, or None if ground truth or prediction has no mask.
        instances: The things for AP, or None if not requested.
        overlaps: Shared pixels for VPQ, or None if not requested.
        points: Counts of labelled points, or None without such points.
    """

    name: str
    sequence: str
    number: int
    panoptic: PanopticCounts
    pixels: npt.NDArray[np.int64]
    boundary: PanopticCounts | None
    unknown: UnknownCounts | None
    instances: Instances | None
    overlaps: Overlaps | None
    points: PointCounts | None = None


def measure(
    frame: EvaluationFrame, categories: Categories, metrics: Metrics | None = None
) -> FrameMeasures:
    """Return the counts of one frame.

    Raises:
        EvaluationError: Ground truth and prediction do not match each other or the categories; the
            message starts with the frame's name.
    """
    metrics = metrics or Metrics()
    truth, prediction = frame.truth, frame.prediction
    try:
        overlaps = Overlaps.from_maps(truth, prediction)
        panoptic = PanopticCounts.from_overlaps(overlaps, categories)
        boundary = None
        if metrics.boundary:
            bands = boundary_overlaps(truth, prediction)
            boundary = PanopticCounts.from_overlaps(overlaps, categories, bands)
        unknown = None
        if frame.truth_unknown is not None and frame.prediction_unknown is not None:
            unknown = UnknownCounts.from_masks(
                truth=frame.truth_unknown,
                known=np.isin(truth.pixels, truth.segments.ids),
                mask=frame.prediction_unknown,
                scores=frame.unknown_scores,
            )
        instances = None
        if metrics.instances:
            instances = Instances.from_maps(truth, prediction, categories)
        return FrameMeasures(
            name=frame.name,
            sequence=frame.sequence or frame.name,
            number=frame.number,
            panoptic=panoptic,
            pixels=class_pixels(overlaps, categories),
            boundary=boundary,
            unknown=unknown,
            instances=instances,
            overlaps=overlaps if metrics.video else None,
            points=frame.points,
        )
    except EvaluationError as error:
        raise EvaluationError(f"{frame.name}: {error}") from None


Interval = tuple[float, float]
FloatArray = npt.NDArray[np.float64]

#: Confidence level of the intervals.
LEVEL = 0.95
_RESAMPLES = 1000
_SEED = 0


def intervals(frames: Sequence[FrameMeasures], categories: Categories) -> dict[str, Interval]:
    """Return bootstrap intervals of the headline metrics; deterministic for the same frames.

    Args:
        frames: The frames, sorted by sequence.
        categories: The classes.

    Returns:
        Lower and upper bound by metric; empty with fewer than two sequences.
    """
    groups = [list(group) for _, group in groupby(frames, lambda frame: frame.sequence)]
    if len(groups) < 2:
        return {}
    generator = np.random.default_rng(_SEED)
    share = np.full(len(groups), 1 / len(groups))
    # How often each resample contains each sequence: float64 (resamples, sequences).
    weights = generator.multinomial(len(groups), share, size=_RESAMPLES).astype(np.float64)
    samples = _panoptic(weights, groups, categories)
    samples["mIoU"] = _mean_iou(weights, groups)
    samples.update(_unknown(weights, groups))
    tail = 50 * (1 - LEVEL)
    return {
        name: (float(low), float(high))
        for name, values in samples.items()
        if not np.isnan(values).all()
        for low, high in [np.nanpercentile(values, (tail, 100 - tail))]
    }


def _panoptic(
    weights: FloatArray, groups: Sequence[Sequence[FrameMeasures]], categories: Categories
) -> dict[str, FloatArray]:
    zero = PanopticCounts.zero(len(categories))
    sums = [sum((frame.panoptic for frame in group), zero) for group in groups]

    def resampled(values: Callable[[PanopticCounts], npt.NDArray[np.generic]]) -> FloatArray:
        return weights @ np.stack([values(counts) for counts in sums]).astype(np.float64)

    quality = PanopticQuality.from_counts(
        resampled(lambda counts: counts.tp),
        resampled(lambda counts: counts.fp),
        resampled(lambda counts: counts.fn),
        resampled(lambda counts: counts.ious),
        categories.is_thing,
    )
    return {
        "PQ": quality.all[:, 0],
        "SQ": quality.all[:, 1],
        "RQ": quality.all[:, 2],
        "PQ_things": quality.things[:, 0],
        "PQ_stuff": quality.stuff[:, 0],
    }


def _mean_iou(weights: FloatArray, groups: Sequence[Sequence[FrameMeasures]]) -> FloatArray:
    sums = np.stack([np.sum([frame.pixels for frame in group], axis=0) for group in groups])
    return mean_iou(class_ious(np.tensordot(weights, sums.astype(np.float64), axes=1)))


def _unknown(
    weights: FloatArray, groups: Sequence[Sequence[FrameMeasures]]
) -> dict[str, FloatArray]:
    sums = np.zeros((len(groups), 4))
    for row, group in zip(sums, groups, strict=True):
        for counts in (frame.unknown for frame in group if frame.unknown is not None):
            row += (counts.found, counts.unknown, counts.lost, counts.known)
    found, unknown, lost, known = (weights @ sums).T
    return {
        "unknown_recall": found / np.where(unknown > 0, unknown, np.nan),
        "known_pixels_lost": lost / np.where(known > 0, known, np.nan),
    }


_NO_SEQUENCES = (
    "video quality is not measured: no two frames of one sequence are at most"
    f" {max(WINDOWS)} numbers apart. Name frames by sequence and number, such as clip/00001, or"
    " give them a video_id (docs/evaluation.md)"
)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class EvaluationResult:
    """The metrics of an evaluation, as fractions; nan where undefined.

    Attributes:
        categories: The classes, in the order of all per-class arrays.
        frames: The frames, sorted by sequence and number.
        counts: The counts that `quality` was computed from.
        quality: PQ, SQ, RQ.
        class_ious: float64 (C,): pixel IoU by class.
        mean_iou: Mean of `class_ious` over the classes that occur.
        boundary: Boundary PQ, or None if not measured.
        video: VPQ by window size, or None if not measured.
        tracks: Id switches, MOTSA and sMOTSA, or None if not measured.
        instances: AP, or None if not measured.
        unknown: Counts of unknown objects, or None if no frame has unknown masks.
        points: Counts of labelled points, or None if no frame has any.
        intervals: 95 % bootstrap intervals by metric; empty with fewer than two sequences.
        notes: One line for each requested metric that could not be measured.
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
    points: PointCounts | None
    intervals: dict[str, Interval]
    notes: tuple[str, ...] = ()

    @property
    def pq(self) -> float:
        """Panoptic quality over all classes that occur."""
        return float(self.quality.all[0])


def evaluate(
    frames: Iterable[EvaluationFrame], categories: Categories, metrics: Metrics | None = None
) -> EvaluationResult:
    """Return the metrics of frames, evaluated one by one in this process."""
    return summarise([measure(frame, categories, metrics) for frame in frames], categories)


def summarise(frames: Iterable[FrameMeasures], categories: Categories) -> EvaluationResult:
    """Return the metrics of measured frames; the order of the frames does not matter.

    Raises:
        EvaluationError: There are no frames, two have the same name, or VPQ was requested and ids
            do not persist along a sequence.
    """
    frames = tuple(sorted(frames, key=lambda frame: (frame.sequence, frame.number, frame.name)))
    if not frames:
        raise EvaluationError("there are no frames to evaluate")
    names = [frame.name for frame in frames]
    if len(set(names)) < len(names):
        repeated = next(name for name in names if names.count(name) > 1)
        raise EvaluationError(f"frame {repeated} occurs twice")
    size = len(categories)
    counts = sum((frame.panoptic for frame in frames), PanopticCounts.zero(size))
    ious = class_ious(np.sum([frame.pixels for frame in frames], axis=0))
    edges = [frame.boundary for frame in frames if frame.boundary is not None]
    unknown = [frame.unknown for frame in frames if frame.unknown is not None]
    things = [frame.instances for frame in frames if frame.instances is not None]
    points = [frame.points for frame in frames if frame.points is not None]
    sequences = _sequences(frames)
    notes = []
    if sequences and not any(map(_joins_frames, sequences)):
        sequences = []
        notes.append(_NO_SEQUENCES)
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
        instances=average_precision(things, categories) if things else None,
        unknown=sum(unknown, UnknownCounts()) if unknown else None,
        points=sum(points, PointCounts.zero(size)) if points else None,
        intervals=intervals(frames, categories),
        notes=tuple(notes),
    )


@dataclass(frozen=True, slots=True)
class _Sequence:
    """The frames of one sequence, sorted by number, for video metrics."""

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


def _joins_frames(sequence: _Sequence) -> bool:
    """Return whether any window contains two frames; otherwise VPQ would just equal PQ."""
    return any(later - number <= max(WINDOWS) for number, later in pairwise(sequence.numbers))


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
    # No window spans a longer gap, so ids need not persist across one.
    switches = [
        id_switches(one.numbers, one.overlaps, categories, max_gap=max(WINDOWS))
        for one in sequences
    ]
    return TrackQuality.from_counts(counts, np.sum(switches, axis=0), categories)
