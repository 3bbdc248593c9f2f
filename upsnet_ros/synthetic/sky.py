"""Weather, light and sky of a street."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import cv2
import numpy as np
import numpy.typing as npt

from upsnet_ros.synthetic import texture as tiles
from upsnet_ros.synthetic.canvas import Camera, Canvas
from upsnet_ros.synthetic.labels import BUILDING, SKY, VEGETATION
from upsnet_ros.synthetic.street import FAR, Street
from upsnet_ros.synthetic.texture import Color, generator, noise, scaled

KINDS = ("clear", "hazy", "overcast", "rain", "fog", "evening", "dusk")
_WEIGHTS = (0.3, 0.14, 0.2, 0.1, 0.08, 0.1, 0.08)


@dataclass(frozen=True, slots=True, kw_only=True)
class Weather:
    """The weather of one street, the same for all frames of a sequence.

    Attributes:
        kind: One of `KINDS`.
        azimuth: Azimuth of the sun, radians clockwise from the mean direction of the street.
        elevation: Elevation of the sun, radians.
        sun: Light of the sun on a surface that faces it, factors BGR.
        sky_light: Ambient light, factors BGR.
        zenith: Colour of the sky overhead, BGR.
        skyline: Colour of the sky at the horizon, and of the haze, BGR.
        clouds: Share of the sky that clouds cover, 0 to 1.
        haze: Attenuation of light by haze, 1/metres.
        wet: Wetness of the road, from 0 (dry) to 1 (reflects).
        rain: Density of the rain, 0 to 1.
        dark: Brightness of windows and lamps, 0 to 1.
    """

    kind: str
    azimuth: float
    elevation: float
    sun: Color
    sky_light: Color
    zenith: Color
    skyline: Color
    clouds: float
    haze: float
    wet: float
    rain: float
    dark: float

    def light(self, up: float, facing: float) -> Color:
        """Return the factors of the colours of a surface, BGR.

        Args:
            up: The y component of its unit normal.
            facing: Cosine of the angle between its normal and the direction to the sun, times the
                share of the sunlight that reaches it; negative if it faces away.
        """
        ambient, direct = 0.78 + 0.22 * up, max(0.0, facing)
        sky, sun = self.sky_light, self.sun
        return (
            sky[0] * ambient + sun[0] * direct,
            sky[1] * ambient + sun[1] * direct,
            sky[2] * ambient + sun[2] * direct,
        )

    def sun_direction(self, heading: float) -> npt.NDArray[np.float64]:
        """Return the unit vector (3,) to the sun in the world axes of a camera with a heading."""
        turn = self.azimuth - heading
        flat = np.cos(self.elevation)
        return np.array([flat * np.sin(turn), np.sin(self.elevation), flat * np.cos(turn)])


def make_weather(street: Street) -> Weather:
    """Return the weather of a street."""
    rng = street.rng("weather")
    kind = str(rng.choice(KINDS, p=np.array(_WEIGHTS) / sum(_WEIGHTS)))
    azimuth = float(rng.uniform(0, 2 * np.pi))
    bright = float(rng.uniform(0.92, 1.08))
    heights = {"clear": (0.45, 1.1), "hazy": (0.4, 1.0), "evening": (0.14, 0.32)}
    low, high = heights.get(kind, (0.5, 1.0))
    elevation = float(rng.uniform(low, high))
    sun, sky_light = _LIGHT[kind]
    zenith, skyline = _SKY[kind]
    haze = {"fog": (0.018, 0.035), "rain": (0.006, 0.012), "hazy": (0.005, 0.010)}.get(
        kind, (0.0015, 0.004)
    )
    clouds = {"clear": (0.0, 0.55), "evening": (0.1, 0.6), "hazy": (0.2, 0.7)}.get(kind, (0.9, 1.0))
    return Weather(
        kind=kind,
        azimuth=azimuth,
        elevation=elevation,
        sun=scaled(sun, bright),
        sky_light=scaled(sky_light, bright),
        zenith=scaled(zenith, float(rng.uniform(0.85, 1.1))),
        skyline=scaled(skyline, float(rng.uniform(0.93, 1.05))),
        clouds=float(rng.uniform(*clouds)),
        haze=float(rng.uniform(*haze)),
        wet=float(rng.uniform(0.6, 1.0)) if kind == "rain" else float(rng.random() < 0.08) * 0.4,
        rain=float(rng.uniform(0.3, 1.0)) if kind == "rain" else 0.0,
        dark={"dusk": 1.0, "evening": 0.25, "rain": 0.2}.get(kind, 0.0),
    )


_LIGHT: dict[str, tuple[Color, Color]] = {
    "clear": ((0.62, 0.75, 0.84), (0.80, 0.73, 0.67)),
    "hazy": ((0.40, 0.47, 0.52), (0.80, 0.76, 0.72)),
    "overcast": ((0.0, 0.0, 0.0), (0.98, 0.96, 0.94)),
    "rain": ((0.0, 0.0, 0.0), (0.78, 0.74, 0.70)),
    "fog": ((0.0, 0.0, 0.0), (0.92, 0.92, 0.92)),
    "evening": ((0.34, 0.62, 0.92), (0.70, 0.62, 0.58)),
    "dusk": ((0.0, 0.0, 0.0), (0.46, 0.36, 0.32)),
}
_SKY: dict[str, tuple[Color, Color]] = {
    "clear": ((205, 140, 80), (238, 218, 196)),
    "hazy": ((215, 180, 145), (228, 222, 214)),
    "overcast": ((200, 192, 186), (226, 224, 222)),
    "rain": ((150, 142, 136), (188, 184, 180)),
    "fog": ((205, 204, 202), (212, 212, 212)),
    "evening": ((170, 120, 95), (150, 190, 236)),
    "dusk": ((95, 58, 42), (128, 112, 138)),
}


# The distant town: columns over half a turn, rows, and the metres that its rows span.
_WIDTH, _HEIGHT, _METRES = 2048, 96, 32.0
_COARSE = 4  # factor by which the sky is rendered smaller


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
        """Paint the rows above the horizon, for a camera with a heading in radians."""
        rows = min(camera.rows, int(np.floor(camera.horizon)) + 1)
        if rows > 0:
            # Rendered at a quarter of the size, because the sky has no edges.
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
        """Return the opacity of the clouds: float32 (rows, columns), 0 to 1."""
        # Clouds lie on a plane: they look flatter near the horizon.
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
        # The town stands on the ground at distance FAR, a little below the horizon.
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
    """Return colours (rows, columns, 3) and labels (rows, columns) of the town on the horizon."""
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
    # In some places woods are in front of the houses, in others behind them.
    wood &= (noise(rng, 1, _WIDTH, cell=300, octaves=2)[0] > rng.uniform(-0.8, 0.8)) | (label == 0)
    leaves = np.array([45, 80, 62]) * (1 + 0.22 * noise(rng, _HEIGHT, _WIDTH, cell=6)[..., None])
    color[wood] = np.clip(leaves[wood], 0, 255)
    label[wood] = VEGETATION
    return color, label
