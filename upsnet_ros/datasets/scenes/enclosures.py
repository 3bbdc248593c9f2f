"""Pictures of walls and fences."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import cv2
import numpy as np

from upsnet_ros.datasets.scenes.seeds import generator
from upsnet_ros.datasets.scenes.texture import Color, Image, Texture, bgr, bricks, noise, shaded

#: How many walls, and how many fences, a split has.
ENCLOSURES = 24

_ROWS, _COLUMNS = 96, 256


@dataclass(frozen=True, kw_only=True, eq=False)
class Enclosure:
    """A wall or a fence.

    Attributes:
        picture: One stretch of it, with alpha where one sees through.
        length: Of the stretch, metres.
        color: Of its end, BGR.
        solid: Whether it is thick enough for an end to be seen.
    """

    picture: Texture
    length: float
    color: Color
    solid: bool


def wall(split: str, look: int) -> Enclosure:
    """The wall with this look."""
    return _wall(split, look % ENCLOSURES)


def fence(split: str, look: int) -> Enclosure:
    """The fence with this look."""
    return _fence(split, look % ENCLOSURES)


@lru_cache(maxsize=2 * ENCLOSURES)
def _wall(split: str, number: int) -> Enclosure:
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
def _fence(split: str, number: int) -> Enclosure:
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
    alpha[:] = int(rng.integers(40, 90))  # wires too fine to be drawn
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
    for place in range(count):
        top = 8 + place * (_ROWS - 16) // count
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
