"""A small drawn street to drive along, for machines that have no frames of their own.

Nothing here is learned from or copied out of a data set: a straight street is furnished at random
and painted by `upsnet_ros.datasets.street_painter`.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import numpy.typing as npt

from upsnet_ros.datasets.street_painter import FAR, WALK_HALF, Painter, Thing

_SPEED = 0.45  # metres a frame: 16 km/h at 10 frames a second

_CAR_COLORS = (
    (40, 40, 170),
    (150, 90, 30),
    (60, 60, 60),
    (225, 225, 225),
    (120, 125, 130),
    (70, 110, 40),
)


def street_frames(
    count: int, *, height: int = 512, width: int = 1024, seed: int = 0
) -> Iterator[npt.NDArray[np.uint8]]:
    """Frames of a drive along a street, the same for the same size and seed.

    Args:
        count: Number of frames.
        height: Rows of a frame.
        width: Columns of a frame.
        seed: Which street.

    Yields:
        uint8 (height, width, 3), BGR.
    """
    things = _furnish(FAR + count * _SPEED, seed=seed)
    painter = Painter(height, width)
    grain = np.random.default_rng(seed).normal(0, 3.0, (height, width, 1)).astype(np.float32)
    for index in range(count):
        frame = painter.paint(things, index=index, drive=index * _SPEED)
        # Sensor noise, shifted rather than drawn anew: it costs less and looks the same.
        noisy = frame + np.roll(grain, index * 37, axis=1)
        yield np.clip(noisy, 0, 255).astype(np.uint8)


def _furnish(length: float, *, seed: int) -> list[Thing]:
    """Everything along ``length`` metres of street."""
    # A generator for each row of things, so that a longer street begins like a shorter one.
    traffic, *rows = np.random.default_rng(seed).spawn(9)
    things = [_car(traffic, x=1.3, z=15.0, speed=_SPEED * 1.02)]
    for z in np.arange(16, length * 1.6, 24.0).tolist():  # they come towards the camera
        things.append(_car(traffic, x=-1.4, z=z + _draw(traffic, -5, 5), speed=-0.5))
    for side, (houses, trees, parked, walkers) in ((-1, rows[:4]), (1, rows[4:])):
        things += _houses(houses, side, length)
        things += _trees_and_lamps(trees, side, length)
        things += [
            _car(parked, x=side * 3.3, z=z, speed=0.0)
            for z in np.arange(10, length, 11.0).tolist()
            if parked.random() < 0.55
        ]
        things += [
            _walker(walkers, side, z)
            for z in np.arange(5, length, 7.0).tolist()
            if walkers.random() < 0.6
        ]
    return things


def _houses(rng: np.random.Generator, side: int, length: float) -> Iterator[Thing]:
    z = 2.0
    while z < length:
        depth, tint = _draw(rng, 9, 18), int(rng.integers(90, 190))
        house = Thing(
            kind="house",
            x=side * (WALK_HALF + 4 + _draw(rng, 0, 1.5)),
            z=z,
            width=8,
            height=_draw(rng, 7, 16),
            depth=depth,
            color=(tint - 25, tint - 8, tint + int(rng.integers(0, 40))),
        )
        if rng.random() < 0.8:
            yield house
        z += depth + _draw(rng, 0, 3)


def _trees_and_lamps(rng: np.random.Generator, side: int, length: float) -> Iterator[Thing]:
    for z in np.arange(6, length, 13.0).tolist():
        blue, green, red = rng.integers((30, 95, 50), (60, 135, 95)).tolist()
        yield Thing(
            kind="tree",
            x=side * 6.9,
            z=z + _draw(rng, -2, 2),
            width=3.6,
            height=_draw(rng, 5, 7),
            depth=1,
            color=(blue, green, red),
        )
        yield Thing(
            kind="lamp",
            x=side * 4.8,
            z=z + 6,
            width=0.16,
            height=6.5,
            depth=0.2,
            color=(95, 95, 90),
        )


def _walker(rng: np.random.Generator, side: int, z: float) -> Thing:
    blue, green, red = rng.integers(40, 220, 3).tolist()
    return Thing(
        kind="person",
        x=side * _draw(rng, 5.0, 6.6),
        z=z,
        width=0.52,
        height=_draw(rng, 1.5, 1.9),
        depth=0.4,
        color=(blue, green, red),
        speed=float(rng.choice([-0.12, 0.12])),
    )


def _car(rng: np.random.Generator, *, x: float, z: float, speed: float) -> Thing:
    color = _CAR_COLORS[int(rng.integers(len(_CAR_COLORS)))]
    return Thing(kind="car", x=x, z=z, width=1.8, height=1.45, depth=4.2, color=color, speed=speed)


def _draw(rng: np.random.Generator, low: float, high: float) -> float:
    return float(rng.uniform(low, high))
