"""Joins the labelled points of a bag with their ground truth, cloud by cloud."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import numpy.typing as npt

from upsnet_ros.bags.index import BagIndex, FrameKey, Part, Role, parts_of
from upsnet_ros.errors import EvaluationError
from upsnet_ros.evaluation.maps import Categories
from upsnet_ros.evaluation.points import PointCounts, PointLabels

__all__ = ["count_points"]

# PointField's numbers of types, as NumPy's codes.
_CODES = {1: "i1", 2: "u1", 3: "i2", 4: "u2", 5: "i4", 6: "u4", 7: "f4", 8: "f8"}
_COORDINATES = ("x", "y", "z")
_LABELS = ("class_id", "unknown")


def count_points(
    outputs: BagIndex, truth: BagIndex, categories: Categories
) -> tuple[dict[int, PointCounts], list[str]]:
    """Count the labelled points of a bag.

    Clouds are joined by exact stamp and frame_id. Both bags are read in step, so that only clouds
    whose counterpart is still to come are in memory.

    Args:
        outputs: The bag with the points node's ``points``.
        truth: The bag with ``/ground_truth/points``.
        categories: The classes.

    Returns:
        The counts by stamp in ns, and one line for each group of clouds that is left out; both
        empty if a bag has no points.

    Raises:
        BagError: A message is damaged.
        EvaluationError: Two clouds do not have the same points, or lack a field.
    """
    if not (outputs.has(Role.POINTS) and truth.has(Role.TRUTH_POINTS)):
        return {}, []
    wanted = outputs.arrivals[Role.POINTS].keys()
    known = truth.arrivals[Role.TRUTH_POINTS].keys()
    counts: dict[int, PointCounts] = {}
    waiting: dict[FrameKey, Part] = {}
    for part in _both(outputs, truth):
        if part.key not in wanted or part.key not in known:
            continue
        other = waiting.pop(part.key, None)
        if other is None:
            waiting[part.key] = part
            continue
        pair = {one.role: one.record.message for one in (part, other)}
        try:
            added = _compare(pair[Role.TRUTH_POINTS], pair[Role.POINTS], categories)
        except EvaluationError as error:
            raise EvaluationError(f"points of {part.key}: {error}") from None
        stamp_ns = part.key.stamp_ns
        counts[stamp_ns] = counts[stamp_ns] + added if stamp_ns in counts else added
    notes = []
    if absent := len(known - wanted):
        notes.append(
            f"{absent} of {len(known)} clouds of {truth.path} have no labelled points in"
            f" {outputs.path}: not evaluated"
        )
    return counts, notes


def _both(outputs: BagIndex, truth: BagIndex) -> Iterator[Part]:
    """Yield the clouds of both bags, in turn."""
    if outputs is truth:
        yield from parts_of(outputs, frozenset({Role.POINTS, Role.TRUTH_POINTS}))
        return
    streams = [
        parts_of(outputs, frozenset({Role.POINTS})),
        parts_of(truth, frozenset({Role.TRUTH_POINTS})),
    ]
    while streams:
        for stream in list(streams):
            part = next(stream, None)
            if part is None:
                streams.remove(stream)
            else:
                yield part


def _compare(truth: Any, predicted: Any, categories: Categories) -> PointCounts:
    """Return the counts of one cloud, from two sensor_msgs/PointCloud2."""
    own = _fields(truth, (*_COORDINATES, *_LABELS))
    answer = _fields(predicted, (*_COORDINATES, *_LABELS))
    if len(own) == len(answer) and any(
        not np.array_equal(own[name], answer[name], equal_nan=True) for name in _COORDINATES
    ):
        raise EvaluationError(
            "the labelled points have other coordinates than the ground truth: compare the labels"
            " of the same cloud"
        )
    xyz = np.stack([own[name].astype(np.float64) for name in _COORDINATES])
    sides = [
        PointLabels(class_ids=one["class_id"].astype(np.int64), unknown=one["unknown"] != 0)
        for one in (own, answer)
    ]
    return PointCounts.from_labels(
        sides[0], sides[1], distances=np.sqrt((xyz**2).sum(axis=0)), categories=categories
    )


def _fields(message: Any, names: tuple[str, ...]) -> npt.NDArray[np.void]:
    """Return some fields of a sensor_msgs/PointCloud2 as a structured array (N,).

    Raises:
        EvaluationError: A field is missing, or the sizes of the message make no sense.
    """
    fields = {field.name: field for field in message.fields}
    order = ">" if message.is_bigendian else "<"
    missing = [name for name in names if name not in fields]
    if missing:
        raise EvaluationError(f"the cloud has no field {', '.join(missing)}")
    unusual = [name for name in names if fields[name].datatype not in _CODES]
    if unusual:
        raise EvaluationError(f"field {unusual[0]} has the type {fields[unusual[0]].datatype}")
    kind = np.dtype(
        {
            "names": list(names),
            "formats": [order + _CODES[fields[name].datatype] for name in names],
            "offsets": [fields[name].offset for name in names],
        }
    )
    height, width, step = message.height, message.width, message.point_step
    if not height * width:
        return np.zeros(0, kind)
    row = message.row_step if height > 1 else max(message.row_step, width * step)
    data = np.asarray(message.data, np.uint8)
    if step < kind.itemsize or row < width * step or len(data) < row * (height - 1) + width * step:
        raise EvaluationError(
            f"{len(data)} bytes with point_step {step} do not hold {width}x{height} points"
        )
    points = np.ndarray((height, width), kind, buffer=data, strides=(row, step))
    return points.reshape(-1)
