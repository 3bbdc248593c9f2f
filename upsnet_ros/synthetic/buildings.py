"""House fronts: walls, windows, doors, shops, balconies and roofs."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import cv2
import numpy as np

from upsnet_ros.synthetic.texture import (
    Color,
    Image,
    Texture,
    bgr,
    bricks,
    generator,
    noise,
    shaded,
)

_WARM = np.array([(70, 150, 215), (110, 185, 230), (150, 200, 225), (190, 190, 170)])


@dataclass(frozen=True, slots=True, kw_only=True)
class WindowLook:
    """The look of all windows of a front; sizes in metres.

    Attributes:
        width: Width of the opening.
        height: Height of the opening.
        sill: Height above the floor.
        frame: Colour of the frame.
        thickness: Thickness of the frame.
        panes: Number of panes across and down.
        arched: Whether the top is round.
        shutters: Colour of the shutters, or None.
        sills: Whether there are a projecting sill and lintel.
        balcony: Grey level of the balcony in front, 0 to 255; 0 for none.
        railed: Whether balconies have bars instead of a parapet.
    """

    width: float
    height: float
    sill: float
    frame: Color
    thickness: float
    panes: tuple[int, int]
    arched: bool
    shutters: Color | None
    sills: bool
    balcony: float
    railed: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Front:
    """The front of a house while it is drawn.

    Attributes:
        image: uint8 (H, W, 3), drawn into.
        glow: uint8 (H, W, 3), light that the front emits in the dark.
        density: Texels per metre.
        rng: Source of the random details.
    """

    image: Image
    glow: Image
    density: int
    rng: np.random.Generator

    def window_look(self, style: str, bay: float, story: float) -> WindowLook:
        """Return a random look for the windows of a front.

        Args:
            style: Style of the house, one of `_STYLES`.
            bay: Width of the column of wall that each window has, metres.
            story: Height of a story, metres.
        """
        rng = self.rng
        wide = style == "glass"
        sill = 0.15 if wide else float(rng.uniform(0.3, 1.05))
        level = float(rng.choice([235, 215, 60, 40, 120]))
        shutters = None
        if style in ("plaster", "stone", "timber") and rng.random() < 0.3:
            shutters = bgr(rng.uniform(30, 150, 3))
        balconies = style in ("plaster", "panel", "brick") and rng.random() < 0.22
        share = float(rng.uniform(0.88, 0.97) if wide else rng.uniform(0.42, 0.7))
        return WindowLook(
            width=bay * share * (0.75 if shutters else 1.0),
            height=min(story - sill - 0.25, float(rng.uniform(1.2, 2.2)) + (1.0 if wide else 0.0)),
            sill=sill,
            frame=bgr(level + rng.normal(0, 10, 3)),
            thickness=float(rng.uniform(0.04, 0.1)),
            panes=(int(rng.integers(1, 4)), int(rng.integers(1, 3))),
            arched=style in ("stone", "brick") and bool(rng.random() < 0.25),
            shutters=shutters,
            sills=bool(rng.random() < 0.6) and not wide,
            balcony=float(rng.uniform(40, 200)) if balconies else 0.0,
            railed=bool(rng.random() < 0.5),
        )


def window(front: Front, look: WindowLook, middle: float, floor: float) -> None:
    """Draw one window; ``middle`` is its centre column, ``floor`` the row of its floor, texels."""
    scale = front.density
    left, right = round(middle - look.width * scale / 2), round(middle + look.width * scale / 2)
    bottom = round(floor - look.sill * scale)
    top = round(bottom - look.height * scale)
    if top < 2 or right - left < 4:
        return
    image = front.image
    if look.shutters is not None:
        wide = max(3, (right - left) // 2)
        for start in (left - wide - 1, right + 1):
            cv2.rectangle(image, (start, top), (start + wide, bottom), look.shutters, -1)
            for row in range(top + 3, bottom, 4):
                dark = tuple(channel * 0.8 for channel in look.shutters)
                cv2.line(image, (start + 1, row), (start + wide - 1, row), dark, 1)
    if look.sills:
        stone = np.clip(image[bottom, left].astype(float) * 1.2 + 12, 0, 255).tolist()
        cv2.rectangle(image, (left - 4, bottom), (right + 4, bottom + 3), stone, -1)
        cv2.rectangle(image, (left - 3, top - 4), (right + 3, top - 1), stone, -1)
        shadow = slice(bottom + 4, bottom + 7)
        image[shadow, left - 4 : right + 4] = image[shadow, left - 4 : right + 4] * 0.75
    if look.arched:
        radius = (right - left) // 2
        cv2.ellipse(
            image, ((left + right) // 2, top), (radius, radius // 2), 0, 180, 360, look.frame, -1
        )
    cv2.rectangle(image, (left, top), (right, bottom), look.frame, -1)
    thick = max(1, round(look.thickness * scale))
    _panes(front, look, (left + thick, top + thick, right - thick, bottom - thick), thick)
    image[top : top + 2, left:right] = image[top : top + 2, left:right] * 0.6
    if look.balcony:
        _balcony(front, look, left, right, round(floor))


def _panes(front: Front, look: WindowLook, box: tuple[int, int, int, int], thick: int) -> None:
    left, top, right, bottom = box
    if right - left < 3 or bottom - top < 3:
        return
    image, rng = front.image, front.rng
    glass(image, left, top, right, bottom, rng)
    if rng.random() < 0.4:  # curtains or a blind
        cloth = rng.uniform(120, 230)
        if rng.random() < 0.5:
            end = int(top + (bottom - top) * rng.uniform(0.2, 0.8))
            image[top:end, left:right] = image[top:end, left:right] * 0.35 + cloth * 0.62
        else:
            wide = max(1, int((right - left) * rng.uniform(0.15, 0.35)))
            for side in (slice(left, left + wide), slice(right - wide, right)):
                image[top:bottom, side] = image[top:bottom, side] * 0.35 + cloth * 0.6
    if rng.random() < 0.38:
        light = _WARM[int(rng.integers(len(_WARM)))] * rng.uniform(0.45, 0.95)
        front.glow[top:bottom, left:right] = light
    across, down = look.panes
    for part in range(1, across):
        x = left + (right - left) * part // across
        image[top:bottom, x - thick // 2 : x - thick // 2 + thick] = look.frame
        front.glow[top:bottom, x - thick // 2 : x - thick // 2 + thick] = 0
    for part in range(1, down):
        y = top + (bottom - top) * part // (down + 1)
        image[y : y + thick, left:right] = look.frame
        front.glow[y : y + thick, left:right] = 0


def glass(
    image: Image, left: int, top: int, right: int, bottom: int, rng: np.random.Generator
) -> None:
    """Draw a pane of glass that reflects some sky, in front of a dark room."""
    level, sky = rng.uniform(28, 75), rng.uniform(0, 110)
    fall = np.linspace(1, rng.uniform(0.1, 0.6), bottom - top)[:, None, None]
    tint = np.array([1.15, 1.04, 0.94])
    pane = np.broadcast_to((level + sky * fall) * tint, (bottom - top, right - left, 3)).copy()
    if rng.random() < 0.5:  # a slanting reflection
        start = int(rng.uniform(-0.3, 0.8) * (right - left))
        for row in range(bottom - top):
            at = start + (bottom - top - row) // 3
            pane[row, max(0, at) : max(0, at + (right - left) // 3)] *= 1.2
    image[top:bottom, left:right] = np.clip(pane, 0, 255)


def _balcony(front: Front, look: WindowLook, left: int, right: int, floor: int) -> None:
    image, level = front.image, look.balcony
    rail = round(1.0 * front.density)
    start, end = max(0, left - 8), right + 8
    if floor - rail < 0 or floor + 5 >= image.shape[0]:
        return
    if look.railed:
        for x in range(start, end, 4):
            cv2.line(image, (x, floor - rail), (x, floor), (level, level, level), 1)
        cv2.line(image, (start, floor - rail), (end, floor - rail), (level, level, level), 2)
    else:
        cv2.rectangle(image, (start, floor - rail), (end, floor), (level, level, level), -1)
    image[floor : floor + 5, start:end] = 90
    image[floor + 5 : floor + 14, start:end] = image[floor + 5 : floor + 14, start:end] * 0.7


def door(front: Front, middle: float, step: float) -> None:
    """Draw an entrance centred on column ``middle`` of a bay ``step`` texels wide."""
    image, rng, scale = front.image, front.rng, front.density
    rows = image.shape[0]
    gate = rng.random() < 0.25
    wide = min(step * 0.85, (2.6 if gate else 1.2) * scale)
    left, right = round(middle - wide / 2), round(middle + wide / 2)
    top = round(rows - 2.3 * scale)
    color = np.clip(rng.uniform(25, 140) + rng.normal(0, 22, 3), 0, 255)
    cv2.rectangle(image, (left - 3, top - 3), (right + 3, rows), (color * 0.6).tolist(), -1)
    cv2.rectangle(image, (left, top), (right, rows), color.tolist(), -1)
    if gate:
        for row in range(top, rows, 6):
            cv2.line(image, (left, row), (right, row), (color * 0.8).tolist(), 1)
    else:
        glass(image, left + 5, top + 5, right - 5, top + round(0.8 * scale), rng)


def shop(front: Front, left: float, right: float, top: int) -> None:
    """Draw a shop window and its sign between two columns, below row ``top``."""
    image, rng, scale = front.image, front.rng, front.density
    rows = image.shape[0]
    x0, x1 = round(left) + 4, round(right) - 4
    color = rng.uniform(15, 235, 3)
    sign = top + round(0.15 * scale), top + round(0.75 * scale)
    cv2.rectangle(image, (x0, sign[0]), (x1, sign[1]), color.tolist(), -1)
    ink = (255 - color).tolist() if rng.random() < 0.5 else (240, 240, 240)
    at = x0 + int(rng.uniform(0.1, 0.3) * (x1 - x0))
    while at < x1 - 8:  # illegible letters
        wide = int(rng.integers(3, 8))
        if rng.random() < 0.8:
            low, high = sign[0] + 4, sign[1] - 4
            cv2.rectangle(image, (at, low), (at + wide - 2, high), ink, int(rng.choice([1, -1])))
        at += wide + 1
    front.glow[sign[0] : sign[1], x0:x1] = image[sign[0] : sign[1], x0:x1] * 0.7
    bottom = rows - round(rng.uniform(0.1, 0.6) * scale)
    glass(image, x0, sign[1] + 3, x1, bottom, rng)
    for _ in range(6):  # goods
        x, y = int(rng.uniform(x0, x1 - 8)), int(rng.uniform(sign[1] + 12, bottom - 4))
        box = (x + int(rng.integers(4, 14)), bottom)
        if box[0] < x1:
            cv2.rectangle(image, (x, y), box, rng.uniform(30, 200, 3).tolist(), -1)
    lit = image[sign[1] + 3 : bottom, x0:x1]
    front.glow[sign[1] + 3 : bottom, x0:x1] = np.clip(lit * 0.5 + np.array([70, 110, 130]), 0, 255)
    if rng.random() < 0.4:  # an awning
        stripes = rng.uniform(40, 230, 3)
        low = sign[1] + round(0.6 * scale)
        for number, x in enumerate(range(x0, x1, 10)):
            paint = stripes if number % 2 else stripes * 0.35 + 160
            cv2.rectangle(image, (x, sign[1]), (min(x + 10, x1), low), paint.tolist(), -1)
        shadow = slice(low, low + 8)
        image[shadow, x0:x1] = image[shadow, x0:x1] * 0.6


#: Number of different houses in a split.
FACADES = 72

_DENSITY = 30  # texels per metre

_STYLES = ("plaster", "brick", "stone", "panel", "glass", "timber", "shed")
_STYLE_WEIGHTS = (0.36, 0.2, 0.12, 0.1, 0.08, 0.07, 0.07)


@dataclass(frozen=True, kw_only=True, eq=False)
class Facade:
    """One house.

    Attributes:
        front: Texture of the side that faces the street.
        gable: Texture of the windowless sides.
        plain: Mean colour of the wall, BGR.
        roof: Texture of the roof.
        width: Width of the front, metres.
        height: Height of the eaves, metres.
        pitch: Height of the ridge above the eaves, metres; 0 for a flat roof.
        gabled: Whether the ridge is perpendicular to the street instead of parallel to it.
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
    """Return house ``number``, from 0 to `FACADES` - 1."""
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
        for column in range(bays):
            if rng.random() < 0.985:
                window(front, look, (column + 0.5) * step, base)
        if rng.random() < 0.25 and style in ("plaster", "stone"):
            line = int(base)
            front.image[line - 2 : line + 2] = np.clip(np.array(color) * 1.12, 0, 255)
    if style != "glass" and rng.random() < 0.7:
        _cornice(front, color)
    shops = rng.random() < (0.1 if style in ("timber", "shed") else 0.45)
    entrance = int(rng.integers(bays))
    column = 0
    while column < bays:
        middle = (column + 0.5) * step
        if column == entrance:
            door(front, middle, step)
        elif shops and column + 1 < bays and column + 1 != entrance:
            shop(front, column * step, (column + 2) * step, top)
            column += 1
        else:
            window(front, look, middle, rows - 0.2 * _DENSITY)
        column += 1
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
