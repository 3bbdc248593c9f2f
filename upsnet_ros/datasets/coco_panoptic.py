"""COCO panoptic segmentation: images, one PNG of segment ids for each, and a JSON file."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np

from upsnet_ros.datasets.base import VOID, DatasetError, Sample, things_of_map
from upsnet_ros.datasets.images import check_size, read_image, semantic_of
from upsnet_ros.datasets.taxonomy import COCO


class CocoPanoptic:
    """The images of a panoptic annotation file, in its order.

    Args:
        images: Folder of the images, e.g. ``train2017``.
        annotations: The JSON file, e.g. ``annotations/panoptic_train2017.json``.
        segments: Folder of the PNG files; by default the JSON file's name without its ending.

    Raises:
        DatasetError: The JSON file is missing or not of this kind.
    """

    def __init__(
        self, images: str | Path, annotations: str | Path, *, segments: str | Path | None = None
    ) -> None:
        self.taxonomy = COCO
        path = Path(annotations).expanduser()
        self._images = Path(images).expanduser()
        self._segments = Path(segments).expanduser() if segments else path.with_suffix("")
        if not path.is_file():
            raise DatasetError(f"there is no file {path}")
        try:
            content = json.loads(path.read_bytes())
            names = {image["id"]: image["file_name"] for image in content["images"]}
            self._entries: list[tuple[str, str, list[dict[str, Any]]]] = [
                (names[entry["image_id"]], entry["file_name"], entry["segments_info"])
                for entry in content["annotations"]
            ]
        except (ValueError, KeyError, TypeError) as error:
            raise DatasetError(
                f"{path} is no panoptic annotation file: {type(error).__name__} {error}"
            ) from None

    def __len__(self) -> int:
        return len(self._entries)

    def __getitem__(self, index: int) -> Sample:
        image_name, segments_name, infos = self._entries[index]
        image = read_image(self._images / image_name)
        path = self._segments / segments_name
        pixels = read_image(path).astype(np.int32)
        check_size(path, (pixels.shape[0], pixels.shape[1]), (image.shape[0], image.shape[1]))
        ids = pixels[..., 2] + 256 * pixels[..., 1] + 65536 * pixels[..., 0]  # stored as RGB
        table, objects, crowds = {0: VOID}, {}, set()
        for info in infos:
            category = COCO.by_id.get(info["category_id"])
            if category is None:
                raise DatasetError(f"{path}: category outside the taxonomy: {info['category_id']}")
            table[info["id"]] = category.semantic_id
            if category.is_thing:
                objects[info["id"]] = category.semantic_id
                if info.get("iscrowd"):
                    crowds.add(info["id"])
        return Sample(
            name=str(self._images / image_name),
            image=image,
            semantic=semantic_of(
                ids, table, source=path, complaint="ids without an entry in segments_info"
            ),
            things=things_of_map(ids, objects, crowds=frozenset(crowds)),
        )
