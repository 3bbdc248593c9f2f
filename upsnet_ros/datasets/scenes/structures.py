"""Paints what lines a street: houses, walls, fences, hedges, trees and bushes."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from upsnet_ros.datasets.scenes import foliage
from upsnet_ros.datasets.scenes.camera import Array
from upsnet_ros.datasets.scenes.enclosures import Enclosure, fence, wall
from upsnet_ros.datasets.scenes.facades import FACADES, facade
from upsnet_ros.datasets.scenes.labels import BUILDING, FENCE, VEGETATION, WALL
from upsnet_ros.datasets.scenes.stage import UP, Item, Stage

#: How deep houses are, metres.
HOUSE_DEPTH = 10.0

_CHIMNEY = (70.0, 80.0, 110.0)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Box:
    """Corners of an item along the street, at the ground: the street's side first."""

    near: Array
    far: Array
    near_back: Array
    far_back: Array


def _box(stage: Stage, item: Item) -> _Box:
    start, end, low, high = item.bounds
    front, back = (low, high) if item.d > 0 else (high, low)
    s = np.array([start, end, start, end])
    d = np.array([front, front, back, back])
    near, far, near_back, far_back = stage.path.place(s, d, np.zeros(4))
    return _Box(near=near, far=far, near_back=near_back, far_back=far_back)


def paint_house(stage: Stage, item: Item) -> None:
    """A house: its gable end, its roof, then its front."""
    house = facade(stage.street.split, item.look % FACADES)
    box, top, rise = _box(stage, item), item.height * UP, house.pitch * UP
    ridge = (box.near + box.near_back) / 2 + top + rise, (box.far + box.far_back) / 2 + top + rise
    label = stage.canvas.surfaces.add(BUILDING, stage.depth((box.near + box.far) / 2))
    tint = item.tint(0.16)
    plain = (house.plain[0] * tint[0], house.plain[1] * tint[1], house.plain[2] * tint[2])
    if house.pitch and house.gabled:
        peak = (box.near + box.far) / 2 + top + rise
        back = (box.near_back + box.far_back) / 2 + top + rise
        for side in (box.far, box.near):
            stage.sheet(peak, back - peak, side + top - peak, house.roof, BUILDING)
    elif house.pitch:
        stage.sheet(ridge[0], ridge[1] - ridge[0], box.near + top - ridge[0], house.roof, BUILDING)
        _chimney(stage, ridge[0] + (ridge[1] - ridge[0]) * (0.2 + 0.6 * (item.look % 7) / 7))
    stage.sheet(
        box.near_back + top,
        box.near - box.near_back,
        -top,
        house.gable,
        BUILDING,
        gain=0.92,
        tint=tint,
    )
    if house.pitch and not house.gabled:
        stage.face(
            np.array([box.near + top, box.near_back + top, ridge[0]]), plain, label, gain=0.92
        )
    stage.sheet(box.near + top, box.far - box.near, -top, house.front, BUILDING, tint=tint)
    if house.pitch and house.gabled:
        peak = (box.near + box.far) / 2 + top + rise
        stage.face(np.array([box.near + top, box.far + top, peak]), plain, label)


def _chimney(stage: Stage, foot: Array) -> None:
    surface = stage.canvas.surfaces.add(BUILDING, stage.depth(foot))
    wide = np.array([0.35, 0.0, 0.0])
    low, high = foot - 0.4 * UP, foot + 0.9 * UP
    stage.face(np.array([low - wide, low + wide, high + wide, high - wide]), _CHIMNEY, surface)


def paint_wall(stage: Stage, item: Item) -> None:
    """A free-standing wall, with its end and its coping."""
    _enclose(stage, item, wall(stage.street.split, item.look), WALL)


def paint_fence(stage: Stage, item: Item) -> None:
    """A fence; what shows through its gaps is the fence's too, as Cityscapes has it."""
    _enclose(stage, item, fence(stage.street.split, item.look), FENCE)


def _enclose(stage: Stage, item: Item, enclosure: Enclosure, label: int) -> None:
    box, top = _box(stage, item), item.height * UP
    # A picture spans a few metres: a long wall repeats it.
    picture = enclosure.picture.repeated(max(1, round(item.length / enclosure.length)))
    if enclosure.solid:
        surface = stage.canvas.surfaces.add(label, stage.depth(box.near))
        end = np.array([box.near, box.near_back, box.near_back + top, box.near + top])
        stage.face(end, enclosure.color, surface, gain=0.85)
    tint = item.tint(0.15)
    stage.sheet(box.near + top, box.far - box.near, -top, picture, label, tint=tint, solid=True)


def paint_hedge(stage: Stage, item: Item) -> None:
    """A clipped hedge with its end."""
    leaves = foliage.hedge(stage.street.split, item.look % foliage.HEDGES)
    box, top = _box(stage, item), item.height * UP
    stage.sheet(box.near_back + top, box.near - box.near_back, -top, leaves, VEGETATION, gain=0.8)
    long = leaves.repeated(max(1, round(item.length / (item.height * 4))))
    stage.sheet(box.near + top, box.far - box.near, -top, long, VEGETATION)
    if item.height < stage.camera.height:
        stage.sheet(
            box.near_back + top,
            box.far_back - box.near_back,
            box.near - box.near_back,
            long,
            VEGETATION,
        )


def paint_plant(stage: Stage, item: Item) -> None:
    """A tree or a bush: a picture that faces the camera."""
    split = stage.street.split
    if item.kind == "tree":
        plant = foliage.tree(split, item.look % foliage.TREES)
    else:
        plant = foliage.bush(split, item.look % foliage.BUSHES)
    foot = stage.pose(item).origin
    wide = np.array([item.width if item.look % 2 else -item.width, 0.0, 0.0])
    top = item.height * UP
    stage.sheet(
        foot + top - wide / 2,
        wide,
        -top,
        plant.picture,
        VEGETATION,
        gain=_plant_light(stage),
        tint=item.tint(0.2),
    )


def _plant_light(stage: Stage) -> float:
    # A picture's normal says nothing about a round crown: the sun always reaches a part of it.
    sun = stage.sun
    return 1.0 + 0.25 * max(0.0, float(sun[1])) * stage.weather.sun[1]
