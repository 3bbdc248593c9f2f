"""Paint on the road, and shadows on the ground: masks that the ground is painted with."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import cv2
import numpy as np
import numpy.typing as npt

from upsnet_ros.datasets.scenes.camera import Array, Camera
from upsnet_ros.datasets.scenes.draft import Block
from upsnet_ros.datasets.scenes.road import Path
from upsnet_ros.datasets.scenes.street import Street

Mask = npt.NDArray[np.uint8]

_SHIFT = 4
_SIGHT = 75.0  # how far markings are drawn, metres
_DASH, _PERIOD = 3.0, 7.0
_HALF = 0.07


def road_markings(street: Street, camera: Camera, path: Path, blocks: Sequence[Block]) -> Mask:
    """How much paint lies on each pixel of the ground: uint8 (rows, columns)."""
    mask = np.zeros((camera.rows, camera.columns), np.uint8)
    start, end = path.s + 1.0, path.s + _SIGHT
    for s0, s1, d0, d1 in _strips(street, start, end, blocks):
        count = max(2, int((s1 - s0) / 2.0) + 1)
        s = np.linspace(s0, s1, count)
        ring_s = np.concatenate([s, s[::-1]])
        ring_d = np.concatenate([np.full(count, d0), np.full(count, d1)])
        fill(mask, camera.outline(path.place(ring_s, ring_d, np.zeros(2 * count))), 255)
    return mask


def draw_rails(mask: Mask, street: Street, camera: Camera, path: Path) -> None:
    """Adds the grooves of a tram's rails to a mask of what is dark on the ground."""
    s = np.linspace(path.s + 1.0, path.s + _SIGHT, 40)
    for lane in street.lanes:
        if lane.kind != "trams":
            continue
        for d in (lane.d - 0.72, lane.d + 0.72):
            ring_s = np.concatenate([s, s[::-1]])
            ring_d = np.concatenate([np.full(40, d - 0.045), np.full(40, d + 0.045)])
            fill(mask, camera.outline(path.place(ring_s, ring_d, np.zeros(80))), 130)


def _strips(
    street: Street, start: float, end: float, blocks: Sequence[Block]
) -> Iterator[tuple[float, float, float, float]]:
    """Painted rectangles (s from, s to, d from, d to)."""
    for d in street.lane_lines:
        yield from _dashes(start, end, d)
    if street.middle_line == "dashed":
        yield from _dashes(start, end, 0.0)
    elif street.middle_line == "solid":
        yield start, end, -_HALF, _HALF
    elif street.middle_line == "double":
        yield start, end, -0.18, -0.06
        yield start, end, 0.06, 0.18
    for sign, side in zip((-1, 1), street.sides, strict=True):
        if side.parking:
            yield start, end, sign * side.lanes_end - 0.05, sign * side.lanes_end + 0.05
    left, right = -street.sides[0].kerb, street.sides[1].kerb
    for block in blocks:
        s = block.crosswalk
        if s is None or s + 2 < start or s - 3 > end:
            continue
        for d in np.arange(left + 0.5, right - 0.5, 1.0).tolist():
            yield max(s - 1.5, start), max(s + 1.5, start), d, d + 0.5
        yield max(s - 3.2, start), max(s - 2.8, start), 0.1, street.sides[1].lanes_end


def _dashes(start: float, end: float, d: float) -> Iterator[tuple[float, float, float, float]]:
    for s in np.arange(np.floor(start / _PERIOD) * _PERIOD, end, _PERIOD).tolist():
        if s + _DASH > start:
            yield max(s, start), s + _DASH, d - _HALF, d + _HALF


def fill(mask: Mask, points: Array, value: int) -> None:
    """Fills a polygon (N, 2) of a mask, with smooth edges."""
    if len(points) < 3:
        return
    fixed = np.rint(np.clip(points, -8000, 8000) * (1 << _SHIFT)).astype(np.int32)
    cv2.fillPoly(mask, [fixed], (value,), cv2.LINE_AA, _SHIFT)
