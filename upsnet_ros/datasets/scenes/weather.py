"""Light and weather of a street: where the sun stands, how far one sees, how wet it is."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from upsnet_ros.datasets.scenes.street import Street
from upsnet_ros.datasets.scenes.texture import Color

KINDS = ("clear", "hazy", "overcast", "rain", "fog", "evening", "dusk")
_WEIGHTS = (0.3, 0.14, 0.2, 0.1, 0.08, 0.1, 0.08)


@dataclass(frozen=True, slots=True, kw_only=True)
class Weather:
    """The weather of one street, for the whole of a sequence.

    Attributes:
        kind: One of `KINDS`.
        azimuth: Where the sun stands, radians clockwise from the street's mean direction.
        elevation: Height of the sun, radians.
        sun: Its colour and strength, BGR; what it adds to a surface that faces it.
        sky_light: Colour and strength of the light from everywhere.
        zenith: Colour of the sky overhead.
        skyline: Colour of the sky at the horizon, and of the haze.
        clouds: Share of the sky that clouds cover.
        haze: Share of light lost to haze in a metre.
        wet: 0 for a dry road, 1 for one that mirrors.
        rain: How dense it falls, 0 to 1.
        dark: How far windows and lamps shine, 0 to 1.
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
        """What a surface's colours are multiplied by, BGR.

        Args:
            up: The y of its normal, of length 1.
            facing: Cosine between its normal and the direction to the sun, times how much of the
                sun reaches it; below 0 it faces away.
        """
        ambient, direct = 0.78 + 0.22 * up, max(0.0, facing)
        sky, sun = self.sky_light, self.sun
        return (
            sky[0] * ambient + sun[0] * direct,
            sky[1] * ambient + sun[1] * direct,
            sky[2] * ambient + sun[2] * direct,
        )

    def sun_direction(self, heading: float) -> npt.NDArray[np.float64]:
        """(3,) towards the sun in the world axes of a camera with this heading."""
        turn = self.azimuth - heading
        flat = np.cos(self.elevation)
        return np.array([flat * np.sin(turn), np.sin(self.elevation), flat * np.cos(turn)])


def make_weather(street: Street) -> Weather:
    """The weather on ``street``."""
    rng = street.rng("weather")
    kind = str(rng.choice(KINDS, p=np.array(_WEIGHTS) / sum(_WEIGHTS)))
    azimuth = float(rng.uniform(0, 2 * np.pi))
    bright = float(rng.uniform(0.92, 1.08))
    low, high = {
        "clear": (0.45, 1.1),
        "hazy": (0.4, 1.0),
        "evening": (0.14, 0.32),
    }.get(kind, (0.5, 1.0))
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
        sun=_scaled(sun, bright),
        sky_light=_scaled(sky_light, bright),
        zenith=_scaled(zenith, float(rng.uniform(0.85, 1.1))),
        skyline=_scaled(skyline, float(rng.uniform(0.93, 1.05))),
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


def _scaled(color: Color, factor: float) -> Color:
    return color[0] * factor, color[1] * factor, color[2] * factor
