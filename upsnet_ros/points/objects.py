"""What the labelled points make up: instances and unknown regions as objects in space."""

from __future__ import annotations

import importlib
import importlib.util
import math
from collections.abc import Iterator
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
from geometry_msgs.msg import Point, Pose, Quaternion, Vector3
from std_msgs.msg import Header

from upsnet_ros.msg import PanopticObject, PanopticObjectArray
from upsnet_ros.points.labelling import LabelledPoints
from upsnet_ros.points.labels import FrameLabels

# Of objects with more points only so many are measured: their quantile of 2 % is one of 1.7 to
# 2.3 % of all.
_MOST_POINTS = 2000
# Which ones, as shares of the object's points in their order: one at a varying place of each of
# as many equal parts. At equal distances they could all lie in every second column of an image.
_SAMPLE = (np.arange(_MOST_POINTS) + np.arange(_MOST_POINTS) * 0.618034 % 1) / _MOST_POINTS


def find_objects(
    points: LabelledPoints, *, quantile: float, min_points: int
) -> list[PanopticObject]:
    """Return the objects among points, instances first, each kind in the order of its message.

    Args:
        points: Points of a frame; the objects are in their frame.
        quantile: Share of the points left out at each side of an object's box, 0 to 0.15.
        min_points: Objects with fewer points are not listed.
    """
    labels = points.labels
    number = _object_numbers(points)
    chosen = np.flatnonzero(number != 0)
    number = number.take(chosen)
    chosen = chosen.take(np.argsort(number, kind="stable"))  # radix sort: they have 16 bits
    counts = np.bincount(number, minlength=_count(labels) + 1)
    ends = np.cumsum(counts)
    objects = []
    for index, described in enumerate(_described(labels), start=1):
        count = int(counts[index])
        if count >= min_points:
            own = chosen[ends[index] - count : ends[index]]
            if count > _MOST_POINTS:
                own = own.take((count * _SAMPLE).astype(np.intp))
            _measure(described, np.ascontiguousarray(points.xyz[:, own]), quantile)
            described.num_points = count
            objects.append(described)
    return objects


def _count(labels: FrameLabels) -> int:
    return len(labels.instances.instances) + len(labels.instances.unknown_regions)


def _object_numbers(points: LabelledPoints) -> npt.NDArray[np.uint16]:
    """Return which object each point belongs to, from 1, uint16 (N,); 0 for none."""
    labels = points.labels
    instances = labels.instances
    of_row = np.zeros(len(labels.table), np.uint16)
    for index, one in enumerate(instances.instances, start=1):
        if 0 < one.id < labels.unknown_row - 1:  # others are no label of a class
            of_row[one.id] = index
    numbers = of_row.take(points.rows)
    if instances.unknown_regions:
        unknown = np.flatnonzero(points.unknown)
        if unknown.size:
            of_component, components = _regions(labels)
            pixels = points.pixels.take(unknown)
            numbers[unknown] = of_component.take(components.reshape(-1).take(pixels))
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
    squares = np.einsum("ij,ij->j", points, points)
    # The values that leave out a share of the others at either end.
    first = int(quantile * (points.shape[1] - 1))
    last = points.shape[1] - 1 - first
    ordered = np.partition(np.concatenate((points, squares[None])), (first, last), axis=1)
    low, high = ordered[:3, [first, last]].astype(np.float64).T
    inside = ((points >= low[:, None]) & (points <= high[:, None])).all(axis=0)
    # With few points, or a large share left out, none may be inside on all axes.
    kept = points.compress(inside, axis=1) if inside.any() else points
    described.centroid = _point(kept.mean(axis=1, dtype=np.float64))
    described.center = _point((low + high) / 2)
    described.size = Vector3(**dict(zip("xyz", map(float, high - low), strict=True)))
    described.distance = math.sqrt(ordered[3, first])


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
