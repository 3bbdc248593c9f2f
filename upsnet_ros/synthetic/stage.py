"""One frame while it is rendered: canvas, camera, light, order of painting, and solid forms.

The forms (rods, limbs, balls, boxes) are what painters build objects from.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import cv2
import numpy as np
import numpy.typing as npt

from upsnet_ros.synthetic.canvas import NEAR, Array, Camera, Canvas
from upsnet_ros.synthetic.sky import Weather
from upsnet_ros.synthetic.street import Path, Street
from upsnet_ros.synthetic.texture import Color, Texture

_SLACK = 0.02


def back_to_front(bounds: npt.NDArray[np.float64], s: float, d: float) -> list[int]:
    """The order to paint things in.

    Of two things, a camera at (s, d) that looks along s sees the one behind the other across a line
    that separates them; where a line across the street does, that decides, else one along it.

    Args:
        bounds: (N, 4) least and greatest s, then least and greatest d, of each thing.
        s: The camera's position along the street.
        d: The camera's position across it.

    Returns:
        Indices of rows of ``bounds``, farthest first.
    """
    s0, s1, d0, d1 = bounds.T
    # Along the street: whether row's thing begins where column's has ended.
    beyond = s0[:, None] >= s1[None] - _SLACK
    level = ~(beyond | beyond.T)
    # Beside each other: whether row's thing lies farther to the same side of the camera.
    right = (d0[:, None] >= d1[None] - _SLACK) & (d0[None] + d1[None] >= 2 * d)
    left = (d1[:, None] <= d0[None] + _SLACK) & (d0[None] + d1[None] <= 2 * d)
    # Overlapping both ways: by their middles.
    crossed = level & ~(right | right.T | left | left.T)
    middle = s0 + s1
    behind = beyond | (level & (right | left)) | (crossed & (middle[:, None] > middle[None]))
    np.fill_diagonal(behind, False)
    waiting = behind.sum(axis=0)  # how many have to be painted before each
    distance = np.hypot(middle / 2 - s, (d0 + d1) / 2 - d)
    order: list[int] = []
    open_ = np.ones(len(bounds), bool)
    while len(order) < len(bounds):
        ready = np.flatnonzero(open_ & (waiting <= 0))
        if not len(ready):  # a ring of three or more: the farthest goes first
            rest = np.flatnonzero(open_)
            ready = rest[[int(np.argmax(distance[rest]))]]
        for index in ready:
            order.append(int(index))
            open_[index] = False
        waiting = waiting - behind[ready].sum(axis=0)
    return order


UP = np.array([0.0, 1.0, 0.0])


@dataclass(frozen=True, slots=True, kw_only=True)
class Item:
    """Something that stands on or beside a street at one moment.

    Attributes:
        kind: Which painter paints it: a key of `upsnet_ros.synthetic.renderer.PAINTERS`.
        s: Its middle along the street, metres.
        d: Its middle to the right of the street's, metres.
        length: Extent along its own axis, metres.
        width: Extent across its own axis, metres.
        height: Metres.
        look: Seed of its appearance.
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
            surface: Index of an existing surface to use instead of a new one.
            solid: Whether see-through pixels carry the label too.
        """
        corners = np.array([origin, origin + across, origin + across + down, origin + down])
        outline = self.camera.outline(corners)
        if len(outline) < 3 or not self.canvas.meets(outline):
            return
        homography = self.camera.homography(origin, across, down)
        normal = self._towards_camera(across, down, origin)
        plane = self.camera.inverse_depth(homography)
        if surface is None:
            surface = self.canvas.surfaces.add(label, plane)
        surface = self.canvas.surfaces.facet(surface, plane, self._depths(corners))
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
        across, down = points[1] - points[0], points[2] - points[1]
        normal = self._towards_camera(across, down, points[0])
        plane = self.camera.inverse_depth(self.camera.homography(points[0], across, down))
        surface = self.canvas.surfaces.facet(surface, plane, self._depths(points))
        blue, green, red = self.lit(color, normal)
        shade = (blue * gain, green * gain, red * gain)
        if self.presence < 1:
            self.canvas.veil(outline, shade, self.presence, surface, presence=self.presence)
        else:
            self.canvas.polygon(outline, shade, surface)

    def _depths(self, points: Array) -> Array:
        """Depths (N,) of world points (N, 3) along the optical axis, metres."""
        axis = self.camera.matrix[2]
        return points @ axis[:3] + axis[3]

    def _towards_camera(self, first: Array, second: Array, point: Array) -> Array:
        """The normal (3,) of a plane along two directions that points to the camera's side."""
        # np.cross takes ten times as long for one vector.
        (a, b, c), (d, e, f) = first.tolist(), second.tolist()
        x, y, z = b * f - c * e, c * d - a * f, a * e - b * d
        size = max((x * x + y * y + z * z) ** 0.5, 1e-12)
        if x * point[0] + y * (point[1] - self.camera.height) + z * point[2] > 0:
            size = -size
        return np.array([x / size, y / size, z / size])


_SHIFT = 4
_THIN = 2.2  # limbs of a smaller radius are drawn as lines, pixels
_FINEST = 0.4  # limbs of a smaller radius on the picture are left out, pixels
_NEAREST = 2.0  # limbs nearer than this would fill the picture, metres
_UNIT = 1 << _SHIFT

#: Outward faces of a box as indices of corners (see `box_corners`), and their normals.
_FACES: tuple[tuple[tuple[int, int, int, int], tuple[float, float, float]], ...] = (
    ((4, 5, 7, 6), (0.0, 0.0, 1.0)),
    ((0, 2, 3, 1), (0.0, 0.0, -1.0)),
    ((0, 4, 6, 2), (-1.0, 0.0, 0.0)),
    ((1, 3, 7, 5), (1.0, 0.0, 0.0)),
    ((2, 6, 7, 3), (0.0, 1.0, 0.0)),
)


@dataclass(frozen=True, slots=True)
class Bone:
    """A limb between two joints.

    Attributes:
        start: Number of the joint where it starts.
        end: Number of the joint where it ends.
        thick: Radius at the start, metres.
        thin: Radius at the end, metres.
        color: BGR.
        over: How much nearer than it is it counts when limbs hide each other, metres: for clothes.
    """

    start: int
    end: int
    thick: float
    thin: float
    color: Color
    over: float = 0.0


def limbs(stage: Stage, joints: Array, bones: Sequence[Bone], surface: int) -> None:
    """Paints rounded limbs, those farther from the camera first.

    Args:
        stage: Where to.
        joints: (N, 3) world points.
        bones: The limbs between them.
        surface: What their pixels belong to.
    """
    uv, depth = stage.camera.project(joints)
    if float(depth.min()) < _NEAREST:
        return
    scale = (stage.camera.focal / depth).tolist()
    ahead, above = stage.light(np.array([0.0, 0.0, -1.0])), stage.light(UP)
    sun = stage.sun
    order = sorted(bones, key=lambda bone: 2 * bone.over - depth[bone.start] - depth[bone.end])
    for bone in order:
        a, b = uv[bone.start], uv[bone.end]
        wide = bone.thick * scale[bone.start], bone.thin * scale[bone.end]
        if max(wide) < _FINEST:
            continue
        wide = max(wide[0], 0.5), max(wide[1], 0.5)
        _limb(stage, a, b, wide, _times(bone.color, ahead, 0.85), surface)
        if wide[0] > 2.5:  # the lit half
            shift = np.array([np.sign(sun[0]) * 0.3, -0.18])
            light = tuple((x + y) / 2 for x, y in zip(ahead, above, strict=True))
            _limb(
                stage,
                a + shift * wide[0],
                b + shift * wide[1],
                (wide[0] * 0.55, wide[1] * 0.55),
                _times(bone.color, (light[0], light[1], light[2]), 1.08),
                surface,
            )


def _limb(
    stage: Stage, a: Array, b: Array, wide: tuple[float, float], color: Color, surface: int
) -> None:
    if max(wide) < _THIN:
        stage.canvas.line(np.array([a, b]), wide[0] + wide[1], color, surface)
        return
    along = b - a
    length = float(np.hypot(along[0], along[1]))
    if length > 1e-3:
        side = np.array([-along[1], along[0]]) / length
        points = np.array(
            [a + side * wide[0], b + side * wide[1], b - side * wide[1], a - side * wide[0]]
        )
        stage.canvas.polygon(points, color, surface)
    for end, radius in ((a, wide[0]), (b, wide[1])):
        if radius > 1.0:
            disc(stage, end, radius, color, surface)


def disc(stage: Stage, middle: Array, radius: float, color: Color, surface: int) -> None:
    """Fills a circle of ``radius`` pixels around a pixel."""
    canvas = stage.canvas
    if not (
        -radius < middle[0] < canvas.columns + radius and -radius < middle[1] < canvas.rows + radius
    ):
        return
    centre = (round(float(middle[0]) * _UNIT), round(float(middle[1]) * _UNIT))
    size = max(1, round(radius * _UNIT))
    cv2.circle(canvas.color, centre, size, color, -1, cv2.LINE_8, _SHIFT)
    cv2.circle(canvas.surface, centre, size, (surface,), -1, cv2.LINE_8, _SHIFT)


def rod(
    stage: Stage, a: Array, b: Array, radius: float, color: Color, surface: int, *, tip: float = 1.0
) -> None:
    """Paints a round rod between world points (3,), ``tip`` times as thick at ``b`` as at ``a``."""
    uv, depth = stage.camera.project(np.array([a, b]))
    if float(depth.min()) < NEAR:
        return
    along = uv[1] - uv[0]
    length = float(np.hypot(along[0], along[1]))
    if length < 0.3:
        return
    side = np.array([-along[1], along[0]]) / length
    wide = np.maximum(np.array([radius, radius * tip]) * stage.camera.focal / depth, 0.5)
    sun = stage.sun
    front = stage.light(np.array([0.0, 0.0, -1.0]))
    toward = 0.35 * np.sign(side[0] * sun[0] - side[1] * sun[1] + 1e-9)
    for share, shift, gain in ((1.0, 0.0, 0.72), (0.62, toward, 1.0), (0.22, toward * 1.1, 1.2)):
        if share < 1 and wide[0] * share < 0.9:
            break
        half = side[None] * (wide * share)[:, None]
        middle = uv + side[None] * (wide * shift)[:, None]
        points = np.array(
            [middle[0] + half[0], middle[1] + half[1], middle[1] - half[1], middle[0] - half[0]]
        )
        stage.canvas.polygon(points, _times(color, front, gain), surface)


def box_corners(low: Array, high: Array) -> Array:
    """(8, 3) corners of a box in an item's axes; number 1 is right, 2 is up, 4 is forward."""
    return np.array(
        [
            [(low, high)[k & 1][0], (low, high)[k >> 1 & 1][1], (low, high)[k >> 2][2]]
            for k in range(8)
        ]
    )


def box(
    stage: Stage,
    pose: Pose,
    low: Sequence[float],
    high: Sequence[float],
    color: Color,
    surface: int,
    *,
    skin: Texture | None = None,
) -> None:
    """Paints the box between two corners in an item's axes, in one colour or in a texture."""
    prism(stage, pose, box_corners(np.array(low), np.array(high)), color, surface, skin=skin)


def prism(
    stage: Stage,
    pose: Pose,
    corners: Array,
    color: Color,
    surface: int,
    *,
    skin: Texture | None = None,
) -> None:
    """Paints a box-like body by its eight corners (8, 3) in the item's axes, as `box_corners`."""
    world = pose.world(corners)
    eye = np.array([0.0, stage.camera.height, 0.0])
    for face, normal in _FACES:
        points = world[list(face)]
        if pose.direction(np.array(normal)) @ (eye - points[0]) <= 0:
            continue
        if skin is None:
            stage.face(points, color, surface)
        else:
            across, down = _edges(points, normal)
            stage.sheet(across[0], across[1], down, skin, 0, surface=surface)


def _edges(points: Array, normal: tuple[float, float, float]) -> tuple[tuple[Array, Array], Array]:
    if normal[1]:  # the top: points run round from the back left corner
        return (points[0], points[3] - points[0]), points[1] - points[0]
    heights = points[:, 1]
    top = [number for number in range(4) if heights[number] > heights.mean()]
    first, second = top
    low = [number for number in range(4) if number not in top]
    under = min(low, key=lambda number: float(np.linalg.norm(points[number] - points[first])))
    return (points[first], points[second] - points[first]), points[under] - points[first]


def _times(color: Color, light: Color, gain: float) -> Color:
    return (
        min(255.0, color[0] * light[0] * gain),
        min(255.0, color[1] * light[1] * gain),
        min(255.0, color[2] * light[2] * gain),
    )
