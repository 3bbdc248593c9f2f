"""How many pixels the segments of truth and prediction share: one pass over a pair of maps.

Everything that panoptic quality and its kin need of a frame is in these small tables; they add up
over frames to those of a video.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from upsnet_ros.evaluation.errors import EvaluationError
from upsnet_ros.evaluation.maps import VOID, PanopticMap, Segments

IntArray = npt.NDArray[np.int64]

#: A table of all pairs may be this much larger than the list of runs before sorting is better.
_DENSE_PAIRS = 1 << 20


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Overlaps:
    """Shared pixels of the T segments of the truth and the P of the prediction.

    Attributes:
        truth: The truth's segments.
        prediction: The prediction's segments.
        truth_areas: int64 (T,) pixels.
        prediction_areas: int64 (P,) pixels.
        void: int64 (P,): pixels of each predicted segment where the truth is void.
        rows: int64 (K,): place in ``truth`` of each pair that shares pixels.
        columns: int64 (K,): place in ``prediction``.
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
    def of(cls, truth: PanopticMap, prediction: PanopticMap) -> Overlaps:
        """Count the pixels of a frame.

        As in the official tools, truth segments without a pixel stay in the table (they were
        missed), and pixels of the truth with an id that is not listed are neither void nor a
        segment's.

        Raises:
            EvaluationError: The maps differ in size, the prediction has a pixel whose id is not
                listed, or lists a segment without a pixel.
        """
        if truth.pixels.shape != prediction.pixels.shape:
            raise EvaluationError(
                f"the truth has {_size(truth.pixels)} pixels, the prediction"
                f" {_size(prediction.pixels)}"
            )
        truth_values, prediction_values, lengths = _runs(truth.pixels, prediction.pixels)
        # 0 is void, 1 to S the segments, S + 1 what is not listed.
        ranks = _ranks(truth_values, truth.segments.ids)
        others = _ranks(prediction_values, prediction.segments.ids)
        count = len(prediction.segments)
        strange = others == count + 1
        if strange.any():
            raise EvaluationError(
                f"segment {prediction_values[strange][0]} is in the prediction's pixels, but not"
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
    def joined(cls, frames: Sequence[Overlaps]) -> Overlaps:
        """Add up frames in which an id means the same segment throughout.

        Raises:
            EvaluationError: A segment changes its class from frame to frame.
        """
        truth, rows = _joined_segments([frame.truth for frame in frames], "truth")
        prediction, columns = _joined_segments([frame.prediction for frame in frames], "prediction")
        first = np.concatenate([r[frame.rows] for r, frame in zip(rows, frames, strict=True)])
        second = np.concatenate(
            [c[frame.columns] for c, frame in zip(columns, frames, strict=True)]
        )
        shared = np.concatenate([frame.shared for frame in frames])
        pair, place = np.unique(first * max(len(prediction), 1) + second, return_inverse=True)
        row, column = np.divmod(pair, max(len(prediction), 1))
        row_of, column_of = np.concatenate(rows), np.concatenate(columns)
        return cls(
            truth=truth,
            prediction=prediction,
            truth_areas=_sums(
                row_of, np.concatenate([frame.truth_areas for frame in frames]), len(truth)
            ),
            prediction_areas=_sums(
                column_of,
                np.concatenate([frame.prediction_areas for frame in frames]),
                len(prediction),
            ),
            void=_sums(
                column_of, np.concatenate([frame.void for frame in frames]), len(prediction)
            ),
            rows=row,
            columns=column,
            shared=_sums(place, shared, len(pair)),
        )


def _runs(
    truth: npt.NDArray[np.integer[Any]], prediction: npt.NDArray[np.integer[Any]]
) -> tuple[IntArray, IntArray, IntArray]:
    """Both ids of each stretch of pixels, in reading order, that share them, and its length.

    Maps are mostly flat, so there are some hundred times fewer stretches than pixels.
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


def _ranks(values: IntArray, ids: IntArray) -> IntArray:
    """1 + place of each value in ``ids``; 0 for void and one more than all for strangers."""
    order = np.argsort(ids)
    known = np.concatenate((ids[order], np.array([np.iinfo(np.int64).max])))
    place = np.searchsorted(known, values)
    ranks = np.concatenate((order + 1, np.array([len(ids) + 1])))[place]
    ranks[known[place] != values] = len(ids) + 1
    ranks[values == VOID] = 0
    return ranks


def _pairs(
    rows: IntArray, columns: IntArray, weights: IntArray, height: int, width: int
) -> tuple[IntArray, IntArray, IntArray]:
    """The pairs that occur, in order, and the sum of the weights of each."""
    keys = rows * width + columns
    if height * width <= _DENSE_PAIRS + len(keys):
        sums = _sums(keys, weights, height * width)
        pairs = np.flatnonzero(sums)
        sums = sums[pairs]
    else:
        pairs, place = np.unique(keys, return_inverse=True)
        sums = _sums(place, weights, len(pairs))
    row, column = np.divmod(pairs, width)
    return row, column, sums


def _sums(places: IntArray, weights: IntArray, length: int) -> IntArray:
    # bincount adds in float64, exact for sums below 2^53 pixels.
    return np.bincount(places, weights, length).astype(np.int64)


def _joined_segments(tables: Sequence[Segments], side: str) -> tuple[Segments, list[IntArray]]:
    """One table of all segments, and the place in it of each segment of each table."""
    ids = np.concatenate([table.ids for table in tables])
    classes = np.concatenate([table.classes for table in tables])
    crowd = np.concatenate([table.crowd for table in tables])
    _, first, place = np.unique(ids, return_index=True, return_inverse=True)
    # In the order of their first frame, which decides between crowds of one class.
    order = np.argsort(first)
    rank = np.empty_like(order)
    rank[order] = np.arange(len(order))
    first, place = first[order], rank[place]
    changed = classes != classes[first][place]
    if changed.any():
        raise EvaluationError(
            f"segment {ids[changed][0]} of the {side} changes its class from frame to frame: its"
            " ids do not persist along the sequence, so there is no video quality"
        )
    areas = [table.areas for table in tables if table.areas is not None]
    table = Segments(
        ids=ids[first],
        classes=classes[first],
        crowd=crowd[first],
        areas=_sums(place, np.concatenate(areas), len(first))
        if len(areas) == len(tables)
        else None,
    )
    return table, np.split(place, np.cumsum([len(table) for table in tables])[:-1])


def _size(pixels: npt.NDArray[np.integer[Any]]) -> str:
    return "x".join(str(length) for length in reversed(pixels.shape))
