"""Cars: textures, models, and how they are painted."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from upsnet_ros.synthetic.canvas import Array
from upsnet_ros.synthetic.labels import CAR
from upsnet_ros.synthetic.stage import Item, Pose, Stage, box, prism
from upsnet_ros.synthetic.texture import Color, Image, Texture, bgr, generator, scaled

_DENSITY = 90  # texels per metre


@dataclass(frozen=True, slots=True, kw_only=True)
class CarShape:
    """The shape of a car; metres, lengths from the front.

    Attributes:
        kind: A key of `_SHAPES`, such as "sedan".
        length: Overall length.
        width: Overall width, without mirrors.
        height: Overall height.
        stations: Ends of hood, windscreen, roof and rear window.
        levels: Heights of hood, belt and tail.
    """

    kind: str
    length: float
    width: float
    height: float
    stations: tuple[float, float, float, float]
    levels: tuple[float, float, float]


def paint_color(rng: np.random.Generator) -> Color:
    """Return a random paint colour: grey for half of the vehicles, any hue for the others."""
    if rng.random() < 0.55:
        level = float(rng.choice([28, 60, 105, 150, 190, 222])) + rng.uniform(-14, 14)
        return bgr(level + rng.normal(0, 4, 3))
    hue = float(rng.choice([0, 3, 12, 22, 55, 105, 112, 118, 125, 150])) + rng.uniform(-4, 4)
    pixel = np.array([[[hue % 180, rng.uniform(90, 220), rng.uniform(70, 215)]]]).astype(np.uint8)
    return bgr(cv2.cvtColor(pixel, cv2.COLOR_HSV2BGR)[0, 0])


def side_picture(model: CarShape, paint: Color, rng: np.random.Generator) -> Image:
    """Return the right side of a car, with its front on the left: uint8 (H, W, 4) with alpha.

    The names of x and y positions below are in texels.
    """
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
    """Return paint that reflects sky at the top and road at the bottom: uint8 (H, W, 3)."""
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
    """Return the front of a car up to the hood, or its rear up to the tail, with alpha."""
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


#: Number of different cars in a split.
CARS = 64

_KINDS = ("hatch", "sedan", "wagon", "suv", "van", "mini", "coupe")
_KIND_WEIGHTS = (0.22, 0.2, 0.16, 0.18, 0.12, 0.07, 0.05)

# Length, width, height; then from the front, as shares of the length: end of the hood, start and
# end of the roof, start of the tail; then as shares of the height: hood, belt, tail.
_SHAPES: dict[str, tuple[float, ...]] = {
    "hatch": (4.0, 1.76, 1.47, 0.23, 0.40, 0.84, 0.97, 0.62, 0.66, 0.66),
    "sedan": (4.6, 1.82, 1.44, 0.27, 0.42, 0.70, 0.86, 0.62, 0.66, 0.68),
    "wagon": (4.6, 1.82, 1.48, 0.26, 0.41, 0.88, 0.98, 0.62, 0.66, 0.66),
    "suv": (4.5, 1.88, 1.70, 0.24, 0.37, 0.86, 0.97, 0.63, 0.66, 0.66),
    "van": (5.1, 1.95, 2.05, 0.15, 0.28, 0.96, 1.0, 0.52, 0.55, 0.55),
    "mini": (3.3, 1.62, 1.50, 0.17, 0.34, 0.86, 0.98, 0.60, 0.62, 0.64),
    "coupe": (4.4, 1.84, 1.32, 0.32, 0.50, 0.66, 0.90, 0.64, 0.68, 0.72),
}


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Car(CarShape):
    """One model of car in one paint.

    Attributes:
        upper: Texture of its right side above the belt line, front on the left, with alpha.
        lower: Texture of its right side below the belt line, with alpha.
        front: Texture of its front up to the hood, with alpha.
        rear: Texture of its rear up to the tail, with alpha.
        paint: Colour, BGR.
    """

    upper: Texture
    lower: Texture
    front: Texture
    rear: Texture
    paint: Color

    @property
    def inset(self) -> float:
        """How far the edge of the roof lies inside the belt line, metres."""
        return 0.1 if self.kind == "van" else 0.2

    @property
    def belt(self) -> float:
        """Height of the belt line, up to which the sides are vertical, metres."""
        return max(self.levels)


@lru_cache(maxsize=2 * CARS)
def car(split: str, number: int) -> Car:
    """Return car ``number``, from 0 to `CARS` - 1."""
    rng = generator(split, "car", number)
    kind = str(rng.choice(_KINDS, p=_KIND_WEIGHTS))
    shape = np.array(_SHAPES[kind]) * rng.normal(1, 0.018, 10)
    length, width, height = (float(value) for value in shape[:3])
    measures: dict[str, Any] = {
        "kind": kind,
        "length": length,
        "width": width,
        "height": height,
        "stations": tuple((np.minimum(shape[3:7], 1.0) * length).tolist()),
        "levels": tuple((shape[7:] * height).tolist()),
    }
    model, paint = CarShape(**measures), paint_color(rng)
    side = side_picture(model, paint, rng)
    belt = round((1 - max(model.levels) / height) * len(side))
    return Car(
        **measures,
        upper=Texture(side[:belt]),
        lower=Texture(side[belt:]),
        front=end_picture(model, paint, rng, front=True),
        rear=end_picture(model, paint, rng, front=False),
        paint=paint,
    )


_CORE_WITHIN = 30.0  # metres; farther away, gaps are narrower than a pixel
_GLASS: Color = (62.0, 58.0, 54.0)


def paint_car(stage: Stage, item: Item) -> None:
    """Paint a car, or a van, which Cityscapes counts as a car."""
    model = car(stage.street.split, item.look % CARS)
    pose = stage.pose(item)
    eye = np.array([0.0, stage.camera.height, 0.0]) - pose.origin
    to_right, to_front = float(eye @ pose.right), float(eye @ pose.forward)
    surface = stage.canvas.surfaces.add(CAR * 1000 + item.number, stage.depth(pose.origin))
    half, long = model.width / 2, model.length / 2
    tint = item.tint(0.14)
    if stage.depth(pose.origin) < _CORE_WITHIN:
        _core(stage, model, pose, surface)
    if abs(to_front) > long:
        _tops(stage, model, pose, surface, tint, front=to_front > 0)
        _end(stage, model, pose, surface, tint, front=to_front > 0)
    if abs(to_right) > half:
        _side(stage, model, pose, surface, tint, right=to_right > 0)


def _core(stage: Stage, model: Car, pose: Pose, surface: int) -> None:
    """Paint a dark inner body that closes the gaps between the flat sides and ends."""
    hood, screen, roof, tail = (model.length / 2 - station for station in model.stations)
    half, low = model.width * 0.48, 0.24
    dark = scaled(model.paint, 0.55)
    back = -model.length / 2 + 0.06
    middle = (hood + tail) / 2
    for rear, front, top in (
        (back, middle, model.levels[2] * 0.95),
        (middle, model.length / 2 - 0.06, model.levels[0] * 0.84),
    ):
        box(stage, pose, (-half, low, rear), (half, top, front), dark, surface)
    inner = half - model.inset
    corners = np.array(
        [
            [x * (inner if y else half), (model.belt * 0.96, model.height - 0.05)[y], z]
            for y, ends in ((0, (tail + 0.08, hood - 0.08)), (1, (roof + 0.05, screen - 0.05)))
            for z in ends
            for x in (-1, 1)
        ]
    )
    prism(stage, pose, corners[[0, 1, 4, 5, 2, 3, 6, 7]], _GLASS, surface)


def _tops(stage: Stage, model: Car, pose: Pose, surface: int, tint: Color, *, front: bool) -> None:
    """Paint roof, glass, and hood or tail, as seen from one end."""
    hood, screen, roof, tail = (model.length / 2 - station for station in model.stations)
    hood_y, belt_y, tail_y = model.levels
    paint = scaled(model.paint, tint)
    half, top = model.width / 2, model.width / 2 - model.inset
    ends = {
        "nose": (model.length / 2, hood_y * 0.93, half * 0.94),
        "hood": (hood, belt_y, half),
        "screen": (screen, model.height, top),
        "roof": (roof, model.height * 0.985, top),
        "tail": (tail, max(tail_y, belt_y), half),
        "end": (-model.length / 2, tail_y * 0.97, half * 0.95),
    }
    strips = (
        [("screen", "roof"), ("hood", "screen"), ("nose", "hood")]
        if front
        else [("screen", "roof"), ("roof", "tail"), ("tail", "end")]
    )
    for near, far in strips:
        (z0, y0, x0), (z1, y1, x1) = ends[near], ends[far]
        corners = np.array([[-x0, y0, z0], [x0, y0, z0], [x1, y1, z1], [-x1, y1, z1]])
        stage.face(pose.world(corners), paint, surface)
        if {near, far} in ({"hood", "screen"}, {"roof", "tail"}):
            _pane(stage, pose, corners, surface)


def _pane(stage: Stage, pose: Pose, corners: Array, surface: int) -> None:
    middle = corners.mean(axis=0)
    pane = middle + (corners - middle) * np.array([0.88, 0.86, 0.86])
    stage.face(pose.world(pane), _GLASS, surface)
    # The upper part reflects the sky.
    upper = pane[np.argsort(-pane[:, 1])[:2]]
    lower = pane[np.argsort(-pane[:, 1])[2:]]
    upper, lower = upper[np.argsort(upper[:, 0])], lower[np.argsort(lower[:, 0])]
    band = np.array(
        [upper[0], upper[1], (upper[1] + lower[1]) / 2, upper[0] * 0.8 + lower[0] * 0.2]
    )
    stage.face(pose.world(band), (112.0, 104.0, 96.0), surface)


def _end(stage: Stage, model: Car, pose: Pose, surface: int, tint: Color, *, front: bool) -> None:
    level = model.levels[0] * 0.95 if front else model.levels[2] * 0.98
    z = model.length / 2 if front else -model.length / 2
    half = model.width / 2
    # The left of the texture is on the viewer's left.
    left = half if front else -half
    corners = [[left, level, z], [-left, level, z], [left, 0.0, z]]
    stage.side(pose, corners, model.front if front else model.rear, CAR, surface, tint=tint)


def _side(stage: Stage, model: Car, pose: Pose, surface: int, tint: Color, *, right: bool) -> None:
    sign = 1 if right else -1
    low, high = sign * model.width / 2, sign * (model.width / 2 - model.inset)
    long, belt = model.length / 2, model.belt
    # The upper part leans inwards from the belt line to the roof.
    for (top, x), (foot, x_foot), picture in (
        ((model.height, high), (belt, low), model.upper),
        ((belt, low), (0.0, low), model.lower),
    ):
        corners = [[x, top, long], [x, top, -long], [x_foot, foot, long]]
        stage.side(pose, corners, picture, CAR, surface, tint=tint)
