"""Objects outside the classes: animals, lost cargo, debris, strollers, bins.

Some kinds do not occur in training scenes, so that scenes for validation and tests measure whether
a network recognises unknown objects that it has never seen.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache

import cv2
import numpy as np

from upsnet_ros.synthetic.labels import UNKNOWN
from upsnet_ros.synthetic.stage import (
    UP,
    Bone,
    Item,
    Pose,
    Stage,
    box,
    box_corners,
    limbs,
    prism,
    rod,
)
from upsnet_ros.synthetic.texture import Color, Texture, bgr, bricks, generator, noise, shaded

#: Kinds that are animals.
ANIMALS = frozenset({"dog", "sheep", "cow", "deer", "horse"})

#: Kinds that occur in "val" and "test" only.
NOVEL = ("deer", "horse", "trolley", "armchair", "ball", "wheelbarrow")

# Length, width and height, metres.
_SIZES: dict[str, tuple[float, float, float]] = {
    "dog": (0.85, 0.25, 0.6),
    "sheep": (1.1, 0.4, 0.85),
    "cow": (2.2, 0.65, 1.4),
    "carton": (0.6, 0.55, 0.5),
    "pallet": (1.2, 0.8, 0.35),
    "barrel": (0.6, 0.6, 0.9),
    "tyre": (0.65, 0.25, 0.65),
    "suitcase": (0.5, 0.28, 0.75),
    "rock": (0.7, 0.6, 0.5),
    "branch": (2.0, 0.9, 0.6),
    "stroller": (0.9, 0.55, 1.05),
    "cone": (0.4, 0.4, 0.75),
    "bin": (0.6, 0.6, 1.05),
    "sack": (0.7, 0.55, 0.6),
    "deer": (1.6, 0.4, 1.3),
    "horse": (2.2, 0.55, 1.65),
    "trolley": (0.9, 0.55, 1.0),
    "armchair": (0.9, 0.95, 0.9),
    "ball": (0.35, 0.35, 0.35),
    "wheelbarrow": (1.4, 0.6, 0.65),
}


@dataclass(frozen=True, kw_only=True, eq=False)
class UnknownObject:
    """An object outside the classes.

    Attributes:
        kind: A key of `_SIZES`.
        length: Length, metres.
        width: Width, metres.
        height: Height, metres.
        color: Main colour, BGR.
        second: Second colour, BGR.
        skin: Texture of its flat sides.
        shake: (8, 3), standard normal numbers that vary its shape.
    """

    kind: str
    length: float
    width: float
    height: float
    color: Color
    second: Color
    skin: Texture
    shake: np.ndarray


def kinds(split: str) -> tuple[str, ...]:
    """Return the kinds that occur in a split."""
    return tuple(kind for kind in _SIZES if split != "train" or kind not in NOVEL)


@lru_cache(maxsize=512)
def unknown_object(split: str, look: int) -> UnknownObject:
    """Return the object with a look."""
    rng = generator(split, "oddity", look)
    kind = str(rng.choice(kinds(split)))
    size = np.array(_SIZES[kind]) * rng.uniform(0.9, 1.3) * rng.normal(1, 0.06, 3)
    color = _tint(rng, kind)
    return UnknownObject(
        kind=kind,
        length=float(size[0]),
        width=float(size[1]),
        height=float(size[2]),
        color=color,
        second=bgr(rng.uniform(20, 230, 3)),
        skin=_skin(rng, kind, color),
        shake=rng.standard_normal((8, 3)),
    )


def _tint(rng: np.random.Generator, kind: str) -> Color:
    furs = ((30, 40, 55), (60, 90, 130), (110, 150, 190), (200, 210, 215), (45, 60, 95))
    fixed: dict[str, tuple[tuple[int, int, int], ...]] = {
        "carton": ((105, 145, 180), (90, 125, 160), (190, 195, 200)),
        "pallet": ((110, 150, 185), (85, 110, 135)),
        "tyre": ((28, 28, 30), (40, 40, 42)),
        "rock": ((110, 115, 120), (80, 95, 110), (140, 145, 150)),
        "branch": ((50, 65, 85), (60, 85, 100)),
        "cone": ((30, 95, 235), (40, 60, 220)),
        "sheep": ((205, 212, 215), (165, 175, 180), (50, 50, 52)),
    }
    choice = furs if kind in ANIMALS and kind != "sheep" else fixed.get(kind)
    if choice is None:
        color = rng.uniform(20, 225, 3)
    else:
        color = np.array(choice[int(rng.integers(len(choice)))]) * rng.uniform(0.75, 1.2)
    return bgr(color)


def _skin(rng: np.random.Generator, kind: str, color: Color) -> Texture:
    gain = 1 + 0.1 * noise(rng, 64, 64, cell=30)
    if kind == "pallet":
        pattern, joints = bricks(rng, 64, 64, height=13, width=80, joint=5)
        gain = gain * pattern
        gain[joints] *= 0.25
    image = shaded(color, gain.astype(np.float32))
    if kind == "carton":
        cv2.line(image, (32, 0), (32, 64), tuple(min(255.0, c * 1.2 + 15) for c in color), 5)
        cv2.rectangle(image, (42, 40), (58, 54), (225, 225, 225), -1)
    elif kind in ("bin", "suitcase"):
        image[::8] = image[::8] // 2
        image[:7] = np.clip(np.array(color) * 0.6, 0, 255)
    elif kind == "armchair":
        image[:, ::21] = image[:, ::21] // 2
    return Texture(image)


# For each animal, as shares of its height: back, head, thickness of the neck and of the legs.
_ANIMALS: dict[str, tuple[float, float, float, float]] = {
    "dog": (0.78, 1.0, 0.16, 0.05),
    "sheep": (0.8, 0.92, 0.2, 0.05),
    "cow": (0.85, 0.92, 0.17, 0.045),
    "deer": (0.68, 1.0, 0.1, 0.025),
    "horse": (0.76, 1.05, 0.13, 0.035),
}


def paint_animal(stage: Stage, thing: UnknownObject, pose: Pose, surface: int, gait: float) -> None:
    """Paint an animal that has walked ``gait`` metres."""
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


def paint_unknown_object(stage: Stage, item: Item) -> None:
    """Paint an object outside the classes."""
    thing, pose = unknown_object(stage.street.split, item.look), stage.pose(item)
    surface = stage.canvas.surfaces.add(UNKNOWN, stage.depth(pose.origin))
    if thing.kind in ANIMALS:
        paint_animal(stage, thing, pose, surface, item.gait)
    else:
        _PAINTERS[thing.kind](stage, thing, pose, surface)


def _cuboid(stage: Stage, thing: UnknownObject, pose: Pose, surface: int) -> None:
    w, long = thing.width / 2, thing.length / 2
    low, high = (-w, 0, -long), (w, thing.height, long)
    box(stage, pose, low, high, thing.color, surface, skin=thing.skin)


def _lump(stage: Stage, thing: UnknownObject, pose: Pose, surface: int) -> None:
    """Paint a rock or a full sack: an irregular outline with a lighter top."""
    angles = np.linspace(0, np.pi, 9)
    rough = 1 + 0.16 * np.resize(thing.shake[:, 0], 9)
    for share, gain, lift in ((1.0, 0.75, 0.0), (0.72, 1.0, 0.12), (0.4, 1.25, 0.35)):
        across = np.cos(angles) * thing.length / 2 * rough * share
        up = np.sin(angles) * thing.height * rough * (share if lift == 0 else share * 0.8)
        points = np.stack([across, up + lift * thing.height, np.zeros(9)], axis=1)
        uv = stage.camera.outline(points + pose.origin)
        color = stage.lit(thing.color, UP)
        stage.canvas.shape(uv, bgr(np.array(color) * gain * 0.8), surface)


_LOWER = [0, 1, 4, 5]  # corners of a box


def _barrel(stage: Stage, thing: UnknownObject, pose: Pose, surface: int) -> None:
    top = pose.origin + thing.height * UP
    rod(stage, pose.origin, top, thing.width / 2, thing.color, surface)
    for share in (0.3, 0.65):
        foot = pose.origin + share * thing.height * UP
        rod(stage, foot, foot + 0.06 * UP, thing.width / 2, thing.second, surface)
    angles = np.linspace(0, 2 * np.pi, 14, endpoint=False)
    rim = np.stack([np.cos(angles), np.zeros(14), np.sin(angles)], axis=1) * thing.width / 2
    stage.face(rim + top, thing.color, surface)


def _tyre(stage: Stage, thing: UnknownObject, pose: Pose, surface: int) -> None:
    angles = np.linspace(0, 2 * np.pi, 20, endpoint=False)
    radius = thing.height / 2
    lean = 0.5 * np.sin(angles) * (thing.shake[0, 0] > 0)
    ring = np.stack([np.cos(angles), 1 + np.sin(angles), lean], axis=1) * radius * 0.82
    uv, depth = stage.camera.project(pose.world(ring + np.array([0, radius * 0.18, 0])))
    if depth.min() > 1:
        wide = radius * 0.4 * stage.camera.focal / float(depth.mean())
        stage.canvas.line(uv, wide, stage.lit(thing.color, -pose.forward), surface, closed=True)


def _branch(stage: Stage, thing: UnknownObject, pose: Pose, surface: int) -> None:
    joints, bones = [[-thing.length / 2, 0.1, 0.0], [thing.length / 2, 0.2, 0.3]], []
    bones.append(Bone(0, 1, 0.11, 0.05, thing.color))
    for number in range(6):
        share = 0.25 + 0.12 * number
        foot = np.array(joints[0]) * (1 - share) + np.array(joints[1]) * share
        tip = foot + thing.shake[number] * (0.35, 0.0, 0.3) + (0, thing.height * 0.8, 0)
        joints += [foot.tolist(), tip.tolist()]
        bones.append(Bone(len(joints) - 2, len(joints) - 1, 0.05, 0.02, thing.color))
        if thing.shake[7, 0] > 0:  # with its leaves
            bones.append(Bone(len(joints) - 1, len(joints) - 1, 0.22, 0.22, (45.0, 100.0, 70.0)))
    limbs(stage, pose.world(np.array(joints)), bones, surface)


def _wheels(
    joints: list[list[float]], bones: list[Bone], radius: float, positions: list[list[float]]
) -> None:
    for x, z in positions:
        joints.append([x, radius, z])
        number = len(joints) - 1
        bones.append(Bone(number, number, radius, radius, (35.0, 35.0, 38.0)))


def _stroller(stage: Stage, thing: UnknownObject, pose: Pose, surface: int) -> None:
    w, long, h = thing.width / 2, thing.length / 2, thing.height
    joints = [
        [0, 0.55 * h, -0.3 * long],
        [0, 0.5 * h, 0.6 * long],
        [0, 0.75 * h, 0.45 * long],
        [-w, h, -long],
        [w, h, -long],
        [-w, 0.15 * h, 0.8 * long],
        [w, 0.15 * h, 0.8 * long],
    ]
    dark: Color = (60.0, 60.0, 62.0)
    bones = [
        Bone(0, 1, w * 0.8, w * 0.7, thing.color),
        Bone(2, 2, w * 0.95, w * 0.95, thing.color),
        Bone(3, 5, 0.02, 0.02, dark),
        Bone(4, 6, 0.02, 0.02, dark),
        Bone(3, 4, 0.025, 0.025, dark),
    ]
    positions = [[-w, 0.7 * long], [w, 0.7 * long], [-w, -0.5 * long], [w, -0.5 * long]]
    _wheels(joints, bones, 0.13 * h, positions)
    limbs(stage, pose.world(np.array(joints)), bones, surface)


def _trolley(stage: Stage, thing: UnknownObject, pose: Pose, surface: int) -> None:
    w, long, h = thing.width / 2, thing.length / 2, thing.height
    wire: Color = (165.0, 168.0, 170.0)
    low, high = (-w, 0.45 * h, -long), (w, 0.95 * h, long)
    box(stage, pose, low, high, (105.0, 107.0, 110.0), surface)
    for share in np.linspace(-1, 1, 7):
        for side in (-w, w):
            ends = pose.world(
                np.array([[side, 0.45 * h, share * long], [side, 0.95 * h, share * long]])
            )
            rod(stage, ends[0], ends[1], 0.012, wire, surface)
    joints: list[list[float]] = [
        [-w, h, -long],
        [w, h, -long],
        [0, 0.2 * h, -long],
        [0, 0.2 * h, long],
    ]
    bones = [Bone(0, 1, 0.03, 0.03, thing.second), Bone(2, 3, 0.025, 0.025, wire)]
    z = long * 0.9
    _wheels(joints, bones, 0.07, [[-w, z], [w, z], [-w, -z], [w, -z]])
    limbs(stage, pose.world(np.array(joints)), bones, surface)


def _cone(stage: Stage, thing: UnknownObject, pose: Pose, surface: int) -> None:
    w, h = thing.width / 2, thing.height
    box(stage, pose, (-w, 0, -w), (w, 0.05, w), (40.0, 40.0, 45.0), surface)
    stripes = ((0.05, 0.95), (0.35, 0.62), (0.62, 0.4), (1.0, 0.14))
    for number in range(3):
        (low, thick), (high, thin) = stripes[number], stripes[number + 1]
        color: Color = (225.0, 228.0, 230.0) if number == 1 else thing.color
        a, b = pose.origin + low * h * UP, pose.origin + high * h * UP
        rod(stage, a, b, w * 0.85 * thick, color, surface, tip=thin / thick)


def _bin(stage: Stage, thing: UnknownObject, pose: Pose, surface: int) -> None:
    w, h = thing.width / 2, thing.height
    corners = box_corners(np.array([-w, 0, -w]), np.array([w, h, w]))
    corners[_LOWER] *= (0.82, 1.0, 0.82)
    prism(stage, pose, corners, thing.color, surface)
    rim = w * 1.06
    low, high = (-rim, h * 0.93, -rim), (rim, h, rim)
    box(stage, pose, low, high, thing.second, surface)


def _suitcase(stage: Stage, thing: UnknownObject, pose: Pose, surface: int) -> None:
    _cuboid(stage, thing, pose, surface)
    w, h = thing.width * 0.3, thing.height
    ends = pose.world(np.array([[-w, h, 0], [-w, 1.3 * h, 0], [w, 1.3 * h, 0], [w, h, 0]]))
    for a, b in ((0, 1), (1, 2), (2, 3)):
        rod(stage, ends[a], ends[b], 0.015, (60.0, 60.0, 60.0), surface)


def _armchair(stage: Stage, thing: UnknownObject, pose: Pose, surface: int) -> None:
    w, long, h = thing.width / 2, thing.length / 2, thing.height
    parts = [
        ((-w, 0, -long), (w, 0.42 * h, long)),
        ((-w, 0, -long), (w, h, -long * 0.5)),
        ((-w, 0, -long), (-w * 0.65, 0.65 * h, long)),
        ((w * 0.65, 0, -long), (w, 0.65 * h, long)),
    ]
    eye = np.array([0.0, stage.camera.height, 0.0])
    middles = [pose.world(np.array([np.add(low, high) / 2]))[0] for low, high in parts]
    order = np.argsort([-float(np.linalg.norm(middle - eye)) for middle in middles])
    for number in order:
        low, high = parts[number]
        box(stage, pose, low, high, thing.color, surface, skin=thing.skin)


def _ball(stage: Stage, thing: UnknownObject, pose: Pose, surface: int) -> None:
    radius = thing.height / 2
    joints = pose.world(np.array([[0, radius, 0], [radius * 0.3, radius * 1.2, -0.1]]))
    bones = [
        Bone(0, 0, radius, radius, thing.color),
        Bone(1, 1, radius * 0.4, radius * 0.4, thing.second),
    ]
    limbs(stage, joints, bones, surface)


def _wheelbarrow(stage: Stage, thing: UnknownObject, pose: Pose, surface: int) -> None:
    w, long, h = thing.width / 2, thing.length / 2, thing.height
    corners = box_corners(np.array([-w, 0.4 * h, -long * 0.65]), np.array([w, h, long * 0.65]))
    corners[_LOWER] = box_corners(
        np.array([-w * 0.6, 0.4 * h, -long * 0.4]), np.array([w * 0.6, h, long * 0.4])
    )[_LOWER]
    joints: list[list[float]] = [
        [-w, 0.8 * h, -long],
        [-w * 0.4, 0.3 * h, long],
        [w, 0.8 * h, -long],
        [w * 0.4, 0.3 * h, long],
    ]
    wood: Color = (60.0, 90.0, 120.0)
    bones = [Bone(0, 1, 0.03, 0.03, wood), Bone(2, 3, 0.03, 0.03, wood)]
    for side in (-w * 0.6, w * 0.6):
        joints += [[side, 0.5 * h, -0.45 * long], [side, 0.0, -0.6 * long]]
        bones.append(Bone(len(joints) - 2, len(joints) - 1, 0.025, 0.025, wood))
    _wheels(joints, bones, 0.3 * h, [[0, long]])
    limbs(stage, pose.world(np.array(joints)), bones, surface)
    prism(stage, pose, corners, thing.color, surface)


_PAINTERS: dict[str, Callable[[Stage, UnknownObject, Pose, int], None]] = {
    "carton": _cuboid,
    "pallet": _cuboid,
    "barrel": _barrel,
    "tyre": _tyre,
    "suitcase": _suitcase,
    "rock": _lump,
    "branch": _branch,
    "stroller": _stroller,
    "cone": _cone,
    "bin": _bin,
    "sack": _lump,
    "trolley": _trolley,
    "armchair": _armchair,
    "ball": _ball,
    "wheelbarrow": _wheelbarrow,
}
