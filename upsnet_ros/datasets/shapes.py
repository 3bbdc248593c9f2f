"""The shape of one labelled object: polygons as annotated, or a bit mask.

Both can be painted on their image's grid and rasterised inside a box, which is what training asks
of them. Pixel (x, y) is centred on (x, y).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import cv2
import numpy as np
import numpy.typing as npt
import torch
from PIL import Image, ImageDraw
from pycocotools import mask as coco_mask
from torchvision.ops import roi_align

Floats = npt.NDArray[np.float32]
Bytes = npt.NDArray[np.uint8]


class Shape(Protocol):
    """What training asks of a shape; coordinates are pixels of the shape's image."""

    @property
    def bounds(self) -> tuple[float, float, float, float]:
        """Tight (x1, y1, x2, y2), corners inclusive."""

    def paint(self, rows: npt.NDArray[np.intp], columns: npt.NDArray[np.intp]) -> Bytes:
        """Return uint8 (len(rows), len(columns)): 1 where that pixel belongs to the shape."""

    def rasterise(self, boxes: Floats, resolution: int) -> Bytes:
        """Return uint8 (K, resolution, resolution): 1 for the bins of boxes (K, 4) it covers."""

    def flipped(self, width: int) -> Shape:
        """Return the shape in an image of that width mirrored left to right."""


@dataclass(frozen=True, slots=True, eq=False)
class Bitmask:
    """The pixels inside a tight rectangle.

    Attributes:
        mask: bool (height, width) of the rectangle.
        x: Column of its left edge in the image.
        y: Row of its upper edge.
    """

    mask: npt.NDArray[np.bool_]
    x: int
    y: int

    @classmethod
    def of(cls, mask: npt.NDArray[np.bool_]) -> Bitmask:
        """Take the pixels of an image-sized mask, bool (H, W), that has at least one.

        Raises:
            ValueError: The mask is empty.
        """
        rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
        if len(rows) == 0:
            raise ValueError("an object without pixels has no shape")
        y, x = int(rows[0]), int(columns[0])
        return cls(mask[y : rows[-1] + 1, x : columns[-1] + 1].copy(), x, y)

    @property
    def bounds(self) -> tuple[float, float, float, float]:
        """Tight (x1, y1, x2, y2), corners inclusive."""
        height, width = self.mask.shape
        return (float(self.x), float(self.y), float(self.x + width - 1), float(self.y + height - 1))

    def paint(self, rows: npt.NDArray[np.intp], columns: npt.NDArray[np.intp]) -> Bytes:
        """Return uint8 (len(rows), len(columns)): 1 where that pixel belongs to the shape."""
        height, width = self.mask.shape
        painted = np.zeros((len(rows), len(columns)), np.uint8)
        inside_y = np.flatnonzero((rows >= self.y) & (rows < self.y + height))
        inside_x = np.flatnonzero((columns >= self.x) & (columns < self.x + width))
        part = self.mask[np.ix_(rows[inside_y] - self.y, columns[inside_x] - self.x)]
        painted[np.ix_(inside_y, inside_x)] = part
        return painted

    def rasterise(self, boxes: Floats, resolution: int) -> Bytes:
        """Return uint8 (K, resolution, resolution): 1 for the bins of boxes (K, 4) it covers.

        A box spans the whole of its corner pixels, as it does where the network pastes masks; a
        bin counts where at least half of four bilinear samples lie in the shape.
        """
        # A ring of zeros: roi_align repeats edge values for half a pixel beyond the border.
        padded = np.pad(self.mask, 1).astype(np.float32)
        edges = boxes + np.array([1 - self.x, 1 - self.y, 2 - self.x, 2 - self.y], np.float32)
        rois = np.concatenate((np.zeros((len(boxes), 1), np.float32), edges), axis=1)
        bins = roi_align(
            torch.from_numpy(padded)[None, None],
            torch.from_numpy(rois),
            resolution,
            sampling_ratio=2,
            aligned=True,
        )
        return (bins[:, 0] >= 0.5).to(torch.uint8).numpy()

    def flipped(self, width: int) -> Bitmask:
        """Return the shape in an image of that width mirrored left to right."""
        return Bitmask(
            np.ascontiguousarray(self.mask[:, ::-1]), width - self.x - self.mask.shape[1], self.y
        )

    def outline(self) -> Polygons:
        """Return the outer contours, as the original's annotations were made from masks."""
        contours, _ = cv2.findContours(
            self.mask.astype(np.uint8), cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE
        )
        shift = np.array([self.x, self.y])
        parts = [(contour[:, 0] + shift).reshape(-1) for contour in contours]
        # pycocotools reads four numbers as a box, so that a polygon needs three points.
        return Polygons.of([np.resize(part, max(len(part), 6)) for part in parts])


@dataclass(frozen=True, slots=True, eq=False)
class Polygons:
    """One or more polygons, each float32 (2 n,): x0, y0, x1, y1, ... with n >= 3."""

    parts: tuple[Floats, ...]

    @classmethod
    def of(cls, parts: Sequence[npt.ArrayLike]) -> Polygons:
        """Take lists of coordinates, as COCO annotations have them.

        Raises:
            ValueError: There is no polygon, or one has fewer than three points.
        """
        arrays = tuple(np.asarray(part, np.float32).reshape(-1) for part in parts)
        if not arrays or any(len(part) < 6 or len(part) % 2 for part in arrays):
            raise ValueError("a polygon needs at least three points, as pairs of x and y")
        return cls(arrays)

    @property
    def bounds(self) -> tuple[float, float, float, float]:
        """Tight (x1, y1, x2, y2) of the points."""
        points = np.concatenate(self.parts).reshape(-1, 2)
        (x1, y1), (x2, y2) = points.min(axis=0).tolist(), points.max(axis=0).tolist()
        return (x1, y1, x2, y2)

    def paint(self, rows: npt.NDArray[np.intp], columns: npt.NDArray[np.intp]) -> Bytes:
        """Return uint8 (len(rows), len(columns)): 1 on and inside the outlines."""
        size = (int(columns.max()) + 1, int(rows.max()) + 1)
        canvas = Image.new("L", size, 0)
        draw = ImageDraw.Draw(canvas)
        for part in self.parts:
            draw.polygon(part.tolist(), outline=1, fill=1)
        return np.asarray(canvas)[np.ix_(rows, columns)]

    def rasterise(self, boxes: Floats, resolution: int) -> Bytes:
        """Return uint8 (K, resolution, resolution): 1 for the bins of boxes (K, 4) it covers.

        A box spans x1 .. x2 without the +1, as in the original.
        """
        bins = np.empty((len(boxes), resolution, resolution), np.uint8)
        for box, out in zip(boxes, bins, strict=True):
            corner, extent = box[:2], np.maximum(box[2:] - box[:2], 1)
            scaled = [
                ((part.reshape(-1, 2) - corner) * resolution / extent).reshape(-1).tolist()
                for part in self.parts
            ]
            encoded = coco_mask.merge(coco_mask.frPyObjects(scaled, resolution, resolution))
            out[:] = coco_mask.decode(encoded)
        return bins

    def flipped(self, width: int) -> Polygons:
        """Return the shape in an image of that width mirrored left to right."""
        mirrored = []
        for part in self.parts:
            points = part.reshape(-1, 2).copy()
            points[:, 0] = width - points[:, 0] - 1
            mirrored.append(points.reshape(-1))
        return Polygons(tuple(mirrored))
