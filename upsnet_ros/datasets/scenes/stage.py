"""One frame while it is painted: the canvas, the camera before the street, and the light."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import numpy as np

from upsnet_ros.datasets.scenes.camera import Array, Camera
from upsnet_ros.datasets.scenes.canvas import Canvas
from upsnet_ros.datasets.scenes.road import Path
from upsnet_ros.datasets.scenes.street import Street
from upsnet_ros.datasets.scenes.texture import Color, Texture
from upsnet_ros.datasets.scenes.weather import Weather

UP = np.array([0.0, 1.0, 0.0])


@dataclass(frozen=True, slots=True, kw_only=True)
class Item:
    """Something that stands on or beside a street at one moment.

    Attributes:
        kind: Which painter paints it: a key of `upsnet_ros.datasets.scenes.painters.PAINTERS`.
        s: Its middle along the street, metres.
        d: Its middle to the right of the street's, metres.
        length: Extent along its own axis, metres.
        width: Extent across its own axis, metres.
        height: Metres.
        look: Number that all of its appearance is drawn from.
        facing: Its axis, radians clockwise from the street's direction.
        number: The instance's number within its class; for things only.
        gait: How far it has walked or rolled, metres.
    """

    kind: str
    s: float
    d: float
    length: float
    width: float
    height: float
    look: int
    facing: float = 0.0
    number: int = 0
    gait: float = 0.0

    @property
    def bounds(self) -> tuple[float, float, float, float]:
        """Least and greatest s, then d, of its footprint."""
        cos, sin = abs(math.cos(self.facing)), abs(math.sin(self.facing))
        along = (self.length * cos + self.width * sin) / 2
        across = (self.length * sin + self.width * cos) / 2
        return self.s - along, self.s + along, self.d - across, self.d + across

    def tint(self, strength: float) -> Color:
        """A shift in colour of the item's own, BGR around 1, so that equal textures differ."""
        # Bits of a product by the golden ratio: neighbouring looks get far-off tints.
        bits = (self.look * 0x9E3779B1) & 0xFFFFFFFF
        level = 1 + strength * ((bits >> 8 & 0xFF) / 128 - 1)
        warm = strength * 0.4 * ((bits >> 16 & 0xFF) / 128 - 1)
        return level * (1 - warm), level, level * (1 + warm)


@dataclass(frozen=True, slots=True, kw_only=True)
class Pose:
    """An item's own axes in the world: x to its right, y up, z forward.

    Attributes:
        origin: (3,) the middle of its footprint.
        right: (3,) of length 1.
        forward: (3,) of length 1.
    """

    origin: Array
    right: Array
    forward: Array

    def world(self, points: Array) -> Array:
        """World points of points (N, 3) in the item's axes."""
        axes = np.empty((3, 3))
        axes[0], axes[1], axes[2] = self.right, UP, self.forward
        return points @ axes + self.origin

    def direction(self, vector: Array) -> Array:
        """World direction of a direction (3,) in the item's axes."""
        return vector[0] * self.right + vector[1] * UP + vector[2] * self.forward


@dataclass(slots=True, kw_only=True)
class Stage:
    """What every painter paints on, and sees by.

    Attributes:
        canvas: The frame's.
        camera: The frame's.
        path: The stretch of street before it.
        street: The sequence's.
        weather: The sequence's.
        sunlit: How much of the sun reaches what is painted now, 0 to 1.
        presence: How far what is painted now has come out of the distance, 0 to 1.
        sun: Direction to the sun, of length 1.
    """

    canvas: Canvas
    camera: Camera
    path: Path
    street: Street
    weather: Weather
    sunlit: float = 1.0
    presence: float = 1.0
    sun: tuple[float, float, float] = field(init=False)
    _poses: dict[int, Pose] = field(init=False, default_factory=dict)

    def __post_init__(self) -> None:
        x, y, z = self.weather.sun_direction(self.path.heading).tolist()
        self.sun = x, y, z

    def pose(self, item: Item) -> Pose:
        """Where an item of this frame stands and how it is turned."""
        known = self._poses.get(id(item))
        if known is not None:
            return known
        x, z, turn = self.path.point(item.s, item.d)
        cos, sin = math.cos(turn + item.facing), math.sin(turn + item.facing)
        pose = Pose(
            origin=np.array([x, 0.0, z]),
            right=np.array([cos, 0.0, -sin]),
            forward=np.array([sin, 0.0, cos]),
        )
        self._poses[id(item)] = pose
        return pose

    def depth(self, point: Array) -> float:
        """Distance of a point (3,) along the optical axis, metres, at least a little."""
        axis = self.camera.matrix[2]
        return max(float(axis[:3] @ point + axis[3]), 0.3)

    def light(self, normal: Array) -> Color:
        """What the colours of a surface with this normal (3,) are multiplied by, BGR."""
        x, y, z = normal.tolist()
        facing = self.sun[0] * x + self.sun[1] * y + self.sun[2] * z
        return self.weather.light(y, facing * self.sunlit)

    def lit(self, color: Color, normal: Array) -> Color:
        """A colour as it looks on a surface with this normal (3,)."""
        blue, green, red = self.light(normal)
        return min(255.0, color[0] * blue), min(255.0, color[1] * green), min(255.0, color[2] * red)

    def sheet(
        self,
        origin: Array,
        across: Array,
        down: Array,
        texture: Texture,
        label: int,
        *,
        gain: float = 1.0,
        tint: Color = (1.0, 1.0, 1.0),
        surface: int | None = None,
        solid: bool = False,
    ) -> None:
        """Lays a texture on the flat rectangle from ``origin`` along ``across`` and ``down``.

        Args:
            origin: (3,) world point of the texture's upper left corner.
            across: (3,) from there to the upper right.
            down: (3,) from there to the lower left.
            texture: What to lay.
            label: What its pixels are labelled.
            gain: Brightness beyond the light's.
            tint: What the texture's colours are multiplied by besides, BGR.
            surface: Number of a surface to use in place of a new one.
            solid: Whether see-through pixels carry the label too.
        """
        corners = np.array([origin, origin + across, origin + across + down, origin + down])
        outline = self.camera.outline(corners)
        if len(outline) < 3 or not self.canvas.meets(outline):
            return
        homography = self.camera.homography(origin, across, down)
        normal = self._towards_camera(across, down, origin)
        if surface is None:
            surface = self.canvas.surfaces.add(label, self.camera.inverse_depth(homography))
        blue, green, red = self.light(normal)
        self.canvas.texture(
            outline,
            homography,
            texture,
            surface,
            shade=(blue * gain * tint[0], green * gain * tint[1], red * gain * tint[2]),
            dark=self.weather.dark,
            solid=solid,
            presence=self.presence,
        )

    def face(self, points: Array, color: Color, surface: int, *, gain: float = 1.0) -> None:
        """Fills the flat convex polygon of world points (N, 3), lit by its normal."""
        outline = self.camera.outline(points)
        if len(outline) < 3:
            return
        normal = self._towards_camera(points[1] - points[0], points[2] - points[1], points[0])
        blue, green, red = self.lit(color, normal)
        shade = (blue * gain, green * gain, red * gain)
        if self.presence < 1:
            self.canvas.veil(outline, shade, self.presence, surface, presence=self.presence)
        else:
            self.canvas.polygon(outline, shade, surface)

    def _towards_camera(self, first: Array, second: Array, point: Array) -> Array:
        """The normal (3,) of a plane along two directions that points to the camera's side."""
        # np.cross takes ten times as long for one vector.
        (a, b, c), (d, e, f) = first.tolist(), second.tolist()
        x, y, z = b * f - c * e, c * d - a * f, a * e - b * d
        size = max((x * x + y * y + z * z) ** 0.5, 1e-12)
        if x * point[0] + y * (point[1] - self.camera.height) + z * point[2] > 0:
            size = -size
        return np.array([x / size, y / size, z / size])
