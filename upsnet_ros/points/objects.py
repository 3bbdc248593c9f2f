"""What the labelled points make up: instances and unknown regions as objects in space."""

from __future__ import annotations

import importlib
import importlib.util
import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
from geometry_msgs.msg import Point, Pose, Quaternion, Vector3
from std_msgs.msg import Header

from upsnet_ros.msg import PanopticObject, PanopticObjectArray
from upsnet_ros.points.labels import FrameLabels

__all__ = ["ObjectSettings", "detections_message", "find_objects", "objects_message", "vision_msgs"]


# Of objects with more points only every second, third ... is measured: neither the box nor the
# centroid would change noticeably.
_MOST_POINTS = 10_000


@dataclass(frozen=True, slots=True, kw_only=True)
class ObjectSettings:
    """How objects are measured.

    Attributes:
        quantile: Share of the points left out at each side of the box, 0 to 0.15.
        min_points: Objects with fewer points are not listed.
    """

    quantile: float
    min_points: int


def find_objects(
    xyz: npt.NDArray[np.float32],
    pixels: npt.NDArray[np.intp],
    labels: FrameLabels,
    settings: ObjectSettings,
) -> list[PanopticObject]:
    """Return the objects among points, instances first, each kind in the order of its message.

    Args:
        xyz: float32 (3, N), metres, in the frame of the objects.
        pixels: intp (N,), index of each point's pixel; -1 for points without a label.
        labels: Labels of the frame.
        settings: How objects are measured.
    """
    number = _object_numbers(pixels, labels)
    chosen = np.flatnonzero(number)
    number = number[chosen]
    points = xyz[:, chosen[np.argsort(number, kind="stable")]]  # radix sort: they have 16 bits
    counts = np.bincount(number, minlength=_count(labels) + 1)
    ends = np.cumsum(counts)
    objects = []
    for index, described in enumerate(_described(labels), start=1):
        if counts[index] >= settings.min_points:
            own = points[:, ends[index] - counts[index] : ends[index]]
            _measure(described, own, settings.quantile)
            objects.append(described)
    return objects


def _count(labels: FrameLabels) -> int:
    return len(labels.instances.instances) + len(labels.instances.unknown_regions)


def _object_numbers(pixels: npt.NDArray[np.intp], labels: FrameLabels) -> npt.NDArray[np.uint16]:
    """Return which object each pixel belongs to, from 1, uint16 (N,); 0 for none."""
    instances = labels.instances
    of_row = np.zeros(len(labels.table), np.uint16)
    for index, one in enumerate(instances.instances, start=1):
        if 0 < one.id < labels.unknown_row - 1:  # others are no label of a class
            of_row[one.id] = index
    rows = labels.rows.reshape(-1).take(pixels, mode="clip")
    rows[pixels < 0] = 0
    numbers = of_row.take(rows)
    unknown = np.flatnonzero(rows == labels.unknown_row)
    if unknown.size and instances.unknown_regions:
        of_component, components = _regions(labels)
        numbers[unknown] = of_component.take(components.reshape(-1).take(pixels[unknown]))
    return numbers


def _regions(labels: FrameLabels) -> tuple[npt.NDArray[np.uint16], npt.NDArray[np.int32]]:
    """Divide the unknown mask into the regions of the message, which has their box and area.

    Returns:
        The object of each component, from 1, uint16 (C,), 0 for none; and the component of each
        pixel, int32 (H, W).
    """
    instances = labels.instances
    _, components, stats, _ = cv2.connectedComponentsWithStats(labels.unknown, connectivity=8)
    regions = [
        (one.roi.x_offset, one.roi.y_offset, one.roi.width, one.roi.height, one.area)
        for one in instances.unknown_regions
    ]
    listed = np.isin(stats[:, cv2.CC_STAT_AREA], [area for *_, area in regions])
    component_of = {
        tuple(stats[one].tolist()): one for one in np.flatnonzero(listed).tolist() if one
    }
    of_component = np.zeros(len(stats), np.uint16)
    for index, region in enumerate(regions, start=len(instances.instances) + 1):
        if region in component_of:
            of_component[component_of[region]] = index
    return of_component, np.asarray(components, np.int32)


def _described(labels: FrameLabels) -> Iterator[PanopticObject]:
    """Yield an object for each instance and region, without its measures."""
    for one in labels.instances.instances:
        yield PanopticObject(
            id=one.id,
            class_id=one.class_id,
            class_name=one.class_name,
            track_id=one.track_id,
            score=one.score,
        )
    for position, region in enumerate(labels.instances.unknown_regions, start=1):
        yield PanopticObject(id=position, is_unknown=True, score=region.mean_score)


def _measure(described: PanopticObject, points: npt.NDArray[np.float32], quantile: float) -> None:
    """Fill in the measures of an object with these points, float32 (3, n)."""
    described.num_points = points.shape[1]
    points = points[:, :: 1 + points.shape[1] // _MOST_POINTS]
    low, high = np.array([_bounds(axis, quantile) for axis in points]).T
    inside = ((points >= low[:, None]) & (points <= high[:, None])).all(axis=0)
    # With few points, or a large share left out, none may be inside on all axes.
    kept = points[:, inside] if inside.any() else points
    mean = kept.mean(axis=1, dtype=np.float64)
    ranges = np.sqrt(np.einsum("ij,ij->j", points, points))
    described.centroid = _point(mean)
    described.center = _point((low + high) / 2)
    described.size = Vector3(**dict(zip("xyz", map(float, high - low), strict=True)))
    described.distance = float(_bounds(ranges, quantile)[0])


def _bounds(values: npt.NDArray[np.float32], quantile: float) -> tuple[float, float]:
    """Return the values that leave out a share of the others at either end."""
    first = int(quantile * (values.size - 1))
    last = values.size - 1 - first
    ordered = np.partition(values, (first, last))
    return float(ordered[first]), float(ordered[last])


def _point(values: npt.NDArray[np.float64]) -> Point:
    return Point(**dict(zip("xyz", map(float, values), strict=True)))


def objects_message(objects: list[PanopticObject], header: Header) -> PanopticObjectArray:
    """Return the message of the `objects` topic."""
    return PanopticObjectArray(header=header, objects=objects)


def vision_msgs() -> Any:
    """Return vision_msgs.msg; None if it is not installed."""
    spec = importlib.util.find_spec("vision_msgs")
    if spec is None or spec.origin is None:  # a folder of that name, not a package
        return None
    return importlib.import_module("vision_msgs.msg")


def detections_message(objects: list[PanopticObject], header: Header) -> Any:
    """Return a vision_msgs/Detection3DArray of the objects, which requires vision_msgs.

    `class_id` is the dataset's public id as text, ``unknown`` for unknown regions; `id` is the
    track id, or empty without one.
    """
    vision = vision_msgs()
    return vision.Detection3DArray(
        header=header,
        detections=[
            vision.Detection3D(
                header=header,
                results=[
                    vision.ObjectHypothesisWithPose(
                        hypothesis=vision.ObjectHypothesis(
                            class_id="unknown" if one.is_unknown else str(one.class_id),
                            score=one.score if math.isfinite(one.score) else 0.0,
                        )
                    )
                ],
                bbox=vision.BoundingBox3D(
                    center=Pose(position=one.center, orientation=Quaternion(w=1.0)), size=one.size
                ),
                id=str(one.track_id) if one.track_id else "",
            )
            for one in objects
        ],
    )
