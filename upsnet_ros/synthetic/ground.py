"""Paints the ground with its road markings and shadows, for each pixel below the horizon."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import cv2
import numpy as np
import numpy.typing as npt

from upsnet_ros.synthetic import texture as tiles
from upsnet_ros.synthetic.canvas import Array, Camera, Canvas
from upsnet_ros.synthetic.layout import Block
from upsnet_ros.synthetic.sky import Weather
from upsnet_ros.synthetic.stage import Item, Stage
from upsnet_ros.synthetic.street import (
    ASPHALT,
    CYCLE,
    FAR,
    KERB,
    KERB_WIDTH,
    TRACK,
    VERGE,
    WALK,
    YARD,
    Patch,
    Path,
    Street,
)
from upsnet_ros.synthetic.texture import Gain

_REACH = 60.0  # how far to either side of the middle the ground is divided into materials, metres
_CELL = 0.02  # width of a cell of the cross-section, metres

Mask = npt.NDArray[np.uint8]


class GroundPainter:
    """Paints the ground of one street at one size of image."""

    def __init__(self, street: Street, weather: Weather) -> None:
        self._street, self._weather = street, weather
        self._across = _materials(street)
        self._colors = np.array([ground.color for ground in street.grounds], np.float32)

    def paint(
        self,
        canvas: Canvas,
        camera: Camera,
        path: Path,
        *,
        patches: Sequence[Patch],
        markings: Mask,
        shadows: Mask,
        contact: Mask,
    ) -> None:
        """Paint everything below the horizon.

        Args:
            canvas: The canvas to paint on.
            camera: The camera of the frame.
            path: The stretch of street in front of the camera.
            patches: Visible patches; later ones cover earlier ones.
            markings: uint8 (rows, columns), share of road paint, 255 for all of it.
            shadows: uint8 (rows, columns), share of the sun that is blocked, 255 for all of it.
            contact: uint8 (rows, columns), share of the sky that is blocked, 255 for all of it.
        """
        first, z, step = camera.ground_rows()
        s, d = _road_coordinates(camera, path, z, step)
        material = self._material(s, d, patches)
        gain = self._gain(s, d, z, material, camera)
        rows = slice(first, None)
        paint = markings[rows].astype(np.float32)
        # Paint is worn where the ground is dark.
        paint *= np.clip(gain * 1.5 - 0.55, 0.25, 1.0) / 255
        base = cv2.LUT(cv2.merge([material] * 3), self._lut())
        white = np.empty_like(base)
        white[:] = self._street.marking
        base = cv2.blendLinear(base, white, 1 - paint, paint)
        sun = 1 - shadows[rows].astype(np.float32) * np.float32(1 / 255)
        sky = 1 - contact[rows].astype(np.float32) * np.float32(1 / 255)
        light = self._light(gain, sun, sky, path.heading)
        canvas.color[rows] = cv2.multiply(base, light, dtype=cv2.CV_8U)
        plane = camera.inverse_depth(
            camera.homography(np.zeros(3), np.array([1.0, 0, 0]), np.array([0, 0, 1.0]))
        )
        surfaces = [canvas.surfaces.add(g.label, plane) for g in self._street.grounds]
        canvas.ground = range(surfaces[0], surfaces[-1] + 1)
        canvas.surface[rows] = np.take(np.array(surfaces, np.int32), material)

    def _material(self, s: Gain, d: Gain, patches: Sequence[Patch]) -> Mask:
        cell = np.clip((d + _REACH) * (1 / _CELL), 0, len(self._across) - 1).astype(np.int32)
        material = np.take(self._across, cell)
        nearest, farthest = s.min(axis=1), s.max(axis=1)
        for patch in patches:
            rows = np.flatnonzero((farthest > patch.start) & (nearest < patch.end))
            if not len(rows):
                continue
            part = slice(rows[0], rows[-1] + 1)
            outside = d[part] > patch.inner if patch.side else d[part] < -patch.inner
            inside = (s[part] > patch.start) & (s[part] < patch.end)
            material[part][outside & inside] = patch.material
        return material

    def _lut(self) -> Mask:
        table = np.zeros((256, 1, 3), np.uint8)
        table[: len(self._colors), 0] = np.clip(self._colors, 0, 255)
        return table

    def _gain(self, s: Gain, d: Gain, z: Array, material: Mask, camera: Camera) -> Gain:
        """Return the brightness of pixels by their mean colour, float32 (rows, columns)."""
        grounds = self._street.grounds
        gain = self._blotches(s, d, material)
        grain = np.array([ground.grain / 128 for ground in grounds], np.float32)
        pattern = np.array([ground.pattern for ground in grounds], np.int32)
        # Texels that one pixel covers along the street; each level has half as many.
        covered = z**2 / (camera.focal * camera.height) * tiles.DENSITY
        level = np.clip(np.log2(np.maximum(covered, 1) / 2) + 1, 0, 3).astype(int)
        for number, atlas in enumerate(tiles.atlases(self._street.split)):
            rows = np.flatnonzero(level == number)
            if not len(rows):
                continue
            part = slice(rows[0], rows[-1] + 1)
            side = atlas.shape[1]
            per_metre = np.float32(tiles.DENSITY * side / tiles.TILE)
            # Sides are powers of two, so that the remainder is a mask of bits.
            v = (s[part] * per_metre).astype(np.int32) & (side - 1)
            v += np.take(pattern * side, material[part])
            v *= side
            v += (d[part] * per_metre + 64 * side).astype(np.int32) & (side - 1)
            # Where even the coarsest level would alias, the pattern fades out.
            fade = (1 / (1 + (covered[part] / 24) ** 2)).astype(np.float32)
            weight = np.take(grain, material[part]) * fade[:, None]
            gain[part] *= 1 + (np.take(atlas, v).astype(np.float32) - 128) * weight
        return gain

    def _blotches(self, s: Gain, d: Gain, material: Mask) -> Gain:
        scale, side = np.float32(tiles.BLOTCH_DENSITY), tiles.BLOTCHES
        # At half the size, because they are smooth.
        slow = cv2.remap(
            tiles.blotches(self._street.split),
            np.mod(d[::2, ::2] * scale, side),
            np.mod(s[::2, ::2] * scale, side),
            cv2.INTER_LINEAR,
            borderMode=cv2.BORDER_WRAP,
        )
        rows, columns = s.shape
        smooth = cv2.resize(slow, (columns, rows), interpolation=cv2.INTER_LINEAR)
        strength = np.zeros((256,), np.float32)
        strength[: len(self._street.grounds)] = [g.blotches / 32 for g in self._street.grounds]
        return 1 + (smooth.astype(np.float32) - 128) * np.take(strength, material)

    def _light(self, gain: Gain, sun: Gain, open_sky: Gain, heading: float) -> Gain:
        weather = self._weather
        up = max(0.0, float(weather.sun_direction(heading)[1]))
        damp = 1 - 0.35 * weather.wet
        shaded = gain * open_sky * np.float32(damp)
        direct = shaded * sun
        channels = [
            shaded * np.float32(sky) + direct * np.float32(own * up)
            for sky, own in zip(weather.sky_light, weather.sun, strict=True)
        ]
        return np.asarray(cv2.merge(channels), np.float32)


def _materials(street: Street) -> Mask:
    """Return the material at each distance from the middle, uint8, in cells from -`_REACH`."""
    across = np.full(int(2 * _REACH / _CELL), YARD, np.uint8)

    def fill(side: int, start: float, end: float, material: int) -> None:
        low, high = (start, end) if side else (-end, -start)
        across[int((low + _REACH) / _CELL) : int((high + _REACH) / _CELL)] = material

    for number, side in enumerate(street.sides):
        fill(number, side.walk_from, side.plots, WALK)
        fill(number, side.kerb, side.walk_from, VERGE)
        fill(number, side.kerb, side.kerb + KERB_WIDTH, KERB)
        fill(number, 0.0, side.kerb, ASPHALT)
    for lane in street.lanes:
        if lane.kind == "cycles":
            fill(int(lane.d > 0), abs(lane.d) - 0.75, abs(lane.d) + 0.75, CYCLE)
        elif lane.kind == "trams":
            fill(int(lane.d > 0), 0.0, abs(lane.d) + 1.4, TRACK)
    return across


def _road_coordinates(camera: Camera, path: Path, z: Array, step: Array) -> tuple[Gain, Gain]:
    """Return road coordinates s and d of the pixels below the horizon, float32 (rows, columns)."""
    near = np.minimum(z, 2 * FAR)
    s, middle, turn = path.rows(near)
    beyond = z - near
    u = np.arange(camera.columns) - (camera.columns - 1) / 2
    x = (u[None] * step[:, None] - middle[:, None]).astype(np.float32)
    along = x * np.sin(turn)[:, None].astype(np.float32)
    along += (s + beyond)[:, None].astype(np.float32)
    return along, x * np.cos(turn)[:, None].astype(np.float32)


_SHIFT = 4
_SIGHT = 75.0  # how far ahead markings are drawn, metres
_DASH, _PERIOD = 3.0, 7.0  # length of a dash, and from one to the next, metres
_HALF = 0.07  # half the width of a line, metres


def road_markings(street: Street, camera: Camera, path: Path, blocks: Sequence[Block]) -> Mask:
    """Return the share of road paint on each pixel: uint8 (rows, columns), 255 for all of it."""
    mask = np.zeros((camera.rows, camera.columns), np.uint8)
    start, end = path.s + 1.0, path.s + _SIGHT
    for s0, s1, d0, d1 in _strips(street, start, end, blocks):
        count = max(2, int((s1 - s0) / 2.0) + 1)
        s = np.linspace(s0, s1, count)
        ring_s = np.concatenate([s, s[::-1]])
        ring_d = np.concatenate([np.full(count, d0), np.full(count, d1)])
        fill(mask, camera.outline(path.place(ring_s, ring_d, np.zeros(2 * count))), 255)
    return mask


def draw_rails(mask: Mask, street: Street, camera: Camera, path: Path) -> None:
    """Add the grooves of tram rails to a mask of blocked light, uint8 (rows, columns)."""
    s = np.linspace(path.s + 1.0, path.s + _SIGHT, 40)
    for lane in street.lanes:
        if lane.kind != "trams":
            continue
        for d in (lane.d - 0.72, lane.d + 0.72):
            ring_s = np.concatenate([s, s[::-1]])
            ring_d = np.concatenate([np.full(40, d - 0.045), np.full(40, d + 0.045)])
            fill(mask, camera.outline(path.place(ring_s, ring_d, np.zeros(80))), 130)


def _strips(
    street: Street, start: float, end: float, blocks: Sequence[Block]
) -> Iterator[tuple[float, float, float, float]]:
    """Yield painted rectangles (s from, s to, d from, d to), metres."""
    for d in street.lane_lines:
        yield from _dashes(start, end, d)
    if street.middle_line == "dashed":
        yield from _dashes(start, end, 0.0)
    elif street.middle_line == "solid":
        yield start, end, -_HALF, _HALF
    elif street.middle_line == "double":
        yield start, end, -0.18, -0.06
        yield start, end, 0.06, 0.18
    for sign, side in zip((-1, 1), street.sides, strict=True):
        if side.parking:
            yield start, end, sign * side.lanes_end - 0.05, sign * side.lanes_end + 0.05
    left, right = -street.sides[0].kerb, street.sides[1].kerb
    for block in blocks:
        s = block.crosswalk
        if s is None or s + 2 < start or s - 3 > end:
            continue
        for d in np.arange(left + 0.5, right - 0.5, 1.0).tolist():
            yield max(s - 1.5, start), max(s + 1.5, start), d, d + 0.5
        yield max(s - 3.2, start), max(s - 2.8, start), 0.1, street.sides[1].lanes_end


def _dashes(start: float, end: float, d: float) -> Iterator[tuple[float, float, float, float]]:
    for s in np.arange(np.floor(start / _PERIOD) * _PERIOD, end, _PERIOD).tolist():
        if s + _DASH > start:
            yield max(s, start), s + _DASH, d - _HALF, d + _HALF


def fill(mask: Mask, points: Array, value: int) -> None:
    """Fill a polygon of pixels (N, 2) in a mask, with antialiased edges."""
    if len(points) < 3:
        return
    fixed = np.rint(np.clip(points, -8000, 8000) * (1 << _SHIFT)).astype(np.int32)
    cv2.fillPoly(mask, [fixed], (value,), cv2.LINE_AA, _SHIFT)


_LONGEST = 3.5  # maximum length of a shadow, in heights of its object
_THIN = {"lamp", "mast", "sign", "signal", "bollard"}
_ROUND = np.linspace(0, 2 * np.pi, 12, endpoint=False)
_WHEELED = {"car", "truck", "bus", "train", "motorcycle", "motorcyclist", "bicycle", "cyclist"}


def sun_shadows(stage: Stage, items: Sequence[Item]) -> Mask:
    """Return the share of the sun that is blocked: uint8 (rows, columns), 255 for all of it."""
    mask = np.zeros((stage.camera.rows, stage.camera.columns), np.uint8)
    if max(stage.weather.sun) <= 0:
        return mask
    sun = np.array(stage.sun)
    drift = -sun / sun[1]
    drift[1] = 0.0
    size = float(np.linalg.norm(drift))
    if size > _LONGEST:
        drift *= _LONGEST / size
    for item in items:
        if item.kind == "tree":
            _crown(stage, mask, item, drift)
        elif item.kind != "fence":
            foot = _footprint(stage, item)
            ring = np.vstack([foot, foot + drift * item.height])
            fill(mask, stage.camera.outline(_hull(ring)), 255)
    return np.asarray(cv2.GaussianBlur(mask, (5, 5), 1.1), np.uint8)


def _crown(stage: Stage, mask: Mask, item: Item, drift: Array) -> None:
    foot = stage.pose(item).origin
    side = np.array([0.12, 0.0, 0.0])
    top = foot + drift * item.height * 0.6
    trunk = np.array([foot - side, foot + side, top + side, top - side])
    fill(mask, stage.camera.outline(trunk), 255)
    flat = np.stack([np.cos(_ROUND), np.zeros(12), np.sin(_ROUND)], axis=1)
    # A crown consists of a few clumps of leaves.
    for share, shift in ((0.36, (0.0, 0.0)), (0.26, (0.22, 0.1)), (0.26, (-0.2, 0.16))):
        middle = foot + drift * item.height * 0.65
        middle = middle + item.width * np.array([shift[0], 0.0, shift[1]])
        fill(mask, stage.camera.outline(flat * item.width * share + middle), 225)


def _footprint(stage: Stage, item: Item) -> Array:
    if item.kind in _THIN:
        return stage.pose(item).world(
            np.array([[-1, 0, -1], [1, 0, -1], [1, 0, 1], [-1, 0, 1.0]]) * item.width / 2
        )
    if item.kind in ("house", "wall", "hedge"):
        s0, s1, d0, d1 = item.bounds
        return stage.path.place(np.array([s0, s1, s1, s0]), np.array([d0, d0, d1, d1]), np.zeros(4))
    half, long = item.width / 2, item.length / 2
    if item.kind == "person":
        half = long = 0.17
    elif item.kind in ("bicycle", "cyclist"):
        half = 0.12
    elif item.kind in ("motorcycle", "motorcyclist"):
        half = 0.22
    corners = np.array([[-half, 0, -long], [half, 0, -long], [half, 0, long], [-half, 0, long]])
    return stage.pose(item).world(corners)


def _hull(points: Array) -> Array:
    flat = points[:, [0, 2]].astype(np.float32)
    ring = cv2.convexHull(flat, returnPoints=True)[:, 0].astype(np.float64)
    return np.stack([ring[:, 0], np.zeros(len(ring)), ring[:, 1]], axis=1)


def contact_shadows(stage: Stage, items: Sequence[Item]) -> Mask:
    """Return the share of the sky that is blocked: uint8 (rows, columns), 255 for all of it."""
    mask = np.zeros((stage.camera.rows, stage.camera.columns), np.uint8)
    for item in items:
        if item.kind in _WHEELED or item.kind in ("person", "unknown"):
            foot = _footprint(stage, item)
            middle = foot.mean(axis=0)
            grow = 1.06 if item.kind in _WHEELED else 1.3
            dark = 190 if item.kind in _WHEELED else 130
            fill(mask, stage.camera.outline(middle + (foot - middle) * grow), dark)
        elif item.kind in ("house", "wall", "hedge"):
            foot = _footprint(stage, item)
            middle = foot.mean(axis=0)
            edge = foot + (foot - middle) / np.linalg.norm(foot - middle, axis=1)[:, None] * 0.5
            fill(mask, stage.camera.outline(edge), 90)
    return np.asarray(cv2.GaussianBlur(mask, (7, 7), 2.0), np.uint8)


def in_shade(stage: Stage, mask: npt.NDArray[np.uint8], item: Item) -> bool:
    """Return whether an item stands in the shadow of something else, by `sun_shadows`."""
    ahead = np.array([0.0, 0.0, -(item.length / 2 + 0.3)])
    uv, depth = stage.camera.project(stage.pose(item).origin[None] + ahead)
    (u, v), (distance,) = uv[0].tolist(), depth.tolist()
    if distance < 1 or not (0 <= u < mask.shape[1] - 1 and 0 <= v < mask.shape[0] - 1):
        return False
    return bool(mask[round(v), round(u)] > 128)
