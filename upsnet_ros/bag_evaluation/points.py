"""Joins the labelled points of a bag with their ground truth, frame by frame."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from upsnet_ros.bags.index import BagIndex, FrameKey, Part, Role, parts_of
from upsnet_ros.bags.reader import Record
from upsnet_ros.drawing.birds_eye_view import view_axes
from upsnet_ros.errors import EvaluationError
from upsnet_ros.evaluation.maps import Categories
from upsnet_ros.evaluation.points import LabelledCloud, PointCounts, PointLabels
from upsnet_ros.inference.frame import LABEL_DIVISOR

# PointField's numbers of types, as NumPy's codes.
_CODES = {1: "i1", 2: "u1", 3: "i2", 4: "u2", 5: "i4", 6: "u4", 7: "f4", 8: "f8"}
_COORDINATES = ("x", "y", "z")
_LABELS = ("class_id", "unknown")


class PointFrames:
    """The labelled points of a bag and their ground truth, by the stamps of frames.

    Clouds are joined by exact stamp and frame_id. Points in the frame of the images, which have no
    ground truth of their own, are those of depth images: if they are organised, they have that of
    their pixels. Both bags are read in step while the frames are, so that only clouds that are
    still to be asked for are in memory.

    Args:
        outputs: The bag with the points node's ``points``.
        truth: The bag with ``/ground_truth/points``, or labels for points of depth images.
        categories: The classes.
        frames: The frames that `read` will be called for, in the order of stamps.

    Attributes:
        notes: One line for each group of clouds that is left out.
        unused: Number of clouds of no frame's stamp.
        without_pixels: Number of clouds of depth images that were left out because they are not
            organised, so far.
    """

    def __init__(
        self,
        outputs: BagIndex,
        truth: BagIndex,
        categories: Categories,
        *,
        frames: Sequence[FrameKey],
    ) -> None:
        self._categories = categories
        self.notes: list[str] = []
        self.unused = self.without_pixels = 0
        predicted = outputs.arrivals.get(Role.POINTS, {}).keys()
        self._known = truth.arrivals.get(Role.TRUTH_POINTS, {}).keys()
        of_depth = predicted & truth.arrivals.get(Role.TRUTH, {}).keys() - self._known
        self._keys: dict[int, list[FrameKey]] = {key.stamp_ns: [] for key in frames}
        self._waiting: dict[FrameKey, dict[Role, Record]] = {}
        self._parts = _both(outputs, truth)
        absent = len(self._known - predicted)
        if absent and len(predicted) > len(of_depth):
            self.notes.append(
                f"{absent} of {len(self._known)} clouds of {truth.path} have no labelled points in"
                f" {outputs.path}: not evaluated"
            )
        for key in sorted(self._known & predicted | of_depth):
            if key.stamp_ns in self._keys:
                self._keys[key.stamp_ns].append(key)
            else:
                self.unused += 1

    def read(
        self,
        frame: FrameKey,
        *,
        labels: npt.NDArray[np.int32],
        unknown: npt.NDArray[np.bool_] | None,
    ) -> tuple[PointCounts | None, LabelledCloud | None]:
        """Return the counts of a frame's clouds, and the first of them; None if it has none.

        Args:
            frame: The frame.
            labels: int32 (H, W), its ground truth.
            unknown: bool (H, W): pixels of objects outside the classes; None if not annotated.

        Raises:
            BagError: A message is damaged.
            EvaluationError: Two clouds do not have the same points, or lack a field.
        """
        counts: PointCounts | None = None
        first: LabelledCloud | None = None
        for key in self._keys.pop(frame.stamp_ns, []):
            pair = self._pair(key)
            axes = view_axes(key.frame_id, camera=frame.frame_id)
            try:
                if Role.TRUTH_POINTS in pair:
                    truth = pair[Role.TRUTH_POINTS].message
                    cloud = _cloud(truth, pair[Role.POINTS].message, axes=axes)
                else:
                    message = pair[Role.POINTS].message
                    if (message.height, message.width) != labels.shape:
                        self.without_pixels += 1
                        continue
                    cloud = _cloud_of_pixels(message, labels, unknown, axes=axes)
                xyz = cloud.xyz.astype(np.float64)
                added = PointCounts.from_labels(
                    cloud.truth,
                    cloud.prediction,
                    distances=np.sqrt((xyz**2).sum(axis=0)),
                    categories=self._categories,
                )
            except EvaluationError as error:
                raise EvaluationError(f"points of {key}: {error}") from None
            counts = added if counts is None else counts + added
            first = first or cloud
        return counts, first

    def _pair(self, key: FrameKey) -> dict[Role, Record]:
        """Return the messages of a cloud; those that come before them are kept if needed."""
        while len(self._waiting.get(key, {})) < 1 + (key in self._known):
            part = next(self._parts, None)
            if part is None:
                raise EvaluationError(f"{key}: cannot read its points again; did the bag change?")
            if part.key == key or part.key in self._keys.get(part.key.stamp_ns, []):
                self._waiting.setdefault(part.key, {})[part.role] = part.record
        return self._waiting.pop(key)


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


def _cloud(truth: Any, predicted: Any, *, axes: npt.NDArray[np.float64]) -> LabelledCloud:
    """Return the points of two sensor_msgs/PointCloud2."""
    own = _fields(truth, (*_COORDINATES, *_LABELS))
    answer = _fields(predicted, (*_COORDINATES, *_LABELS))
    if len(own) == len(answer) and any(
        not np.array_equal(own[name], answer[name], equal_nan=True) for name in _COORDINATES
    ):
        raise EvaluationError(
            "the labelled points have other coordinates than the ground truth: compare the labels"
            " of the same cloud"
        )
    return LabelledCloud(
        xyz=_coordinates(own), axes=axes, truth=_labels_of(own), prediction=_labels_of(answer)
    )


def _cloud_of_pixels(
    predicted: Any,
    labels: npt.NDArray[np.int32],
    unknown: npt.NDArray[np.bool_] | None,
    *,
    axes: npt.NDArray[np.float64],
) -> LabelledCloud:
    """Return the points of a sensor_msgs/PointCloud2 that has one for each pixel of an image.

    Pixels without depth have no ground truth.

    Args:
        predicted: The message.
        labels: int32 (H, W), ground truth of the pixels.
        unknown: bool (H, W): pixels of objects outside the classes; None if not annotated.
        axes: As of `LabelledCloud`.
    """
    answer = _fields(predicted, (*_COORDINATES, *_LABELS))
    xyz = _coordinates(answer)
    measured = np.isfinite(xyz).all(axis=0)
    classes = np.where(labels >= LABEL_DIVISOR, labels // LABEL_DIVISOR, labels).reshape(-1)
    marked = np.zeros(labels.size, bool) if unknown is None else unknown.reshape(-1)
    return LabelledCloud(
        xyz=xyz,
        axes=axes,
        truth=PointLabels(
            class_ids=np.where(measured & ~marked, classes, 0), unknown=measured & marked
        ),
        prediction=_labels_of(answer),
    )


def _coordinates(points: npt.NDArray[np.void]) -> npt.NDArray[np.float32]:
    return np.stack([points[name].astype(np.float32) for name in _COORDINATES])


def _labels_of(points: npt.NDArray[np.void]) -> PointLabels:
    return PointLabels(
        class_ids=points["class_id"].astype(np.int64), unknown=points["unknown"] != 0
    )


def _fields(message: Any, names: tuple[str, ...]) -> npt.NDArray[np.void]:
    """Return some fields of a sensor_msgs/PointCloud2 as a structured array (N,)."""
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
