"""Paints what stands along a street on thin legs: lamps, masts, signs, traffic lights, bollards."""

from __future__ import annotations

import numpy as np

from upsnet_ros.datasets.scenes.camera import Array
from upsnet_ros.datasets.scenes.forms import box, disc, rod
from upsnet_ros.datasets.scenes.labels import LIGHT, POLE, SIGN
from upsnet_ros.datasets.scenes.signs import sign, traffic_light
from upsnet_ros.datasets.scenes.stage import UP, Item, Pose, Stage
from upsnet_ros.datasets.scenes.texture import Color

_METALS: tuple[Color, ...] = (
    (95.0, 95.0, 92.0),
    (150.0, 152.0, 155.0),
    (48.0, 48.0, 46.0),
    (62.0, 88.0, 58.0),
    (70.0, 95.0, 120.0),
    (185.0, 190.0, 192.0),
)


def _metal(item: Item) -> Color:
    return _METALS[item.look % len(_METALS)]


def _pole(stage: Stage, item: Item, pose: Pose) -> int:
    surface = stage.canvas.surfaces.add(POLE, stage.depth(pose.origin))
    rod(
        stage,
        pose.origin,
        pose.origin + item.height * UP,
        item.width / 2,
        _metal(item),
        surface,
        tip=0.7,
    )
    return surface


def _inwards(item: Item, pose: Pose) -> Array:
    """From the item towards the street's middle: (3,) of length 1."""
    return pose.right * (-1.0 if item.d > 0 else 1.0)


def paint_lamp(stage: Stage, item: Item) -> None:
    """A street lamp, its head above the street."""
    pose = stage.pose(item)
    surface = _pole(stage, item, pose)
    top, arm = pose.origin + item.height * UP, _inwards(item, pose)
    reach = (0.0, 1.3, 2.2)[item.look % 3]
    head = top + arm * reach + 0.15 * UP * (reach > 0)
    if reach:
        rod(stage, top - 0.1 * UP, head, item.width * 0.3, _metal(item), surface)
    place = Pose(origin=head, right=pose.right, forward=pose.forward)
    glass: Color = (150.0, 165.0, 170.0)
    box(stage, place, (-0.35, -0.07, -0.12), (0.35, 0.1, 0.12), _metal(item), surface)
    if stage.weather.dark > 0.5:
        uv, depth = stage.camera.project(np.array([head]))
        if depth[0] > 1:
            radius = 0.16 * stage.camera.focal / float(depth[0])
            disc(stage, uv[0], max(1.0, radius), (190.0, 235.0, 255.0), surface)
    elif reach:
        box(stage, place, (-0.3, -0.1, -0.1), (0.3, -0.06, 0.1), glass, surface)


def paint_mast(stage: Stage, item: Item) -> None:
    """A mast with an arm, as it carries a tram's wire."""
    pose = stage.pose(item)
    surface = _pole(stage, item, pose)
    top, arm = pose.origin + (item.height - 0.5) * UP, _inwards(item, pose)
    rod(stage, top, top + arm * (abs(item.d) - 0.5), 0.05, _metal(item), surface)


def paint_bollard(stage: Stage, item: Item) -> None:
    """A bollard or a short post."""
    pose = stage.pose(item)
    surface = _pole(stage, item, pose)
    band = pose.origin + (item.height - 0.15) * UP
    paint: Color = ((230.0, 230.0, 230.0), (50.0, 45.0, 190.0))[item.look % 2]
    rod(stage, band - 0.12 * UP, band, item.width / 2, paint, surface)


def paint_sign(stage: Stage, item: Item) -> None:
    """One or two signs on a post, turned to the camera's lane."""
    pose = stage.pose(item)
    _pole(stage, item, pose)
    top = item.height - 0.05
    for number in range(1 + (item.look // 7) % 2):
        picture, wide = sign(stage.street.split, item.look + 11 * number)
        size = (0.75 if wide < 1.5 else 0.6) * (0.85 if number else 1.0)
        across = pose.right * (size * wide)
        stage.sheet(
            pose.origin + top * UP - across / 2 - pose.forward * item.width,
            across,
            -size * UP,
            picture,
            SIGN,
        )
        top -= size + 0.06


def paint_signal(stage: Stage, item: Item) -> None:
    """A traffic light on its mast, and for some a second one on an arm above the lanes."""
    pose = stage.pose(item)
    surface = _pole(stage, item, pose)
    _lights(stage, item, pose, pose.origin + min(item.height, 3.1) * UP)
    if item.height > 4:
        top, arm = pose.origin + (item.height - 0.2) * UP, _inwards(item, pose)
        reach = abs(item.d) - 2.0
        rod(stage, top, top + arm * reach, 0.06, _metal(item), surface)
        _lights(stage, item, pose, top + arm * (reach - 0.2) + 0.4 * UP)


def _lights(stage: Stage, item: Item, pose: Pose, top: Array) -> None:
    high = 1.05
    place = Pose(origin=top - high * UP, right=pose.right, forward=pose.forward)
    surface = stage.canvas.surfaces.add(LIGHT, stage.depth(top))
    box(stage, place, (-0.2, 0.0, -0.12), (0.2, high, 0.12), (35.0, 38.0, 36.0), surface)
    front = traffic_light(stage.street.split, item.number % 3, item.look % 4)
    corner = top - pose.right * 0.2 - pose.forward * 0.13
    stage.sheet(corner, pose.right * 0.4, -high * UP, front, LIGHT, surface=surface, gain=1.0)
