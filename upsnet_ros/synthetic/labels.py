"""Cityscapes label ids of synthetic scenes, and the panoptic annotation format."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from upsnet_ros.datasets.coco_format import categories_of
from upsnet_ros.datasets.taxonomy import CITYSCAPES

_IDS = {info.name: info.id for info in CITYSCAPES.classes}

ROAD, SIDEWALK, TERRAIN = _IDS["road"], _IDS["sidewalk"], _IDS["terrain"]
BUILDING, WALL, FENCE = _IDS["building"], _IDS["wall"], _IDS["fence"]
POLE, LIGHT, SIGN = _IDS["pole"], _IDS["traffic light"], _IDS["traffic sign"]
VEGETATION, SKY = _IDS["vegetation"], _IDS["sky"]
PERSON, RIDER = _IDS["person"], _IDS["rider"]
CAR, TRUCK, BUS, TRAIN = _IDS["car"], _IDS["truck"], _IDS["bus"], _IDS["train"]
MOTORCYCLE, BICYCLE = _IDS["motorcycle"], _IDS["bicycle"]

#: Cityscapes' "unlabeled", which evaluation ignores.
VOID = 0

#: Label of unknown objects while a frame is rendered; becomes `VOID`.
UNKNOWN = -1

_SUPERCATEGORIES = {
    "flat": ("road", "sidewalk"),
    "construction": ("building", "wall", "fence"),
    "object": ("pole", "traffic light", "traffic sign"),
    "nature": ("vegetation", "terrain"),
    "sky": ("sky",),
    "human": ("person", "rider"),
    "vehicle": ("car", "truck", "bus", "train", "motorcycle", "bicycle"),
}


def categories() -> list[dict[str, Any]]:
    """Return the ``categories`` of the JSON file, ordered by label id."""
    of_class = {name: group for group, names in _SUPERCATEGORIES.items() for name in names}
    rows = [row | {"supercategory": of_class[row["name"]]} for row in categories_of(CITYSCAPES)]
    return sorted(rows, key=lambda row: row["id"])


def segments(instances: npt.NDArray[np.int32]) -> list[dict[str, Any]]:
    """Return the ``segments_info`` of one frame.

    Args:
        instances: int32 (H, W), Cityscapes instanceIds; 0 is void.

    Returns:
        By ascending id: id, category_id, area, bbox (x, y, width, height) and iscrowd, which is set
        for things without an instance number.
    """
    counts = np.bincount(instances.ravel())
    ids = np.flatnonzero(counts)
    # Small indices instead of ids: each comparison below then reads a quarter of the bytes.
    indices = np.zeros(len(counts), np.uint8 if len(ids) <= 256 else np.uint16)
    indices[ids] = np.arange(len(ids))
    compact = indices[instances]
    found = []
    for index, segment_id in enumerate(ids.tolist()):
        class_id = segment_id // 1000 if segment_id >= 1000 else segment_id
        if class_id == 0:
            continue
        x, y, width, height = cv2.boundingRect((compact == index).view(np.uint8))
        crowd = CITYSCAPES.by_id[class_id].is_thing and segment_id < 1000
        found.append(
            {
                "id": segment_id,
                "category_id": class_id,
                "area": int(counts[segment_id]),
                "bbox": [x, y, width, height],
                "iscrowd": int(crowd),
            }
        )
    return found


def entry(name: str, instances: npt.NDArray[np.int32]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return the JSON file's image and annotation of the frame ``name`` (CITY_SEQUENCE_FRAME)."""
    rows, columns = instances.shape
    image = {
        "id": name,
        "width": columns,
        "height": rows,
        "file_name": f"{name}_gtFine_leftImg8bit.png",
    }
    annotation = {
        "image_id": name,
        "file_name": f"{name}_gtFine_panoptic.png",
        "segments_info": segments(instances),
    }
    return image, annotation


def panoptic_folder(root: Path, split: str) -> Path:
    """Return the folder of the panoptic PNGs of a split; the JSON file adds ".json"."""
    return root / "gtFine" / f"cityscapes_panoptic_{split}"
