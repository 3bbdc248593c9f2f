"""Colours that stay apart for eyes that miss a cone."""

from __future__ import annotations

from functools import cache

import cv2
import numpy as np
import numpy.typing as npt

FloatArray = npt.NDArray[np.float64]
Color = tuple[int, int, int]

# Linear RGB as seen without one kind of cone: Machado, Oliveira and Fernandes, 2009, severity 1.
_VISIONS = {
    "full": np.eye(3),
    "protanopia": np.array(
        [
            [0.152286, 1.052583, -0.204868],
            [0.114503, 0.786281, 0.099216],
            [-0.003882, -0.048116, 1.051998],
        ]
    ),
    "deuteranopia": np.array(
        [
            [0.367322, 0.860646, -0.227968],
            [0.280085, 0.672501, 0.047413],
            [-0.011820, 0.042940, 0.968881],
        ]
    ),
    "tritanopia": np.array(
        [
            [1.255528, -0.076749, -0.178779],
            [-0.078411, 0.930809, 0.147602],
            [0.004733, 0.691367, 0.303900],
        ]
    ),
}
_STEPS = 12
#: Void is black and text on the page is dark or white: colours keep away from both.
_LIGHTNESS = (25.0, 93.0)


@cache
def safe_colors(count: int) -> tuple[Color, ...]:
    """Choose RGB colours, each as far as can be from those before it in the worst of all visions.

    The first ones are the best apart, so that few classes are told easily and many as well as
    possible.
    """
    levels = np.linspace(0, 255, _STEPS).round()
    grid = np.stack(np.meshgrid(levels, levels, levels), axis=-1).reshape(-1, 3)
    seen = _seen(grid)
    lightness = seen[0, :, 0]
    usable = (lightness >= _LIGHTNESS[0]) & (lightness <= _LIGHTNESS[1])
    grid, seen = grid[usable], seen[:, usable]
    chosen = [int(np.argmax(seen[0, :, 0]))]  # the lightest of them
    nearest = _distance(seen, chosen[0])
    while len(chosen) < count:
        chosen.append(int(np.argmax(nearest)))
        nearest = np.minimum(nearest, _distance(seen, chosen[-1]))
    return tuple((int(r), int(g), int(b)) for r, g, b in grid[chosen[:count]])


def worst_distance(colors: npt.ArrayLike) -> float:
    """Smallest CIELAB distance of any two RGB colours (N, 3), in the worst of all visions."""
    seen = _seen(np.asarray(colors, np.float64))
    between = np.linalg.norm(seen[:, :, None] - seen[:, None], axis=-1)
    places = np.arange(seen.shape[1])
    between[:, places, places] = np.inf
    return float(between.min())


def _distance(seen: FloatArray, place: int) -> FloatArray:
    """Distance of each colour from one of them, in the vision where it is smallest: (N,)."""
    return np.linalg.norm(seen - seen[:, place : place + 1], axis=-1).min(axis=0)


def _seen(colors: FloatArray) -> FloatArray:
    """CIELAB of RGB colours (N, 3) in each vision: (V, N, 3)."""
    srgb = colors / 255
    linear = np.where(srgb <= 0.04045, srgb / 12.92, ((srgb + 0.055) / 1.055) ** 2.4)
    views = np.stack([np.clip(linear @ matrix.T, 0, 1) for matrix in _VISIONS.values()])
    lab = cv2.cvtColor(views.astype(np.float32), cv2.COLOR_LRGB2Lab)
    return np.asarray(lab, np.float64)
