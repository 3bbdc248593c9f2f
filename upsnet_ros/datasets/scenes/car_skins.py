"""What cars look like: the pictures of their sides, fronts and rears."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
import numpy.typing as npt

from upsnet_ros.datasets.scenes.texture import Color, Image, Texture, bgr

_DENSITY = 90  # texels a metre


@dataclass(frozen=True, slots=True)
class CarShape:
    """A shape of car; metres.

    Attributes:
        kind: Such as "sedan".
        length: Over all.
        width: Over all.
        height: Over all.
        stations: From the front: ends of hood and windscreen, of the roof, of the rear window.
        levels: Heights of hood, belt and tail.
    """

    kind: str
    length: float
    width: float
    height: float
    stations: tuple[float, ...]
    levels: tuple[float, ...]


def paint_color(rng: np.random.Generator) -> Color:
    """A colour that vehicles are painted in: greys for half of them, any hue for the others."""
    if rng.random() < 0.55:
        level = float(rng.choice([28, 60, 105, 150, 190, 222])) + rng.uniform(-14, 14)
        return bgr(level + rng.normal(0, 4, 3))
    hue = float(rng.choice([0, 3, 12, 22, 55, 105, 112, 118, 125, 150])) + rng.uniform(-4, 4)
    pixel = np.array([[[hue % 180, rng.uniform(90, 220), rng.uniform(70, 215)]]]).astype(np.uint8)
    return bgr(cv2.cvtColor(pixel, cv2.COLOR_HSV2BGR)[0, 0])


def side_picture(model: CarShape, paint: Color, rng: np.random.Generator) -> Image:
    """A car's right side from outside, its front on the left: uint8 (H, W, 4) with alpha."""
    rows, columns = round(model.height * _DENSITY), round(model.length * _DENSITY)
    hood, screen, roof, tail = (station * _DENSITY for station in model.stations)
    hood_y, belt_y, tail_y = (rows - level * _DENSITY for level in model.levels)
    sill = rows - 0.24 * _DENSITY
    nose = rows - model.levels[0] * 0.78 * _DENSITY
    body = np.array(
        [
            [1, sill],
            [1, (nose + sill) / 2],
            [columns * 0.012, nose],
            [columns * 0.06, hood_y + (nose - hood_y) * 0.35],
            [hood, belt_y],
            [screen, 1],
            [roof, 1 + 0.02 * rows],
            [tail, tail_y],
            [columns - 3, tail_y + 0.04 * rows],
            [columns - 1, (tail_y + sill) / 2],
            [columns - 4, sill],
        ]
    )
    alpha = np.zeros((rows, columns), np.uint8)
    _fill(alpha, body, 255)
    image = _paintwork(rows, columns, paint, belt_y, sill, rng)
    glass = _glass(rows, columns, rng)
    windows = np.array(
        [
            [hood + 0.12 * _DENSITY, belt_y - 1],
            [screen + 0.06 * _DENSITY, 0.075 * rows],
            [roof - 0.05 * _DENSITY, 0.085 * rows],
            [tail - 0.14 * _DENSITY, min(tail_y, belt_y) - 1],
        ]
    )
    mask = np.zeros((rows, columns), np.uint8)
    _fill(mask, windows, 255)
    panel = model.kind == "van" and rng.random() < 0.55
    pillars = [0.5] if model.kind in ("coupe", "mini") else [0.47, 0.76]
    middle = hood * 0.35 + screen * 0.65
    for share in pillars:
        x = round(middle + (tail - middle) * share)
        cv2.line(mask, (x + 4, 0), (x - 1, rows), 0, 5)
    if panel:
        mask[:, round(middle + (tail - middle) * 0.42) :] = 0
    image[mask > 0] = glass[mask > 0]
    seam = tuple(channel * 0.45 for channel in paint)
    for share in [0.02, *pillars]:
        x = round(middle + (tail - middle) * share)
        cv2.line(image, (x, round(belt_y)), (x - 3, round(sill - 4)), seam, 1)
    for share in pillars:
        x = round(middle + (tail - middle) * share) - 18
        cv2.line(image, (x, round(belt_y) + 12), (x + 10, round(belt_y) + 12), seam, 2)
    _side_lights(image, hood_y, tail_y, rng)
    wheel = (0.34 if model.kind in ("suv", "van") else 0.31) * _DENSITY
    for share in (0.185, 0.805):
        _wheel(image, alpha, share * columns, rows - wheel, wheel, rng)
    return np.dstack([image, alpha])


def _paintwork(
    rows: int, columns: int, paint: Color, belt: float, sill: float, rng: np.random.Generator
) -> Image:
    """Paint that mirrors the sky above and the road below."""
    y = np.arange(rows, dtype=np.float32)
    across = np.clip((y - belt) / (sill - belt), 0, 1)
    gain = np.interp(across, [0, 0.12, 0.4, 0.46, 1], [1.08, 1.16, 0.98, 0.86, 0.58])
    image = np.clip(np.array(paint) * gain[:, None], 0, 255)[:, None].repeat(columns, axis=1)
    gloss = np.interp(across, [0, 0.1, 0.22], [12, 34, 0])[:, None, None] * rng.uniform(0.3, 1.0)
    image = np.clip(image + gloss, 0, 255).astype(np.uint8)
    image[round(sill) - 6 :] = (32, 32, 32)
    return image


def _glass(rows: int, columns: int, rng: np.random.Generator) -> Image:
    level = rng.uniform(22, 60)
    fall = np.linspace(rng.uniform(20, 80), 0, rows)[:, None, None]
    image = np.clip((level + fall) * np.array([1.1, 1.04, 0.98]), 0, 255)
    return np.broadcast_to(image, (rows, columns, 3)).astype(np.uint8)


def _side_lights(image: Image, hood: float, tail: float, rng: np.random.Generator) -> None:
    columns = image.shape[1]
    front = np.array([[2, hood + 22], [0.07 * columns, hood + 12], [0.075 * columns, hood + 24]])
    _fill(image, np.vstack([front, [[2, hood + 36]]]), (215, 215, 205))
    wide = rng.uniform(0.03, 0.06) * columns
    rear = np.array([[columns - wide, tail + 10], [columns, tail + 6], [columns, tail + 32]])
    _fill(image, np.vstack([rear, [[columns - wide * 0.7, tail + 30]]]), (40, 35, 165))


def _wheel(
    image: Image, alpha: Image, x: float, y: float, radius: float, rng: np.random.Generator
) -> None:
    middle = (round(x), round(y))
    rows = image.shape[0]
    arch = np.zeros(alpha.shape, np.uint8)
    cv2.circle(arch, middle, round(radius * 1.16), 255, -1)
    arch[rows - round(0.24 * _DENSITY) :] = 0
    image[(arch > 0) & (alpha > 0)] = 14
    cv2.circle(image, middle, round(radius), (26, 26, 26), -1, cv2.LINE_AA)
    cv2.circle(alpha, middle, round(radius), 255, -1)
    rim = float(rng.uniform(70, 190))
    cv2.circle(image, middle, round(radius * 0.68), (rim, rim, rim), -1, cv2.LINE_AA)
    spokes, start = int(rng.integers(5, 11)), rng.uniform(0, 6.28)
    for number in range(spokes):
        angle = start + number * 2 * np.pi / spokes
        end = (
            round(x + np.cos(angle) * radius * 0.62),
            round(y + np.sin(angle) * radius * 0.62),
        )
        cv2.line(image, middle, end, (rim * 0.45,) * 3, 3, cv2.LINE_AA)
    cv2.circle(image, middle, round(radius * 0.14), (rim * 0.7,) * 3, -1, cv2.LINE_AA)


def end_picture(model: CarShape, paint: Color, rng: np.random.Generator, *, front: bool) -> Texture:
    """A car's front up to the hood, or its rear up to the tail, with alpha."""
    level = model.levels[0] if front else model.levels[2]
    rows, columns = round(level * _DENSITY), round(model.width * _DENSITY)
    image = _paintwork(rows, columns, paint, 0, rows - 0.2 * _DENSITY, rng)
    alpha = np.full((rows, columns), 255, np.uint8)
    clear = round(0.2 * _DENSITY)
    alpha[rows - clear :] = 0
    for left in (round(0.06 * columns), round(0.82 * columns)):  # tyres under the bumper
        image[rows - clear :, left : left + round(0.13 * columns)] = 22
        alpha[rows - clear :, left : left + round(0.13 * columns)] = 255
    bumper = rows - clear - round(rng.uniform(0.16, 0.3) * _DENSITY)
    dark = (38, 38, 38)
    if front:
        low, high = round(0.12 * rows), round(rng.uniform(0.36, 0.5) * rows)
        left = round(rng.uniform(0.22, 0.32) * columns)
        cv2.rectangle(image, (left, low + 4), (columns - left, high), dark, -1)
        for y in range(low + 8, high, 6):
            cv2.line(image, (left, y), (columns - left, y), (85, 85, 85), 1)
        cv2.rectangle(
            image, (round(0.2 * columns), bumper), (round(0.8 * columns), rows - clear), dark, -1
        )
        _lamps(image, (low, high), left - 3, (228, 226, 218), rng)
    else:
        high = round(rng.uniform(0.3, 0.48) * rows)
        wide = round(rng.uniform(0.14, 0.26) * columns)
        _lamps(image, (round(0.06 * rows), high), wide, (45, 38, 178), rng)
        cv2.rectangle(image, (0, bumper + 8), (columns, rows - clear), dark, -1)
        y = round(0.03 * rows)
        cv2.line(image, (wide, y), (columns - wide, y), tuple(c * 0.5 for c in paint), 2)
    plate_y = bumper if front else round(0.5 * rows)
    half = round(0.26 * _DENSITY)
    plate = (columns // 2 - half, plate_y, columns // 2 + half, plate_y + round(0.12 * _DENSITY))
    cv2.rectangle(image, plate[:2], plate[2:], (225, 228, 228), -1)
    for x in range(plate[0] + 4, plate[2] - 5, 6):
        cv2.rectangle(image, (x, plate_y + 3), (x + 3, plate[3] - 3), (50, 45, 45), -1)
    corner = round(0.08 * columns)
    for x in range(corner):  # rounded shoulders
        cut = round((1 - np.sqrt(1 - (1 - x / corner) ** 2)) * corner * 0.7)
        alpha[:cut, x] = alpha[:cut, columns - 1 - x] = 0
    glow = np.zeros_like(image)
    bright = image.astype(np.int16).sum(axis=2)
    lamps = (bright > 660) if front else (image[..., 2] > 150) & (image[..., 1] < 70)
    glow[lamps] = image[lamps]
    return Texture(np.dstack([image, alpha]), glow)


def _lamps(
    image: Image, rows: tuple[int, int], wide: int, color: Color, rng: np.random.Generator
) -> None:
    columns = image.shape[1]
    low, high = rows
    slant = float(rng.uniform(-0.3, 0.3)) * (high - low)
    lamp = np.array([[3, low + slant], [wide, low + 3], [wide, high - 6], [5, high]])
    for points in (lamp, lamp * (-1, 1) + (columns - 1, 0)):
        _fill(image, points, color)
        inner = points.mean(axis=0) + (points - points.mean(axis=0)) * 0.5
        _fill(image, inner, tuple(min(255.0, channel * 1.15 + 12) for channel in color))


def _fill(
    image: npt.NDArray[np.uint8],
    points: npt.NDArray[np.float64],
    color: Color | int | tuple[float, ...],
) -> None:
    value = color if isinstance(color, tuple) else (float(color),)
    cv2.fillPoly(image, [np.rint(points).astype(np.int32)], value, cv2.LINE_AA)
