"""House fronts: walls, windows, doors, shops, balconies, and the roofs above them."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import cv2
import numpy as np

from upsnet_ros.datasets.scenes.seeds import generator
from upsnet_ros.datasets.scenes.texture import Color, Image, Texture, bgr, bricks, noise, shaded
from upsnet_ros.datasets.scenes.windows import Front, door, shop, window

#: How many fronts a split has.
FACADES = 72

_DENSITY = 30  # texels a metre

_STYLES = ("plaster", "brick", "stone", "panel", "glass", "timber", "shed")
_STYLE_WEIGHTS = (0.36, 0.2, 0.12, 0.1, 0.08, 0.07, 0.07)


@dataclass(frozen=True, kw_only=True, eq=False)
class Facade:
    """One house.

    Attributes:
        front: Its face towards the street.
        gable: Its windowless side.
        plain: Mean colour of the wall, BGR.
        roof: The roof's covering.
        width: Of the front, metres.
        height: Up to the eaves, metres.
        pitch: Height of the ridge above the eaves, metres; 0 for a flat roof.
        gabled: Whether the ridge points at the street instead of along it.
    """

    front: Texture
    gable: Texture
    plain: Color
    roof: Texture
    width: float
    height: float
    pitch: float
    gabled: bool


@lru_cache(maxsize=2 * FACADES)
def facade(split: str, number: int) -> Facade:
    """The house with this number, from 0 to `FACADES` - 1."""
    rng = generator(split, "facade", number)
    style = str(rng.choice(_STYLES, p=_STYLE_WEIGHTS))
    floors = {"timber": (2, 4), "shed": (1, 3), "glass": (4, 8), "panel": (3, 7)}.get(style, (2, 6))
    count = int(rng.integers(*floors))
    story = float(rng.uniform(2.8, 3.5)) * (1.3 if style == "shed" else 1.0)
    width = float(rng.uniform(8, 18)) * (1.3 if style in ("shed", "glass", "panel") else 1.0)
    ground = story * float(rng.uniform(1.0, 1.35))
    height = ground + story * (count - 1) + float(rng.uniform(0.3, 0.9))
    rows, columns = round(height * _DENSITY), round(width * _DENSITY)
    color = _wall_color(rng, style)
    image = _wall(rng, style, color, rows, columns)
    plain = _wall(rng, style, color, min(rows, 256), 256)
    front = Front(image=image, glow=np.zeros_like(image), density=_DENSITY, rng=rng)
    _furnish(front, style=style, color=color, floors=count, story=story, ground=ground)
    pitched = style in ("plaster", "brick", "timber", "stone") and rng.random() < 0.62
    return Facade(
        front=Texture(front.image, front.glow),
        gable=Texture(plain),
        plain=color,
        roof=Texture(_roof(rng)),
        width=width,
        height=height,
        pitch=float(rng.uniform(2.0, 4.5)) if pitched and count < 6 else 0.0,
        gabled=bool(rng.random() < 0.35),
    )


def _wall_color(rng: np.random.Generator, style: str) -> Color:
    if style in ("plaster", "shed", "timber"):
        # Pastels of any hue, and a few strong ones of warm hue.
        level = rng.uniform(105, 235)
        hue, strength = rng.uniform(0, 180), rng.uniform(6, 45)
        if rng.random() < 0.4:
            hue, strength = rng.uniform(4, 26), rng.uniform(40, 125)
        pixel = np.array([[[hue, strength, level]]]).astype(np.uint8)
        return bgr(cv2.cvtColor(pixel, cv2.COLOR_HSV2BGR)[0, 0])
    if style == "brick":
        shades = ((58, 72, 128), (50, 58, 98), (105, 150, 175), (70, 78, 88), (150, 165, 180))
        return bgr(np.array(shades[int(rng.integers(5))]) * rng.uniform(0.8, 1.15))
    level = rng.uniform(95, 195)
    warm = rng.uniform(-4, 14)
    return bgr([level - warm, level, level + warm])


def _wall(rng: np.random.Generator, style: str, color: Color, rows: int, columns: int) -> Image:
    gain = 1 + 0.05 * noise(rng, rows, columns, cell=90, octaves=6)
    streaks = noise(rng, rows, columns, cell=14, octaves=3)
    gain += 0.03 * cv2.blur(streaks, (1, 41))
    joints = None
    if style == "brick":
        pattern, joints = bricks(rng, rows, columns, height=4, width=9, contrast=0.1)
        gain *= pattern
    elif style == "stone":
        high, wide = int(rng.integers(10, 18)), int(rng.integers(20, 40))
        pattern, joints = bricks(rng, rows, columns, height=high, width=wide, contrast=0.06)
        gain *= pattern
    elif style == "panel":
        size = int(rng.integers(70, 100))
        pattern, joints = bricks(
            rng, rows, columns, height=size, width=size + 10, joint=2, bond=0, contrast=0.03
        )
        gain *= pattern
    elif style == "shed":
        gain *= 1 + 0.10 * np.sin(np.arange(columns) * (2 * np.pi / 7)).astype(np.float32)
    if joints is not None:
        gain[joints] *= rng.uniform(0.72, 1.2)
    # Dirt gathers at the foot.
    foot = np.clip((np.arange(rows) - (rows - 30)) / 30, 0, 1)[:, None]
    return shaded(color, (gain * (1 - 0.22 * foot)).astype(np.float32))


def _furnish(
    front: Front, *, style: str, color: Color, floors: int, story: float, ground: float
) -> None:
    rng = front.rng
    rows, columns = front.image.shape[:2]
    bay = float(rng.uniform(1.7, 3.4)) * (0.8 if style == "glass" else 1.0)
    bays = max(2, int(columns / _DENSITY / bay))
    step = columns / bays
    look = front.window_look(style, step / _DENSITY, story)
    top = rows - round(ground * _DENSITY)
    if style == "timber":
        _beams(front, step, story)
    for floor in range(floors - 1):
        base = top - floor * story * _DENSITY
        for place in range(bays):
            if rng.random() < 0.985:
                window(front, look, (place + 0.5) * step, base)
        if rng.random() < 0.25 and style in ("plaster", "stone"):
            line = int(base)
            front.image[line - 2 : line + 2] = np.clip(np.array(color) * 1.12, 0, 255)
    if style != "glass" and rng.random() < 0.7:
        _cornice(front, color)
    shops = rng.random() < (0.1 if style in ("timber", "shed") else 0.45)
    entrance = int(rng.integers(bays))
    place = 0
    while place < bays:
        middle = (place + 0.5) * step
        if place == entrance:
            door(front, middle, step)
        elif shops and place + 1 < bays and place + 1 != entrance:
            shop(front, place * step, (place + 2) * step, top)
            place += 1
        else:
            window(front, look, middle, rows - 0.2 * _DENSITY)
        place += 1
    if rng.random() < 0.5:
        at = int(rng.uniform(0.02, 0.98) * columns)
        front.image[:, at : at + 3] = np.clip(np.array(color) * 0.6, 0, 255)


def _beams(front: Front, step: float, story: float) -> None:
    dark = (np.array([35, 45, 60]) * front.rng.uniform(0.6, 1.5)).tolist()
    rows, columns = front.image.shape[:2]
    for x in np.arange(0, columns + 1, step):
        cv2.line(front.image, (int(x), 0), (int(x), rows), dark, 5)
        end = int(x + step * front.rng.choice([-0.8, 0.8]))
        cv2.line(front.image, (int(x), rows), (end, int(rows - story * _DENSITY)), dark, 4)
    for y in np.arange(rows, 0, -story * _DENSITY):
        cv2.line(front.image, (0, int(y)), (columns, int(y)), dark, 5)


def _cornice(front: Front, color: Color) -> None:
    high = int(front.rng.integers(6, 16))
    front.image[:high] = np.clip(np.array(color) * front.rng.uniform(0.75, 1.2), 0, 255)
    front.image[high : high + 3] = np.clip(np.array(color) * 0.55, 0, 255)


def _roof(rng: np.random.Generator) -> Image:
    shades = ((60, 70, 135), (50, 60, 105), (75, 72, 70), (95, 90, 85), (50, 62, 80))
    color = np.array(shades[int(rng.integers(len(shades)))]) * rng.uniform(0.75, 1.2)
    gain, joints = bricks(rng, 160, 256, height=6, width=7, contrast=0.1)
    gain[joints] *= 0.78
    gain = gain + 0.06 * noise(rng, 160, 256, cell=60)
    return shaded(bgr(color), gain)
