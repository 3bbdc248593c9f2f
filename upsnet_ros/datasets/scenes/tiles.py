"""Repeating patterns of the ground, and clouds."""

from __future__ import annotations

from functools import lru_cache

import cv2
import numpy as np
import numpy.typing as npt

from upsnet_ros.datasets.scenes.seeds import generator
from upsnet_ros.datasets.scenes.texture import Gain, Image, bricks, noise

#: Texels of a tile's side, and of a metre.
TILE, DENSITY = 512, 96

#: Texels of the blotches' side, and of a metre.
BLOTCHES, BLOTCH_DENSITY = 256, 5

_MIDDLE = 128.0


@lru_cache(maxsize=4)
def atlases(split: str) -> list[Image]:
    """The ground patterns one below the other, at halving resolutions; 128 is a gain of 1.

    Returns:
        uint8 (patterns * side, side) for sides of 512, 256, 128 and 64 texels. The patterns:
        asphalt, slabs, small bricks, cobbles, grass, gravel.
    """
    rng = generator(split, "tiles")
    gains = [_asphalt(rng), _slabs(rng), _bricks(rng), _cobbles(rng), _grass(rng), _gravel(rng)]
    tiles = [np.clip(gain * _MIDDLE, 0, 255).astype(np.uint8) for gain in gains]
    levels = []
    for side in (TILE, TILE // 2, TILE // 4, TILE // 8):
        small = [cv2.resize(tile, (side, side), interpolation=cv2.INTER_AREA) for tile in tiles]
        levels.append(np.vstack(small).astype(np.uint8))
    return levels


@lru_cache(maxsize=4)
def blotches(split: str) -> Image:
    """uint8 (256, 256): slow changes of the ground's colour; 128 in the mean, deviation 32."""
    gain = noise(generator(split, "blotches"), BLOTCHES, BLOTCHES, cell=48, octaves=6)
    return np.clip(_MIDDLE + 32 * gain, 0, 255).astype(np.uint8)


@lru_cache(maxsize=4)
def cloud_maps(split: str) -> npt.NDArray[np.uint8]:
    """uint8 (4, 256, 1024): four skies; higher values are thicker clouds."""
    rng = generator(split, "clouds")
    maps = []
    for cell in (70, 110, 160, 90):
        wide = noise(rng, 256, 512, cell=cell, octaves=6)
        maps.append(np.clip(_MIDDLE + 52 * cv2.resize(wide, (1024, 256)), 0, 255))
    return np.array(maps).astype(np.uint8)


def _asphalt(rng: np.random.Generator) -> Gain:
    grain = noise(rng, TILE, TILE, cell=3, octaves=2)
    soft = noise(rng, TILE, TILE, cell=64, octaves=3)
    gain = 1 + 0.09 * grain + 0.03 * soft
    for _ in range(5):  # cracks, filled with tar
        start = rng.uniform(0, TILE, 2)
        steps = np.cumsum(rng.normal(rng.normal(0, 5, 2), 5, (40, 2)), axis=0)
        line = np.rint(start + steps).astype(np.int32)
        cv2.polylines(gain, [line], False, 0.72, int(rng.integers(1, 3)))
    return gain


def _slabs(rng: np.random.Generator) -> Gain:
    gain, joints = bricks(rng, TILE, TILE, height=32, width=32, joint=2, bond=0, contrast=0.05)
    gain[joints] *= 0.72
    return gain + 0.04 * noise(rng, TILE, TILE, cell=6, octaves=3)


def _bricks(rng: np.random.Generator) -> Gain:
    gain, joints = bricks(rng, TILE, TILE, height=8, width=16, joint=1, contrast=0.09)
    gain[joints] *= 0.75
    return gain + 0.05 * noise(rng, TILE, TILE, cell=4, octaves=2)


def _cobbles(rng: np.random.Generator) -> Gain:
    gain, _ = bricks(rng, TILE, TILE, height=8, width=8, joint=0, contrast=0.13)
    v, u = np.mgrid[:TILE, :TILE].astype(np.float32)
    shifted = u + (v // 8 % 2) * 4
    dome = np.cos((v % 8 - 3.5) / 4.4 * 1.4) * np.cos((shifted % 8 - 3.5) / 4.4 * 1.4)
    return gain * (0.62 + 0.5 * dome) + 0.04 * noise(rng, TILE, TILE, cell=3, octaves=1)


def _grass(rng: np.random.Generator) -> Gain:
    blades = np.asarray(cv2.blur(noise(rng, TILE, TILE, cell=3, octaves=1), (1, 3)), np.float32)
    tufts = noise(rng, TILE, TILE, cell=20, octaves=4)
    return 1 + 0.20 * blades + 0.12 * tufts


def _gravel(rng: np.random.Generator) -> Gain:
    return 1 + 0.17 * noise(rng, TILE, TILE, cell=6, octaves=3)
