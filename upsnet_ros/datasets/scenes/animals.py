"""Paints animals, which have no class among Cityscapes' 19."""

from __future__ import annotations

import numpy as np

from upsnet_ros.datasets.scenes.forms import Bone, limbs
from upsnet_ros.datasets.scenes.oddities import Oddity
from upsnet_ros.datasets.scenes.stage import Pose, Stage

# For each animal, as shares of the height: back, head, thickness of the neck and of the legs.
_ANIMALS: dict[str, tuple[float, float, float, float]] = {
    "dog": (0.78, 1.0, 0.16, 0.05),
    "sheep": (0.8, 0.92, 0.2, 0.05),
    "cow": (0.85, 0.92, 0.17, 0.045),
    "deer": (0.68, 1.0, 0.1, 0.025),
    "horse": (0.76, 1.05, 0.13, 0.035),
}


def paint_animal(stage: Stage, thing: Oddity, pose: Pose, surface: int, gait: float) -> None:
    """One animal that has walked ``gait`` metres."""
    back, head, neck, leg = _ANIMALS[thing.kind]
    h, long = thing.height, thing.length * 0.36
    body = 0.2 * h if thing.kind != "sheep" else 0.27 * h
    swing = 0.12 * h * np.sin(gait * 3)
    joints = [
        [0, back * h - body, -long],
        [0, back * h - body, long],
        [0, head * h - 0.08 * h, long * 1.45],
        [0, head * h - 0.16 * h, long * 1.45 + 0.24 * h],
        [0, back * h - 0.1 * h, -long * 1.1],
        [0, back * h - 0.45 * h, -long * 1.4],
    ]
    bones = [
        Bone(0, 1, body, body * 1.05, thing.color),
        Bone(1, 2, body * 0.75, neck * h * 0.8, thing.color),
        Bone(2, 3, neck * h * 0.85, neck * h * 0.5, thing.color),
        Bone(4, 5, 0.03 * h, 0.02 * h, thing.color),
    ]
    for number, (x, z) in enumerate(((-0.5, -1), (0.5, -1), (-0.5, 1), (0.5, 1))):
        foot = swing * (1 if number in (0, 3) else -1)
        joints.append([x * body, back * h - body * 1.2, z * long * 0.9])
        joints.append([x * body, leg * h, z * long * 0.9 + foot])
        color = thing.color if thing.kind != "sheep" else (60.0, 62.0, 66.0)
        bones.append(Bone(6 + 2 * number, 7 + 2 * number, leg * 1.7 * h, leg * h, color))
    if thing.kind == "deer":
        for side in (-1, 1):
            joints.append([side * 0.25 * h, 1.35 * h, long * 1.2])
            bones.append(Bone(2, len(joints) - 1, 0.02 * h, 0.012 * h, (120.0, 150.0, 170.0)))
    elif thing.kind in ("dog", "cow"):
        joints += [[-0.1 * h, head * h, long * 1.4], [0.1 * h, head * h, long * 1.4]]
        bones.append(Bone(len(joints) - 2, len(joints) - 1, 0.05 * h, 0.05 * h, thing.color))
    if thing.kind == "cow":
        spot = [
            [0.3 * body, back * h - body * 0.7, 0],
            [0.3 * body, back * h - body * 0.9, 0.4 * long],
        ]
        joints += spot
        bones.append(Bone(len(joints) - 2, len(joints) - 1, body * 0.6, body * 0.5, thing.second))
    limbs(stage, pose.world(np.array(joints)), bones, surface)
