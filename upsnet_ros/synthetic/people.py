"""People on foot and on cycles, and cycles without riders."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from upsnet_ros.synthetic.canvas import NEAR, Array
from upsnet_ros.synthetic.cars import paint_color
from upsnet_ros.synthetic.labels import BICYCLE, MOTORCYCLE, PERSON, RIDER
from upsnet_ros.synthetic.stage import Bone, Item, Pose, Stage, limbs
from upsnet_ros.synthetic.texture import Color, bgr, generator

# Joints of a body, in the order of its array. After a hip come knee, ankle and toe; after a
# shoulder come elbow and hand.
_PELVIS, _CHEST, _NECK, _HEAD, _CROWN = range(5)
_LEFT_HIP, _RIGHT_HIP = 5, 9
_LEFT_SHOULDER, _LEFT_HAND, _RIGHT_SHOULDER, _RIGHT_HAND = 13, 15, 16, 18
_HEM, _BAG_TOP, _BAG_END = 19, 20, 21

_SIDES = ((-1, _LEFT_HIP, _LEFT_SHOULDER), (1, _RIGHT_HIP, _RIGHT_SHOULDER))

_SKINS: tuple[Color, ...] = (
    (150.0, 175.0, 220.0),
    (115.0, 145.0, 195.0),
    (75.0, 100.0, 150.0),
    (45.0, 60.0, 95.0),
    (135.0, 165.0, 205.0),
)
_HAIR: tuple[Color, ...] = (
    (22.0, 24.0, 28.0),
    (30.0, 45.0, 70.0),
    (60.0, 110.0, 160.0),
    (150.0, 150.0, 155.0),
    (30.0, 55.0, 120.0),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Body:
    """The look of one person.

    Attributes:
        bones: All limbs with their clothes.
        swing: Amplitude of arms and legs, radians.
        broad: Half the width of the shoulders, as a share of the height.
    """

    bones: tuple[Bone, ...]
    swing: float
    broad: float


@lru_cache(maxsize=2048)
def _body(split: str, look: int, height: float, rider: bool) -> _Body:
    rng = generator(split, "person", look)
    skin, hair = _SKINS[int(rng.integers(5))], _HAIR[int(rng.integers(5))]
    top, trousers, shoes = _cloth(rng), _cloth(rng, dark=0.6), _cloth(rng, dark=0.5)
    stout = float(rng.uniform(0.9, 1.2)) * height
    sleeves = top if rng.random() < 0.75 else skin
    legs = trousers if rng.random() < 0.85 else skin
    bones = []
    for hip in (_LEFT_HIP, _RIGHT_HIP):
        bones += [
            Bone(hip, hip + 1, 0.055 * stout, 0.042 * stout, trousers),
            Bone(hip + 1, hip + 2, 0.041 * stout, 0.028 * stout, legs),
            Bone(hip + 2, hip + 3, 0.026 * stout, 0.02 * stout, shoes),
        ]
    for shoulder in (_LEFT_SHOULDER, _RIGHT_SHOULDER):
        bones += [
            Bone(shoulder, shoulder + 1, 0.033 * stout, 0.028 * stout, top),
            Bone(shoulder + 1, shoulder + 2, 0.027 * stout, 0.021 * stout, sleeves),
        ]
    bones += [
        Bone(_LEFT_SHOULDER, _RIGHT_SHOULDER, 0.042 * stout, 0.042 * stout, top),
        Bone(_PELVIS, _CHEST, 0.088 * stout, 0.098 * stout, top),
        Bone(_LEFT_HAND, _LEFT_HAND, 0.024 * height, 0.024 * height, skin),
        Bone(_RIGHT_HAND, _RIGHT_HAND, 0.024 * height, 0.024 * height, skin),
        Bone(_NECK, _HEAD, 0.03 * height, 0.04 * height, skin),
        Bone(_HEAD, _CROWN, 0.058 * height, 0.054 * height, skin),
    ]
    if rider and rng.random() < 0.65:  # a helmet
        bones.append(Bone(_CROWN, _CROWN, 0.075 * height, 0.075 * height, _cloth(rng)))
    elif rng.random() < 0.85:
        cover = hair if rng.random() < 0.75 else _cloth(rng)
        bones.append(Bone(_CROWN, _CROWN, 0.062 * height, 0.062 * height, cover))
    if not rider and rng.random() < 0.35:  # a coat or a skirt
        cloth = top if rng.random() < 0.6 else _cloth(rng)
        bones.append(
            Bone(_PELVIS, _HEM, 0.09 * stout, float(rng.uniform(0.09, 0.15)) * height, cloth, 0.3)
        )
    if rng.random() < 0.4:
        size = float(rng.uniform(0.05, 0.09)) * height
        bones.append(Bone(_BAG_TOP, _BAG_END, size, size, _cloth(rng)))
    return _Body(
        bones=tuple(bones),
        swing=float(rng.uniform(0.35, 0.55)),
        broad=float(rng.uniform(0.1, 0.125)),
    )


def _cloth(rng: np.random.Generator, *, dark: float = 1.0) -> Color:
    if rng.random() < 0.45:
        level = rng.uniform(22, 225) * dark
        color = level + rng.normal(0, 6, 3)
    else:
        color = rng.uniform(15, 230, 3) * dark
    return bgr(color)


def paint_person(stage: Stage, item: Item) -> None:
    """Paint a person who walks, or stands if ``gait`` is 0."""
    body = _body(stage.street.split, item.look, item.height, rider=False)
    joints = _walking(item.height, body, item.gait)
    pose = stage.pose(item)
    surface = stage.canvas.surfaces.add(PERSON * 1000 + item.number, stage.depth(pose.origin))
    limbs(stage, pose.world(joints), body.bones, surface)


def _walking(height: float, body: _Body, gait: float) -> Array:
    phase = np.pi * gait / (0.42 * height)  # for steps of that length
    swing = body.swing * np.sin(phase) if gait else 0.06
    joints = np.zeros((22, 3))
    bob = 0.012 * height * abs(np.cos(phase)) if gait else 0.0
    hip, thigh, shin = 0.52 * height + bob, 0.245 * height, 0.24 * height
    joints[_PELVIS] = 0, hip + 0.03 * height, 0
    joints[_CHEST] = 0, 0.74 * height + bob, 0.01 * height
    joints[_NECK] = 0, 0.83 * height + bob, 0.01 * height
    joints[_HEAD] = 0, 0.895 * height + bob, 0.02 * height
    joints[_CROWN] = 0, 0.94 * height + bob, 0.01 * height
    joints[_HEM] = 0, 0.34 * height, 0
    joints[_BAG_TOP] = 0, 0.76 * height, -0.1 * height
    joints[_BAG_END] = 0, 0.62 * height, -0.11 * height
    for side, first, shoulder in _SIDES:
        leg = swing * side
        # The knee of the leg that swings forward bends.
        bend = max(0.0, 0.9 * np.cos(phase) * side) * body.swing * 1.6 if gait else 0.02
        x = side * 0.05 * height
        knee = np.array([x, hip - thigh * np.cos(leg), thigh * np.sin(leg)])
        ankle = knee + shin * np.array([0, -np.cos(leg - bend), np.sin(leg - bend)])
        joints[first] = x, hip, 0
        joints[first + 1], joints[first + 2] = knee, ankle
        joints[first + 3] = ankle + height * np.array([0, -0.015, 0.075])
        arm = -swing * side * 0.9
        x = side * body.broad * height
        joints[shoulder] = x, 0.8 * height + bob, 0
        elbow = joints[shoulder] + 0.17 * height * np.array(
            [0.08 * side, -np.cos(arm), np.sin(arm)]
        )
        joints[shoulder + 1] = elbow
        joints[shoulder + 2] = elbow + 0.155 * height * np.array(
            [0, -np.cos(arm + 0.35), np.sin(arm + 0.35)]
        )
    return joints


def paint_rider(stage: Stage, item: Item, *, upright: bool) -> None:
    """Paint the rider of a bicycle (``upright``) or of a motorcycle."""
    body = _body(stage.street.split, item.look, 1.75, rider=True)
    joints = _riding(body, item.gait, upright=upright)
    pose = stage.pose(item)
    surface = stage.canvas.surfaces.add(RIDER * 1000 + item.number, stage.depth(pose.origin) - 0.05)
    limbs(stage, pose.world(joints), body.bones, surface)


def _riding(body: _Body, gait: float, *, upright: bool) -> Array:
    joints = np.zeros((22, 3))
    seat = 1.0 if upright else 0.84
    joints[_PELVIS] = 0, seat + 0.02, -0.2
    joints[_CHEST] = 0, seat + 0.38, -0.02
    joints[_NECK] = 0, seat + 0.52, 0.06
    joints[_HEAD] = 0, seat + 0.62, 0.1
    joints[_CROWN] = 0, seat + 0.7, 0.09
    joints[_BAG_TOP] = 0, seat + 0.45, -0.17
    joints[_BAG_END] = 0, seat + 0.2, -0.3
    for side, first, shoulder in _SIDES:
        if upright:
            angle = gait * 1.6 + (0 if side > 0 else np.pi)
            foot = np.array([side * 0.12, 0.3 + 0.16 * np.cos(angle), 0.06 + 0.16 * np.sin(angle)])
        else:
            foot = np.array([side * 0.2, 0.32, 0.0])
        hip = np.array([side * 0.09, seat, -0.2])
        joints[first] = hip
        joints[first + 1] = _knee(hip, foot, 0.44, np.array([side * 0.1, 0.35, 1.0]))
        joints[first + 2] = foot
        joints[first + 3] = foot + np.array([0, -0.02, 0.14])
        joints[shoulder] = side * body.broad * 1.75, seat + 0.46, 0.02
        hand = np.array([side * (0.26 if upright else 0.33), 1.02, 0.42])
        joints[shoulder + 1] = (joints[shoulder] + hand) / 2 + np.array([side * 0.08, -0.08, -0.04])
        joints[shoulder + 2] = hand
    return joints


def _knee(hip: Array, foot: Array, bone: float, towards: Array) -> Array:
    """Return the knee (3,), ``bone`` metres from hip and foot, bent ``towards`` a direction."""
    middle, reach = (hip + foot) / 2, foot - hip
    length = float(np.linalg.norm(reach))
    out = towards - reach * (towards @ reach) / max(length**2, 1e-6)
    out = out / max(float(np.linalg.norm(out)), 1e-6)
    return middle + out * np.sqrt(max(bone**2 - (length / 2) ** 2, 0.0))


_RUBBER: Color = (28.0, 28.0, 30.0)
_CHROME: Color = (150.0, 152.0, 155.0)
_ROUND = np.linspace(0, 2 * np.pi, 18, endpoint=False)

# Joints of a bicycle in its own axes: right, up, forward, metres.
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
    )


def paint_cyclist(stage: Stage, item: Item) -> None:
    """Paint a bicycle and its rider, two instances with the same number."""
    paint_bicycle(stage, item)
    paint_rider(stage, item, upright=True)


def paint_bicycle(stage: Stage, item: Item) -> None:
    """Paint a bicycle without a rider."""
    cycle = _bicycle(stage.street.split, item.look)
    _paint_cycle(stage, item, cycle, joints=_FRAME, label=BICYCLE, spokes=0.3)


def _paint_cycle(
    stage: Stage, item: Item, cycle: _Cycle, *, joints: Array, label: int, spokes: float
) -> None:
    """Paint a cycle, whose first two joints are its hubs, on wheels that touch the ground."""
    pose, joints = stage.pose(item), joints * cycle.size
    surface = stage.canvas.surfaces.add(label * 1000 + item.number, stage.depth(pose.origin))
    for _, radius, z in joints[:2].tolist():
        _wheel(stage, pose, z, radius, cycle.tyre, surface, spokes)
    limbs(stage, pose.world(joints), cycle.bones, surface)


def _wheel(
    stage: Stage, pose: Pose, z: float, radius: float, tyre: float, surface: int, spokes: float
) -> None:
    """Paint a wheel; its disc is translucent, but all of its pixels belong to the wheel."""
    rim = np.stack(
        [np.zeros_like(_ROUND), radius + np.cos(_ROUND) * radius, z + np.sin(_ROUND) * radius], 1
    )
    uv, depth = stage.camera.project(pose.world(rim))
    if float(depth.min()) < NEAR:
        return
    front = np.array([0.0, 0.0, -1.0])
    stage.canvas.blend(uv, stage.lit((110.0, 112.0, 115.0), front), spokes, surface)
    wide = tyre * stage.camera.focal / float(depth.mean())
    stage.canvas.line(uv, wide, stage.lit(_RUBBER, front), surface, closed=True)


# Joints of a motorcycle in its own axes: right, up, forward, metres.
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
    )


def paint_motorcyclist(stage: Stage, item: Item) -> None:
    """Paint a motorcycle and its rider, two instances with the same number."""
    paint_motorcycle(stage, item)
    paint_rider(stage, item, upright=False)


def paint_motorcycle(stage: Stage, item: Item) -> None:
    """Paint a motorcycle or a scooter without a rider."""
    cycle = _motorcycle(stage.street.split, item.look)
    _paint_cycle(stage, item, cycle, joints=_MOTOR, label=MOTORCYCLE, spokes=0.75)
