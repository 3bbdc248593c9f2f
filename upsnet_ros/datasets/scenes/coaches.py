"""Paints trucks, buses and trams: boxes one behind the other."""

from __future__ import annotations

import numpy as np

from upsnet_ros.datasets.scenes.camera import Array
from upsnet_ros.datasets.scenes.coach_models import Body, coach
from upsnet_ros.datasets.scenes.labels import BUS, TRAIN, TRUCK
from upsnet_ros.datasets.scenes.stage import Item, Pose, Stage
from upsnet_ros.datasets.scenes.texture import Texture

_LABELS = {"truck": TRUCK, "bus": BUS, "train": TRAIN}


def paint_coach(stage: Stage, item: Item) -> None:
    """One truck, bus or tram."""
    model = coach(stage.street.split, item.kind, item.look)
    pose = stage.pose(item)
    eye = np.array([0.0, stage.camera.height, 0.0]) - pose.origin
    to_right, to_front = float(eye @ pose.right), float(eye @ pose.forward)
    label = _LABELS[item.kind]
    surface = stage.canvas.surfaces.add(label * 1000 + item.number, stage.depth(pose.origin))
    # What lies farther along the vehicle is hidden by what lies nearer.
    for body in sorted(model.bodies, key=lambda b: -abs(b.front - b.length / 2 - to_front)):
        _paint_body(stage, body, pose, label, surface, to_right=to_right, to_front=to_front)


def _paint_body(
    stage: Stage,
    body: Body,
    pose: Pose,
    label: int,
    surface: int,
    *,
    to_right: float,
    to_front: float,
) -> None:
    half, rear = body.width / 2, body.front - body.length
    low, top = body.bottom, body.top
    if stage.camera.height > top:
        roof = np.array(
            [[-half, top, body.front - body.slope], [half, top, body.front - body.slope]]
        )
        back = np.array([[half, top, rear], [-half, top, rear]])
        stage.face(pose.world(np.vstack([roof, back])), body.roof, surface)
    if to_front > body.front:
        slant = body.front - body.slope
        corners = np.array([[half, top, slant], [-half, top, slant], [half, low, body.front]])
        _sheet(stage, body.nose, pose, corners, label, surface)
    elif to_front < rear:
        corners = np.array([[-half, top, rear], [half, top, rear], [-half, low, rear]])
        _sheet(stage, body.tail, pose, corners, label, surface)
    if abs(to_right) > half:
        x = half if to_right > 0 else -half
        corners = np.array([[x, top, body.front], [x, top, rear], [x, low, body.front]])
        _sheet(stage, body.side, pose, corners, label, surface)


def _sheet(
    stage: Stage, texture: Texture, pose: Pose, corners: Array, label: int, surface: int
) -> None:
    world = pose.world(corners)
    stage.sheet(world[0], world[1] - world[0], world[2] - world[0], texture, label, surface=surface)
