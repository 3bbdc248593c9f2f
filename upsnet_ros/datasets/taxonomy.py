"""Which classes a data set has: public ids, names, colours, and UPSNet's order of them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from types import MappingProxyType

import numpy as np
import numpy.typing as npt

from upsnet_ros.datasets import coco_categories


@dataclass(frozen=True, slots=True, kw_only=True)
class ClassInfo:
    """One class of a taxonomy.

    Attributes:
        id: The data set's public id (Cityscapes labelId, COCO category id).
        name: The data set's name of the class.
        is_thing: Whether instances of the class are told apart.
        color: The data set's official colour, RGB, 0 to 255.
        semantic_id: Channel of the class in UPSNet's semantic head: stuff first, then things.
    """

    id: int
    name: str
    is_thing: bool
    color: tuple[int, int, int]
    semantic_id: int


@dataclass(frozen=True)
class Taxonomy:
    """The classes of a data set, in UPSNet's order.

    Attributes:
        name: "cityscapes" or "coco".
        classes: Stuff classes, then things; a class's place is its ``semantic_id``.

    Raises:
        ValueError: Where the order or the ids of ``classes`` break these rules.
    """

    name: str
    classes: tuple[ClassInfo, ...]

    def __post_init__(self) -> None:
        if [info.semantic_id for info in self.classes] != list(range(len(self.classes))):
            raise ValueError(f"taxonomy {self.name}: classes must be in the order of semantic_id")
        if [info.is_thing for info in self.classes] != sorted(i.is_thing for i in self.classes):
            raise ValueError(f"taxonomy {self.name}: stuff classes must come before things")
        ids = {info.id for info in self.classes}
        if len(ids) != len(self.classes) or min(ids) < 1:
            raise ValueError(f"taxonomy {self.name}: ids must be unique and positive (0 is void)")

    @property
    def num_classes(self) -> int:
        """Number of classes, stuff and things."""
        return len(self.classes)

    def __reduce__(self) -> tuple[type[Taxonomy], tuple[str, tuple[ClassInfo, ...]]]:
        """Pickle what it is made of; what is cached cannot be pickled, and need not be."""
        return Taxonomy, (self.name, self.classes)

    @cached_property
    def num_stuff(self) -> int:
        """Number of stuff classes; the first thing has this ``semantic_id``."""
        return sum(not info.is_thing for info in self.classes)

    @property
    def num_things(self) -> int:
        """Number of thing classes."""
        return self.num_classes - self.num_stuff

    @cached_property
    def by_id(self) -> Mapping[int, ClassInfo]:
        """Classes by public id."""
        return MappingProxyType({info.id: info for info in self.classes})

    @cached_property
    def public_ids(self) -> npt.NDArray[np.int32]:
        """int32 (num_classes,): public id by ``semantic_id``; read-only."""
        ids = np.array([info.id for info in self.classes], dtype=np.int32)
        ids.flags.writeable = False
        return ids


_Row = tuple[int, str, tuple[int, int, int]]


def _taxonomy(name: str, stuff: tuple[_Row, ...], things: tuple[_Row, ...]) -> Taxonomy:
    classes = tuple(
        ClassInfo(
            id=public_id,
            name=class_name,
            is_thing=place >= len(stuff),
            color=color,
            semantic_id=place,
        )
        for place, (public_id, class_name, color) in enumerate(stuff + things)
    )
    return Taxonomy(name, classes)


#: The 19 evaluated classes; ``semantic_id`` is the trainId, ``id`` the labelId.
CITYSCAPES = _taxonomy(
    "cityscapes",
    stuff=(
        (7, "road", (128, 64, 128)),
        (8, "sidewalk", (244, 35, 232)),
        (11, "building", (70, 70, 70)),
        (12, "wall", (102, 102, 156)),
        (13, "fence", (190, 153, 153)),
        (17, "pole", (153, 153, 153)),
        (19, "traffic light", (250, 170, 30)),
        (20, "traffic sign", (220, 220, 0)),
        (21, "vegetation", (107, 142, 35)),
        (22, "terrain", (152, 251, 152)),
        (23, "sky", (70, 130, 180)),
    ),
    things=(
        (24, "person", (220, 20, 60)),
        (25, "rider", (255, 0, 0)),
        (26, "car", (0, 0, 142)),
        (27, "truck", (0, 0, 70)),
        (28, "bus", (0, 60, 100)),
        (31, "train", (0, 80, 100)),
        (32, "motorcycle", (0, 0, 230)),
        (33, "bicycle", (119, 11, 32)),
    ),
)

#: The 133 COCO panoptic categories; ``id`` is the category id.
COCO = _taxonomy("coco", stuff=coco_categories.STUFF, things=coco_categories.THINGS)

_TAXONOMIES = {taxonomy.name: taxonomy for taxonomy in (CITYSCAPES, COCO)}


def get_taxonomy(name: str) -> Taxonomy:
    """The taxonomy called ``name``.

    Raises:
        ValueError: For a name that is not known.
    """
    try:
        return _TAXONOMIES[name]
    except KeyError:
        known = ", ".join(_TAXONOMIES)
        raise ValueError(f"unknown taxonomy {name!r}: choose one of {known}") from None
