"""Paints the sky, and the far end of the town where the street is lost to sight."""

from __future__ import annotations

from functools import lru_cache

import cv2
import numpy as np
import numpy.typing as npt

from upsnet_ros.datasets.scenes import tiles
from upsnet_ros.datasets.scenes.camera import Camera
from upsnet_ros.datasets.scenes.canvas import Canvas
from upsnet_ros.datasets.scenes.labels import BUILDING, SKY, VEGETATION
from upsnet_ros.datasets.scenes.road import FAR
from upsnet_ros.datasets.scenes.seeds import generator
from upsnet_ros.datasets.scenes.street import Street
from upsnet_ros.datasets.scenes.texture import noise
from upsnet_ros.datasets.scenes.weather import Weather

_WIDTH = 2048  # columns of the far town, over half a turn
_HEIGHT = 96
_METRES = 32.0  # what its rows span
_COARSE = 4


class SkyPainter:
    """Paints everything above the horizon of one street, before anything nearer."""

    def __init__(self, street: Street, weather: Weather) -> None:
        rng = street.rng("sky")
        self._weather = weather
        self._split = street.split
        self._clouds = int(rng.integers(4))
        self._shift = float(rng.uniform(0, 1024))
        self._town = (street.split, int(rng.integers(12)))

    def paint(self, canvas: Canvas, camera: Camera, heading: float) -> None:
        """Paints the rows down to the horizon; the camera looks along ``heading``, radians."""
        rows = min(camera.rows, int(np.floor(camera.horizon)) + 1)
        if rows > 0:
            # Drawn at a quarter of the size: nothing in the sky has an edge.
            small = cv2.resize(
                self._sky(camera, heading, rows),
                (camera.columns, rows),
                interpolation=cv2.INTER_LINEAR,
            )
            canvas.color[:rows] = small
            canvas.surface[:rows] = canvas.surfaces.add(SKY, np.zeros(3))
        self._paint_town(canvas, camera, heading)

    def _sky(self, camera: Camera, heading: float, rows: int) -> npt.NDArray[np.uint8]:
        v = np.linspace(0, rows - 1, max(2, rows // _COARSE))
        u = np.linspace(0, camera.columns - 1, max(2, camera.columns // _COARSE))
        elevation = np.arctan((camera.horizon - v) / camera.focal)
        azimuth = np.arctan((u - camera.columns / 2) / camera.focal)
        fade = np.clip(elevation / 0.5, 0, 1)[:, None, None] ** 0.6
        weather = self._weather
        sky = (1 - fade) * np.array(weather.skyline) + fade * np.array(weather.zenith)
        share = self._cover(elevation, azimuth + heading)[..., None]
        cloud = np.array(weather.skyline) * (1.04 if weather.clouds < 0.8 else 0.94)
        return np.clip(sky * (1 - share) + cloud * share, 0, 255).astype(np.uint8)

    def _cover(
        self, elevation: npt.NDArray[np.float64], azimuth: npt.NDArray[np.float64]
    ) -> npt.NDArray[np.float32]:
        """How far clouds hide the sky: float32 (rows, columns), 0 to 1."""
        # Clouds hang on a plane: the lower one looks, the flatter they are.
        height = 1 / (np.maximum(elevation, 0.0) + 0.12)
        v = np.mod(height * 28, 256).astype(np.float32)
        u = (azimuth[None] * 110 * height[:, None] ** 0.5 + self._shift).astype(np.float32)
        thick = cv2.remap(
            tiles.cloud_maps(self._split)[self._clouds],
            np.mod(u, 1024),
            np.repeat(v[:, None], len(azimuth), axis=1),
            cv2.INTER_LINEAR,
            borderMode=cv2.BORDER_WRAP,
        )
        start = 255 * (1 - self._weather.clouds)
        soft = 40.0 + 160.0 * self._weather.clouds
        return np.clip((thick.astype(np.float32) - start) / soft, 0, 0.92)

    def _paint_town(self, canvas: Canvas, camera: Camera, heading: float) -> None:
        color, label = _town(*self._town)
        tall = camera.focal * _METRES / FAR
        # The town stands on the ground at the end of sight, a little under the horizon.
        foot = camera.horizon + camera.focal * camera.height / FAR
        top, end = max(0, int(foot - tall)), min(camera.rows, int(np.ceil(foot)) + 1)
        if end <= top:
            return
        v = (np.arange(top, end) - (foot - tall)) / tall * (_HEIGHT - 1)
        u = np.arctan((np.arange(camera.columns) - camera.columns / 2) / camera.focal)
        rows = np.rint(v).astype(int).clip(0, _HEIGHT - 1)
        columns = np.mod((u + heading) / np.pi * _WIDTH, _WIDTH).astype(int)
        seen = label[rows].take(columns, axis=1)
        light = np.array(self._weather.sky_light) + 0.4 * np.array(self._weather.sun)
        patch = cv2.multiply(color[rows].take(columns, axis=1), np.append(light, 0.0))
        part = slice(top, end)
        cv2.copyTo(patch, seen, canvas.color[part])
        for kind in (BUILDING, VEGETATION):
            canvas.surface[part][seen == kind] = canvas.surfaces.add(kind, FAR)


@lru_cache(maxsize=24)
def _town(split: str, number: int) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.uint8]]:
    """Colours (rows, columns, 3) and labels (rows, columns) of houses and woods on the horizon."""
    rng = generator(split, "town", number)
    color = np.zeros((_HEIGHT, _WIDTH, 3), np.uint8)
    label = np.zeros((_HEIGHT, _WIDTH), np.uint8)
    scale = _HEIGHT / _METRES
    at = 0
    while at < _WIDTH:
        wide, tall = int(rng.uniform(16, 60)), int(rng.uniform(6, 20) * scale)
        level, top = rng.uniform(70, 175), _HEIGHT - tall
        wall = np.clip(level + rng.normal(0, 12, 3), 0, 255)
        color[top:, at : at + wide] = wall
        for row in range(top + 4, _HEIGHT - 3, 9):
            color[row : row + 4, at + 3 : at + wide - 2] = wall * 0.9
            for column in range(at + 3, min(at + wide - 3, _WIDTH), 7):
                color[row : row + 4, column : column + 3] = wall * 0.55
        if rng.random() < 0.4:
            roof = np.array([[at, top], [at + wide, top], [at + wide // 2, top - wide // 4]])
            cv2.fillPoly(color, [roof], (wall * (0.5, 0.5, 0.75)).tolist())
            cv2.fillPoly(label, [roof], (BUILDING,))
        label[top:, at : at + wide] = BUILDING
        at += wide + int(rng.choice([0, 0, 4]))
    crowns = noise(rng, 1, _WIDTH, cell=90, octaves=6)[0]
    tops = _HEIGHT - (6.5 + 2.2 * crowns + rng.uniform(-2, 2)) * scale
    wood = np.arange(_HEIGHT)[:, None] > tops
    # Woods stand before the houses here, behind them there.
    wood &= (noise(rng, 1, _WIDTH, cell=300, octaves=2)[0] > rng.uniform(-0.8, 0.8)) | (label == 0)
    leaves = np.array([45, 80, 62]) * (1 + 0.22 * noise(rng, _HEIGHT, _WIDTH, cell=6)[..., None])
    color[wood] = np.clip(leaves[wood], 0, 255)
    label[wood] = VEGETATION
    return color, label
