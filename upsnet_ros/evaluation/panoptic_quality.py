"""Panoptic quality, as panopticapi and cityscapesscripts define it.

What is predicted as void earns no pardon: a segment of the truth that nothing matches counts as
missed, however much of it was called unknown. Only the truth's void and crowds are set aside.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from upsnet_ros.evaluation.categories import Categories
from upsnet_ros.evaluation.errors import EvaluationError
from upsnet_ros.evaluation.maps import PanopticMap
from upsnet_ros.evaluation.overlaps import Overlaps

IntArray = npt.NDArray[np.int64]
FloatArray = npt.NDArray[np.float64]

#: IoUs above 0.5, as float64, are whole multiples of 2^-53, so that their sums can be exact.
_IOU_UNIT = 53


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Matching:
    """Which segments of a frame (or tube) found each other.

    Attributes:
        rows: int64 (M,): place of each matched segment in the truth's table.
        columns: int64 (M,): place of its counterpart in the prediction's.
        ious: float64 (M,), above 0.5.
        missed: int64: places of segments of the truth that nothing matches.
        invented: int64: places of predicted segments that match nothing.
    """

    rows: IntArray
    columns: IntArray
    ious: FloatArray
    missed: IntArray
    invented: IntArray


def match(overlaps: Overlaps, boundary: Overlaps | None = None) -> Matching:
    """Match segments of the same class whose IoU exceeds one half.

    Args:
        overlaps: Of the frame.
        boundary: Of the segments' boundaries, with the same tables of segments: the IoU is then
            the smaller of the two, which makes boundary PQ.
    """
    annotated = overlaps.truth.areas
    ious = _ious(overlaps, overlaps.truth_areas if annotated is None else annotated)
    if boundary is not None:
        # Pairs come in order; those whose boundaries do not meet are missing in the second list.
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
    missed = ~truth.crowd
    missed[rows[found]] = False
    invented = ~_excused(overlaps)
    invented[columns[found]] = False
    return Matching(
        rows=rows[found],
        columns=columns[found],
        ious=ious[found],
        missed=np.flatnonzero(missed),
        invented=np.flatnonzero(invented),
    )


def _ious(overlaps: Overlaps, truth_areas: IntArray) -> FloatArray:
    """IoU of each pair, float64 (K,), the truth's void left out of the predicted segment.

    Raises:
        EvaluationError: An annotated area is too small to be true.
    """
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


def _excused(overlaps: Overlaps) -> npt.NDArray[np.bool_]:
    """Whether each prediction lies mostly on void or on a crowd of its own class, bool (P,)."""
    rows, columns = overlaps.rows, overlaps.columns
    truth, prediction = overlaps.truth, overlaps.prediction
    # Of several crowds of a class the official tools see the last alone.
    last = {class_id: place for place, class_id in enumerate(truth.classes) if truth.crowd[place]}
    counts = np.isin(rows, list(last.values()))
    counts &= truth.classes[rows] == prediction.classes[columns]
    ignored = overlaps.void.copy()
    ignored[columns[counts]] += overlaps.shared[counts]
    return ignored / overlaps.prediction_areas > 0.5


@dataclass(frozen=True, slots=True, eq=False)
class PanopticCounts:
    """Sums over frames, by class; they add up exactly, in any order.

    Attributes:
        tp: int64 (C,) matched pairs.
        fp: int64 (C,) predicted segments that match nothing.
        fn: int64 (C,) segments of the truth that nothing matches.
        iou_sums: Sum of the IoUs of the matched pairs, in units of 2^-53.
    """

    tp: IntArray
    fp: IntArray
    fn: IntArray
    iou_sums: tuple[int, ...]

    @classmethod
    def zero(cls, length: int) -> PanopticCounts:
        """No frames."""
        none = np.zeros(length, np.int64)
        return cls(none, none, none, (0,) * length)

    @classmethod
    def of(
        cls, overlaps: Overlaps, categories: Categories, boundary: Overlaps | None = None
    ) -> PanopticCounts:
        """Count one frame (or tube); arguments as in `match`.

        Raises:
            EvaluationError: A segment's class is none of the categories.
        """
        truth = categories.places(overlaps.truth.classes)
        prediction = categories.places(overlaps.prediction.classes)
        matching = match(overlaps, boundary)
        matched = truth[matching.rows]
        sums = [0] * len(categories)
        units = np.ldexp(matching.ious, _IOU_UNIT).astype(np.int64)
        for place, unit in zip(matched.tolist(), units.tolist(), strict=True):
            sums[place] += unit
        return cls(
            tp=np.bincount(matched, minlength=len(categories)),
            fp=np.bincount(prediction[matching.invented], minlength=len(categories)),
            fn=np.bincount(truth[matching.missed], minlength=len(categories)),
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
        """PQ, SQ and RQ of what was counted."""
        return PanopticQuality.of(self.tp, self.fp, self.fn, self.ious, categories.is_thing)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class PanopticQuality:
    """PQ, SQ and RQ as fractions; nan where there is no segment to judge.

    The leading axes of all arrays are those of the counts: none, or one of bootstrap samples.

    Attributes:
        classes: float64 (..., C, 3): PQ, SQ, RQ by class.
        all: float64 (..., 3): means over the classes that occur.
        things: float64 (..., 3): the same of thing classes.
        stuff: float64 (..., 3): the same of stuff classes.
    """

    classes: FloatArray
    all: FloatArray
    things: FloatArray
    stuff: FloatArray

    @classmethod
    def of(
        cls,
        tp: npt.NDArray[Any],
        fp: npt.NDArray[Any],
        fn: npt.NDArray[Any],
        ious: FloatArray,
        is_thing: npt.NDArray[np.bool_],
    ) -> PanopticQuality:
        """Compute from counts (..., C) and sums of IoUs (..., C)."""
        total = tp + 0.5 * fp + 0.5 * fn
        occurs = total > 0
        divisor = np.where(occurs, total, np.nan)
        # A class that occurs without a match has SQ 0.
        sq = np.where(occurs, ious / np.maximum(tp, 1), np.nan)
        classes = np.stack((ious / divisor, sq, tp / divisor), axis=-1)
        return cls(
            classes=classes,
            all=_mean(classes, occurs),
            things=_mean(classes, occurs & is_thing),
            stuff=_mean(classes, occurs & ~is_thing),
        )


def _mean(values: FloatArray, use: npt.NDArray[np.bool_]) -> FloatArray:
    """Mean over the classes in use, nan where there are none."""
    count = use.sum(axis=-1)[..., None]
    total = np.where(use[..., None], values, 0).sum(axis=-2)
    return total / np.where(count > 0, count, np.nan)


def panoptic_quality(
    truth: PanopticMap, prediction: PanopticMap, categories: Categories
) -> PanopticQuality:
    """PQ, SQ and RQ of a single frame."""
    return PanopticCounts.of(Overlaps.of(truth, prediction), categories).quality(categories)
