"""What a frame is painted on: colours, and for each pixel the surface that was painted last.

Colour and surface are always filled with the same mask, so the labels that come from the surfaces
are exact. A surface has a label and a plane, from which come each pixel's depth and haze.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import cv2
import numpy as np
import numpy.typing as npt

from upsnet_ros.datasets.scenes.camera import Array
from upsnet_ros.datasets.scenes.texture import Color, Texture

_SHIFT = 4  # cv2's fixed-point coordinates: edges that fall between pixels do not jump
_UNIT = 1 << _SHIFT
_LIMIT = 1 << 14
_OPAQUE = 127


@dataclass(slots=True)
class Surfaces:
    """The surfaces of one frame, by number.

    Attributes:
        labels: What a pixel of each is labelled.
        planes: (a, b, c) of each, where 1 / depth at pixel (u, v) is ``a * u + b * v + c``.
    """

    labels: list[int] = field(default_factory=list)
    planes: list[tuple[float, float, float]] = field(default_factory=list)

    def add(self, label: int, plane: Array | float) -> int:
        """Adds a surface, of a plane or of one depth in metres, and returns its number."""
        self.labels.append(label)
        if isinstance(plane, float | int):
            self.planes.append((0.0, 0.0, 1.0 / plane))
        else:
            self.planes.append((float(plane[0]), float(plane[1]), float(plane[2])))
        return len(self.labels) - 1


class Canvas:
    """Paints polygons and textures; what is painted later hides what was painted before.

    Attributes:
        color: uint8 (rows, columns, 3), BGR.
        surface: int32 (rows, columns), number of the surface in `surfaces`.
        surfaces: All surfaces so far.
        ground: Numbers of those that are ground.
    """

    def __init__(self, rows: int, columns: int) -> None:
        self.rows, self.columns = rows, columns
        self.color = np.zeros((rows, columns, 3), np.uint8)
        self.surface = np.zeros((rows, columns), np.int32)
        self.surfaces = Surfaces()
        self.ground = range(0)

    def polygon(self, points: Array, color: Color, surface: int) -> None:
        """Fills a convex polygon; ``points`` (N, 2) pixels."""
        if len(points) < 3 or not self.meets(points):
            return
        fixed = _fixed(points)
        cv2.fillConvexPoly(self.color, fixed, color, cv2.LINE_8, _SHIFT)
        cv2.fillConvexPoly(self.surface, fixed, (surface,), cv2.LINE_8, _SHIFT)

    def shape(self, points: Array, color: Color, surface: int) -> None:
        """Fills any polygon; ``points`` (N, 2) pixels."""
        if len(points) < 3 or not self.meets(points):
            return
        fixed = [_fixed(points)]
        cv2.fillPoly(self.color, fixed, color, cv2.LINE_8, _SHIFT)
        cv2.fillPoly(self.surface, fixed, (surface,), cv2.LINE_8, _SHIFT)

    def line(
        self, points: Array, thickness: float, color: Color, surface: int, *, closed: bool = False
    ) -> None:
        """Draws a line through ``points`` (N, 2), ``thickness`` pixels wide, at least one."""
        if len(points) < 2 or not self.meets(points, margin=thickness):
            return
        fixed, wide = [_fixed(points)], max(1, round(thickness))
        cv2.polylines(self.color, fixed, closed, color, wide, cv2.LINE_8, _SHIFT)
        cv2.polylines(self.surface, fixed, closed, (surface,), wide, cv2.LINE_8, _SHIFT)

    def veil(
        self, points: Array, color: Color, share: float, surface: int, *, presence: float = 1.0
    ) -> None:
        """Fills a convex polygon (N, 2) through which ``1 - share`` of what lies behind shines.

        With a ``presence`` of less than one half the pixels stay those of what lies behind.
        """
        if len(points) < 3 or not self.meets(points):
            return
        left, top = np.floor(points.min(axis=0)).astype(int).clip(0)
        right, bottom = np.ceil(points.max(axis=0)).astype(int) + 1
        place = (slice(top, min(bottom, self.rows)), slice(left, min(right, self.columns)))
        behind = self.color[place].copy()
        owners = None if presence >= 0.5 else self.surface[place].copy()
        self.polygon(points, color, surface)
        if owners is not None:
            self.surface[place] = owners
        front = self.color[place]
        self.color[place] = cv2.addWeighted(front, share, behind, 1 - share, 0)

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
        """Lays a texture on a convex polygon.

        Args:
            outline: (N, 2) pixels.
            homography: (3, 3) from the texture's unit square (right, down) to pixels.
            texture: Where it has alpha, pixels under one half are left out.
            surface: Number of the surface.
            shade: What the texture's colours are multiplied by, BGR.
            dark: How much of the texture's own light is seen, 0 to 1.
            solid: Whether all pixels belong to the surface; the texture is blended over them then.
            presence: Less than 1 lets what lies behind shine through, and less than one half leaves
                the pixels to it.
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
        place = (slice(top, bottom), slice(left, right))
        color = self.color[place]
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
            self.surface[place][mask.view(bool)] = surface

    def meets(self, points: Array, margin: float = 0.0) -> bool:
        """Whether the bounds of ``points`` (N, 2), grown by ``margin``, and the canvas overlap."""
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
