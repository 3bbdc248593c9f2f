"""Paints the things of `upsnet_ros.datasets.street` as a pinhole camera sees them.

Metres: x to the right of the camera, y up from the ground, z forward.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np
import numpy.typing as npt

Color = tuple[int, int, int]
_Corners = list[tuple[float, float, float]]

#: Half the width of the road, and of road and pavements together.
ROAD_HALF, WALK_HALF = 4.2, 7.6

#: What is farther away has dissolved in haze.
FAR = 110.0

_NEAR = 1.5
_CAMERA_HEIGHT = 1.4
_HAZE: Color = (214, 205, 196)
_GLASS: Color = (78, 68, 60)
_RUBBER: Color = (28, 28, 28)
_REAR_LIGHT: Color = (40, 40, 205)
_HEAD_LIGHT: Color = (235, 245, 250)

# cv2's fixed-point coordinates: edges that fall between pixels do not jump from frame to frame.
_SHIFT = 3
_UNIT = 1 << _SHIFT


@dataclass(frozen=True, slots=True, kw_only=True)
class Thing:
    """Something that stands or moves along the street.

    Attributes:
        kind: "house", "tree", "lamp", "car" or "person".
        x: Its middle, metres.
        z: Its near end in the first frame, metres.
        width: Along x, metres.
        height: Along y, metres.
        depth: Along z, metres.
        color: BGR.
        speed: Metres a frame along z.
    """

    kind: str
    x: float
    z: float
    width: float
    height: float
    depth: float
    color: Color
    speed: float = 0.0


class Painter:
    """Paints frames of one size; a scene is painted from far to near."""

    def __init__(self, height: int, width: int) -> None:
        self._height, self._width = height, width
        self._focal = 0.62 * width
        self._center = (width * 0.5, height * 0.47)
        self._canvas = np.zeros((height, width, 3), np.uint8)
        self._index = 0

    def paint(self, things: Sequence[Thing], *, index: int, drive: float) -> npt.NDArray[np.uint8]:
        """Frame number ``index``, seen ``drive`` metres along the street: uint8 (H, W, 3) BGR."""
        self._index = index
        self._sky()
        self._ground(drive)
        draw = {
            "house": self._house,
            "tree": self._tree,
            "lamp": self._lamp,
            "car": self._car,
            "person": self._person,
        }
        placed = [(thing, thing.z + thing.speed * index - drive) for thing in things]
        # Houses first: seen from the road they stand behind all else.
        for thing, z in sorted(placed, key=lambda item: (item[0].kind != "house", -item[1])):
            if z < FAR and z + thing.depth > _NEAR:
                draw[thing.kind](thing, z)
        return np.asarray(cv2.GaussianBlur(self._canvas, (3, 3), 0.6), np.uint8)

    def _sky(self) -> None:
        horizon = int(self._center[1]) + 1
        share = np.linspace(0, 1, horizon)[:, None, None]
        self._canvas[:horizon] = (1 - share) * (232, 178, 120) + share * np.array(_HAZE)

    def _ground(self, drive: float) -> None:
        """Road with markings, kerbs and pavement, found for each pixel by inverse projection."""
        top = int(self._center[1]) + 1
        rows = np.arange(top, self._height)[:, None] + 0.5 - self._center[1]
        z = self._focal * _CAMERA_HEIGHT / rows
        x = (np.arange(self._width)[None] + 0.5 - self._center[0]) * z / self._focal
        along, side = z + drive, np.abs(x)
        color = np.full((*side.shape, 3), (84, 82, 82), np.float32)  # asphalt
        color += (5 * np.sin(along * 1.7) * np.sin(x * 2.3 + 1))[..., None]
        dashes = (side < 0.08) & (along % 6 < 3)
        edge_line = np.abs(side - ROAD_HALF + 0.35) < 0.06
        color[dashes | edge_line] = (205, 210, 212)
        walk = side > ROAD_HALF
        joints = (along % 1.2 < 0.07) | (side % 1.2 < 0.05)
        color[walk] = (148, 152, 158)
        color[walk & joints & (z < 30)] = (122, 126, 130)
        color[walk & (side < ROAD_HALF + 0.2)] = (176, 178, 180)  # kerb
        color[side > WALK_HALF] = (62, 118, 86)  # grass
        haze = np.clip(z / FAR, 0, 1)[..., None]
        self._canvas[top:] = np.clip((1 - haze) * color + haze * np.array(_HAZE), 0, 255)

    def _house(self, thing: Thing, z: float) -> None:
        x1, x2 = thing.x - thing.width / 2, thing.x + thing.width / 2
        self._front(x1, x2, 0, thing.height, max(z, _NEAR), thing.color, 0.75)
        street_side = min(x1, x2, key=abs)
        self._side(street_side, z, z + thing.depth, 0, thing.height, thing.color)
        bays = max(1, int(thing.depth // 2.4))
        step = thing.depth / bays
        for floor in range(int(thing.height // 3)):
            low, high = 0.3 if floor == 0 else floor * 3 + 0.9, floor * 3 + 2.4
            for bay in range(bays):
                start = z + (bay + 0.25) * step
                self._side(street_side, start, start + 0.5 * step, low, high, (92, 78, 66))

    def _tree(self, thing: Thing, z: float) -> None:
        crown = thing.height * 0.42
        self._front(thing.x - 0.12, thing.x + 0.12, 0, crown, z, (48, 66, 84))
        for leaf in range(14):  # blobs on a spiral, darker below
            angle = leaf * 2.4
            reach = 0.12 * thing.width * np.sqrt(leaf)
            x, y = thing.x + reach * np.cos(angle), thing.height * 0.68 + reach * np.sin(angle)
            shade = 0.75 + 0.35 * (y / thing.height - 0.4) + 0.08 * np.cos(angle * 3)
            self._ellipse(x, y, z, 0.7, 0.62, thing.color, shade)

    def _lamp(self, thing: Thing, z: float) -> None:
        half = thing.width / 2
        arm = thing.x - np.sign(thing.x) * 1.2
        self._front(thing.x - half, thing.x + half, 0, thing.height, z, thing.color)
        self._front(arm, thing.x, thing.height - 0.12, thing.height, z, thing.color)

    def _car(self, thing: Thing, z: float) -> None:
        """Shadow, the side that faces the camera, then the end that does."""
        x1, x2, far = thing.x - thing.width / 2, thing.x + thing.width / 2, z + thing.depth
        body, roof, paint = 0.95, thing.height, thing.color
        self._flat(x1 - 0.1, x2 + 0.1, 0, z - 0.1, far, (45, 43, 43))
        inner = min(x1, x2, key=abs)
        cabin = inner + np.sign(thing.x) * 0.12
        self._side(inner, z, far, 0.25, body, paint, 0.7)
        self._flat(x1, x2, body, z, far, paint, 1.1)
        self._side(cabin, z + 0.6, far - 0.8, body, roof, paint, 0.8)
        self._side(cabin, z + 0.9, far - 1.1, 1.0, roof - 0.1, _GLASS)
        for wheel in (z + 0.8, far - 0.9):
            self._side(inner, wheel - 0.32, wheel + 0.32, 0, 0.6, _RUBBER)
        # Where the end itself is behind the camera, the cut through the car is painted like it.
        end, windscreen = max(z, _NEAR), max(z + 0.6, _NEAR)
        if windscreen < far - 0.8:
            self._front(x1 + 0.12, x2 - 0.12, body, roof, windscreen, paint, 0.9)
            self._front(x1 + 0.25, x2 - 0.25, 0.98, roof - 0.1, windscreen, _GLASS)
        self._front(x1, x2, 0.25, body, end, paint)
        light = _HEAD_LIGHT if thing.speed < 0 else _REAR_LIGHT
        for left in (x1 + 0.06, x2 - 0.36):
            self._front(left, left + 0.3, 0.62, 0.82, z, light)
            self._front(left + 0.02, left + 0.3, 0, 0.3, z, _RUBBER)

    def _person(self, thing: Thing, z: float) -> None:
        x, half, hip, neck = thing.x, thing.width / 2, thing.height * 0.5, thing.height * 0.84
        stride = 0.16 * np.sin(self._index * 0.8 + thing.z)
        for sign in (-1, 1):
            foot = x + sign * stride
            legs = [(foot - 0.08, 0, z), (foot + 0.08, 0, z), (x + 0.1, hip, z), (x - 0.1, hip, z)]
            self._quad(legs, (70, 55, 45), 0.9 + 0.15 * sign)
        self._front(x - half, x + half, hip + 0.08, neck - 0.06, z, thing.color, 0.75)  # arms
        self._front(x - 0.65 * half, x + 0.65 * half, hip - 0.1, neck, z, thing.color)
        self._ellipse(x, thing.height - 0.13, z, 0.11, 0.14, (140, 165, 205))

    def _front(
        self,
        x1: float,
        x2: float,
        low: float,
        high: float,
        z: float,
        color: Color,
        shade: float = 1.0,
    ) -> None:
        """A rectangle that faces the camera, unless it is behind it."""
        if z >= _NEAR:
            self._quad([(x1, low, z), (x2, low, z), (x2, high, z), (x1, high, z)], color, shade)

    def _side(
        self,
        x: float,
        near: float,
        far: float,
        low: float,
        high: float,
        color: Color,
        shade: float = 1.0,
    ) -> None:
        """A rectangle along the street, cut off in front of the camera."""
        near = max(near, _NEAR)
        if far > near:
            corners = [(x, low, near), (x, low, far), (x, high, far), (x, high, near)]
            self._quad(corners, color, shade)

    def _flat(
        self,
        x1: float,
        x2: float,
        y: float,
        near: float,
        far: float,
        color: Color,
        shade: float = 1.0,
    ) -> None:
        """A level rectangle, cut off in front of the camera."""
        near = max(near, _NEAR)
        self._quad([(x1, y, near), (x2, y, near), (x2, y, far), (x1, y, far)], color, shade)

    def _quad(self, corners: _Corners, color: Color, shade: float) -> None:
        points = np.array([self._project(*corner) for corner in corners])
        fixed = np.round(points * _UNIT).astype(np.int32)
        ink = _hazed(color, shade, min(corner[2] for corner in corners))
        cv2.fillPoly(self._canvas, [fixed], ink, cv2.LINE_AA, _SHIFT)

    def _ellipse(
        self,
        x: float,
        y: float,
        z: float,
        x_radius: float,
        y_radius: float,
        color: Color,
        shade: float = 1.0,
    ) -> None:
        u, v = self._project(x, y, z)
        scale = self._focal / z * _UNIT
        cv2.ellipse(
            self._canvas,
            (round(u * _UNIT), round(v * _UNIT)),
            (round(x_radius * scale), round(y_radius * scale)),
            0,
            0,
            360,
            _hazed(color, shade, z),
            -1,
            cv2.LINE_AA,
            _SHIFT,
        )

    def _project(self, x: float, y: float, z: float) -> tuple[float, float]:
        scale = self._focal / max(z, _NEAR / 2)
        return self._center[0] + x * scale, self._center[1] + (_CAMERA_HEIGHT - y) * scale


def _hazed(color: Color, shade: float, z: float) -> Color:
    share = float(np.clip(z / FAR, 0, 1))
    blue, green, red = (
        int(np.clip((1 - share) * channel * shade + share * haze, 0, 255))
        for channel, haze in zip(color, _HAZE, strict=True)
    )
    return blue, green, red
