"""What is let into a house front: windows, doors and shops, drawn into its texture."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np

from upsnet_ros.datasets.scenes.texture import Color, Image, bgr

_WARM = np.array([(70, 150, 215), (110, 185, 230), (150, 200, 225), (190, 190, 170)])


@dataclass(frozen=True, slots=True, kw_only=True)
class WindowLook:
    """How all windows of a front look; sizes in metres.

    Attributes:
        width: Of the opening.
        height: Of the opening.
        sill: Height above the floor.
        frame: Colour of the frame.
        thickness: Of the frame.
        panes: How many across and how many down.
        arched: Whether the top is round.
        shutters: Colour of the shutters, or None.
        sills: Whether a sill and a lintel stand out.
        balcony: Grey level of the balcony before it; 0 for none.
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
    """A front that is being drawn.

    Attributes:
        image: uint8 (H, W, 3), drawn into.
        glow: Like `image`: what shines in the dark.
        density: Texels a metre.
        rng: Where its details come from.
    """

    image: Image
    glow: Image
    density: int
    rng: np.random.Generator

    def window_look(self, style: str, bay: float, story: float) -> WindowLook:
        """Draws how the windows of bays ``bay`` metres wide in stories ``story`` high look."""
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
    """Draws one window above the row ``floor``, around the column ``middle``."""
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
    """Draws a pane that mirrors some sky and hides a dark room."""
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
    """Draws an entrance around the column ``middle`` of a bay ``step`` texels wide."""
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
    """Draws a shop window with its sign between two columns, under the row ``top``."""
    image, rng, scale = front.image, front.rng, front.density
    rows = image.shape[0]
    x0, x1 = round(left) + 4, round(right) - 4
    color = rng.uniform(15, 235, 3)
    sign = top + round(0.15 * scale), top + round(0.75 * scale)
    cv2.rectangle(image, (x0, sign[0]), (x1, sign[1]), color.tolist(), -1)
    ink = (255 - color).tolist() if rng.random() < 0.5 else (240, 240, 240)
    at = x0 + int(rng.uniform(0.1, 0.3) * (x1 - x0))
    while at < x1 - 8:  # letters that nobody can read
        wide = int(rng.integers(3, 8))
        if rng.random() < 0.8:
            low, high = sign[0] + 4, sign[1] - 4
            cv2.rectangle(image, (at, low), (at + wide - 2, high), ink, int(rng.choice([1, -1])))
        at += wide + 1
    front.glow[sign[0] : sign[1], x0:x1] = image[sign[0] : sign[1], x0:x1] * 0.7
    bottom = rows - round(rng.uniform(0.1, 0.6) * scale)
    glass(image, x0, sign[1] + 3, x1, bottom, rng)
    for _ in range(6):  # wares
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
