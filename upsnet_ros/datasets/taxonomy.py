"""The classes of Cityscapes and COCO: public ids, names, colours, and UPSNet's order.

UPSNet orders stuff classes before thing classes; COCO's official list has things first.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from types import MappingProxyType

import numpy as np
import numpy.typing as npt

from upsnet_ros.errors import SettingsError, did_you_mean, printable

THINGS: tuple[tuple[int, str, tuple[int, int, int]], ...] = (
    (1, "person", (220, 20, 60)),
    (2, "bicycle", (119, 11, 32)),
    (3, "car", (0, 0, 142)),
    (4, "motorcycle", (0, 0, 230)),
    (5, "airplane", (106, 0, 228)),
    (6, "bus", (0, 60, 100)),
    (7, "train", (0, 80, 100)),
    (8, "truck", (0, 0, 70)),
    (9, "boat", (0, 0, 192)),
    (10, "traffic light", (250, 170, 30)),
    (11, "fire hydrant", (100, 170, 30)),
    (13, "stop sign", (220, 220, 0)),
    (14, "parking meter", (175, 116, 175)),
    (15, "bench", (250, 0, 30)),
    (16, "bird", (165, 42, 42)),
    (17, "cat", (255, 77, 255)),
    (18, "dog", (0, 226, 252)),
    (19, "horse", (182, 182, 255)),
    (20, "sheep", (0, 82, 0)),
    (21, "cow", (120, 166, 157)),
    (22, "elephant", (110, 76, 0)),
    (23, "bear", (174, 57, 255)),
    (24, "zebra", (199, 100, 0)),
    (25, "giraffe", (72, 0, 118)),
    (27, "backpack", (255, 179, 240)),
    (28, "umbrella", (0, 125, 92)),
    (31, "handbag", (209, 0, 151)),
    (32, "tie", (188, 208, 182)),
    (33, "suitcase", (0, 220, 176)),
    (34, "frisbee", (255, 99, 164)),
    (35, "skis", (92, 0, 73)),
    (36, "snowboard", (133, 129, 255)),
    (37, "sports ball", (78, 180, 255)),
    (38, "kite", (0, 228, 0)),
    (39, "baseball bat", (174, 255, 243)),
    (40, "baseball glove", (45, 89, 255)),
    (41, "skateboard", (134, 134, 103)),
    (42, "surfboard", (145, 148, 174)),
    (43, "tennis racket", (255, 208, 186)),
    (44, "bottle", (197, 226, 255)),
    (46, "wine glass", (171, 134, 1)),
    (47, "cup", (109, 63, 54)),
    (48, "fork", (207, 138, 255)),
    (49, "knife", (151, 0, 95)),
    (50, "spoon", (9, 80, 61)),
    (51, "bowl", (84, 105, 51)),
    (52, "banana", (74, 65, 105)),
    (53, "apple", (166, 196, 102)),
    (54, "sandwich", (208, 195, 210)),
    (55, "orange", (255, 109, 65)),
    (56, "broccoli", (0, 143, 149)),
    (57, "carrot", (179, 0, 194)),
    (58, "hot dog", (209, 99, 106)),
    (59, "pizza", (5, 121, 0)),
    (60, "donut", (227, 255, 205)),
    (61, "cake", (147, 186, 208)),
    (62, "chair", (153, 69, 1)),
    (63, "couch", (3, 95, 161)),
    (64, "potted plant", (163, 255, 0)),
    (65, "bed", (119, 0, 170)),
    (67, "dining table", (0, 182, 199)),
    (70, "toilet", (0, 165, 120)),
    (72, "tv", (183, 130, 88)),
    (73, "laptop", (95, 32, 0)),
    (74, "mouse", (130, 114, 135)),
    (75, "remote", (110, 129, 133)),
    (76, "keyboard", (166, 74, 118)),
    (77, "cell phone", (219, 142, 185)),
    (78, "microwave", (79, 210, 114)),
    (79, "oven", (178, 90, 62)),
    (80, "toaster", (65, 70, 15)),
    (81, "sink", (127, 167, 115)),
    (82, "refrigerator", (59, 105, 106)),
    (84, "book", (142, 108, 45)),
    (85, "clock", (196, 172, 0)),
    (86, "vase", (95, 54, 80)),
    (87, "scissors", (128, 76, 255)),
    (88, "teddy bear", (201, 57, 1)),
    (89, "hair drier", (246, 0, 122)),
    (90, "toothbrush", (191, 162, 208)),
)

STUFF: tuple[tuple[int, str, tuple[int, int, int]], ...] = (
    (92, "banner", (255, 255, 128)),
    (93, "blanket", (147, 211, 203)),
    (95, "bridge", (150, 100, 100)),
    (100, "cardboard", (168, 171, 172)),
    (107, "counter", (146, 112, 198)),
    (109, "curtain", (210, 170, 100)),
    (112, "door-stuff", (92, 136, 89)),
    (118, "floor-wood", (218, 88, 184)),
    (119, "flower", (241, 129, 0)),
    (122, "fruit", (217, 17, 255)),
    (125, "gravel", (124, 74, 181)),
    (128, "house", (70, 70, 70)),
    (130, "light", (255, 228, 255)),
    (133, "mirror-stuff", (154, 208, 0)),
    (138, "net", (193, 0, 92)),
    (141, "pillow", (76, 91, 113)),
    (144, "platform", (255, 180, 195)),
    (145, "playingfield", (106, 154, 176)),
    (147, "railroad", (230, 150, 140)),
    (148, "river", (60, 143, 255)),
    (149, "road", (128, 64, 128)),
    (151, "roof", (92, 82, 55)),
    (154, "sand", (254, 212, 124)),
    (155, "sea", (73, 77, 174)),
    (156, "shelf", (255, 160, 98)),
    (159, "snow", (255, 255, 255)),
    (161, "stairs", (104, 84, 109)),
    (166, "tent", (169, 164, 131)),
    (168, "towel", (225, 199, 255)),
    (171, "wall-brick", (137, 54, 74)),
    (175, "wall-stone", (135, 158, 223)),
    (176, "wall-tile", (7, 246, 231)),
    (177, "wall-wood", (107, 255, 200)),
    (178, "water-other", (58, 41, 149)),
    (180, "window-blind", (183, 121, 142)),
    (181, "window-other", (255, 73, 97)),
    (184, "tree-merged", (107, 142, 35)),
    (185, "fence-merged", (190, 153, 153)),
    (186, "ceiling-merged", (146, 139, 141)),
    (187, "sky-other-merged", (70, 130, 180)),
    (188, "cabinet-merged", (134, 199, 156)),
    (189, "table-merged", (209, 226, 140)),
    (190, "floor-other-merged", (96, 36, 108)),
    (191, "pavement-merged", (96, 96, 96)),
    (192, "mountain-merged", (64, 170, 64)),
    (193, "grass-merged", (152, 251, 152)),
    (194, "dirt-merged", (208, 229, 228)),
    (195, "paper-merged", (206, 186, 171)),
    (196, "food-other-merged", (152, 161, 64)),
    (197, "building-other-merged", (116, 112, 0)),
    (198, "rock-merged", (0, 114, 143)),
    (199, "wall-other-merged", (102, 102, 156)),
    (200, "rug-merged", (250, 141, 255)),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class ClassInfo:
    """One class of a taxonomy.

    Attributes:
        id: Public id of the dataset (Cityscapes labelId, COCO category id).
        name: Name of the class in the dataset.
        is_thing: Whether it is a thing class, i.e. has separate instances.
        color: Official colour of the dataset, RGB, 0 to 255.
        semantic_id: Channel of the class in UPSNet's semantic head: stuff first, then things.
    """

    id: int
    name: str
    is_thing: bool
    color: tuple[int, int, int]
    semantic_id: int


@dataclass(frozen=True)
class Taxonomy:
    """The classes of a dataset, in UPSNet's order.

    Attributes:
        name: "cityscapes" or "coco".
        classes: Stuff classes, then thing classes; the index of a class is its ``semantic_id``.

    Raises:
        ValueError: The order is wrong, or ids are not unique and positive.
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
        """Pickle only name and classes; cached properties cannot be pickled."""
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

    def ids_of(self, classes: Iterable[str]) -> frozenset[int]:
        """Return the public ids of classes given by name, in any case, or by id.

        Raises:
            SettingsError: A class is not in the taxonomy.
        """
        by_name = {info.name.lower(): info.id for info in self.classes}
        found = set()
        for text in classes:
            name = text.strip().lower()
            class_id = int(name) if name.isdecimal() and len(name) < 10 else by_name.get(name, 0)
            if class_id not in self.by_id:
                hint = did_you_mean(name, by_name)
                raise SettingsError(f"{self.name} has no class {printable(text.strip())!r}{hint}")
            found.add(class_id)
        return frozenset(found)

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
            is_thing=index >= len(stuff),
            color=color,
            semantic_id=index,
        )
        for index, (public_id, class_name, color) in enumerate(stuff + things)
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
COCO = _taxonomy("coco", stuff=STUFF, things=THINGS)

_TAXONOMIES = {taxonomy.name: taxonomy for taxonomy in (CITYSCAPES, COCO)}


def known_taxonomies() -> tuple[str, ...]:
    """Return the names that `get_taxonomy` knows."""
    return tuple(_TAXONOMIES)


def get_taxonomy(name: str) -> Taxonomy:
    """Return the taxonomy with this name.

    Raises:
        SettingsError: The name is unknown.
    """
    try:
        return _TAXONOMIES[name]
    except KeyError:
        known = ", ".join(_TAXONOMIES)
        raise SettingsError(f"unknown taxonomy {name!r}: choose one of {known}") from None
