"""The line of a street, and its cross-section.

Everything along a street has road coordinates: s, metres driven along its middle line, and d,
metres to the right of it. The middle line bends; `Path` says where (s, d) lies in front of the
camera (the world axes of `upsnet_ros.datasets.scenes.camera`).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.float64]

#: How far ahead a street is drawn, metres.
FAR = 115.0

_BEHIND = 12.0
_STEP = 0.5


@dataclass(frozen=True, kw_only=True)
class Bend:
    """How a street winds: its heading swings by ``amplitude`` radians over ``length`` metres."""

    amplitude: float
    length: float
    phase: float

    def heading(self, s: Array) -> Array:
        """Heading at ``s``, radians clockwise from the street's mean direction."""
        return self.amplitude * np.sin(2 * np.pi * s / self.length + self.phase)


class Path:
    """The stretch of a street that a camera at (s, d) sees.

    Args:
        bend: The street's.
        s: Where the camera is along the street, metres.
        d: How far to the right of its middle, metres.
        yaw: How far the camera looks to the right of the street's direction, radians.
    """

    def __init__(self, bend: Bend, *, s: float, d: float, yaw: float) -> None:
        self.s, self.d = s, d
        self._grid = np.arange(-_BEHIND, FAR + _BEHIND, _STEP) + s
        self.heading = float(bend.heading(np.array([s]))[0]) + yaw
        turn = bend.heading(self._grid) - self.heading
        at = round(_BEHIND / _STEP)
        middle = [_integral(wave(turn), at) for wave in (np.sin, np.cos)]
        # The camera is the origin; it stands d to the right of the middle line.
        self._x = middle[0] - d * np.cos(turn[at])
        self._z = middle[1] + d * np.sin(turn[at])
        self._turn = turn
        self._first = float(self._grid[0])
        self._nodes = np.stack([self._x, self._z, turn], axis=1).tolist()

    def place(self, s: Array, d: Array, y: Array) -> Array:
        """World points (N, 3) of road coordinates (N,) and heights (N,), metres."""
        turn = np.interp(s, self._grid, self._turn)
        points = np.empty((len(s), 3))
        points[:, 0] = np.interp(s, self._grid, self._x) + d * np.cos(turn)
        points[:, 1] = y
        points[:, 2] = np.interp(s, self._grid, self._z) - d * np.sin(turn)
        return points

    def point(self, s: float, d: float) -> tuple[float, float, float]:
        """World x and z of one place on the ground, and the street's direction there."""
        # `place` for one point, without numpy's overhead.
        position = min(max((s - self._first) / _STEP, 0.0), len(self._nodes) - 1.001)
        low = int(position)
        share = position - low
        (x0, z0, turn0), (x1, z1, turn1) = self._nodes[low], self._nodes[low + 1]
        turn = turn0 + (turn1 - turn0) * share
        x = x0 + (x1 - x0) * share + d * math.cos(turn)
        return x, z0 + (z1 - z0) * share - d * math.sin(turn), turn

    def rows(self, z: Array) -> tuple[Array, Array, Array]:
        """The middle line at distances ``z`` ahead: s, x and turn, each (N,)."""
        s = np.interp(z, self._z, self._grid)
        return s, np.interp(s, self._grid, self._x), np.interp(s, self._grid, self._turn)


def _integral(values: Array, at: int) -> Array:
    steps = (values[1:] + values[:-1]) * (_STEP / 2)
    total = np.concatenate([[0.0], np.cumsum(steps)])
    return total - total[at]
