"""Paints the ground: for each pixel under the horizon, what lies there and how it is lit."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np
import numpy.typing as npt

from upsnet_ros.datasets.scenes import tiles
from upsnet_ros.datasets.scenes.camera import Array, Camera
from upsnet_ros.datasets.scenes.canvas import Canvas
from upsnet_ros.datasets.scenes.road import FAR, Path
from upsnet_ros.datasets.scenes.street import (
    ASPHALT,
    CYCLE,
    KERB,
    KERB_WIDTH,
    TRACK,
    VERGE,
    WALK,
    YARD,
    Street,
)
from upsnet_ros.datasets.scenes.texture import Gain
from upsnet_ros.datasets.scenes.weather import Weather

_REACH = 60.0  # how far to either side materials are told apart, metres
_CELL = 0.02

Mask = npt.NDArray[np.uint8]


@dataclass(frozen=True, slots=True, kw_only=True)
class Patch:
    """Another ground than the cross-section's: a side street's mouth, the ground of a plot.

    Attributes:
        side: 0 for the left, 1 for the right.
        start: First s, metres.
        end: Last s.
        inner: Distance from the street's middle from which it lies, outwards without end.
        material: Index into the street's grounds.
    """

    side: int
    start: float
    end: float
    inner: float
    material: int


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
        """Paints everything under the horizon.

        Args:
            canvas: Where to.
            camera: The frame's.
            path: The stretch of street in front of it.
            patches: In sight; later ones lie on earlier ones.
            markings: uint8 (rows, columns): how much paint lies on the road, 0 to 255.
            shadows: uint8 (rows, columns): how much of the sun is hidden, 0 to 255.
            contact: uint8 (rows, columns): how much of the sky is hidden, 0 to 255.
        """
        first, z, step = camera.ground_rows()
        s, d = _road_coordinates(camera, path, z, step)
        material = self._material(s, d, patches)
        gain = self._gain(s, d, z, material, camera)
        place = slice(first, None)
        paint = markings[place].astype(np.float32)
        # Paint wears off where the ground is blotched.
        paint *= np.clip(gain * 1.5 - 0.55, 0.25, 1.0) / 255
        base = cv2.LUT(cv2.merge([material] * 3), self._lut())
        white = np.empty_like(base)
        white[:] = self._street.marking
        base = cv2.blendLinear(base, white, 1 - paint, paint)
        sun = 1 - shadows[place].astype(np.float32) * np.float32(1 / 255)
        sky = 1 - contact[place].astype(np.float32) * np.float32(1 / 255)
        light = self._light(gain, sun, sky, path.heading)
        canvas.color[place] = cv2.multiply(base, light, dtype=cv2.CV_8U)
        plane = camera.inverse_depth(
            camera.homography(np.zeros(3), np.array([1.0, 0, 0]), np.array([0, 0, 1.0]))
        )
        numbers = [canvas.surfaces.add(g.label, plane) for g in self._street.grounds]
        canvas.ground = range(numbers[0], numbers[-1] + 1)
        canvas.surface[place] = np.take(np.array(numbers, np.int32), material)

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
        """How much brighter or darker than its mean colour each pixel is."""
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
            # What even the coarsest level cannot hold fades out instead of flickering.
            fade = (1 / (1 + (covered[part] / 24) ** 2)).astype(np.float32)
            weight = np.take(grain, material[part]) * fade[:, None]
            gain[part] *= 1 + (np.take(atlas, v).astype(np.float32) - 128) * weight
        return gain

    def _blotches(self, s: Gain, d: Gain, material: Mask) -> Gain:
        scale, side = np.float32(tiles.BLOTCH_DENSITY), tiles.BLOTCHES
        # At half the size: they are soft.
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

    def _light(
        self,
        gain: Gain,
        sun: Gain,
        open_sky: Gain,
        heading: float,
    ) -> Gain:
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
    """What lies at each distance from the street's middle, in cells of `_CELL` from -`_REACH`."""
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
    """Road coordinates s and d of the pixels under the horizon, float32 (rows, columns) each."""
    near = np.minimum(z, 2 * FAR)
    s, middle, turn = path.rows(near)
    beyond = z - near
    u = np.arange(camera.columns) - (camera.columns - 1) / 2
    x = (u[None] * step[:, None] - middle[:, None]).astype(np.float32)
    along = x * np.sin(turn)[:, None].astype(np.float32)
    along += (s + beyond)[:, None].astype(np.float32)
    return along, x * np.cos(turn)[:, None].astype(np.float32)
