"""Painters of houses, walls, fences, hedges, trees and bushes."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import cv2
import numpy as np
import numpy.typing as npt

from upsnet_ros.synthetic.buildings import FACADES, facade
from upsnet_ros.synthetic.canvas import Array
from upsnet_ros.synthetic.labels import BUILDING, FENCE, VEGETATION, WALL
from upsnet_ros.synthetic.stage import UP, Item, Stage
from upsnet_ros.synthetic.texture import (
    Color,
    Gain,
    Image,
    Texture,
    bgr,
    bricks,
    generator,
    noise,
    scaled,
    shaded,
)

#: Number of different plants of each kind in a split.
TREES, BUSHES, HEDGES = 48, 24, 12

_TREE_ROWS, _TREE_COLUMNS = 320, 256


@dataclass(frozen=True, kw_only=True, eq=False)
class Plant:
    """A plant, the same from all sides: a texture with alpha, and its size in metres."""

    picture: Texture
    width: float
    height: float


@lru_cache(maxsize=2 * TREES)
def tree(split: str, number: int) -> Plant:
    """Return tree ``number``, from 0 to `TREES` - 1."""
    rng = generator(split, "tree", number)
    kind = str(rng.choice(["round", "tall", "fir", "bare"], p=[0.55, 0.18, 0.12, 0.15]))
    size = _TREE_ROWS, _TREE_COLUMNS
    color, alpha = np.zeros((*size, 3), np.float32), np.zeros(size, np.float32)
    bark = np.array([58, 68, 82]) * rng.uniform(0.5, 1.3) + rng.normal(0, 6, 3)
    _branches(color, alpha, bark, rng, depth={"bare": 8, "fir": 0}.get(kind, 2))
    if kind != "bare":
        crown = _fir(rng) if kind == "fir" else _crown(rng, slim=kind == "tall")
        green = _green(rng) if kind != "fir" else np.array([48, 82, 50]) * rng.uniform(0.6, 1.3)
        _leaves(color, alpha, crown, green, rng)
    height = float(rng.uniform(4.5, 11.0))
    wide = {"tall": 0.5, "fir": 0.6}.get(kind, float(rng.uniform(0.8, 1.1)))
    return Plant(
        picture=_picture(color, alpha),
        width=height * wide * _TREE_COLUMNS / _TREE_ROWS,
        height=height,
    )


@lru_cache(maxsize=2 * BUSHES)
def bush(split: str, number: int) -> Plant:
    """Return bush ``number``, from 0 to `BUSHES` - 1."""
    rng = generator(split, "bush", number)
    rows, columns = 128, 192
    color, alpha = np.zeros((rows, columns, 3), np.float32), np.zeros((rows, columns), np.float32)
    v, u = np.mgrid[:rows, :columns].astype(np.float32)
    dome = 1 - ((u - columns / 2) / (columns * 0.46)) ** 2 - ((rows - v) / (rows * 0.92)) ** 2
    crown = dome * 1.4 + 0.35 * noise(rng, rows, columns, cell=40, octaves=4)
    crown[-6:] += 0.4
    _leaves(color, alpha, crown, _green(rng), rng)
    height = float(rng.uniform(0.6, 2.0))
    return Plant(
        picture=_picture(color, alpha), width=height * float(rng.uniform(1.2, 2.2)), height=height
    )


@lru_cache(maxsize=2 * HEDGES)
def hedge(split: str, number: int) -> Texture:
    """Return the opaque texture of clipped hedge ``number``, from 0 to `HEDGES` - 1."""
    rng = generator(split, "hedge", number)
    rows, columns = 96, 384
    color, alpha = np.zeros((rows, columns, 3), np.float32), np.zeros((rows, columns), np.float32)
    _leaves(color, alpha, np.ones((rows, columns), np.float32), _green(rng), rng)
    return Texture(np.clip(color, 0, 255).astype(np.uint8))


def _picture(color: npt.NDArray[np.float32], alpha: npt.NDArray[np.float32]) -> Texture:
    # Transparent pixels get the colour of their neighbours, else smaller levels had dark edges.
    size = alpha.shape[1] // 4, alpha.shape[0] // 4
    covered = np.dstack([color * alpha[..., None], alpha])
    small = cv2.resize(covered, size, interpolation=cv2.INTER_AREA)
    small = cv2.GaussianBlur(small, (0, 0), 2)
    small = small[..., :3] / (small[..., 3:] + 1e-3)
    bled = cv2.resize(small, alpha.shape[::-1], interpolation=cv2.INTER_LINEAR)
    whole = covered[..., :3] + bled * (1 - alpha[..., None])
    return Texture(np.dstack([np.clip(whole, 0, 255), alpha * 255]).astype(np.uint8))


def _green(rng: np.random.Generator) -> npt.NDArray[np.float64]:
    season = rng.random()
    if season < 0.12:  # autumn
        return np.array([30, rng.uniform(75, 125), rng.uniform(120, 185)])
    if season < 0.18:  # dark red leaves
        return np.array([45, 42, rng.uniform(70, 110)])
    level = rng.uniform(52, 128)
    return level * np.array([rng.uniform(0.3, 0.72), 1.0, rng.uniform(0.55, 0.98)])


def _crown(rng: np.random.Generator, *, slim: bool) -> Gain:
    """Return the depth of each pixel inside the crown, float32; negative outside."""
    rows, columns = _TREE_ROWS // 2, _TREE_COLUMNS // 2  # enough for round clumps
    v, u = np.mgrid[:rows, :columns].astype(np.float32)
    depth = np.full((rows, columns), -9.0, np.float32)
    low = rng.uniform(0.68, 0.86)
    for _ in range(int(rng.integers(14, 26))):
        cy = rng.uniform(0.2, low - 0.12) * rows
        spread = 0.12 if slim else 0.34 * np.sin(np.pi * (cy / rows) / low) ** 0.5
        cx = (0.5 + rng.uniform(-spread, spread)) * columns
        radius = rng.uniform(0.12, 0.22) * columns
        blob = 1 - np.sqrt((u - cx) ** 2 + ((v - cy) * 1.1) ** 2) / np.float32(radius)
        depth = np.maximum(depth, blob)
    # A crown at the edge of the texture would look cut off.
    edge = np.minimum(np.minimum(u, columns - 1 - u), v) / 7 - 0.4
    depth = np.minimum(depth, edge)
    whole = cv2.resize(depth, (_TREE_COLUMNS, _TREE_ROWS), interpolation=cv2.INTER_LINEAR)
    return np.asarray(whole, np.float32) + 0.16 * noise(
        rng, _TREE_ROWS, _TREE_COLUMNS, cell=36, octaves=5
    )


def _fir(rng: np.random.Generator) -> Gain:
    v, u = np.mgrid[:_TREE_ROWS, :_TREE_COLUMNS].astype(np.float32)
    down = v / _TREE_ROWS
    tiers = 0.06 * np.abs(np.sin(down * rng.uniform(22, 34)))
    half = np.clip(down * rng.uniform(0.4, 0.52) + tiers - 0.03, 0, 1) * _TREE_COLUMNS
    depth = (half - np.abs(u - _TREE_COLUMNS / 2)) / 40
    depth[down > 0.9] = -1
    return depth + 0.2 * noise(rng, _TREE_ROWS, _TREE_COLUMNS, cell=20, octaves=4)


def _leaves(
    color: npt.NDArray[np.float32],
    alpha: npt.NDArray[np.float32],
    depth: Gain,
    green: npt.NDArray[np.float64],
    rng: np.random.Generator,
) -> None:
    rows, columns = alpha.shape
    clumps = noise(rng, rows, columns, cell=26, octaves=3)
    fine = noise(rng, rows, columns, cell=5, octaves=2)
    # Light from above: clumps are bright on top and dark below, and so is the whole crown.
    slope = np.gradient(clumps, axis=0)
    fall = np.linspace(1.15, 0.8, rows, dtype=np.float32)[:, None]
    gain = fall * (1 + 1.6 * slope + 0.16 * clumps + 0.22 * fine)
    holes = (clumps + 0.5 * fine < -1.9) & (depth < 0.5)
    ragged = depth + 0.14 * fine
    cover = np.clip(ragged * 14 + 0.5, 0, 1) * ~holes
    tint = 1 + 0.1 * noise(rng, rows, columns, cell=50)[..., None] * np.array([0.5, 0.2, 1.0])
    leaf = green * np.clip(gain, 0.25, 2.0)[..., None] * tint
    color[:] = color * (1 - cover[..., None]) + leaf * cover[..., None]
    alpha[:] = np.maximum(alpha, cover)


def _branches(
    color: npt.NDArray[np.float32],
    alpha: npt.NDArray[np.float32],
    bark: npt.NDArray[np.float64],
    rng: np.random.Generator,
    *,
    depth: int,
) -> None:
    length = _TREE_ROWS * (0.3 if depth < 8 else 0.22)  # twigs stay within the texture
    stack = [
        (_TREE_COLUMNS / 2, float(_TREE_ROWS), -np.pi / 2, length, _TREE_COLUMNS * 0.05, depth)
    ]
    while stack:
        x, y, angle, length, wide, left = stack.pop()
        end = x + np.cos(angle) * length, y + np.sin(angle) * length
        line = (round(x), round(y)), (round(end[0]), round(end[1]))
        for offset, light in ((0.0, 0.75), (-0.2, 1.15)):
            shift = round(offset * wide)
            ends = [(p[0] + shift, p[1]) for p in line]
            size = max(1, round(wide * (1 if offset == 0 else 0.45)))
            cv2.line(color, ends[0], ends[1], (bark * light).tolist(), size, cv2.LINE_AA)
        cv2.line(alpha, line[0], line[1], 1.0, max(1, round(wide)), cv2.LINE_AA)
        if left == 0:
            continue
        for _ in range(2 if left < depth else 3):
            turn = rng.normal(0, 0.42)
            long, thick = length * rng.uniform(0.6, 0.85), wide * rng.uniform(0.55, 0.75)
            stack.append((*end, angle + turn, long, thick, left - 1))


#: Number of different walls, and of different fences, in a split.
ENCLOSURES = 24

_ROWS, _COLUMNS = 96, 256


@dataclass(frozen=True, kw_only=True, eq=False)
class Enclosure:
    """A wall or a fence.

    Attributes:
        picture: Texture of one section, with alpha if there are gaps.
        length: Length of the section, metres.
        color: Colour of its end, BGR.
        solid: Whether it is thick enough for its end to be visible.
    """

    picture: Texture
    length: float
    color: Color
    solid: bool


@lru_cache(maxsize=2 * ENCLOSURES)
def wall(split: str, number: int) -> Enclosure:
    """Return wall ``number``, from 0 to `ENCLOSURES` - 1."""
    rng = generator(split, "wall", number)
    kind = str(rng.choice(["brick", "stone", "concrete", "plaster"]))
    level = rng.uniform(75, 195)
    base = level + rng.normal(0, 10, 3)
    if kind == "brick":
        base = np.array([60, 75, 125]) * rng.uniform(0.7, 1.4)
    gain = 1 + 0.08 * noise(rng, _ROWS, _COLUMNS, cell=70, octaves=5)
    if kind != "plaster":
        high, wide = {"brick": (5, 13), "stone": (14, 26), "concrete": (96, 64)}[kind]
        pattern, joints = bricks(rng, _ROWS, _COLUMNS, height=high, width=wide, contrast=0.09)
        gain *= pattern
        gain[joints] *= 0.7
    color = bgr(base)
    image = shaded(color, gain.astype(np.float32))
    if rng.random() < 0.3:
        _graffiti(image, rng)
    coping = int(rng.integers(4, 9))
    image[:coping] = np.clip(base * rng.uniform(0.8, 1.25), 0, 255)
    image[coping : coping + 2] = image[coping : coping + 2] * 0.6
    return Enclosure(picture=Texture(image), length=6.0, color=color, solid=True)


def _graffiti(image: Image, rng: np.random.Generator) -> None:
    at = rng.uniform((20, 40), (_COLUMNS - 90, 60))
    for _ in range(int(rng.integers(3, 7))):
        color = rng.uniform(20, 250, 3).tolist()
        points = at + np.cumsum(rng.normal((3, 0), 11, (9, 2)), axis=0)
        curve = [np.rint(points).astype(np.int32)]
        cv2.polylines(image, curve, False, color, int(rng.integers(2, 7)), cv2.LINE_AA)
        at[0] += rng.uniform(8, 20)


@lru_cache(maxsize=2 * ENCLOSURES)
def fence(split: str, number: int) -> Enclosure:
    """Return fence ``number``, from 0 to `ENCLOSURES` - 1."""
    rng = generator(split, "fence", number)
    kind = str(rng.choice(["bars", "mesh", "planks", "pickets", "rails", "panels"]))
    level = float(rng.choice([35, 60, 110, 170, 225])) + rng.uniform(-15, 15)
    base = level + rng.normal(0, 9, 3)
    if kind in ("planks", "pickets", "rails") and rng.random() < 0.7:
        base = np.array([70, 100, 135]) * rng.uniform(0.5, 1.4)
    elif rng.random() < 0.25:
        base = np.array([70, 110, 55]) * rng.uniform(0.5, 1.2)
    image = np.zeros((_ROWS, _COLUMNS, 4), np.uint8)
    gain = 1 + 0.1 * noise(rng, _ROWS, _COLUMNS, cell=40)
    color = bgr(base)
    image[..., :3] = shaded(color, gain)
    alpha = np.zeros((_ROWS, _COLUMNS), np.uint8)
    _DRAW[kind](alpha, rng)
    image[..., 3] = alpha
    if kind in ("planks", "panels"):
        joint = int(rng.integers(7, 20))
        image[:, ::joint, :3] = image[:, ::joint, :3] // 2
    return Enclosure(picture=Texture(image), length=5.0, color=color, solid=False)


def _posts(alpha: Image, every: int, wide: int) -> None:
    for x in range(0, _COLUMNS, every):
        alpha[:, x : x + wide] = 255


def _bars(alpha: Image, rng: np.random.Generator) -> None:
    gap = int(rng.integers(6, 12))
    for x in range(0, _COLUMNS, gap):
        alpha[4:, x : x + 2] = 255
    alpha[8:12] = alpha[-14:-10] = 255
    _posts(alpha, 128, 6)


def _mesh(alpha: Image, rng: np.random.Generator) -> None:
    gap = int(rng.integers(8, 13))
    alpha[:] = int(rng.integers(40, 90))  # wires finer than a texel
    for start in range(-_ROWS, _COLUMNS, gap):
        cv2.line(alpha, (start, 0), (start + _ROWS, _ROWS), 210, 1)
        cv2.line(alpha, (start, _ROWS), (start + _ROWS, 0), 210, 1)
    alpha[:3] = 255
    _posts(alpha, 128, 5)


def _planks(alpha: Image, rng: np.random.Generator) -> None:
    alpha[2:-3] = 255
    gap = int(rng.integers(12, 22))
    alpha[:, ::gap] = 40


def _pickets(alpha: Image, rng: np.random.Generator) -> None:
    gap = int(rng.integers(14, 20))
    for x in range(0, _COLUMNS, gap):
        alpha[10:, x : x + gap // 2 + 1] = 255
        cv2.fillConvexPoly(
            alpha, np.array([[x, 10], [x + gap // 2, 10], [x + gap // 4, 2]], np.int32), 255
        )
    alpha[24:32] = alpha[-24:-16] = 255


def _rails(alpha: Image, rng: np.random.Generator) -> None:
    count = int(rng.integers(2, 4))
    for index in range(count):
        top = 8 + index * (_ROWS - 16) // count
        alpha[top : top + 13] = 255
    _posts(alpha, 64, 9)


def _panels(alpha: Image, rng: np.random.Generator) -> None:
    alpha[:] = 235 if rng.random() < 0.5 else 255
    alpha[: int(rng.integers(0, 6))] = 0


_DRAW = {
    "bars": _bars,
    "mesh": _mesh,
    "planks": _planks,
    "pickets": _pickets,
    "rails": _rails,
    "panels": _panels,
}


#: Depth of houses, metres.
HOUSE_DEPTH = 10.0

_CHIMNEY = (70.0, 80.0, 110.0)


def _corners(stage: Stage, item: Item) -> Array:
    """Return the ground corners (4, 3): near and far end on the street's side, then at the back."""
    start, end, low, high = item.bounds
    front, back = (low, high) if item.d > 0 else (high, low)
    s, d = np.array([start, end, start, end]), np.array([front, front, back, back])
    return stage.path.place(s, d, np.zeros(4))


def paint_house(stage: Stage, item: Item) -> None:
    """Paint a house: roof, gable end, then front."""
    house = facade(stage.street.split, item.look % FACADES)
    near, far, near_back, far_back = _corners(stage, item)
    top, rise = item.height * UP, house.pitch * UP
    label = stage.canvas.surfaces.add(BUILDING, stage.depth((near + far) / 2))
    tint = item.tint(0.16)
    plain, gable = scaled(house.plain, tint), house.pitch and house.gabled
    if gable:
        start, end = (near + far) / 2 + top + rise, (near_back + far_back) / 2 + top + rise
        for side in (far, near):
            stage.sheet(start, end - start, side + top - start, house.roof, BUILDING)
    else:
        start, end = (near + near_back) / 2 + top + rise, (far + far_back) / 2 + top + rise
        if house.pitch:
            stage.sheet(start, end - start, near + top - start, house.roof, BUILDING)
            _chimney(stage, start + (end - start) * (0.2 + 0.6 * (item.look % 7) / 7))
    blind = near - near_back
    stage.sheet(near_back + top, blind, -top, house.gable, BUILDING, gain=0.92, tint=tint)
    if house.pitch and not gable:
        stage.face(np.array([near + top, near_back + top, start]), plain, label, gain=0.92)
    stage.sheet(near + top, far - near, -top, house.front, BUILDING, tint=tint)
    if gable:
        stage.face(np.array([near + top, far + top, start]), plain, label)


def _chimney(stage: Stage, foot: Array) -> None:
    surface = stage.canvas.surfaces.add(BUILDING, stage.depth(foot))
    wide = np.array([0.35, 0.0, 0.0])
    low, high = foot - 0.4 * UP, foot + 0.9 * UP
    stage.face(np.array([low - wide, low + wide, high + wide, high - wide]), _CHIMNEY, surface)


def paint_wall(stage: Stage, item: Item) -> None:
    """Paint a free-standing wall with its end."""
    _enclose(stage, item, wall(stage.street.split, item.look % ENCLOSURES), WALL)


def paint_fence(stage: Stage, item: Item) -> None:
    """Paint a fence; the gaps are labelled as fence too, as in Cityscapes."""
    _enclose(stage, item, fence(stage.street.split, item.look % ENCLOSURES), FENCE)


def _enclose(stage: Stage, item: Item, enclosure: Enclosure, label: int) -> None:
    (near, far, near_back, _), top = _corners(stage, item), item.height * UP
    # The texture spans a few metres; a long wall repeats it.
    picture = enclosure.picture.repeated(max(1, round(item.length / enclosure.length)))
    if enclosure.solid:
        surface = stage.canvas.surfaces.add(label, stage.depth(near))
        end = np.array([near, near_back, near_back + top, near + top])
        stage.face(end, enclosure.color, surface, gain=0.85)
    tint = item.tint(0.15)
    stage.sheet(near + top, far - near, -top, picture, label, tint=tint, solid=True)


def paint_hedge(stage: Stage, item: Item) -> None:
    """Paint a clipped hedge with its end."""
    leaves = hedge(stage.street.split, item.look % HEDGES)
    (near, far, near_back, far_back), top = _corners(stage, item), item.height * UP
    stage.sheet(near_back + top, near - near_back, -top, leaves, VEGETATION, gain=0.8)
    long = leaves.repeated(max(1, round(item.length / (item.height * 4))))
    stage.sheet(near + top, far - near, -top, long, VEGETATION)
    if item.height < stage.camera.height:
        across, down = far_back - near_back, near - near_back
        stage.sheet(near_back + top, across, down, long, VEGETATION)


def paint_plant(stage: Stage, item: Item) -> None:
    """Paint a tree or a bush, a texture that faces the camera."""
    split = stage.street.split
    tall = item.kind == "tree"
    plant = tree(split, item.look % TREES) if tall else bush(split, item.look % BUSHES)
    foot = stage.pose(item).origin
    wide = np.array([item.width if item.look % 2 else -item.width, 0.0, 0.0])
    top = item.height * UP
    # The normal of the texture does not apply to a round crown, part of which is always sunlit.
    gain = 1.0 + 0.25 * max(0.0, stage.sun[1]) * stage.weather.sun[1]
    corner, tint = foot + top - wide / 2, item.tint(0.2)
    stage.sheet(corner, wide, -top, plant.picture, VEGETATION, gain=gain, tint=tint)
