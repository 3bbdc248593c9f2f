"""One frame while it is rendered: canvas, camera, light, painting order, and solid shapes.

Painters build objects from the shapes: rods, limbs and boxes.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from upsnet_ros.synthetic.canvas import NEAR, Array, Camera, Canvas
from upsnet_ros.synthetic.sky import Weather
from upsnet_ros.synthetic.street import Path, Street
from upsnet_ros.synthetic.texture import Color, Texture

_SLACK = 0.02


def back_to_front(bounds: npt.NDArray[np.float64], s: float, d: float) -> list[int]:
    """Return the order in which to paint things, for a camera at (s, d) that looks along s.

    Of two things, one is behind the other if a line separates them: a line across the street if
    there is one, else a line along it.

    Args:
        bounds: (N, 4), smallest and largest s, then smallest and largest d, of each thing, metres.
        s: The camera's position along the street.
        d: The camera's position across it.

    Returns:
        Indices of rows of ``bounds``, farthest first.
    """
    s0, s1, d0, d1 = bounds.T
    # Along the street: whether the row's thing begins beyond the end of the column's.
    beyond = s0[:, None] >= s1[None] - _SLACK
    level = ~(beyond | beyond.T)
    # Side by side: whether the row's thing is farther from the camera, on the same side.
    right = (d0[:, None] >= d1[None] - _SLACK) & (d0[None] + d1[None] >= 2 * d)
    left = (d1[:, None] <= d0[None] + _SLACK) & (d0[None] + d1[None] <= 2 * d)
    # Overlapping in s and d: by their middles.
    crossed = level & ~(right | right.T | left | left.T)
    middle = s0 + s1
    behind = beyond | (level & (right | left)) | (crossed & (middle[:, None] > middle[None]))
    np.fill_diagonal(behind, False)
    waiting = behind.sum(axis=0)  # number of things to paint before each
    distance = np.hypot(middle / 2 - s, (d0 + d1) / 2 - d)
    order: list[int] = []
    open_ = np.ones(len(bounds), bool)
    while len(order) < len(bounds):
        ready = np.flatnonzero(open_ & (waiting <= 0))
        if not len(ready):  # a cycle of three or more: the farthest first
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
    """Something on or beside a street at one moment.

    Attributes:
        kind: Its painter: a key of `upsnet_ros.synthetic.renderer.PAINTERS`.
        s: Position of its middle along the street, metres.
        d: Position of its middle to the right of the middle of the street, metres.
        length: Extent along its own axis, metres.
        width: Extent across its own axis, metres.
        height: Height, metres.
        look: Seed of its appearance.
        facing: Direction of its axis, radians clockwise from the street's direction.
        number: Instance number within its class; for things only.
        gait: Distance it has walked or rolled, metres.
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
        """Smallest and largest s, then d, of its footprint, metres."""
        cos, sin = abs(math.cos(self.facing)), abs(math.sin(self.facing))
        along = (self.length * cos + self.width * sin) / 2
        across = (self.length * sin + self.width * cos) / 2
        return self.s - along, self.s + along, self.d - across, self.d + across

    def tint(self, strength: float) -> Color:
        """Return factors BGR around 1 that depend on the look, so that equal textures differ."""
        # Multiplication by the golden ratio gives consecutive looks very different tints.
        bits = (self.look * 0x9E3779B1) & 0xFFFFFFFF
        level = 1 + strength * ((bits >> 8 & 0xFF) / 128 - 1)
        warm = strength * 0.4 * ((bits >> 16 & 0xFF) / 128 - 1)
        return level * (1 - warm), level, level * (1 + warm)


@dataclass(frozen=True, slots=True, kw_only=True)
class Pose:
    """The axes of an item in the world: x to its right, y up, z forward.

    Attributes:
        origin: (3,), middle of its footprint, metres.
        right: (3,), unit vector.
        forward: (3,), unit vector.
    """

    origin: Array
    right: Array
    forward: Array

    def world(self, points: Array) -> Array:
        """Return points (N, 3) in the item's axes as world points."""
        axes = np.empty((3, 3))
        axes[0], axes[1], axes[2] = self.right, UP, self.forward
        return points @ axes + self.origin

    def direction(self, vector: Array) -> Array:
        """Return a direction (3,) in the item's axes as a world direction."""
        return vector[0] * self.right + vector[1] * UP + vector[2] * self.forward


@dataclass(slots=True, kw_only=True)
class Stage:
    """Everything that a painter needs to paint an item of a frame.

    Attributes:
        canvas: Canvas of the frame.
        camera: Camera of the frame.
        path: The stretch of street in front of the camera.
        street: Street of the sequence.
        weather: Weather of the sequence.
        sunlit: Share of the sunlight that reaches the current item, 0 to 1.
        presence: Opacity of the current item, which fades in at a distance, 0 to 1.
        sun: Direction to the sun, a unit vector.
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
        """Return the pose of an item of this frame."""
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
        """Return the depth of a world point (3,) along the optical axis, at least 0.3 metres."""
        axis = self.camera.matrix[2]
        return max(float(axis[:3] @ point + axis[3]), 0.3)

    def light(self, normal: Array) -> Color:
        """Return the factors BGR of the colours of a surface with a normal (3,)."""
        x, y, z = normal.tolist()
        facing = self.sun[0] * x + self.sun[1] * y + self.sun[2] * z
        return self.weather.light(y, facing * self.sunlit)

    def lit(self, color: Color, normal: Array) -> Color:
        """Return a colour, BGR, lit on a surface with a normal (3,)."""
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
        """Paint a texture on the parallelogram from ``origin`` along ``across`` and ``down``.

        Args:
            origin: (3,), world point of the upper left corner of the texture.
            across: (3,), vector from there to the upper right corner.
            down: (3,), vector from there to the lower left corner.
            texture: The texture.
            label: Label of its pixels.
            gain: Factor of the brightness.
            tint: Factors of the colours, BGR.
            surface: Index of an existing surface to use instead of a new one.
            solid: Whether transparent pixels get the label too.
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

    def side(
        self,
        pose: Pose,
        corners: Sequence[Sequence[float]],
        texture: Texture,
        label: int,
        surface: int,
        *,
        tint: Color = (1.0, 1.0, 1.0),
    ) -> None:
        """Paint a texture between its upper left, upper right and lower left corner in a pose."""
        world = pose.world(np.array(corners))
        across, down = world[1] - world[0], world[2] - world[0]
        self.sheet(world[0], across, down, texture, label, surface=surface, tint=tint)

    def face(self, points: Array, color: Color, surface: int, *, gain: float = 1.0) -> None:
        """Fill the flat convex polygon of world points (N, 3), lit by its normal."""
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
            self.canvas.blend(outline, shade, self.presence, surface, presence=self.presence)
        else:
            self.canvas.polygon(outline, shade, surface)

    def _depths(self, points: Array) -> Array:
        """Return the depths (N,) of world points (N, 3) along the optical axis, metres."""
        axis = self.camera.matrix[2]
        return points @ axis[:3] + axis[3]

    def _towards_camera(self, first: Array, second: Array, point: Array) -> Array:
        """Return the unit normal (3,) of a plane along two directions, towards the camera."""
        # np.cross takes ten times as long for one vector.
        (a, b, c), (d, e, f) = first.tolist(), second.tolist()
        x, y, z = b * f - c * e, c * d - a * f, a * e - b * d
        size = max((x * x + y * y + z * z) ** 0.5, 1e-12)
        if x * point[0] + y * (point[1] - self.camera.height) + z * point[2] > 0:
            size = -size
        return np.array([x / size, y / size, z / size])


_THIN = 2.2  # limbs of a smaller radius are drawn as lines, pixels
_FINEST = 0.4  # limbs of a smaller radius on the picture are left out, pixels
_NEAREST = 2.0  # limbs nearer than this would fill the picture, metres

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
        over: How much nearer than it is the limb counts in the painting order, metres: for clothes.
    """

    start: int
    end: int
    thick: float
    thin: float
    color: Color
    over: float = 0.0


def limbs(stage: Stage, joints: Array, bones: Sequence[Bone], surface: int) -> None:
    """Paint rounded limbs, the farthest first.

    Args:
        stage: The stage.
        joints: (N, 3), world points.
        bones: The limbs between them.
        surface: Index of their surface.
    """
    uv, depth = stage.camera.project(joints)
    if float(depth.min()) < _NEAREST:
        return
    scale = (stage.camera.focal / depth).tolist()
    ahead, above = stage.light(np.array([0.0, 0.0, -1.0])), stage.light(UP)
    light = (ahead[0] + above[0]) / 2, (ahead[1] + above[1]) / 2, (ahead[2] + above[2]) / 2
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
            half = wide[0] * 0.55, wide[1] * 0.55
            lit = _times(bone.color, light, 1.08)
            _limb(stage, a + shift * wide[0], b + shift * wide[1], half, lit, surface)


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
            stage.canvas.disc(end, radius, color, surface)


def rod(
    stage: Stage, a: Array, b: Array, radius: float, color: Color, surface: int, *, tip: float = 1.0
) -> None:
    """Paint a round rod between world points (3,), ``tip`` times as thick at ``b`` as at ``a``."""
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
    """Return the corners (8, 3) of a box; bit 0 of the index is right, bit 1 up, bit 2 forward."""
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
    """Paint the box between two corners in an item's axes, in one colour or with a texture."""
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
    """Paint a body with the corners (8, 3) of `box_corners`, moved, in the item's axes."""
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
