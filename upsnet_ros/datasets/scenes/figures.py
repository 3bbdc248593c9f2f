"""Paints people: walkers with their clothes and bags, and those who ride cycles."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from upsnet_ros.datasets.scenes.camera import Array
from upsnet_ros.datasets.scenes.forms import Bone, limbs
from upsnet_ros.datasets.scenes.labels import PERSON, RIDER
from upsnet_ros.datasets.scenes.seeds import generator
from upsnet_ros.datasets.scenes.stage import Item, Stage
from upsnet_ros.datasets.scenes.texture import Color, bgr

# Joints of a body, in the order of its array.
(
    _PELVIS,
    _CHEST,
    _NECK,
    _HEAD,
    _CROWN,
    _LEFT_HIP,
    _LEFT_KNEE,
    _LEFT_ANKLE,
    _LEFT_TOE,
    _RIGHT_HIP,
    _RIGHT_KNEE,
    _RIGHT_ANKLE,
    _RIGHT_TOE,
    _LEFT_SHOULDER,
    _LEFT_ELBOW,
    _LEFT_HAND,
    _RIGHT_SHOULDER,
    _RIGHT_ELBOW,
    _RIGHT_HAND,
    _HEM,
    _BAG_TOP,
    _BAG_END,
) = range(22)

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
    """How one person looks.

    Attributes:
        bones: All limbs, the clothes on them.
        stride: Length of a step, metres.
        swing: How far arms and legs swing, radians.
        broad: Half the shoulders' width, as a share of the height.
    """

    bones: tuple[Bone, ...]
    stride: float
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
    bones = [
        Bone(_LEFT_HIP, _LEFT_KNEE, 0.055 * stout, 0.042 * stout, trousers),
        Bone(_LEFT_KNEE, _LEFT_ANKLE, 0.041 * stout, 0.028 * stout, legs),
        Bone(_LEFT_ANKLE, _LEFT_TOE, 0.026 * stout, 0.02 * stout, shoes),
        Bone(_RIGHT_HIP, _RIGHT_KNEE, 0.055 * stout, 0.042 * stout, trousers),
        Bone(_RIGHT_KNEE, _RIGHT_ANKLE, 0.041 * stout, 0.028 * stout, legs),
        Bone(_RIGHT_ANKLE, _RIGHT_TOE, 0.026 * stout, 0.02 * stout, shoes),
        Bone(_LEFT_SHOULDER, _LEFT_ELBOW, 0.033 * stout, 0.028 * stout, top),
        Bone(_LEFT_ELBOW, _LEFT_HAND, 0.027 * stout, 0.021 * stout, sleeves),
        Bone(_RIGHT_SHOULDER, _RIGHT_ELBOW, 0.033 * stout, 0.028 * stout, top),
        Bone(_RIGHT_ELBOW, _RIGHT_HAND, 0.027 * stout, 0.021 * stout, sleeves),
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
        stride=0.42 * height,
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
    """Somebody who walks, or stands where ``gait`` is 0."""
    body = _body(stage.street.split, item.look, item.height, rider=False)
    joints = _walking(item.height, body, item.gait)
    pose = stage.pose(item)
    surface = stage.canvas.surfaces.add(PERSON * 1000 + item.number, stage.depth(pose.origin))
    limbs(stage, pose.world(joints), body.bones, surface)


def _walking(height: float, body: _Body, gait: float) -> Array:
    phase = np.pi * gait / body.stride
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
    for side, first, shoulder in (
        (-1, _LEFT_HIP, _LEFT_SHOULDER),
        (1, _RIGHT_HIP, _RIGHT_SHOULDER),
    ):
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
    """Somebody on a bicycle (``upright`` over pedals) or on a motorcycle."""
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
    for side, first, shoulder in (
        (-1, _LEFT_HIP, _LEFT_SHOULDER),
        (1, _RIGHT_HIP, _RIGHT_SHOULDER),
    ):
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
    """Where the knee lies between hip and foot, both ``bone`` metres away, bent ``towards``."""
    middle, reach = (hip + foot) / 2, foot - hip
    length = float(np.linalg.norm(reach))
    out = towards - reach * (towards @ reach) / max(length**2, 1e-6)
    out = out / max(float(np.linalg.norm(out)), 1e-6)
    return middle + out * np.sqrt(max(bone**2 - (length / 2) ** 2, 0.0))
