"""Paints cars: flat sides and ends with pictures on them, and tops of plain faces."""

from __future__ import annotations

import numpy as np

from upsnet_ros.datasets.scenes.camera import Array
from upsnet_ros.datasets.scenes.car_models import CARS, Car, car
from upsnet_ros.datasets.scenes.forms import box, prism
from upsnet_ros.datasets.scenes.labels import CAR
from upsnet_ros.datasets.scenes.stage import Item, Pose, Stage
from upsnet_ros.datasets.scenes.texture import Color

_CORE_WITHIN = 30.0  # farther away no gap would be a pixel wide, metres
_GLASS: Color = (62.0, 58.0, 54.0)


def paint_car(stage: Stage, item: Item) -> None:
    """One car, or the van that Cityscapes counts as one."""
    model = car(stage.street.split, item.look % CARS)
    pose = stage.pose(item)
    eye = np.array([0.0, stage.camera.height, 0.0]) - pose.origin
    to_right, to_front = float(eye @ pose.right), float(eye @ pose.forward)
    surface = stage.canvas.surfaces.add(CAR * 1000 + item.number, stage.depth(pose.origin))
    half, long = model.width / 2, model.length / 2
    tint = item.tint(0.14)
    if stage.depth(pose.origin) < _CORE_WITHIN:
        _core(stage, model, pose, surface)
    if to_front > long:
        _tops(stage, model, pose, surface, tint, front=True)
        _end(stage, model, pose, surface, tint, front=True)
    elif to_front < -long:
        _tops(stage, model, pose, surface, tint, front=False)
        _end(stage, model, pose, surface, tint, front=False)
    if abs(to_right) > half:
        _side(stage, model, pose, surface, tint, right=to_right > 0)


def _core(stage: Stage, model: Car, pose: Pose, surface: int) -> None:
    """Dark inner body, which closes the gaps between the flat sides and ends."""
    hood, screen, roof, tail = (model.length / 2 - station for station in model.stations)
    half, low = model.width * 0.48, 0.24
    dark = (model.paint[0] * 0.55, model.paint[1] * 0.55, model.paint[2] * 0.55)
    back = -model.length / 2 + 0.06
    middle = (hood + tail) / 2
    for rear, front, top in (
        (back, middle, model.levels[2] * 0.95),
        (middle, model.length / 2 - 0.06, model.levels[0] * 0.84),
    ):
        box(stage, pose, (-half, low, rear), (half, top, front), dark, surface)
    inner = half - model.inset
    corners = np.array(
        [
            [x * (inner if y else half), (model.belt * 0.96, model.height - 0.05)[y], z]
            for y, ends in ((0, (tail + 0.08, hood - 0.08)), (1, (roof + 0.05, screen - 0.05)))
            for z in ends
            for x in (-1, 1)
        ]
    )
    prism(stage, pose, corners[[0, 1, 4, 5, 2, 3, 6, 7]], _GLASS, surface)


def _tops(stage: Stage, model: Car, pose: Pose, surface: int, tint: Color, *, front: bool) -> None:
    """Roof, glass and hood or tail, as far as they are seen from one end."""
    hood, screen, roof, tail = (model.length / 2 - station for station in model.stations)
    hood_y, belt_y, tail_y = model.levels
    paint = (model.paint[0] * tint[0], model.paint[1] * tint[1], model.paint[2] * tint[2])
    half, top = model.width / 2, model.width / 2 - model.inset
    ends = {
        "nose": (model.length / 2, hood_y * 0.93, half * 0.94),
        "hood": (hood, belt_y, half),
        "screen": (screen, model.height, top),
        "roof": (roof, model.height * 0.985, top),
        "tail": (tail, max(tail_y, belt_y), half),
        "end": (-model.length / 2, tail_y * 0.97, half * 0.95),
    }
    strips = (
        [("screen", "roof"), ("hood", "screen"), ("nose", "hood")]
        if front
        else [("screen", "roof"), ("roof", "tail"), ("tail", "end")]
    )
    for near, far in strips:
        (z0, y0, x0), (z1, y1, x1) = ends[near], ends[far]
        corners = np.array([[-x0, y0, z0], [x0, y0, z0], [x1, y1, z1], [-x1, y1, z1]])
        stage.face(pose.world(corners), paint, surface)
        if {near, far} in ({"hood", "screen"}, {"roof", "tail"}):
            _pane(stage, pose, corners, surface)


def _pane(stage: Stage, pose: Pose, corners: Array, surface: int) -> None:
    middle = corners.mean(axis=0)
    pane = middle + (corners - middle) * np.array([0.88, 0.86, 0.86])
    stage.face(pose.world(pane), _GLASS, surface)
    # The upper part mirrors the sky.
    upper = pane[np.argsort(-pane[:, 1])[:2]]
    lower = pane[np.argsort(-pane[:, 1])[2:]]
    upper, lower = upper[np.argsort(upper[:, 0])], lower[np.argsort(lower[:, 0])]
    band = np.array(
        [upper[0], upper[1], (upper[1] + lower[1]) / 2, upper[0] * 0.8 + lower[0] * 0.2]
    )
    stage.face(pose.world(band), (112.0, 104.0, 96.0), surface)


def _end(stage: Stage, model: Car, pose: Pose, surface: int, tint: Color, *, front: bool) -> None:
    level = model.levels[0] * 0.95 if front else model.levels[2] * 0.98
    z = model.length / 2 if front else -model.length / 2
    half = model.width / 2
    # The left of the picture is on the beholder's left.
    left = half if front else -half
    corners = pose.world(np.array([[left, level, z], [-left, level, z], [left, 0.0, z]]))
    picture = model.front if front else model.rear
    stage.sheet(
        corners[0],
        corners[1] - corners[0],
        corners[2] - corners[0],
        picture,
        CAR,
        surface=surface,
        tint=tint,
    )


def _side(stage: Stage, model: Car, pose: Pose, surface: int, tint: Color, *, right: bool) -> None:
    half, long = model.width / 2, model.length / 2
    x = half if right else -half
    belt = model.belt
    inset = model.inset if right else -model.inset
    front_low = np.array([x, 0.0, long])
    rear_low = np.array([x, 0.0, -long])
    rise = np.array([0.0, belt, 0.0])
    lean = np.array([-inset, model.height - belt, 0.0])
    for foot, up, picture in ((rise, lean, model.upper), (np.zeros(3), rise, model.lower)):
        corners = pose.world(
            np.array([front_low + foot + up, rear_low + foot + up, front_low + foot])
        )
        stage.sheet(
            corners[0],
            corners[1] - corners[0],
            corners[2] - corners[0],
            picture,
            CAR,
            surface=surface,
            tint=tint,
        )
