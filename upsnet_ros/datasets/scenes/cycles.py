"""Paints bicycles and motorcycles, parked or with their riders."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from upsnet_ros.datasets.scenes.camera import NEAR
from upsnet_ros.datasets.scenes.car_skins import paint_color
from upsnet_ros.datasets.scenes.figures import paint_rider
from upsnet_ros.datasets.scenes.forms import Bone, limbs
from upsnet_ros.datasets.scenes.labels import BICYCLE, MOTORCYCLE
from upsnet_ros.datasets.scenes.seeds import generator
from upsnet_ros.datasets.scenes.stage import Item, Pose, Stage
from upsnet_ros.datasets.scenes.texture import Color

_RUBBER: Color = (28.0, 28.0, 30.0)
_CHROME: Color = (150.0, 152.0, 155.0)
_ROUND = np.linspace(0, 2 * np.pi, 18, endpoint=False)

# Joints of a bicycle's frame in its own axes: right, up, forward, metres.
_FRAME = np.array(
    [
        [0, 0.34, -0.52],  # rear hub
        [0, 0.34, 0.54],  # front hub
        [0, 0.3, -0.06],  # crank
        [0, 0.82, -0.22],  # under the saddle
        [0, 0.78, 0.36],  # head
        [0, 0.92, -0.24],  # saddle
        [0, 0.92, -0.38],
        [0, 1.0, 0.38],  # stem
        [-0.28, 1.03, 0.32],  # handles
        [0.28, 1.03, 0.32],
        [0, 0.74, -0.3],  # carrier
        [0, 0.74, -0.72],
        [0, 0.86, 0.55],  # basket
        [0, 0.72, 0.58],
    ]
)
_TUBES = ((0, 2), (2, 4), (2, 3), (3, 4), (0, 3), (1, 4), (4, 7))


@dataclass(frozen=True, slots=True, kw_only=True)
class _Cycle:
    bones: tuple[Bone, ...]
    size: float
    tyre: float
    spokes: Color


@lru_cache(maxsize=512)
def _bicycle(split: str, look: int) -> _Cycle:
    rng = generator(split, "bicycle", look)
    paint, thick = paint_color(rng), float(rng.uniform(0.018, 0.028))
    bones = [Bone(a, b, thick, thick, paint) for a, b in _TUBES]
    bones += [
        Bone(5, 6, 0.05, 0.075, (35.0, 38.0, 45.0)),
        Bone(3, 5, 0.016, 0.016, _CHROME),
        Bone(8, 7, 0.018, 0.018, _RUBBER),
        Bone(7, 9, 0.018, 0.018, _RUBBER),
        Bone(2, 2, 0.09, 0.09, (70.0, 70.0, 70.0)),
    ]
    if rng.random() < 0.5:
        bones.append(Bone(10, 11, 0.03, 0.03, (50.0, 50.0, 50.0)))
    if rng.random() < 0.3:
        bones.append(Bone(12, 13, 0.13, 0.1, paint_color(rng)))
    return _Cycle(
        bones=tuple(bones),
        size=float(rng.uniform(0.92, 1.06)),
        tyre=float(rng.uniform(0.035, 0.06)),
        spokes=(105.0, 105.0, 108.0),
    )


def paint_bicycle(stage: Stage, item: Item) -> None:
    """A bicycle that stands by itself."""
    _paint_bicycle(stage, item)


def paint_cyclist(stage: Stage, item: Item) -> None:
    """A bicycle and its rider: two instances of the same number."""
    _paint_bicycle(stage, item)
    paint_rider(stage, item, upright=True)


def _paint_bicycle(stage: Stage, item: Item) -> None:
    cycle, pose = _bicycle(stage.street.split, item.look), stage.pose(item)
    surface = stage.canvas.surfaces.add(BICYCLE * 1000 + item.number, stage.depth(pose.origin))
    for z in (-0.52, 0.54):
        _wheel(stage, pose, z * cycle.size, 0.34 * cycle.size, cycle.tyre, surface, 0.3)
    limbs(stage, pose.world(_FRAME * cycle.size), cycle.bones, surface)


def _wheel(
    stage: Stage,
    pose: Pose,
    z: float,
    radius: float,
    tyre: float,
    surface: int,
    spokes: float,
) -> None:
    """A wheel: its disc, which the background shines through, is the wheel's all the same."""
    rim = np.stack(
        [np.zeros_like(_ROUND), radius + np.cos(_ROUND) * radius, z + np.sin(_ROUND) * radius], 1
    )
    uv, depth = stage.camera.project(pose.world(rim))
    if float(depth.min()) < NEAR:
        return
    front = np.array([0.0, 0.0, -1.0])
    stage.canvas.veil(uv, stage.lit((110.0, 112.0, 115.0), front), spokes, surface)
    wide = tyre * stage.camera.focal / float(depth.mean())
    stage.canvas.line(uv, wide, stage.lit(_RUBBER, front), surface, closed=True)


# Joints of a motorcycle.
_MOTOR = np.array(
    [
        [0, 0.31, -0.68],
        [0, 0.31, 0.72],
        [0, 0.42, -0.1],
        [0, 0.5, 0.2],
        [0, 0.8, -0.05],
        [0, 0.86, 0.3],
        [0, 0.76, -0.2],
        [0, 0.84, -0.75],
        [0, 0.95, 0.45],
        [0, 0.85, 0.55],
        [-0.34, 1.02, 0.38],
        [0.34, 1.02, 0.38],
        [0.14, 0.32, 0.1],
        [0.16, 0.42, -0.8],
        [0, 0.62, -0.5],
        [0, 0.62, 0.66],
        [0, 0.7, -0.95],
        [0, 1.12, 0.5],
    ]
)


@lru_cache(maxsize=512)
def _motorcycle(split: str, look: int) -> _Cycle:
    rng = generator(split, "motorcycle", look)
    paint, dark = paint_color(rng), (40.0, 40.0, 42.0)
    scooter = rng.random() < 0.35
    bones = [
        Bone(2, 3, 0.17, 0.15, (75.0, 76.0, 78.0)),
        Bone(6, 7, 0.1, 0.08, dark),
        Bone(0, 14, 0.05, 0.05, dark),
        Bone(1, 8, 0.045, 0.045, _CHROME),
        Bone(10, 8, 0.025, 0.025, dark),
        Bone(8, 11, 0.025, 0.025, dark),
        Bone(9, 9, 0.11, 0.11, (205.0, 210.0, 210.0)),
        Bone(1, 15, 0.05, 0.08, paint),
        Bone(12, 13, 0.05, 0.06, _CHROME),
        Bone(7, 16, 0.06, 0.03, paint),
    ]
    if scooter:
        bones += [Bone(14, 7, 0.2, 0.16, paint), Bone(3, 8, 0.17, 0.14, paint)]
    else:
        bones += [Bone(4, 5, 0.15, 0.16, paint), Bone(14, 6, 0.1, 0.12, paint)]
    if rng.random() < 0.4:
        bones.append(Bone(8, 17, 0.13, 0.1, paint))
    if rng.random() < 0.35:
        bones.append(Bone(16, 16, 0.2, 0.2, dark))
    return _Cycle(
        bones=tuple(bones),
        size=float(rng.uniform(0.92, 1.08)),
        tyre=float(rng.uniform(0.1, 0.14)),
        spokes=dark,
    )


def paint_motorcycle(stage: Stage, item: Item) -> None:
    """A motorcycle or a scooter that stands by itself."""
    _paint_motorcycle(stage, item)


def paint_motorcyclist(stage: Stage, item: Item) -> None:
    """A motorcycle and its rider: two instances of the same number."""
    _paint_motorcycle(stage, item)
    paint_rider(stage, item, upright=False)


def _paint_motorcycle(stage: Stage, item: Item) -> None:
    cycle, pose = _motorcycle(stage.street.split, item.look), stage.pose(item)
    surface = stage.canvas.surfaces.add(MOTORCYCLE * 1000 + item.number, stage.depth(pose.origin))
    for z in (-0.68, 0.72):
        _wheel(stage, pose, z * cycle.size, 0.31 * cycle.size, cycle.tyre, surface, 0.75)
    limbs(stage, pose.world(_MOTOR * cycle.size), cycle.bones, surface)
