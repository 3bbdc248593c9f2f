"""Images to be laid on surfaces, and the noise and patterns that they are made of."""

from __future__ import annotations

import cv2
import numpy as np
import numpy.typing as npt

Color = tuple[float, float, float]  # BGR, 0 to 255
Image = npt.NDArray[np.uint8]
Gain = npt.NDArray[np.float32]

_SMALLEST = 6


def bgr(values: npt.ArrayLike) -> Color:
    """Three numbers as a colour, cut to what a pixel can hold."""
    blue, green, red = np.clip(np.asarray(values, float), 0, 255).tolist()
    return blue, green, red


class Texture:
    """An image with its halved copies, so that far surfaces do not shimmer.

    Args:
        image: uint8 (H, W, 3) BGR, or (H, W, 4) with alpha.
        glow: uint8 (H, W, 3) of light that the surface gives by itself in the dark, or None.
    """

    def __init__(self, image: Image, glow: Image | None = None) -> None:
        self.levels = _pyramid(image)
        self.glow = None if glow is None else _pyramid(glow)
        self._repeated: dict[int, Texture] = {}

    @property
    def shape(self) -> tuple[int, int]:
        """Rows and columns of the image in full."""
        rows, columns = self.levels[0].shape[:2]
        return rows, columns

    def repeated(self, count: int) -> Texture:
        """The image ``count`` times side by side, without glow."""
        if count not in self._repeated:
            self._repeated[count] = Texture(np.tile(self.levels[0], (1, count, 1)))
        return self._repeated[count]

    def level(self, texels_per_pixel: float) -> int:
        """The level that comes nearest to one texel for a pixel, without being coarser by much."""
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
    """Cloudy noise that repeats without a seam: float32 (rows, columns), mean 0, deviation 1.

    Args:
        rng: Where it comes from.
        rows: Height.
        columns: Width.
        cell: Size of the largest blots, pixels.
        octaves: How often blots of half the size and half the strength are added.
    """
    # Each octave is laid on the stretched sum of the coarser ones: only the last is at full size.
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
    """Bricks, slabs or planks.

    Args:
        rng: Where the bricks' shades come from.
        rows: Height of the pattern, pixels.
        columns: Width of the pattern, pixels.
        height: Of a brick, pixels.
        width: Of a brick, pixels.
        joint: Width of a joint, pixels; 0 for none.
        bond: Shift of every other course, in bricks.
        contrast: How far the bricks' shades differ.

    Returns:
        The gain of each pixel around 1, float32, and the joints, bool; both (rows, columns).
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
    """A colour, or an image, times a gain: uint8 (H, W, 3)."""
    base = np.asarray(color, np.float32)
    return np.clip(base * gain[..., None], 0, 255).astype(np.uint8)
