"""The common interface of datasets: labelled samples with things, as bit masks or polygons.

Training paints shapes on the image grid and rasterises them inside boxes. Pixel (x, y) is centred
on (x, y).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Protocol

import cv2
import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw

from upsnet_ros.datasets.taxonomy import Taxonomy

Floats = npt.NDArray[np.float32]
Bytes = npt.NDArray[np.uint8]


class Shape(Protocol):
    """The interface of shapes; coordinates are image pixels."""

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
        """Return the shape of an image-sized mask, bool (H, W).

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

        A box includes its corner pixels, as when the network pastes masks. A bin is covered if the
        mean of four bilinear samples is at least 0.5.
        """
        # Late: most who read a dataset need no torch, and torchvision imports its compiler, too.
        import torch
        from torchvision.ops import roi_align

        # Pad with zeros, because roi_align repeats edge values half a pixel beyond the border.
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
        """Return the outer contours as polygons, as in the original's conversion of masks."""
        contours, _ = cv2.findContours(
            self.mask.astype(np.uint8), cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE
        )
        shift = np.array([self.x, self.y])
        parts = [(contour[:, 0] + shift).reshape(-1) for contour in contours]
        # pycocotools interprets four numbers as a box, so a polygon needs three points.
        return Polygons.of([np.resize(part, max(len(part), 6)) for part in parts])


@dataclass(frozen=True, slots=True, eq=False)
class Polygons:
    """One or more polygons, each float32 (2 n,): x0, y0, x1, y1, ... with n >= 3."""

    parts: tuple[Floats, ...]

    @classmethod
    def of(cls, parts: Sequence[npt.ArrayLike]) -> Polygons:
        """Return the shape of lists of coordinates, as in COCO annotations.

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

        A box spans x1 to x2, excluding the corner pixel, as in the original.

        Raises:
            ModuleNotFoundError: pycocotools is not installed.
        """
        from pycocotools import mask as coco_mask  # only polygons need it

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


#: Value of pixels without a class in `Sample.semantic`.
VOID = 255


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Thing:
    """One labelled object.

    Attributes:
        semantic_id: Its thing class, in UPSNet's order.
        box: (x1, y1, x2, y2) in image pixels, corners inclusive.
        shape: Its pixels.
        crowd: Whether it is a group of unseparated instances.
        number: Its number among the objects of its class, constant along a sequence; None if the
            dataset has no such numbers.
    """

    semantic_id: int
    box: tuple[float, float, float, float]
    shape: Shape
    crowd: bool = False
    number: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Sample:
    """One labelled image.

    Attributes:
        name: Identifies the sample in messages, usually a path.
        image: uint8 (H, W, 3), BGR.
        semantic: uint8 (H, W): class in UPSNet's order; `VOID` for pixels without a class.
        things: The objects of thing classes.
        unknown: bool (H, W): pixels of objects outside the taxonomy (void in ``semantic``); None if
            the dataset does not distinguish them from other void.
        frame: Name in evaluations, if the file name alone is not unique; otherwise empty.
    """

    name: str
    image: npt.NDArray[np.uint8]
    semantic: npt.NDArray[np.uint8]
    things: tuple[Thing, ...]
    unknown: npt.NDArray[np.bool_] | None = None
    frame: str = ""

    @property
    def size(self) -> tuple[int, int]:
        """Height and width of the image."""
        return self.image.shape[0], self.image.shape[1]

    def mirrored(self) -> Sample:
        """Return the sample mirrored left to right."""
        width = self.size[1]
        things = []
        for thing in self.things:
            x1, y1, x2, y2 = thing.box
            box = (width - x2 - 1, y1, width - x1 - 1, y2)
            things.append(replace(thing, box=box, shape=thing.shape.flipped(width)))
        return replace(
            self,
            image=np.ascontiguousarray(self.image[:, ::-1]),
            semantic=np.ascontiguousarray(self.semantic[:, ::-1]),
            things=tuple(things),
            unknown=None if self.unknown is None else self.unknown[:, ::-1].copy(),
        )

    def cropped(self, *, x1: int, y1: int, x2: int, y2: int) -> Sample:
        """Return the sample cropped to columns x1 .. x2 - 1 and rows y1 .. y2 - 1."""
        window = (slice(y1, y2), slice(x1, x2))
        things = []
        for thing in self.things:
            part = thing.shape.paint(np.arange(y1, y2), np.arange(x1, x2)).astype(bool)
            if part.any():
                shape = Bitmask.of(part)
                things.append(replace(thing, box=shape.bounds, shape=shape))
        return replace(
            self,
            image=np.ascontiguousarray(self.image[window]),
            semantic=np.ascontiguousarray(self.semantic[window]),
            things=tuple(things),
            unknown=None if self.unknown is None else self.unknown[window].copy(),
        )


class Dataset(Protocol):
    """Labelled images in a fixed order, read on access."""

    taxonomy: Taxonomy

    def __len__(self) -> int:
        """Number of images."""

    def __getitem__(self, index: int) -> Sample:
        """Read image number ``index``.

        Raises:
            DatasetError: A file is missing or invalid; the message names it.
        """


def things_of_map(
    ids: npt.NDArray[np.int32],
    classes: Mapping[int, int],
    *,
    crowds: frozenset[int] = frozenset(),
    numbers: Mapping[int, int] = MappingProxyType({}),
) -> tuple[Thing, ...]:
    """Return the objects of a map of object ids, sorted by id.

    Args:
        ids: int32 (H, W): object id of each pixel; ids not in ``classes`` are skipped.
        classes: ``semantic_id`` of each object id.
        crowds: Ids of groups.
        numbers: `Thing.number` by id.
    """
    wanted = np.isin(ids, list(classes))
    if not wanted.any():
        return ()
    rows, columns = np.nonzero(wanted)
    values = ids[rows, columns]
    order = np.argsort(values, kind="stable")
    rows, columns, values = rows[order], columns[order], values[order]
    present, first = np.unique(values, return_index=True)
    things = []
    for object_id, y, x in zip(
        present.tolist(), np.split(rows, first[1:]), np.split(columns, first[1:]), strict=True
    ):
        top, left = int(y.min()), int(x.min())
        mask = np.zeros((int(y.max()) - top + 1, int(x.max()) - left + 1), bool)
        mask[y - top, x - left] = True
        shape = Bitmask(mask, left, top)
        things.append(
            Thing(
                semantic_id=classes[object_id],
                box=shape.bounds,
                shape=shape,
                crowd=object_id in crowds,
                number=numbers.get(object_id),
            )
        )
    return tuple(things)
