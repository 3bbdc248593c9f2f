"""A pinhole camera above the ground.

World axes, metres: x to the right of the camera, y up, z forward along the camera's heading; the
camera stands at (0, height, 0). Image axes, pixels: u to the right, v down; a pixel's centre has
whole coordinates.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.float64]

#: Nothing nearer than this is drawn, metres.
NEAR = 0.6


@dataclass(frozen=True, kw_only=True)
class Camera:
    """One frame's camera.

    Attributes:
        rows: Image height, pixels.
        columns: Image width, pixels.
        focal: Focal length, pixels.
        height: Above the ground, metres.
        pitch: Downward tilt, radians.
    """

    rows: int
    columns: int
    focal: float
    height: float
    pitch: float = 0.0

    @cached_property
    def matrix(self) -> Array:
        """(3, 4): from (x, y, z, 1) to (u, v, 1) times the depth."""
        cos, sin = np.cos(self.pitch), np.sin(self.pitch)
        intrinsics = np.array(
            [
                [self.focal, 0, (self.columns - 1) / 2],
                [0, self.focal, (self.rows - 1) / 2],
                [0, 0, 1],
            ]
        )
        # The camera's right, down and forward, as seen from the world.
        rotation = np.array([[1, 0, 0], [0, -cos, -sin], [0, -sin, cos]])
        offset = -rotation @ np.array([0, self.height, 0])
        return intrinsics @ np.column_stack([rotation, offset])

    @cached_property
    def horizon(self) -> float:
        """Row of the horizon, pixels."""
        return (self.rows - 1) / 2 - self.focal * float(np.tan(self.pitch))

    def project(self, points: Array) -> tuple[Array, Array]:
        """Pixels and depths of points.

        Args:
            points: (N, 3), all in front of the camera where the pixels matter.

        Returns:
            (N, 2) u and v; (N,) depth along the optical axis, metres.
        """
        seen = points @ self.matrix[:, :3].T + self.matrix[:, 3]
        depth = seen[:, 2]
        return seen[:, :2] / np.where(np.abs(depth) < 1e-9, 1e-9, depth)[:, None], depth

    def outline(self, points: Array) -> Array:
        """Pixels (M, 2) of a flat polygon (N, 3), cut off at `NEAR`; M may be 0."""
        seen = points @ self.matrix[:, :3].T + self.matrix[:, 3]
        before = seen[:, 2] >= NEAR
        if not before.all():
            if not before.any():
                return np.empty((0, 2))
            seen = _cut(seen, before)
        return seen[:, :2] / seen[:, 2:]

    def homography(self, origin: Array, across: Array, down: Array) -> Array:
        """(3, 3) from (a, b, 1) to (u, v, 1) for the points ``origin + a * across + b * down``."""
        axes = self.matrix[:, :3] @ np.column_stack([across, down, origin])
        axes[:, 2] += self.matrix[:, 3]
        return axes

    def inverse_depth(self, homography: Array) -> Array:
        """(3,) coefficients of u, v and 1 that give 1 / depth on a plane seen by ``homography``."""
        # The last row of the inverse, by cofactors: np.linalg.inv takes many times as long.
        (a, b, c), (d, e, f), (g, h, i) = homography.tolist()
        row = (d * h - e * g, b * g - a * h, a * e - b * d)
        size = a * (e * i - f * h) - b * (d * i - f * g) + c * (d * h - e * g)
        return np.array(row) / (size if abs(size) > 1e-12 else 1e-12)

    def ground_rows(self) -> tuple[int, Array, Array]:
        """Where the rows under the horizon meet the ground.

        Returns:
            First row; for it and all below, the distance z ahead and the metres of x a pixel.
        """
        first = max(0, int(np.floor(self.horizon)) + 1)
        slope = (np.arange(first, self.rows) - (self.rows - 1) / 2) / self.focal
        cos, sin = np.cos(self.pitch), np.sin(self.pitch)
        scale = self.height / np.maximum(slope * cos + sin, 1e-6)
        return first, scale * (cos - slope * sin), scale / self.focal


def _cut(seen: Array, before: npt.NDArray[np.bool_]) -> Array:
    kept = []
    for place in range(len(seen)):
        here, after = seen[place - 1], seen[place]
        if before[place - 1] != before[place]:
            share = (NEAR - here[2]) / (after[2] - here[2])
            kept.append(here + share * (after - here))
        if before[place]:
            kept.append(after)
    return np.array(kept)
