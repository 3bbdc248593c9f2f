"""What every data set for training yields, whatever its files look like."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Protocol

import numpy as np
import numpy.typing as npt

from upsnet_ros.datasets.shapes import Bitmask, Shape
from upsnet_ros.datasets.taxonomy import Taxonomy

#: Value of pixels without a class in `Sample.semantic`.
VOID = 255


class DatasetError(ValueError):
    """A data set cannot be read; the message names the file and what is wrong with it."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Thing:
    """One labelled object.

    Attributes:
        semantic_id: Its class in UPSNet's order; a thing class.
        box: (x1, y1, x2, y2) in pixels of the image, corners inclusive.
        shape: Its pixels.
        crowd: Whether it stands for a group whose members were not told apart.
        number: Its number among the objects of its class, kept through a sequence, where the data
            set has such.
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
        name: What messages call it: a path, or whatever finds it again.
        image: uint8 (H, W, 3), BGR.
        semantic: uint8 (H, W): class in UPSNet's order, `VOID` where none is known.
        things: The objects of thing classes.
        unknown: bool (H, W): pixels of objects outside the taxonomy (void in ``semantic``), where
            the data set tells them from other void; or None.
    """

    name: str
    image: npt.NDArray[np.uint8]
    semantic: npt.NDArray[np.uint8]
    things: tuple[Thing, ...]
    unknown: npt.NDArray[np.bool_] | None = None

    @property
    def size(self) -> tuple[int, int]:
        """Height and width of the image."""
        return self.image.shape[0], self.image.shape[1]


class Dataset(Protocol):
    """Labelled images in a fixed order, each read when it is asked for."""

    taxonomy: Taxonomy

    def __len__(self) -> int:
        """Number of images."""

    def __getitem__(self, index: int) -> Sample:
        """Read image number ``index``.

        Raises:
            DatasetError: A file is missing or not what it should be; it is named.
        """


def thing_of_mask(mask: npt.NDArray[np.bool_], semantic_id: int, *, crowd: bool = False) -> Thing:
    """Return the object that covers the pixels of a mask, bool (H, W), not empty."""
    shape = Bitmask.of(mask)
    return Thing(semantic_id=semantic_id, box=shape.bounds, shape=shape, crowd=crowd)


def things_of_map(
    ids: npt.NDArray[np.int32],
    classes: Mapping[int, int],
    *,
    crowds: frozenset[int] = frozenset(),
    numbers: Mapping[int, int] = MappingProxyType({}),
) -> tuple[Thing, ...]:
    """Cut a map of object ids (H, W) into objects, in the order of their ids.

    Args:
        ids: Id of the object at each pixel; ids that ``classes`` lacks are skipped.
        classes: ``semantic_id`` of each object id.
        crowds: The ids that stand for groups.
        numbers: `Thing.number` of ids that have one.
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
