"""Cars: their shapes, in as many models and paints as a split has."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from upsnet_ros.datasets.scenes.car_skins import (
    CarShape,
    end_picture,
    paint_color,
    side_picture,
)
from upsnet_ros.datasets.scenes.seeds import generator
from upsnet_ros.datasets.scenes.texture import Color, Texture

#: How many cars a split has.
CARS = 64

_KINDS = ("hatch", "sedan", "wagon", "suv", "van", "mini", "coupe")
_KIND_WEIGHTS = (0.22, 0.2, 0.16, 0.18, 0.12, 0.07, 0.05)

# Length, width, height; then from the front, as shares of the length: end of the hood, start and
# end of the roof, start of the tail; then as shares of the height: hood, belt, tail.
_SHAPES: dict[str, tuple[float, ...]] = {
    "hatch": (4.0, 1.76, 1.47, 0.23, 0.40, 0.84, 0.97, 0.62, 0.66, 0.66),
    "sedan": (4.6, 1.82, 1.44, 0.27, 0.42, 0.70, 0.86, 0.62, 0.66, 0.68),
    "wagon": (4.6, 1.82, 1.48, 0.26, 0.41, 0.88, 0.98, 0.62, 0.66, 0.66),
    "suv": (4.5, 1.88, 1.70, 0.24, 0.37, 0.86, 0.97, 0.63, 0.66, 0.66),
    "van": (5.1, 1.95, 2.05, 0.15, 0.28, 0.96, 1.0, 0.52, 0.55, 0.55),
    "mini": (3.3, 1.62, 1.50, 0.17, 0.34, 0.86, 0.98, 0.60, 0.62, 0.64),
    "coupe": (4.4, 1.84, 1.32, 0.32, 0.50, 0.66, 0.90, 0.64, 0.68, 0.72),
}


@dataclass(frozen=True, kw_only=True, eq=False)
class Car:
    """One model of car in one paint; metres, from the front where a length is meant.

    Attributes:
        upper: Its side above the belt, the front on the left, with alpha.
        lower: Its side below the belt.
        front: Its front up to the hood, with alpha.
        rear: Its rear up to the tail, with alpha.
        paint: BGR.
        length: Over all.
        width: Over all, without mirrors.
        height: Over all.
        stations: Ends of hood and windscreen, of the roof and of the rear window.
        levels: Heights of hood, belt and tail.
        inset: How far the roof's edge lies within the belt's.
    """

    upper: Texture
    lower: Texture
    front: Texture
    rear: Texture
    paint: Color
    length: float
    width: float
    height: float
    stations: tuple[float, float, float, float]
    levels: tuple[float, float, float]
    inset: float

    @property
    def belt(self) -> float:
        """Height up to which the sides stand upright, metres."""
        return max(self.levels)


@lru_cache(maxsize=2 * CARS)
def car(split: str, number: int) -> Car:
    """The car with this number, from 0 to `CARS` - 1."""
    rng = generator(split, "car", number)
    kind = str(rng.choice(_KINDS, p=_KIND_WEIGHTS))
    shape = np.array(_SHAPES[kind]) * rng.normal(1, 0.018, 10)
    length, width, height = (float(value) for value in shape[:3])
    stations = np.minimum(shape[3:7], 1.0) * length
    levels = shape[7:] * height
    paint = paint_color(rng)
    model = CarShape(kind, length, width, height, tuple(stations.tolist()), tuple(levels.tolist()))
    side = side_picture(model, paint, rng)
    belt = round((1 - max(levels) / height) * len(side))
    return Car(
        upper=Texture(side[:belt]),
        lower=Texture(side[belt:]),
        front=end_picture(model, paint, rng, front=True),
        rear=end_picture(model, paint, rng, front=False),
        paint=paint,
        length=length,
        width=width,
        height=height,
        stations=model.stations,  # type: ignore[arg-type]
        levels=model.levels,  # type: ignore[arg-type]
        inset=0.1 if kind == "van" else 0.2,
    )


def car_size(split: str, look: int) -> tuple[float, float, float]:
    """Length, width and height of the car with this look, metres."""
    model = car(split, look % CARS)
    return model.length, model.width, model.height
