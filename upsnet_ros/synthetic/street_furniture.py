"""Lamps, masts, bollards, traffic signs and traffic lights."""

from __future__ import annotations

from functools import lru_cache

import cv2
import numpy as np

from upsnet_ros.synthetic.canvas import Array
from upsnet_ros.synthetic.labels import LIGHT, POLE, SIGN
from upsnet_ros.synthetic.stage import UP, Item, Pose, Stage, box, rod
from upsnet_ros.synthetic.texture import Color, Image, Texture, generator

#: Number of different signs in a split.
SIGNS = 40

_SIZE = 144
_UNIT = _SIZE // 72  # symbols are drawn on a grid of 72 units
_RED, _BLUE, _WHITE, _BLACK, _YELLOW, _GREEN = (
    (45.0, 35.0, 190.0),
    (165.0, 85.0, 25.0),
    (235.0, 235.0, 235.0),
    (25.0, 25.0, 25.0),
    (40.0, 190.0, 235.0),
    (85.0, 120.0, 30.0),
)


@lru_cache(maxsize=2 * SIGNS)
def sign(split: str, number: int) -> tuple[Texture, float]:
    """Return sign ``number``: its texture with alpha, and its width divided by its height."""
    rng = generator(split, "sign", number)
    kind = str(rng.choice(["ring", "disc", "triangle", "octagon", "diamond", "plate", "board"]))
    wide = {"plate": rng.uniform(0.7, 1.3), "board": rng.uniform(1.6, 3.0)}.get(kind, 1.0)
    columns = round(_SIZE * float(wide))
    color, alpha = np.zeros((_SIZE, columns, 3), np.uint8), np.zeros((_SIZE, columns), np.uint8)
    if kind in ("plate", "board"):
        _board(color, alpha, rng)
    else:
        rim, field = {
            "ring": (_RED, _WHITE),
            "disc": (_WHITE, _BLUE),
            "triangle": (_RED, _WHITE),
            "octagon": (_WHITE, _RED),
            "diamond": (_WHITE, _YELLOW),
        }[kind]
        _outline(alpha, kind, 1.0, 255.0)
        color[:] = rim
        _outline(color, kind, {"ring": 0.76, "triangle": 0.66}.get(kind, 0.88), field)
        _symbol(color, rng, _BLACK if sum(field) > 500 else _WHITE)
    worn = np.clip(color * rng.uniform(0.75, 1.05), 0, 255)
    return Texture(np.dstack([worn, alpha]).astype(np.uint8)), columns / _SIZE


def _outline(image: Image, kind: str, size: float, color: Color | float) -> None:
    middle, radius = _SIZE / 2, _SIZE / 2 * size - 1
    if kind in ("ring", "disc"):
        cv2.circle(image, (int(middle), int(middle)), int(radius), color, -1, cv2.LINE_AA)
        return
    corners, start = {"triangle": (3, -90.0), "octagon": (8, 22.5), "diamond": (4, 0.0)}[kind]
    angles = np.deg2rad(start + 360 / corners * np.arange(corners))
    points = middle + radius * np.stack([np.cos(angles), np.sin(angles)], axis=1)
    cv2.fillConvexPoly(image, np.rint(points).astype(np.int32), color, cv2.LINE_AA)


def _symbol(color: Image, rng: np.random.Generator, ink: Color) -> None:
    def at(u: float, v: float) -> tuple[int, int]:
        return round(_SIZE / 2 + u * _UNIT), round(_SIZE / 2 + v * _UNIT)

    kind = int(rng.integers(5))
    if kind == 0:
        text = str(rng.choice(["30", "40", "50", "60", "70", "80"]))
        cv2.putText(color, text, at(-19, 9), cv2.FONT_HERSHEY_DUPLEX, 0.9 * _UNIT, ink, 3 * _UNIT)
    elif kind == 1:
        tip = at(int(rng.integers(-14, 15)), -16)
        cv2.arrowedLine(color, at(0, 18), tip, ink, 5 * _UNIT, cv2.LINE_AA, tipLength=0.5)
    elif kind == 2:
        cv2.rectangle(color, at(-18, -5), at(18, 5), ink, -1)
    elif kind == 3:
        cv2.circle(color, at(0, -10), 5 * _UNIT, ink, -1, cv2.LINE_AA)
        for start, end, wide in (((0, -6), (0, 8), 6), ((0, 6), (-7, 18), 4), ((0, 6), (7, 18), 4)):
            cv2.line(color, at(*start), at(*end), ink, wide * _UNIT, cv2.LINE_AA)
    else:
        points = np.array([at(*point) for point in rng.uniform(-16, 17, (5, 2))], np.int32)
        cv2.fillPoly(color, [points], ink, cv2.LINE_AA)


def _board(color: Image, alpha: Image, rng: np.random.Generator) -> None:
    rows, columns = alpha.shape
    alpha[1:-1, 1:-1] = 255
    fields = (_BLUE, _WHITE, _YELLOW, _GREEN)
    field = fields[int(rng.integers(4))]
    ink = _BLACK if sum(field) > 440 else _WHITE
    color[:] = field
    rim = 3 * _UNIT
    cv2.rectangle(color, (rim, rim), (columns - rim - 1, rows - rim - 1), ink, 2 * _UNIT)
    for y in range(4 * rim, rows - 4 * rim, int(rng.integers(14, 22)) * _UNIT):
        x, end = 4 * rim, columns - int(rng.uniform(4 * rim, columns * 0.45))
        while x < end:  # illegible letters
            wide = int(rng.integers(4, 10)) * _UNIT
            cv2.rectangle(color, (x, y), (min(x + wide, end), y + 7 * _UNIT), ink, -1)
            x += wide + rim


@lru_cache(maxsize=12)
def traffic_light(split: str, phase: int, look: int) -> Texture:
    """Return the front of a traffic light; ``phase`` 0 is red, 1 amber, 2 green; look 0 to 3."""
    rng = generator(split, "traffic light", look)
    rows, columns = 96, 36
    body = np.array([(28, 30, 28), (38, 62, 40), (45, 150, 195), (70, 70, 72)][look % 4])
    color = np.empty((rows, columns, 3), np.uint8)
    color[:] = body
    glow = np.zeros_like(color)
    color[:2] = color[:, :2] = color[:, -2:] = np.clip(body * 1.3, 0, 255)
    lamps = ((40, 30, 235), (30, 190, 245), (150, 225, 60))
    for index, lamp in enumerate(lamps):
        middle = (columns // 2, 17 + index * 31)
        cv2.circle(color, middle, 14, (body * 0.5).tolist(), -1)
        dim = (np.array(lamp) * 0.16 + 12).tolist()
        cv2.circle(color, middle, 11, lamp if index == phase else dim, -1)
        if index == phase:
            cv2.circle(glow, middle, 12, lamp, -1)
            cv2.circle(color, middle, 5, np.clip(np.array(lamp) * 1.2 + 40, 0, 255).tolist(), -1)
        cv2.ellipse(color, middle, (14, 14), 0, 180, 360, (12, 12, 12), int(rng.integers(2, 5)))
    return Texture(color, glow)


_METALS: tuple[Color, ...] = (
    (95.0, 95.0, 92.0),
    (150.0, 152.0, 155.0),
    (48.0, 48.0, 46.0),
    (62.0, 88.0, 58.0),
    (70.0, 95.0, 120.0),
    (185.0, 190.0, 192.0),
)


def _metal(item: Item) -> Color:
    return _METALS[item.look % len(_METALS)]


def _pole(stage: Stage, item: Item, pose: Pose) -> int:
    surface = stage.canvas.surfaces.add(POLE, stage.depth(pose.origin))
    rod(
        stage,
        pose.origin,
        pose.origin + item.height * UP,
        item.width / 2,
        _metal(item),
        surface,
        tip=0.7,
    )
    return surface


def _inwards(item: Item, pose: Pose) -> Array:
    """Return the unit vector (3,) from an item towards the middle of the street."""
    return pose.right * (-1.0 if item.d > 0 else 1.0)


def paint_lamp(stage: Stage, item: Item) -> None:
    """Paint a street lamp."""
    pose = stage.pose(item)
    surface = _pole(stage, item, pose)
    top, arm = pose.origin + item.height * UP, _inwards(item, pose)
    reach = (0.0, 1.3, 2.2)[item.look % 3]
    head = top + arm * reach + 0.15 * UP * (reach > 0)
    if reach:
        rod(stage, top - 0.1 * UP, head, item.width * 0.3, _metal(item), surface)
    pose_of_head = Pose(origin=head, right=pose.right, forward=pose.forward)
    glass: Color = (150.0, 165.0, 170.0)
    box(stage, pose_of_head, (-0.35, -0.07, -0.12), (0.35, 0.1, 0.12), _metal(item), surface)
    if stage.weather.dark > 0.5:
        uv, depth = stage.camera.project(np.array([head]))
        if depth[0] > 1:
            radius = 0.16 * stage.camera.focal / float(depth[0])
            stage.canvas.disc(uv[0], max(1.0, radius), (190.0, 235.0, 255.0), surface)
    elif reach:
        box(stage, pose_of_head, (-0.3, -0.1, -0.1), (0.3, -0.06, 0.1), glass, surface)


def paint_mast(stage: Stage, item: Item) -> None:
    """Paint a mast with an arm for the overhead wire of a tram."""
    pose = stage.pose(item)
    surface = _pole(stage, item, pose)
    top, arm = pose.origin + (item.height - 0.5) * UP, _inwards(item, pose)
    rod(stage, top, top + arm * (abs(item.d) - 0.5), 0.05, _metal(item), surface)


def paint_bollard(stage: Stage, item: Item) -> None:
    """Paint a bollard."""
    pose = stage.pose(item)
    surface = _pole(stage, item, pose)
    band = pose.origin + (item.height - 0.15) * UP
    paint: Color = ((230.0, 230.0, 230.0), (50.0, 45.0, 190.0))[item.look % 2]
    rod(stage, band - 0.12 * UP, band, item.width / 2, paint, surface)


def paint_sign(stage: Stage, item: Item) -> None:
    """Paint one or two traffic signs on a post."""
    pose = stage.pose(item)
    _pole(stage, item, pose)
    top = item.height - 0.05
    for number in range(1 + (item.look // 7) % 2):
        picture, wide = sign(stage.street.split, (item.look + 11 * number) % SIGNS)
        size = (0.75 if wide < 1.5 else 0.6) * (0.85 if number else 1.0)
        across = pose.right * (size * wide)
        stage.sheet(
            pose.origin + top * UP - across / 2 - pose.forward * item.width,
            across,
            -size * UP,
            picture,
            SIGN,
        )
        top -= size + 0.06


def paint_signal(stage: Stage, item: Item) -> None:
    """Paint a traffic light on its mast; tall ones have a second light above the lanes."""
    pose = stage.pose(item)
    surface = _pole(stage, item, pose)
    _lights(stage, item, pose, pose.origin + min(item.height, 3.1) * UP)
    if item.height > 4:
        top, arm = pose.origin + (item.height - 0.2) * UP, _inwards(item, pose)
        reach = abs(item.d) - 2.0
        rod(stage, top, top + arm * reach, 0.06, _metal(item), surface)
        _lights(stage, item, pose, top + arm * (reach - 0.2) + 0.4 * UP)


def _lights(stage: Stage, item: Item, pose: Pose, top: Array) -> None:
    high = 1.05
    pose_of_box = Pose(origin=top - high * UP, right=pose.right, forward=pose.forward)
    surface = stage.canvas.surfaces.add(LIGHT, stage.depth(top))
    box(stage, pose_of_box, (-0.2, 0.0, -0.12), (0.2, high, 0.12), (35.0, 38.0, 36.0), surface)
    front = traffic_light(stage.street.split, item.number % 3, item.look % 4)
    corner = top - pose.right * 0.2 - pose.forward * 0.13
    stage.sheet(corner, pose.right * 0.4, -high * UP, front, LIGHT, surface=surface, gain=1.0)
