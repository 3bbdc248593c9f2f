"""Solid forms that painters put together: rods, limbs, balls and boxes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np

from upsnet_ros.datasets.scenes.camera import NEAR, Array
from upsnet_ros.datasets.scenes.stage import UP, Pose, Stage
from upsnet_ros.datasets.scenes.texture import Color, Texture

_SHIFT = 4
_THIN = 2.2  # limbs of a smaller radius are drawn as lines, pixels
_FINEST = 0.4  # limbs of a smaller radius on the picture are left out, pixels
_NEAREST = 2.0  # limbs nearer than this would fill the picture, metres
_UNIT = 1 << _SHIFT

#: Outward faces of a box by their corners' numbers (see `box_corners`), and their normals.
_FACES: tuple[tuple[tuple[int, int, int, int], tuple[float, float, float]], ...] = (
    ((4, 5, 7, 6), (0.0, 0.0, 1.0)),
    ((0, 2, 3, 1), (0.0, 0.0, -1.0)),
    ((0, 4, 6, 2), (-1.0, 0.0, 0.0)),
    ((1, 3, 7, 5), (1.0, 0.0, 0.0)),
    ((2, 6, 7, 3), (0.0, 1.0, 0.0)),
)


@dataclass(frozen=True, slots=True)
class Bone:
    """A limb between two joints.

    Attributes:
        start: Number of the joint where it starts.
        end: Number of the joint where it ends.
        thick: Radius at the start, metres.
        thin: Radius at the end, metres.
        color: BGR.
        over: How much nearer than it is it counts when limbs hide each other, metres: for clothes.
    """

    start: int
    end: int
    thick: float
    thin: float
    color: Color
    over: float = 0.0


def limbs(stage: Stage, joints: Array, bones: Sequence[Bone], surface: int) -> None:
    """Paints rounded limbs, those farther from the camera first.

    Args:
        stage: Where to.
        joints: (N, 3) world points.
        bones: The limbs between them.
        surface: What their pixels belong to.
    """
    uv, depth = stage.camera.project(joints)
    if float(depth.min()) < _NEAREST:
        return
    scale = (stage.camera.focal / depth).tolist()
    ahead, above = stage.light(np.array([0.0, 0.0, -1.0])), stage.light(UP)
    sun = stage.sun
    order = sorted(bones, key=lambda bone: 2 * bone.over - depth[bone.start] - depth[bone.end])
    for bone in order:
        a, b = uv[bone.start], uv[bone.end]
        wide = bone.thick * scale[bone.start], bone.thin * scale[bone.end]
        if max(wide) < _FINEST:
            continue
        wide = max(wide[0], 0.5), max(wide[1], 0.5)
        _limb(stage, a, b, wide, _times(bone.color, ahead, 0.85), surface)
        if wide[0] > 2.5:  # the lit half
            shift = np.array([np.sign(sun[0]) * 0.3, -0.18])
            light = tuple((x + y) / 2 for x, y in zip(ahead, above, strict=True))
            _limb(
                stage,
                a + shift * wide[0],
                b + shift * wide[1],
                (wide[0] * 0.55, wide[1] * 0.55),
                _times(bone.color, (light[0], light[1], light[2]), 1.08),
                surface,
            )


def _limb(
    stage: Stage, a: Array, b: Array, wide: tuple[float, float], color: Color, surface: int
) -> None:
    if max(wide) < _THIN:
        stage.canvas.line(np.array([a, b]), wide[0] + wide[1], color, surface)
        return
    along = b - a
    length = float(np.hypot(along[0], along[1]))
    if length > 1e-3:
        side = np.array([-along[1], along[0]]) / length
        points = np.array(
            [a + side * wide[0], b + side * wide[1], b - side * wide[1], a - side * wide[0]]
        )
        stage.canvas.polygon(points, color, surface)
    for end, radius in ((a, wide[0]), (b, wide[1])):
        if radius > 1.0:
            disc(stage, end, radius, color, surface)


def disc(stage: Stage, middle: Array, radius: float, color: Color, surface: int) -> None:
    """Fills a circle of ``radius`` pixels around a pixel."""
    canvas = stage.canvas
    if not (
        -radius < middle[0] < canvas.columns + radius and -radius < middle[1] < canvas.rows + radius
    ):
        return
    place = (round(float(middle[0]) * _UNIT), round(float(middle[1]) * _UNIT))
    size = max(1, round(radius * _UNIT))
    cv2.circle(canvas.color, place, size, color, -1, cv2.LINE_8, _SHIFT)
    cv2.circle(canvas.surface, place, size, (surface,), -1, cv2.LINE_8, _SHIFT)


def rod(
    stage: Stage, a: Array, b: Array, radius: float, color: Color, surface: int, *, tip: float = 1.0
) -> None:
    """Paints a round rod between world points (3,), ``tip`` times as thick at ``b`` as at ``a``."""
    uv, depth = stage.camera.project(np.array([a, b]))
    if float(depth.min()) < NEAR:
        return
    along = uv[1] - uv[0]
    length = float(np.hypot(along[0], along[1]))
    if length < 0.3:
        return
    side = np.array([-along[1], along[0]]) / length
    wide = np.maximum(np.array([radius, radius * tip]) * stage.camera.focal / depth, 0.5)
    sun = stage.sun
    front = stage.light(np.array([0.0, 0.0, -1.0]))
    toward = 0.35 * np.sign(side[0] * sun[0] - side[1] * sun[1] + 1e-9)
    for share, shift, gain in ((1.0, 0.0, 0.72), (0.62, toward, 1.0), (0.22, toward * 1.1, 1.2)):
        if share < 1 and wide[0] * share < 0.9:
            break
        half = side[None] * (wide * share)[:, None]
        middle = uv + side[None] * (wide * shift)[:, None]
        points = np.array(
            [middle[0] + half[0], middle[1] + half[1], middle[1] - half[1], middle[0] - half[0]]
        )
        stage.canvas.polygon(points, _times(color, front, gain), surface)


def box_corners(low: Array, high: Array) -> Array:
    """(8, 3) corners of a box in an item's axes; number 1 is right, 2 is up, 4 is forward."""
    return np.array(
        [
            [(low, high)[place & 1][0], (low, high)[place >> 1 & 1][1], (low, high)[place >> 2][2]]
            for place in range(8)
        ]
    )


def box(
    stage: Stage,
    pose: Pose,
    low: Sequence[float],
    high: Sequence[float],
    color: Color,
    surface: int,
    *,
    skin: Texture | None = None,
) -> None:
    """Paints the box between two corners in an item's axes, in one colour or in a texture."""
    prism(stage, pose, box_corners(np.array(low), np.array(high)), color, surface, skin=skin)


def prism(
    stage: Stage,
    pose: Pose,
    corners: Array,
    color: Color,
    surface: int,
    *,
    skin: Texture | None = None,
) -> None:
    """Paints a box-like body by its eight corners (8, 3) in the item's axes, as `box_corners`."""
    world = pose.world(corners)
    eye = np.array([0.0, stage.camera.height, 0.0])
    for numbers, normal in _FACES:
        points = world[list(numbers)]
        if pose.direction(np.array(normal)) @ (eye - points[0]) <= 0:
            continue
        if skin is None:
            stage.face(points, color, surface)
        else:
            across, down = _edges(points, normal)
            stage.sheet(across[0], across[1], down, skin, 0, surface=surface)


def _edges(points: Array, normal: tuple[float, float, float]) -> tuple[tuple[Array, Array], Array]:
    if normal[1]:  # the top: points run round from the back left corner
        return (points[0], points[3] - points[0]), points[1] - points[0]
    heights = points[:, 1]
    top = [number for number in range(4) if heights[number] > heights.mean()]
    first, second = top
    low = [number for number in range(4) if number not in top]
    under = min(low, key=lambda number: float(np.linalg.norm(points[number] - points[first])))
    return (points[first], points[second] - points[first]), points[under] - points[first]


def _times(color: Color, light: Color, gain: float) -> Color:
    return (
        min(255.0, color[0] * light[0] * gain),
        min(255.0, color[1] * light[1] * gain),
        min(255.0, color[2] * light[2] * gain),
    )
