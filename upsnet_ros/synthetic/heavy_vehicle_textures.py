"""Textures of the sides and ends of trucks, buses and trams."""

from __future__ import annotations

import cv2
import numpy as np

from upsnet_ros.synthetic.texture import Color, Image, Texture, noise, scaled

#: Texels per metre of all these textures.
DENSITY = 48

_TYRE = (26.0, 26.0, 26.0)


def panel(length: float, top: float, paint: Color, rng: np.random.Generator) -> tuple[Image, Image]:
    """Return a plain painted side, uint8 (H, W, 3), and its alpha (H, W), clear below the floor."""
    rows, columns = round(top * DENSITY), round(length * DENSITY)
    gain = np.interp(np.linspace(0, 1, rows), [0, 0.08, 0.5, 0.9, 1], [0.8, 1.1, 1.0, 0.8, 0.55])
    dirt = 1 + 0.02 * noise(rng, rows, columns, cell=60)
    image = np.clip(np.array(paint) * (gain[:, None] * dirt)[..., None], 0, 255).astype(np.uint8)
    alpha = np.full((rows, columns), 255, np.uint8)
    alpha[rows - round(0.3 * DENSITY) :] = 0
    return image, alpha


def two_tone(image: Image, second: Color, rng: np.random.Generator) -> None:
    """Paint part of a side in a second colour, or with an advertisement."""
    rows, columns = image.shape[:2]
    kind = int(rng.integers(4))
    if kind == 0:
        image[round(0.62 * rows) :] = scaled(second, 0.9)
    elif kind == 1:
        image[round(0.66 * rows) : round(0.74 * rows)] = second
    elif kind == 2:
        swoosh = np.array([[0.5, 1], [0.65, 0], [1, 0], [1, 1]]) * (columns, rows)
        cv2.fillPoly(image, [swoosh.astype(np.int32)], scaled(second, 0.9))
    else:
        advert(image[round(0.55 * rows) : round(0.85 * rows)], rng)


def advert(image: Image, rng: np.random.Generator) -> None:
    """Paint an area in another colour with illegible letters."""
    rows, columns = image.shape[:2]
    color = rng.uniform(20, 240, 3)
    left, right = round(rng.uniform(0.05, 0.3) * columns), round(rng.uniform(0.6, 0.95) * columns)
    top, bottom = round(rng.uniform(0.1, 0.25) * rows), round(rng.uniform(0.6, 0.9) * rows)
    cv2.rectangle(image, (left, top), (right, bottom), color.tolist(), -1)
    ink = (255 - color).tolist()
    x = left + 8
    while x < right - 12:
        wide = int(rng.integers(6, 16))
        if rng.random() < 0.8:
            mid = (top + bottom) // 2
            high = max(3, (bottom - top) // 5)
            cv2.rectangle(image, (x, mid - high), (x + wide - 3, mid + high), ink, -1)
        x += wide + 2


def window_band(
    image: Image, first: float, last: float, *, gap: float, rng: np.random.Generator
) -> None:
    """Draw windows ``gap`` metres wide between two heights, given as shares from the top."""
    rows, columns = image.shape[:2]
    top, bottom = round(first * rows), round(last * rows)
    level = rng.uniform(25, 60)
    fall = np.linspace(60, 0, bottom - top)[:, None, None]
    image[top:bottom, 4 : columns - 4] = np.clip(level + fall * np.array([1.1, 1.0, 0.9]), 0, 255)
    for x in np.arange(gap, columns / DENSITY, gap):
        at = round(x * DENSITY)
        image[top:bottom, at : at + 3] = (35, 35, 35)
    for _ in range(columns // 60):  # heads behind the glass
        middle = (int(rng.integers(8, columns - 8)), bottom - 1)
        cv2.ellipse(image, middle, (5, 7), 0, 180, 360, (level * 0.5 + 20,) * 3, -1)


def window_glow(image: Image) -> Image:
    """Return the glow of the window panes, which are dark grey by day: uint8 (H, W, 3)."""
    grey = image.max(axis=2)
    panes = (grey < 130) & (grey > 22) & (image.max(axis=2) - image.min(axis=2) < 26)
    panes[round(0.62 * len(image)) :] = False
    glow = np.zeros_like(image)
    glow[panes] = (105, 150, 170)
    return glow


def door(image: Image, share: float, top: float, rng: np.random.Generator) -> None:
    """Draw a door at a share of the length, below ``top``, a share of the height from the top."""
    rows, columns = image.shape[:2]
    left, wide = round(share * columns), round(1.2 * DENSITY)
    low, high = round((top + 0.04) * rows), round(0.88 * rows)
    image[low:high, left : left + wide] = (30, 30, 30)
    half = wide // 2
    for start in (left + 3, left + half + 2):
        pane = image[low + 4 : high - 6, start : start + half - 5]
        pane[:] = np.linspace(95, 45, len(pane))[:, None, None]


def skirt(image: Image, alpha: Image) -> None:
    """Draw the low covers that hide the wheels of a tram."""
    rows, columns = alpha.shape
    alpha[rows - round(0.32 * DENSITY) : rows - round(0.08 * DENSITY)] = 255
    image[rows - round(0.32 * DENSITY) :] = (30, 30, 30)
    for share in (0.2, 0.7):
        x = round(share * columns)
        alpha[rows - 16 :, x : x + round(0.9 * DENSITY)] = 255


def wheel(image: Image, alpha: Image, share: float, radius: float) -> None:
    """Draw a wheel of ``radius`` metres; ``share`` is its distance from the front by the length."""
    rows, columns = alpha.shape
    size = radius * DENSITY
    middle = (round(share * columns), round(rows - size))
    cv2.circle(image, middle, round(size * 1.18), (15, 15, 15), -1)
    cv2.circle(image, middle, round(size), _TYRE, -1, cv2.LINE_AA)
    cv2.circle(image, middle, round(size * 0.58), (120, 122, 124), -1, cv2.LINE_AA)
    cv2.circle(image, middle, round(size * 0.25), (70, 70, 70), -1, cv2.LINE_AA)
    cv2.circle(alpha, middle, round(size), 255, -1)


def bus_end(
    width: float,
    top: float,
    paint: Color,
    second: Color,
    rng: np.random.Generator,
    *,
    front: bool,
    rail: bool = False,
) -> Texture:
    """Return the front or the rear of a bus or, with ``rail``, of a tram."""
    image, alpha = panel(width, top, paint, rng)
    rows, columns = alpha.shape
    image[round(0.66 * rows) :] = scaled(second if rng.random() < 0.6 else paint, 0.85)
    low, high = (0.12, 0.62) if front else (0.16, 0.45)
    side = round(0.06 * columns)
    glow = np.zeros_like(image)
    pane = image[round(low * rows) : round(high * rows), side : columns - side]
    pane[:] = np.linspace(100, 36, len(pane))[:, None, None] * np.array([1.1, 1.0, 0.92])
    if front and not rail:
        pane[:, pane.shape[1] // 2] = 30
    board = (round(0.045 * rows), round(0.11 * rows))
    image[board[0] : board[1], side * 2 : columns - side * 2] = (18, 18, 18)
    for x in range(side * 3, columns - side * 3, 6):
        if rng.random() < 0.7:
            image[board[0] + 2 : board[1] - 2, x : x + 4] = (40, 170, 240)
            glow[board[0] + 2 : board[1] - 2, x : x + 4] = (40, 170, 240)
    lamp: Color = (225.0, 225.0, 215.0) if front else (40.0, 36.0, 180.0)
    y = round(0.76 * rows)
    for x in (round(0.14 * columns), round(0.86 * columns)):
        if rail:
            cv2.circle(image, (x, y), 7, lamp, -1)
        else:
            cv2.rectangle(image, (x - 11, y - 5), (x + 11, y + 5), lamp, -1)
        cv2.circle(glow, (x, y), 7, lamp, -1)
    image[round(0.86 * rows) :] = (36, 36, 36)
    if rail:
        alpha[: round(0.95 * rows)] = 255
    else:
        for x in (round(0.06 * columns), round(0.8 * columns)):
            alpha[rows - 18 :, x : x + round(0.14 * columns)] = 255
    return Texture(np.dstack([image, alpha]), glow)


def truck_nose(width: float, top: float, paint: Color, rng: np.random.Generator) -> Texture:
    """Return the front of the cab of a truck."""
    image, alpha = panel(width, top, paint, rng)
    rows, columns = alpha.shape
    pane = image[
        round(0.12 * rows) : round(0.48 * rows), round(0.07 * columns) : -round(0.07 * columns)
    ]
    pane[:] = np.linspace(95, 36, len(pane))[:, None, None]
    grille = image[
        round(0.55 * rows) : round(0.74 * rows), round(0.2 * columns) : -round(0.2 * columns)
    ]
    grille[:] = (34, 34, 34)
    grille[::5] = (110, 110, 110)
    y = round(0.8 * rows)
    for x in (round(0.13 * columns), round(0.87 * columns)):
        cv2.rectangle(image, (x - 9, y - 6), (x + 9, y + 6), (225, 225, 215), -1)
    image[round(0.86 * rows) :] = (38, 38, 38)
    for x in (round(0.05 * columns), round(0.8 * columns)):
        alpha[rows - 18 :, x : x + round(0.15 * columns)] = 255
    return Texture(np.dstack([image, alpha]))


def load_end(width: float, top: float, paint: Color, rng: np.random.Generator) -> Texture:
    """Return the doors or the tailboard of a truck."""
    image, alpha = panel(width, top, paint, rng)
    rows, columns = alpha.shape
    floor = round(rows - min(0.75, top * 0.4) * DENSITY)
    cv2.line(image, (columns // 2, 0), (columns // 2, floor), scaled(paint, 0.6), 2)
    cv2.rectangle(image, (2, 2), (columns - 3, floor), scaled(paint, 0.75), 3)
    for x in (round(0.32 * columns), round(0.66 * columns)):
        cv2.line(image, (x, 0), (x, floor), (140, 140, 140), 2)
    image[floor:] = (36, 36, 36)
    for x in (4, columns - 22):
        image[floor + 4 : floor + 12, x : x + 18] = (38, 34, 175)
    cv2.rectangle(image, (0, floor), (columns, floor + 3), (60, 60, 190), -1)
    for x in (round(0.06 * columns), round(0.78 * columns)):
        alpha[floor:, x : x + round(0.17 * columns)] = 255
        image[rows - 22 :, x : x + round(0.17 * columns)] = _TYRE
    return Texture(np.dstack([image, alpha]))


def plain(width: float, top: float, color: Color) -> Texture:
    """Return a texture of one colour."""
    image = np.empty((max(8, round(top * 12)), max(8, round(width * 12)), 3), np.uint8)
    image[:] = color
    return Texture(image)
