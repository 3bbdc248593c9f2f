"""What the camera makes of a painted frame: haze, edges, rain, blur, exposure, noise."""

from __future__ import annotations

from functools import lru_cache

import cv2
import numpy as np
import numpy.typing as npt

from upsnet_ros.datasets.scenes.camera import Camera
from upsnet_ros.datasets.scenes.canvas import Canvas
from upsnet_ros.datasets.scenes.seeds import generator
from upsnet_ros.datasets.scenes.street import Street
from upsnet_ros.datasets.scenes.weather import Weather

_NOISE = 640  # side of the tile that sensor noise is cut from


class Sensor:
    """The camera of one street: its own contrast, white balance, blur and noise."""

    def __init__(self, street: Street, weather: Weather) -> None:
        rng = street.rng("sensor")
        self._street, self._weather = street, weather
        self._blur = float(rng.uniform(0.35, 0.9))
        self._motion = float(rng.choice([0, 0, 0, 1])) * float(rng.uniform(2, 5))
        dim = {"dusk": 2.2, "evening": 1.3, "rain": 1.3}.get(weather.kind, 1.0)
        self._noise = float(rng.uniform(0.8, 3.2)) * dim
        self._vignette = float(rng.uniform(0.0, 0.28))
        self._curve = _curve(rng)

    def expose(self, canvas: Canvas, frame: int, camera: Camera) -> npt.NDArray[np.uint8]:
        """The picture of a painted canvas: uint8 (rows, columns, 3), BGR."""
        color = self._veil(canvas)
        if self._weather.wet > 0:
            self._mirror(color, canvas, camera)
        _soften_edges(color, canvas.surface)
        if self._weather.rain > 0:
            color = self._rain(color, frame)
        color = self._lens(color)
        color = np.asarray(cv2.LUT(color, self._curve), np.uint8)
        return self._grain(color, frame)

    def _mirror(self, color: npt.NDArray[np.uint8], canvas: Canvas, camera: Camera) -> None:
        """Lets the wet ground mirror what stands above the horizon, smeared downwards."""
        first = camera.ground_rows()[0]
        count = min(first, camera.rows - first)
        if count < 8:
            return
        small = cv2.resize(color[first - count : first][::-1], None, fx=0.25, fy=0.25)
        small = cv2.blur(small, (3, max(3, count // 24)))
        mirrored = cv2.resize(small, (camera.columns, count), interpolation=cv2.INTER_LINEAR)
        place = slice(first, first + count)
        # The flatter one looks, the more is mirrored.
        flat = np.linspace(0.62, 0.0, count, dtype=np.float32)[:, None]
        surface, ground = canvas.surface[place], canvas.ground
        share = ((surface >= ground.start) & (surface < ground.stop)).astype(np.float32)
        share *= flat * np.float32(self._weather.wet)
        color[place] = cv2.blendLinear(color[place], mirrored, 1 - share, share)

    def _veil(self, canvas: Canvas) -> npt.NDArray[np.uint8]:
        """Haze: exp(-haze * depth) of a surface's light arrives."""
        a, b, c = np.array(canvas.surfaces.planes, np.float32).T
        rows, columns = canvas.surface.shape
        inverse = np.take(a, canvas.surface) * np.arange(columns, dtype=np.float32)
        inverse += np.take(b, canvas.surface) * np.arange(rows, dtype=np.float32)[:, None]
        inverse += np.take(c, canvas.surface)
        kept = cv2.exp(-self._weather.haze / np.maximum(inverse, 1e-3))
        kept[inverse <= 0] = 1.0  # the sky has its haze painted in
        haze = np.empty_like(canvas.color)
        haze[:] = np.clip(self._weather.skyline, 0, 255)
        return np.asarray(cv2.blendLinear(canvas.color, haze, kept, 1 - kept), np.uint8)

    def _rain(self, color: npt.NDArray[np.uint8], frame: int) -> npt.NDArray[np.uint8]:
        rng = self._street.rng("rain", frame)
        rows, columns = color.shape[:2]
        streaks = np.zeros((rows, columns), np.uint8)
        count = int(500 * self._weather.rain)
        starts = rng.uniform((0, -40), (columns, rows), (count, 2))
        lengths = rng.uniform(0.02, 0.08, count) * rows
        ends = starts + np.stack([lengths * 0.12, lengths], axis=1)
        lines = np.rint(np.stack([starts, ends], axis=1)).astype(np.int32)
        cv2.polylines(streaks, list(lines), False, (70,), 1, cv2.LINE_AA)
        soft = np.asarray(cv2.GaussianBlur(streaks, (3, 3), 0.8), np.uint8) // 2
        return np.asarray(cv2.add(color, cv2.merge([soft] * 3)), np.uint8)

    def _lens(self, color: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
        rows, columns = color.shape[:2]
        scale = columns / 1024
        size = self._motion * scale
        if size > 1.5:
            color = np.asarray(cv2.blur(color, (round(size), 1)), np.uint8)
        soft = cv2.GaussianBlur(color, (3, 3), max(0.25, self._blur * max(scale, 0.6)))
        shadow = _vignette(rows, columns, round(self._vignette, 2))
        return np.asarray(cv2.multiply(soft, shadow, scale=1 / 255), np.uint8)

    def _grain(self, color: npt.NDArray[np.uint8], frame: int) -> npt.NDArray[np.uint8]:
        rng = self._street.rng("noise", frame)
        rows, columns = color.shape[:2]
        wide = _wide_noise(self._street.split, rows, columns)
        top, left = rng.integers(0, _NOISE, 2)
        noise = wide[top : top + rows, left : left + columns]
        # Scaled in whole steps: the tile's deviation is 16.
        scaled = cv2.convertScaleAbs(noise, alpha=self._noise / 16, beta=128.0)
        return np.asarray(cv2.addWeighted(color, 1.0, scaled, 1.0, -128.0), np.uint8)


def _soften_edges(color: npt.NDArray[np.uint8], surface: npt.NDArray[np.int32]) -> None:
    """Smooths the steps along outlines, as a lens would; changes ``color``."""
    edge = np.zeros(surface.shape, bool)
    across, down = surface[:, 1:] != surface[:, :-1], surface[1:] != surface[:-1]
    edge[:, 1:] |= across
    edge[:, :-1] |= across
    edge[1:] |= down
    edge[:-1] |= down
    soft = cv2.GaussianBlur(color, (3, 3), 0.8)
    cv2.copyTo(soft, edge.view(np.uint8), color)


def _curve(rng: np.random.Generator) -> npt.NDArray[np.uint8]:
    """The camera's tone curve for each channel: uint8 (256, 1, 3)."""
    level = np.linspace(0, 1, 256)
    gamma, contrast = rng.uniform(0.78, 1.05), rng.uniform(0.0, 0.5)
    level = level**gamma
    level = (1 - contrast) * level + contrast * level * level * (3 - 2 * level)
    balance = 1 + rng.normal(0, 0.022, 3) * (1.0, 0.6, 1.0)
    black, gain = rng.uniform(0, 10), rng.uniform(0.92, 1.15)
    curve = black + (255 - black) * gain * level[:, None] * balance
    return np.clip(curve, 0, 255).astype(np.uint8)[:, None]


@lru_cache(maxsize=64)
def _vignette(rows: int, columns: int, strength: float) -> npt.NDArray[np.uint8]:
    v, u = np.linspace(-1, 1, rows)[:, None], np.linspace(-1, 1, columns)[None]
    light = 255 * (1 - strength * np.clip((u**2 + v**2) / 2, 0, 1) ** 1.3)
    return np.repeat(light.astype(np.uint8)[..., None], 3, axis=2)


@lru_cache(maxsize=4)
def _wide_noise(split: str, rows: int, columns: int) -> npt.NDArray[np.int16]:
    rng = generator(split, "noise tile")
    grey = rng.normal(0, 11.5, (_NOISE, _NOISE, 1))
    tile = np.rint(grey + rng.normal(0, 11, (_NOISE, _NOISE, 3))).astype(np.int16)
    return np.tile(tile, (-(-rows // _NOISE) + 1, -(-columns // _NOISE) + 1, 1))
