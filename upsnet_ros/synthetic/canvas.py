"""A pinhole camera above the ground, and the canvas: colour and surface of every pixel.

World axes, metres: x to the right of the camera, y up, z forward along the camera's heading; the
camera stands at (0, height, 0). Image axes, pixels: u to the right, v down; a pixel's centre has
integer coordinates.

Colour and surface are always filled with the same mask, so the labels that come from the surfaces
are exact. A surface has a label, and a plane that gives the depth and the haze of each pixel.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property

import cv2
import numpy as np
import numpy.typing as npt

from upsnet_ros.synthetic.texture import Color, Texture

Array = npt.NDArray[np.float64]

#: Nothing nearer to the camera than this is rendered, metres.
NEAR = 0.6


@dataclass(frozen=True, kw_only=True)
class Camera:
    """The pinhole camera of one frame.

    Attributes:
        rows: Image height, pixels.
        columns: Image width, pixels.
        focal: Focal length, pixels.
        height: Height above the ground, metres.
        pitch: Downward tilt, radians.
    """

    rows: int
    columns: int
    focal: float
    height: float
    pitch: float = 0.0

    @cached_property
    def matrix(self) -> Array:
        """Projection matrix (3, 4), from (x, y, z, 1) to (u, v, 1) times the depth."""
        cos, sin = np.cos(self.pitch), np.sin(self.pitch)
        intrinsics = np.array(
            [
                [self.focal, 0, (self.columns - 1) / 2],
                [0, self.focal, (self.rows - 1) / 2],
                [0, 0, 1],
            ]
        )
        # Rows: the camera's right, down and forward directions in world axes.
        rotation = np.array([[1, 0, 0], [0, -cos, -sin], [0, -sin, cos]])
        offset = -rotation @ np.array([0, self.height, 0])
        return intrinsics @ np.column_stack([rotation, offset])

    @cached_property
    def horizon(self) -> float:
        """Row of the horizon, pixels."""
        return (self.rows - 1) / 2 - self.focal * float(np.tan(self.pitch))

    def project(self, points: Array) -> tuple[Array, Array]:
        """Return the pixels and depths of world points.

        Args:
            points: (N, 3), metres; pixels of points behind the camera are meaningless.

        Returns:
            (N, 2) u and v; (N,) depth along the optical axis, metres.
        """
        seen = points @ self.matrix[:, :3].T + self.matrix[:, 3]
        depth = seen[:, 2]
        return seen[:, :2] / np.where(np.abs(depth) < 1e-9, 1e-9, depth)[:, None], depth

    def outline(self, points: Array) -> Array:
        """Return the pixels (M, 2) of a flat polygon (N, 3), clipped at `NEAR`; M may be 0."""
        seen = points @ self.matrix[:, :3].T + self.matrix[:, 3]
        before = seen[:, 2] >= NEAR
        if not before.all():
            if not before.any():
                return np.empty((0, 2))
            seen = _cut(seen, before)
        return seen[:, :2] / seen[:, 2:]

    def homography(self, origin: Array, across: Array, down: Array) -> Array:
        """Return the homography (3, 3) of a plane, from (a, b, 1) to (u, v, 1).

        (a, b) stands for the world point ``origin + a * across + b * down``.
        """
        axes = self.matrix[:, :3] @ np.column_stack([across, down, origin])
        axes[:, 2] += self.matrix[:, 3]
        return axes

    def inverse_depth(self, homography: Array) -> Array:
        """Return the coefficients (3,) of u, v and 1 that give 1 / depth on a plane."""
        # The last row of the inverse, by cofactors: np.linalg.inv takes many times as long.
        (a, b, c), (d, e, f), (g, h, i) = homography.tolist()
        row = (d * h - e * g, b * g - a * h, a * e - b * d)
        size = a * (e * i - f * h) - b * (d * i - f * g) + c * (d * h - e * g)
        return np.array(row) / (size if abs(size) > 1e-12 else 1e-12)

    def ground_rows(self) -> tuple[int, Array, Array]:
        """Return where the rows below the horizon meet the ground.

        Returns:
            The first row (int); for it and all below, the distance z ahead in metres, and the
            metres in x per pixel, (rows,) each.
        """
        first = max(0, int(np.floor(self.horizon)) + 1)
        slope = (np.arange(first, self.rows) - (self.rows - 1) / 2) / self.focal
        cos, sin = np.cos(self.pitch), np.sin(self.pitch)
        scale = self.height / np.maximum(slope * cos + sin, 1e-6)
        return first, scale * (cos - slope * sin), scale / self.focal


def _cut(seen: Array, before: npt.NDArray[np.bool_]) -> Array:
    kept = []
    for index in range(len(seen)):
        here, after = seen[index - 1], seen[index]
        if before[index - 1] != before[index]:
            share = (NEAR - here[2]) / (after[2] - here[2])
            kept.append(here + share * (after - here))
        if before[index]:
            kept.append(after)
    return np.array(kept)


_SHIFT = 4  # fractional bits of OpenCV's coordinates, so that edges move by less than a pixel
_UNIT = 1 << _SHIFT
_LIMIT = 1 << 14
_OPAQUE = 127


@dataclass(slots=True)
class Surfaces:
    """The surfaces of one frame, by index.

    Attributes:
        labels: Label of each surface, as in `SceneFrame.instances`.
        planes: Coefficients (a, b, c) of each: 1 / depth at pixel (u, v) is ``a * u + b * v + c``.
        bounds: Smallest and largest 1 / depth of each, for pixels at the edge of a polygon that is
            seen edge-on, which lie beside its plane.
        bodies: For each, the surface whose haze and outline it shares: itself, or for a facet the
            body that it belongs to.
    """

    labels: list[int] = field(default_factory=list)
    planes: list[tuple[float, float, float]] = field(default_factory=list)
    bounds: list[tuple[float, float]] = field(default_factory=list)
    bodies: list[int] = field(default_factory=list)

    def add(self, label: int, plane: Array | float) -> int:
        """Add a surface on a plane, or at a constant depth in metres; return its index."""
        self.labels.append(label)
        if isinstance(plane, float | int):
            self.planes.append((0.0, 0.0, 1.0 / plane))
        else:
            self.planes.append((float(plane[0]), float(plane[1]), float(plane[2])))
        self.bounds.append((-np.inf, np.inf))
        self.bodies.append(len(self.labels) - 1)
        return len(self.labels) - 1

    def facet(self, body: int, plane: Array, depths: Array) -> int:
        """Add a flat side of the surface ``body``; return its index.

        Args:
            body: Index of the surface whose label, haze and outline the facet shares.
            plane: (3,), coefficients of the facet's plane, as in `planes`.
            depths: (N,), depths of its corners, metres.
        """
        number = self.add(self.labels[body], plane)
        inverse = 1 / np.maximum(depths, NEAR)
        self.bounds[number] = float(inverse.min()), float(inverse.max())
        self.bodies[number] = body
        return number


class Canvas:
    """An image to paint on, far things first: later paint hides what was painted before.

    Attributes:
        color: uint8 (rows, columns, 3), BGR.
        surface: int32 (rows, columns), index of the surface in `surfaces`.
        surfaces: All surfaces so far.
        ground: Indices of the ground's surfaces.
    """

    def __init__(self, rows: int, columns: int) -> None:
        self.rows, self.columns = rows, columns
        self.color = np.zeros((rows, columns, 3), np.uint8)
        self.surface = np.zeros((rows, columns), np.int32)
        self.surfaces = Surfaces()
        self.ground = range(0)

    def polygon(self, points: Array, color: Color, surface: int) -> None:
        """Fill a convex polygon; ``points`` (N, 2) are pixels."""
        if len(points) < 3 or not self.meets(points):
            return
        fixed = _fixed(points)
        cv2.fillConvexPoly(self.color, fixed, color, cv2.LINE_8, _SHIFT)
        cv2.fillConvexPoly(self.surface, fixed, (surface,), cv2.LINE_8, _SHIFT)

    def shape(self, points: Array, color: Color, surface: int) -> None:
        """Fill a polygon that need not be convex; ``points`` (N, 2) are pixels."""
        if len(points) < 3 or not self.meets(points):
            return
        fixed = [_fixed(points)]
        cv2.fillPoly(self.color, fixed, color, cv2.LINE_8, _SHIFT)
        cv2.fillPoly(self.surface, fixed, (surface,), cv2.LINE_8, _SHIFT)

    def line(
        self, points: Array, thickness: float, color: Color, surface: int, *, closed: bool = False
    ) -> None:
        """Draw a line through pixels (N, 2), ``thickness`` pixels wide but at least one."""
        if len(points) < 2 or not self.meets(points, margin=thickness):
            return
        fixed, wide = [_fixed(points)], max(1, round(thickness))
        cv2.polylines(self.color, fixed, closed, color, wide, cv2.LINE_8, _SHIFT)
        cv2.polylines(self.surface, fixed, closed, (surface,), wide, cv2.LINE_8, _SHIFT)

    def disc(self, middle: Array, radius: float, color: Color, surface: int) -> None:
        """Fill a circle of ``radius`` pixels around a pixel (2,)."""
        u, v = middle.tolist()
        if not (-radius < u < self.columns + radius and -radius < v < self.rows + radius):
            return
        centre, size = (round(u * _UNIT), round(v * _UNIT)), max(1, round(radius * _UNIT))
        cv2.circle(self.color, centre, size, color, -1, cv2.LINE_8, _SHIFT)
        cv2.circle(self.surface, centre, size, (surface,), -1, cv2.LINE_8, _SHIFT)

    def blend(
        self, points: Array, color: Color, share: float, surface: int, *, presence: float = 1.0
    ) -> None:
        """Blend a convex polygon (N, 2) with what is behind it; ``share`` is its opacity, 0 to 1.

        If ``presence`` is less than one half, the pixels keep their surface.
        """
        if len(points) < 3 or not self.meets(points):
            return
        left, top = np.floor(points.min(axis=0)).astype(int).clip(0)
        right, bottom = np.ceil(points.max(axis=0)).astype(int) + 1
        area = (slice(top, min(bottom, self.rows)), slice(left, min(right, self.columns)))
        behind = self.color[area].copy()
        owners = None if presence >= 0.5 else self.surface[area].copy()
        self.polygon(points, color, surface)
        if owners is not None:
            self.surface[area] = owners
        front = self.color[area]
        self.color[area] = cv2.addWeighted(front, share, behind, 1 - share, 0)

    def texture(
        self,
        outline: Array,
        homography: Array,
        texture: Texture,
        surface: int,
        *,
        shade: Color = (1.0, 1.0, 1.0),
        dark: float = 0.0,
        solid: bool = False,
        presence: float = 1.0,
    ) -> None:
        """Paint a convex polygon with a texture.

        Args:
            outline: (N, 2) pixels.
            homography: (3, 3) from the texture's unit square (right, down) to pixels.
            texture: The texture. Pixels with an alpha below one half are not painted.
            surface: Index of the surface.
            shade: Factors of the texture's colours, BGR.
            dark: Share of the texture's glow that is added, 0 to 1.
            solid: Whether all pixels belong to the surface, with the texture blended over them.
            presence: Opacity, 0 to 1; below one half, the pixels keep their surface.
        """
        if len(outline) < 3:
            return
        left, top = np.floor(outline.min(axis=0)).astype(int).clip(0)
        right, bottom = np.ceil(outline.max(axis=0)).astype(int) + 1
        right, bottom = min(right, self.columns), min(bottom, self.rows)
        if right - left < 1 or bottom - top < 1:
            return
        rows, columns = texture.shape
        extent = np.ptp(outline, axis=0)
        level = texture.level(min(columns / (extent[0] + 0.1), rows / (extent[1] + 0.1)))
        image = texture.levels[level]
        warp = _texels_to_pixels(homography, image.shape[:2], left, top)
        size = (int(right - left), int(bottom - top))
        patch = _warp(image, warp, size)
        mask = np.zeros((size[1], size[0]), np.uint8)
        cv2.fillConvexPoly(mask, _fixed(outline - (left, top)), (1,), cv2.LINE_8, _SHIFT)
        alpha = None
        if patch.shape[2] == 4:
            alpha = cv2.extractChannel(patch, 3)
            patch = np.asarray(cv2.cvtColor(patch, cv2.COLOR_BGRA2BGR), np.uint8)
        if shade != (1.0, 1.0, 1.0):
            patch = np.asarray(cv2.multiply(patch, np.array([*shade, 0.0])), np.uint8)
        if dark > 0 and texture.glow is not None:
            light = _warp(texture.glow[level], warp, size)
            patch = np.asarray(cv2.scaleAdd(light, dark, patch), np.uint8)
        area = (slice(top, bottom), slice(left, right))
        color = self.color[area]
        if alpha is not None and not solid:
            mask &= (np.asarray(alpha, np.uint8) > _OPAQUE).view(np.uint8)
        if presence < 1 or (alpha is not None and solid):
            share = mask * np.float32(presence)
            if alpha is not None and solid:
                share *= np.asarray(alpha, np.float32) / 255
            color[:] = cv2.blendLinear(color, patch, 1 - share, share)
        else:
            cv2.copyTo(patch, mask, color)
        if presence >= 0.5:
            self.surface[area][mask.view(bool)] = surface

    def outlines(self) -> npt.NDArray[np.int32]:
        """Return `surface`, int32 (rows, columns), with facets replaced by their bodies."""
        return np.take(np.array(self.surfaces.bodies, np.int32), self.surface)

    def inverse_depth(self, surface: npt.NDArray[np.int32]) -> npt.NDArray[np.float32]:
        """Return 1 / depth of each pixel, float32 (rows, columns), 1/metres; at most 0 in the sky.

        Args:
            surface: int32 (rows, columns): `surface` for depth, or `outlines` for haze.
        """
        a, b, c = np.array(self.surfaces.planes, np.float32).T
        inverse = np.take(a, surface) * np.arange(self.columns, dtype=np.float32)
        inverse += np.take(b, surface) * np.arange(self.rows, dtype=np.float32)[:, None]
        inverse += np.take(c, surface)
        return inverse

    def depth(self) -> npt.NDArray[np.float32]:
        """Return the depth of each pixel, float32 (rows, columns), metres; infinity in the sky."""
        low, high = np.array(self.surfaces.bounds, np.float32).T
        inverse = self.inverse_depth(self.surface)
        np.clip(inverse, np.take(low, self.surface), np.take(high, self.surface), out=inverse)
        # Infinity is what REP 117 and 118 ask for where something is too far to be measured.
        depth = np.full(inverse.shape, np.inf, np.float32)
        return np.divide(np.float32(1), inverse, out=depth, where=inverse > 0)

    def meets(self, points: Array, margin: float = 0.0) -> bool:
        """Return whether the bounding box of pixels (N, 2), plus a margin, overlaps the canvas."""
        # Plain Python: for a handful of points it is much faster than numpy's reductions.
        u, v = zip(*points.tolist(), strict=True)
        return (
            max(u) >= -margin
            and max(v) >= -margin
            and min(u) < self.columns + margin
            and min(v) < self.rows + margin
        )


def _fixed(points: Array) -> npt.NDArray[np.int32]:
    return np.rint(np.minimum(np.maximum(points, -_LIMIT), _LIMIT) * _UNIT).astype(np.int32)


def _texels_to_pixels(homography: Array, shape: tuple[int, ...], left: int, top: int) -> Array:
    rows, columns = shape
    # From texel centres to the unit square, and from the image's corner to the patch's.
    warp = homography / (columns, rows, 1.0)
    warp[:, 2] += (warp[:, 0] + warp[:, 1]) / 2
    warp[:2] -= np.outer((left, top), warp[2])
    return warp


def _warp(
    image: npt.NDArray[np.uint8], warp: Array, size: tuple[int, int]
) -> npt.NDArray[np.uint8]:
    patch = cv2.warpPerspective(
        image, warp, size, flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE
    )
    return np.asarray(patch, np.uint8)
