"""Panoptic quality (PQ), boundary PQ, mean IoU, video PQ and tracking metrics.

PQ and mean IoU are defined as in the official tools. Predicting void does not avoid errors: an
unmatched ground-truth segment counts as FN even if it was predicted as unknown. Only ground-truth
void and crowds are ignored.

Boundary IoU (Cheng et al. 2021) compares two segments only within a band along their outlines, so
that errors at the edges of large segments count. Boundary PQ matches segments by the smaller of
boundary IoU and mask IoU.

Video PQ: a window of size k spans k + 1 camera frames; only labelled frames count. If every fifth
frame is labelled (Cityscapes-VPS), windows of size 0, 5, 10 and 15 contain one to four labelled
frames. Id switches, MOTSA and sMOTSA follow Voigtlaender et al. ("MOTS: Multi-Object Tracking and
Segmentation", CVPR 2019), with the matches of panoptic quality: same class and IoU above 0.5.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from upsnet_ros.errors import EvaluationError
from upsnet_ros.evaluation.maps import VOID, Categories, Overlaps, PanopticMap

IntArray = npt.NDArray[np.int64]
FloatArray = npt.NDArray[np.float64]

#: Width of the boundary band, as a fraction of the image diagonal.
BAND_SHARE = 0.02
#: Id of the interior of ground-truth segments in boundary maps: neither a segment nor void.
_INSIDE = -1
#: IoUs above 0.5, as float64, are integer multiples of 2^-53, so that their sums can be exact.
_IOU_UNIT = 53


def boundary_overlaps(truth: PanopticMap, prediction: PanopticMap) -> Overlaps:
    """Return the overlaps of the bands along the outlines, with the same tables of segments."""
    return Overlaps.from_maps(
        PanopticMap(pixels=_band(truth.pixels, _INSIDE), segments=truth.segments),
        PanopticMap(pixels=_band(prediction.pixels, VOID), segments=prediction.segments),
    )


def band_width(height: int, width: int) -> int:
    """Return the width of the boundary band in pixels, at least 1."""
    return max(1, round(BAND_SHARE * math.hypot(height, width)))


def _band(pixels: npt.NDArray[np.integer[Any]], inside: int) -> npt.NDArray[np.int64]:
    """Return the map with ``inside`` as the id of pixels farther from an outline than the band.

    A pixel is inside if the minimum and maximum id of its neighbourhood are equal, which handles
    all segments at once. The outside of the image counts as another segment.
    """
    # OpenCV's morphology needs floats; float32 is exact for ids below 2^24.
    small = pixels.max(initial=0) < 1 << 24
    ids = pixels.astype(np.float32 if small else np.float64)
    reach = band_width(*pixels.shape)
    kernel = np.ones((2 * reach + 1, 2 * reach + 1), np.uint8)
    lowest = cv2.erode(ids, kernel, borderType=cv2.BORDER_CONSTANT, borderValue=-1.0)
    highest = cv2.dilate(ids, kernel)
    band = pixels.astype(np.int64)
    band[(lowest == highest) & (pixels != VOID)] = inside
    return band


def class_pixels(overlaps: Overlaps, categories: Categories) -> IntArray:
    """Return the pixels in intersection and union of each class, without ground-truth void.

    Returns:
        int64 (2, C): intersection and union; can be summed over frames.
    """
    size = len(categories)
    truth = categories.indices(overlaps.truth.classes)
    rows = truth[overlaps.rows]
    columns = categories.indices(overlaps.prediction.classes)[overlaps.columns]
    intersection = np.zeros(size, np.int64)
    total = np.zeros(size, np.int64)
    np.add.at(intersection, rows[rows == columns], overlaps.shared[rows == columns])
    np.add.at(total, truth, overlaps.truth_areas)
    np.add.at(total, columns, overlaps.shared)
    return np.stack((intersection, total - intersection))


def class_ious(pixels: npt.NDArray[np.int64] | FloatArray) -> FloatArray:
    """Return the IoU of each class, float64 (..., C), from `class_pixels` (..., 2, C), or nan."""
    intersection, union = pixels[..., 0, :], pixels[..., 1, :]
    return intersection / np.where(union > 0, union, np.nan)


def mean_iou(ious: FloatArray) -> FloatArray:
    """Return the mean over the classes (..., C) that occur (are not nan); nan if none does."""
    known = ~np.isnan(ious)
    count = known.sum(axis=-1)
    return np.where(known, ious, 0).sum(axis=-1) / np.where(count > 0, count, np.nan)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Matching:
    """The matched segments (TP) and unmatched segments (FN and FP) of a frame or tube.

    Attributes:
        rows: int64 (M,): index of each matched ground-truth segment.
        columns: int64 (M,): index of the matching predicted segment.
        ious: float64 (M,): IoU of each match, above 0.5.
        false_negatives: int64 (FN,): indices of unmatched ground-truth segments.
        false_positives: int64 (FP,): indices of unmatched predicted segments.
    """

    rows: IntArray
    columns: IntArray
    ious: FloatArray
    false_negatives: IntArray
    false_positives: IntArray


def match(overlaps: Overlaps, boundary: Overlaps | None = None) -> Matching:
    """Match segments of the same class with an IoU above 0.5.

    Args:
        overlaps: Overlaps of the frame.
        boundary: For boundary PQ: overlaps of the boundary bands, with the same tables of segments;
            the smaller of both IoUs is used.
    """
    annotated = overlaps.truth.areas
    ious = _ious(overlaps, overlaps.truth_areas if annotated is None else annotated)
    if boundary is not None:
        # Pairs are sorted; pairs whose bands do not overlap are missing from ``boundary``.
        width = len(overlaps.prediction)
        pairs = overlaps.rows * width + overlaps.columns
        edges = np.zeros(len(pairs))
        edges[np.searchsorted(pairs, boundary.rows * width + boundary.columns)] = _ious(
            boundary, boundary.truth_areas
        )
        ious = np.minimum(ious, edges)
    rows, columns = overlaps.rows, overlaps.columns
    truth, prediction = overlaps.truth, overlaps.prediction
    found = (truth.classes[rows] == prediction.classes[columns]) & ~truth.crowd[rows] & (ious > 0.5)
    false_negatives = ~truth.crowd
    false_negatives[rows[found]] = False
    false_positives = ~_ignored(overlaps)
    false_positives[columns[found]] = False
    return Matching(
        rows=rows[found],
        columns=columns[found],
        ious=ious[found],
        false_negatives=np.flatnonzero(false_negatives),
        false_positives=np.flatnonzero(false_positives),
    )


def _ious(overlaps: Overlaps, truth_areas: IntArray) -> FloatArray:
    """Return the IoU of each pair, float64 (K,), without pixels where the ground truth is void."""
    rows, columns, shared = overlaps.rows, overlaps.columns, overlaps.shared
    union = overlaps.prediction_areas[columns] + truth_areas[rows] - shared
    union -= overlaps.void[columns]
    if (union < shared).any():
        row = rows[union < shared][0]
        raise EvaluationError(
            f"segment {overlaps.truth.ids[row]} of the truth has {overlaps.truth_areas[row]}"
            f" pixels, but its annotation says {truth_areas[row]}"
        )
    return shared / union


def _ignored(overlaps: Overlaps) -> npt.NDArray[np.bool_]:
    """Return bool (P,): whether each prediction is mostly on void or a crowd of its class."""
    rows, columns = overlaps.rows, overlaps.columns
    truth, prediction = overlaps.truth, overlaps.prediction
    # The official tools only consider the last crowd of a class.
    last = {class_id: index for index, class_id in enumerate(truth.classes) if truth.crowd[index]}
    counts = np.isin(rows, list(last.values()))
    counts &= truth.classes[rows] == prediction.classes[columns]
    ignored = overlaps.void.copy()
    ignored[columns[counts]] += overlaps.shared[counts]
    return ignored / overlaps.prediction_areas > 0.5


@dataclass(frozen=True, slots=True, eq=False)
class PanopticCounts:
    """Per-class counts, which can be added exactly in any order.

    Attributes:
        tp: int64 (C,): matched pairs.
        fp: int64 (C,): unmatched predicted segments.
        fn: int64 (C,): unmatched ground-truth segments.
        iou_sums: Sum of the IoUs of the matched pairs by class, in units of 2^-53.
    """

    tp: IntArray
    fp: IntArray
    fn: IntArray
    iou_sums: tuple[int, ...]

    @classmethod
    def zero(cls, length: int) -> PanopticCounts:
        """Return the counts of no frames."""
        none = np.zeros(length, np.int64)
        return cls(none, none, none, (0,) * length)

    @classmethod
    def from_overlaps(
        cls, overlaps: Overlaps, categories: Categories, boundary: Overlaps | None = None
    ) -> PanopticCounts:
        """Return the counts of one frame or tube; arguments as in `match`.

        Raises:
            EvaluationError: A segment has a class that is not in the categories.
        """
        truth = categories.indices(overlaps.truth.classes)
        prediction = categories.indices(overlaps.prediction.classes)
        matching = match(overlaps, boundary)
        matched = truth[matching.rows]
        sums = [0] * len(categories)
        units = np.ldexp(matching.ious, _IOU_UNIT).astype(np.int64)
        for index, unit in zip(matched.tolist(), units.tolist(), strict=True):
            sums[index] += unit
        return cls(
            tp=np.bincount(matched, minlength=len(categories)),
            fp=np.bincount(prediction[matching.false_positives], minlength=len(categories)),
            fn=np.bincount(truth[matching.false_negatives], minlength=len(categories)),
            iou_sums=tuple(sums),
        )

    def __add__(self, other: PanopticCounts) -> PanopticCounts:
        return PanopticCounts(
            self.tp + other.tp,
            self.fp + other.fp,
            self.fn + other.fn,
            tuple(a + b for a, b in zip(self.iou_sums, other.iou_sums, strict=True)),
        )

    @property
    def ious(self) -> FloatArray:
        """float64 (C,): sum of the IoUs of the matched pairs."""
        return np.array([total / (1 << _IOU_UNIT) for total in self.iou_sums])

    def quality(self, categories: Categories) -> PanopticQuality:
        """Return PQ, SQ and RQ of these counts."""
        return PanopticQuality.from_counts(
            self.tp, self.fp, self.fn, self.ious, categories.is_thing
        )


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class PanopticQuality:
    """PQ, SQ and RQ as fractions; nan where there are no segments.

    Arrays have the leading axes of the counts: none, or one for bootstrap samples.

    Attributes:
        classes: float64 (..., C, 3): PQ, SQ, RQ by class.
        all: float64 (..., 3): means over the classes that occur.
        things: float64 (..., 3): means over the thing classes that occur.
        stuff: float64 (..., 3): means over the stuff classes that occur.
    """

    classes: FloatArray
    all: FloatArray
    things: FloatArray
    stuff: FloatArray

    @classmethod
    def from_counts(
        cls,
        tp: npt.NDArray[Any],
        fp: npt.NDArray[Any],
        fn: npt.NDArray[Any],
        ious: FloatArray,
        is_thing: npt.NDArray[np.bool_],
    ) -> PanopticQuality:
        """Compute PQ, SQ and RQ from counts (..., C) and sums of IoUs (..., C)."""
        total = tp + 0.5 * fp + 0.5 * fn
        occurs = total > 0
        divisor = np.where(occurs, total, np.nan)
        # SQ is 0 for a class that occurs but has no match.
        sq = np.where(occurs, ious / np.maximum(tp, 1), np.nan)
        classes = np.stack((ious / divisor, sq, tp / divisor), axis=-1)
        return cls(
            classes=classes,
            all=_mean(classes, occurs),
            things=_mean(classes, occurs & is_thing),
            stuff=_mean(classes, occurs & ~is_thing),
        )


def _mean(values: FloatArray, use: npt.NDArray[np.bool_]) -> FloatArray:
    """Return the mean over the classes in ``use``; nan if there are none."""
    count = use.sum(axis=-1)[..., None]
    total = np.where(use[..., None], values, 0).sum(axis=-2)
    return total / np.where(count > 0, count, np.nan)


def panoptic_quality(
    truth: PanopticMap, prediction: PanopticMap, categories: Categories
) -> PanopticQuality:
    """Return PQ, SQ and RQ of a single frame."""
    return PanopticCounts.from_overlaps(Overlaps.from_maps(truth, prediction), categories).quality(
        categories
    )


#: Window sizes of VPQ, in camera frames.
WINDOWS = (0, 5, 10, 15)


def id_switches(
    numbers: Sequence[int], frames: Sequence[Overlaps], categories: Categories, *, max_gap: int
) -> IntArray:
    """Return the number of id switches of a sequence by ground-truth class.

    A switch occurs when a thing is matched with another predicted id than at its last match.

    Args:
        numbers: Numbers of the frames along the sequence, ascending.
        frames: Overlaps of the frames; ids persist along the sequence.
        categories: The classes.
        max_gap: A gap of more than this many camera frames starts a new track.

    Returns:
        int64 (C,); 0 for stuff.
    """
    switches = np.zeros(len(categories), np.int64)
    found: dict[int, int] = {}
    for index, overlaps in enumerate(frames):
        if index and numbers[index] - numbers[index - 1] > max_gap:
            found = {}
        matching = match(overlaps)
        classes = categories.indices(overlaps.truth.classes[matching.rows])
        ids = overlaps.truth.ids[matching.rows].tolist()
        predicted_ids = overlaps.prediction.ids[matching.columns].tolist()
        for class_index, truth, predicted in zip(classes.tolist(), ids, predicted_ids, strict=True):
            if categories.is_thing[class_index]:
                switches[class_index] += found.get(truth, predicted) != predicted
                found[truth] = predicted
    return switches


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class TrackQuality:
    """Tracking metrics of things; nan where the ground truth has none.

    Attributes:
        switches: int64 (C,): id switches by class.
        classes: float64 (C, 2): MOTSA and sMOTSA by class; at most 1, no lower bound.
        all: float64 (2,): MOTSA and sMOTSA of all things, from summed counts.
    """

    switches: IntArray
    classes: FloatArray
    all: FloatArray

    @classmethod
    def from_counts(
        cls, counts: PanopticCounts, switches: IntArray, categories: Categories
    ) -> TrackQuality:
        """Compute the metrics from counts over all frames."""
        wrong = counts.fp + switches
        gains = np.stack((counts.tp - wrong, counts.ious - wrong), axis=-1)
        truth = (counts.tp + counts.fn)[:, None]
        things = categories.is_thing
        return cls(
            switches=switches,
            classes=_ratio(gains, truth * things[:, None]),
            all=_ratio(gains[things].sum(axis=0), truth[things].sum(axis=0)),
        )


def _ratio(gains: FloatArray, truth: IntArray) -> FloatArray:
    return gains / np.where(truth > 0, truth, np.nan)


def tube_counts(
    numbers: Sequence[int], frames: Sequence[Overlaps], size: int, categories: Categories
) -> PanopticCounts:
    """Return the summed counts of the tubes of all windows of a sequence.

    Args:
        numbers: Numbers of the frames along the sequence, ascending.
        frames: Overlaps of the frames; ids persist along the sequence.
        size: Window size in camera frames; shorter sequences have no window.
        categories: The classes.

    Raises:
        EvaluationError: A segment changes its class, i.e. ids do not persist.
    """
    counts = PanopticCounts.zero(len(categories))
    for start, end in _windows(numbers, size):
        tubes = Overlaps.merged(frames[start:end])
        counts = counts + PanopticCounts.from_overlaps(tubes, categories)
    return counts


def _windows(numbers: Sequence[int], size: int) -> Iterator[tuple[int, int]]:
    """Yield start and end (exclusive) of each window that fits into the sequence."""
    end = 0
    for start, number in enumerate(numbers):
        if number + size > numbers[-1]:
            return
        while end < len(numbers) and numbers[end] <= number + size:
            end += 1
        yield start, end
