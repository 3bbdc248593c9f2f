"""Random generators, textures, and the noise and patterns for them."""

from __future__ import annotations

import zlib
from functools import lru_cache

import cv2
import numpy as np
import numpy.typing as npt

from upsnet_ros.errors import SettingsError

#: Number of each split in the seeds. Never change or reuse one, or scenes would change or coincide.
SPLITS = {"train": 1, "val": 2, "test": 3}


def check_split(split: str) -> str:
    """Return ``split`` if it is known.

    Raises:
        SettingsError: If it is not.
    """
    if split not in SPLITS:
        raise SettingsError(f"unknown split {split!r}: choose one of {', '.join(SPLITS)}")
    return split


def generator(split: str, purpose: str, *key: int) -> np.random.Generator:
    """Return the random generator of a purpose and key, the same in every process and call.

    Args:
        split: "train", "val" or "test".
        purpose: What is sampled, such as "weather".
        key: Integers that distinguish generators of the same purpose (seed, street, block).
    """
    # Lengths and signs are part of the address: SeedSequence treats [1] and [1, 0] alike.
    address = [SPLITS[split], zlib.crc32(purpose.encode()), len(key)]
    for number in key:
        address += [abs(number), number < 0]
    return np.random.default_rng(np.random.SeedSequence(address))


Color = tuple[float, float, float]  # BGR, 0 to 255
Image = npt.NDArray[np.uint8]
Gain = npt.NDArray[np.float32]

_SMALLEST = 6


def bgr(values: npt.ArrayLike) -> Color:
    """Return three numbers as a colour, clipped to the range of a pixel."""
    blue, green, red = np.clip(np.asarray(values, float), 0, 255).tolist()
    return blue, green, red


def scaled(color: Color, factor: float | Color) -> Color:
    """Return a colour times a factor, or times factors BGR; not clipped."""
    blue, green, red = factor if isinstance(factor, tuple) else (factor, factor, factor)
    return color[0] * blue, color[1] * green, color[2] * red


class Texture:
    """An image and copies of half the size each (mipmaps), so that distant surfaces do not flicker.

    Args:
        image: uint8 (H, W, 3) BGR, or (H, W, 4) with alpha.
        glow: uint8 (H, W, 3), light that the surface emits in the dark, or None.
    """

    def __init__(self, image: Image, glow: Image | None = None) -> None:
        self.levels = _pyramid(image)
        self.glow = None if glow is None else _pyramid(glow)
        self._repeated: dict[int, Texture] = {}

    @property
    def shape(self) -> tuple[int, int]:
        """Rows and columns of the image at full size."""
        rows, columns = self.levels[0].shape[:2]
        return rows, columns

    def repeated(self, count: int) -> Texture:
        """Return the image ``count`` times side by side, without glow."""
        if count not in self._repeated:
            self._repeated[count] = Texture(np.tile(self.levels[0], (1, count, 1)))
        return self._repeated[count]

    def level(self, texels_per_pixel: float) -> int:
        """Return the level closest to one texel per pixel, rounded to finer levels."""
        return int(np.clip(np.log2(max(texels_per_pixel, 1e-6)) + 0.3, 0, len(self.levels) - 1))


def _pyramid(image: Image) -> list[Image]:
    levels = [image]
    while min(levels[-1].shape[:2]) >= 2 * _SMALLEST:
        rows, columns = levels[-1].shape[:2]
        half = cv2.resize(levels[-1], (columns // 2, rows // 2), interpolation=cv2.INTER_AREA)
        levels.append(np.asarray(half, np.uint8))
    return levels


def noise(
    rng: np.random.Generator, rows: int, columns: int, *, cell: float, octaves: int = 4
) -> Gain:
    """Return seamlessly tiling noise: float32 (rows, columns), mean 0, standard deviation 1.

    Args:
        rng: Source of randomness.
        rows: Height, pixels.
        columns: Width, pixels.
        cell: Size of the largest cells, pixels.
        octaves: Number of octaves; each halves size and strength.
    """
    # Each octave is added to the enlarged sum of the coarser ones: only the last has full size.
    total = np.zeros((1, 1), np.float32)
    for octave in range(octaves):
        size = max(1.0, cell / 2**octave)
        grid = min(rows, max(2, round(rows / size))), min(columns, max(2, round(columns / size)))
        total = _stretch(total, *grid)
        total += rng.standard_normal(grid, np.float32) * np.float32(0.5**octave)
        if grid == (rows, columns):
            break
    total = _stretch(total, rows, columns)
    total -= total.mean()
    return total / max(float(total.std()), 1e-6)


def _stretch(grid: Gain, rows: int, columns: int) -> Gain:
    if grid.shape == (rows, columns):
        return grid
    margin = 2
    padded = np.pad(grid, margin, mode="wrap")
    down, across = rows / grid.shape[0], columns / grid.shape[1]
    size = round(padded.shape[1] * across), round(padded.shape[0] * down)
    wide = cv2.resize(padded, size, interpolation=cv2.INTER_CUBIC)
    top, left = round(margin * down), round(margin * across)
    return np.asarray(wide[top : top + rows, left : left + columns], np.float32)


def bricks(
    rng: np.random.Generator,
    rows: int,
    columns: int,
    *,
    height: int,
    width: int,
    joint: int = 1,
    bond: float = 0.5,
    contrast: float = 0.12,
) -> tuple[Gain, npt.NDArray[np.bool_]]:
    """Return a pattern of bricks, slabs or planks.

    Args:
        rng: Source of the shades.
        rows: Height of the pattern, pixels.
        columns: Width of the pattern, pixels.
        height: Height of a brick, pixels.
        width: Width of a brick, pixels.
        joint: Width of a joint, pixels; 0 for none.
        bond: Shift of every other course, in bricks.
        contrast: Standard deviation of the shades.

    Returns:
        Factor of each pixel around 1, float32 (rows, columns); joints, bool (rows, columns).
    """
    v = np.arange(rows)
    course = v // height
    shift = ((course % 2) * bond * width).astype(int)
    u = np.arange(columns)[None, :] + shift[:, None]
    brick = u // width
    shades = rng.normal(1, contrast, (rows // height + 1, columns // width + 2))
    gain = shades[course[:, None], np.minimum(brick, shades.shape[1] - 1)]
    joints = (v[:, None] % height < joint) | (u % width < joint)
    return gain.astype(np.float32), joints


def shaded(color: Color | Image, gain: Gain) -> Image:
    """Return a colour, or an image (H, W, 3), times factors (H, W): uint8 (H, W, 3)."""
    base = np.asarray(color, np.float32)
    return np.clip(base * gain[..., None], 0, 255).astype(np.uint8)


#: Side of a tile, texels, and texels per metre.
TILE, DENSITY = 512, 96

#: Side of the map of blotches, texels, and texels per metre.
BLOTCHES, BLOTCH_DENSITY = 256, 5

_MIDDLE = 128.0


@lru_cache(maxsize=4)
def atlases(split: str) -> list[Image]:
    """Return the ground patterns, stacked vertically, at four resolutions; 128 is a factor of 1.

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
    """Return slow changes of the ground's colour: uint8 (256, 256), mean 128, deviation 32."""
    gain = noise(generator(split, "blotches"), BLOTCHES, BLOTCHES, cell=48, octaves=6)
    return np.clip(_MIDDLE + 32 * gain, 0, 255).astype(np.uint8)


@lru_cache(maxsize=4)
def cloud_maps(split: str) -> npt.NDArray[np.uint8]:
    """Return the clouds of four skies: uint8 (4, 256, 1024); larger values are thicker."""
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
