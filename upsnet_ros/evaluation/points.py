"""Metrics of labelled points: IoU of classes, and recall of unknown objects by distance.

A point without a predicted label (hidden from the camera, or dropped) counts as a miss, not as
absent: what a stack gets are the labels of its points. Points that the ground truth leaves void are
ignored.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from upsnet_ros.errors import EvaluationError
from upsnet_ros.evaluation.maps import Categories
from upsnet_ros.evaluation.panoptic_quality import class_ious, mean_iou

IntArray = npt.NDArray[np.int64]

#: Limits between the ranges of distance, metres: 0 to 10, 10 to 20, 20 to 40, and beyond.
DISTANCES = (10.0, 20.0, 40.0)
_RANGES = len(DISTANCES) + 1
_VOID = 0


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class PointLabels:
    """The labels of the points of one cloud.

    Attributes:
        class_ids: Integers (N,): class ids; 0 for void and for unknown objects.
        unknown: bool (N,): whether a point is of an unknown object.
    """

    class_ids: npt.NDArray[Any]
    unknown: npt.NDArray[np.bool_]

    def __len__(self) -> int:
        return len(self.class_ids)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class LabelledCloud:
    """Points with their ground truth and prediction.

    Attributes:
        xyz: float32 (3, N), metres, in the sensor's frame; may hold NaN and infinity.
        axes: Directions forward, left and up in that frame, as rows of a (3, 3) rotation.
        truth: The ground truth.
        prediction: The predicted labels of the same points, in the same order.
    """

    xyz: npt.NDArray[np.float32]
    axes: npt.NDArray[np.floating[Any]]
    truth: PointLabels
    prediction: PointLabels


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class PointCounts:
    """Counts of labelled points, which can be added over clouds.

    Attributes:
        classes: int64 (2, C): points in intersection and union of each class, as `class_pixels`.
        unknown: int64 (2, R): points of unknown objects by range of distance, and those predicted
            as unknown.
        known: int64 (2, R): points with a class, and those wrongly predicted as unknown.
        labelled: Of both, points with a predicted class or predicted as unknown.
    """

    classes: IntArray
    unknown: IntArray
    known: IntArray
    labelled: int

    @classmethod
    def zero(cls, size: int) -> PointCounts:
        """Return the counts of no point, of ``size`` classes."""
        ranges = np.zeros((2, _RANGES), np.int64)
        return cls(classes=np.zeros((2, size), np.int64), unknown=ranges, known=ranges, labelled=0)

    @classmethod
    def from_labels(
        cls,
        truth: PointLabels,
        prediction: PointLabels,
        *,
        distances: npt.NDArray[np.floating[Any]],
        categories: Categories,
    ) -> PointCounts:
        """Return the counts of one cloud.

        Args:
            truth: The ground truth.
            prediction: The predicted labels of the same points, in the same order.
            distances: (N,) distance of each point from the sensor, metres.
            categories: The classes.

        Raises:
            EvaluationError: The numbers of points differ, or there are ids of no class.
        """
        if not len(truth) == len(prediction) == len(distances):
            raise EvaluationError(
                f"{len(prediction)} labelled points, but the ground truth has {len(truth)}:"
                " compare the labels of the same cloud"
            )
        known = (truth.class_ids != _VOID) & ~truth.unknown
        called = prediction.unknown
        named = (prediction.class_ids != _VOID) & ~called
        right = known & named & (truth.class_ids == prediction.class_ids)
        size = len(categories)

        def by_class(side: PointLabels, chosen: npt.NDArray[np.bool_]) -> IntArray:
            indices = categories.indices(side.class_ids[chosen].astype(np.int64))
            return np.bincount(indices, minlength=size)

        shared = by_class(truth, right)
        either = by_class(truth, known) + by_class(prediction, known & named)
        ranges = np.digitize(distances, DISTANCES)

        def by_range(chosen: npt.NDArray[np.bool_]) -> IntArray:
            return np.bincount(ranges[chosen], minlength=_RANGES)

        return cls(
            classes=np.stack((shared, either - shared)),
            unknown=np.stack((by_range(truth.unknown), by_range(truth.unknown & called))),
            known=np.stack((by_range(known), by_range(known & called))),
            labelled=int(np.count_nonzero((known | truth.unknown) & (named | called))),
        )

    def __add__(self, other: PointCounts) -> PointCounts:
        return PointCounts(
            classes=self.classes + other.classes,
            unknown=self.unknown + other.unknown,
            known=self.known + other.known,
            labelled=self.labelled + other.labelled,
        )

    @property
    def points(self) -> int:
        """Number of points with ground truth."""
        return int(self.known[0].sum() + self.unknown[0].sum())

    @property
    def coverage(self) -> float:
        """Fraction of the points that have a predicted label; nan without points."""
        return self.labelled / self.points if self.points else np.nan

    @property
    def mean_iou(self) -> float:
        """Mean IoU over the classes that occur; nan if none does."""
        return float(mean_iou(class_ious(self.classes)))

    @property
    def unknown_recall(self) -> float:
        """Fraction of unknown objects' points predicted as unknown; nan without such points."""
        total, found = self.unknown.sum(axis=1).tolist()
        return found / total if total else np.nan

    def by_distance(self) -> list[dict[str, Any]]:
        """Return counts and shares of each range of distance; nan where undefined, JSON-ready."""
        rows = []
        limits = (0.0, *DISTANCES, None)
        for index in range(_RANGES):
            unknown, found = self.unknown[:, index].tolist()
            known, lost = self.known[:, index].tolist()
            rows.append(
                {
                    "from": limits[index],
                    "to": limits[index + 1],
                    "unknown_points": unknown,
                    "unknown_recall": found / unknown if unknown else np.nan,
                    "known_points": known,
                    "known_points_lost": lost / known if known else np.nan,
                }
            )
        return rows
