"""Cityscapes: ``gtFine`` labels with ``leftImg8bit`` or ``leftImg8bit_sequence`` images."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt

from upsnet_ros.datasets.base import VOID, DatasetError, Sample, things_of_map
from upsnet_ros.datasets.images import read_image, read_labels, semantic_of, values_of
from upsnet_ros.datasets.taxonomy import CITYSCAPES

#: Ids of Cityscapes' own list; those that `CITYSCAPES` lacks are void.
LABEL_IDS = range(34)
#: An id below this in an instanceIds map is a class's, above it class * 1000 + number.
_INSTANCES = 1000
_LABELS = "_gtFine_instanceIds.png"
#: Not of Cityscapes: driving scenes mark objects outside the classes here.
_UNKNOWN = "_gtFine_unknownMask.png"


class Cityscapes:
    """The labelled frames of a split, in the order of their paths.

    Args:
        root: The folder that holds ``gtFine`` and the images' folder.
        split: ``train``, ``val`` or ``test``.
        images: Folder of the images, ``leftImg8bit`` or ``leftImg8bit_sequence``.

    Raises:
        DatasetError: There are no labels.
    """

    def __init__(self, root: str | Path, *, split: str, images: str = "leftImg8bit") -> None:
        self.taxonomy = CITYSCAPES
        labels = Path(root).expanduser() / "gtFine" / split
        self._labels = sorted(labels.glob(f"*/*{_LABELS}"))
        if not self._labels:
            raise DatasetError(f"there are no labels {labels}/<city>/*{_LABELS}")
        self._images = Path(root).expanduser() / images / split

    def __len__(self) -> int:
        return len(self._labels)

    def __getitem__(self, index: int) -> Sample:
        labels = self._labels[index]
        frame = labels.name.removesuffix(_LABELS)
        image_path = self._images / labels.parent.name / f"{frame}_leftImg8bit.png"
        image = read_image(image_path)
        size = (image.shape[0], image.shape[1])
        unknown_path = labels.with_name(f"{frame}{_UNKNOWN}")
        unknown = read_labels(unknown_path, size=size) > 0 if unknown_path.is_file() else None
        ids = read_labels(labels, size=size)
        return sample_of_ids(ids, image, name=str(image_path), source=labels, unknown=unknown)


def sample_of_ids(
    ids: npt.NDArray[np.int32],
    image: npt.NDArray[np.uint8],
    *,
    name: str,
    source: Path | str,
    unknown: npt.NDArray[np.bool_] | None = None,
) -> Sample:
    """Read a map of Cityscapes' instance ids (H, W): a class's id, or class * 1000 + number.

    A thing's class without a number is a group of them.

    Args:
        ids: The map.
        image: uint8 (H, W, 3), BGR.
        name: Of the sample.
        source: What an error message names.
        unknown: bool (H, W): objects outside the classes, where they are known.

    Raises:
        DatasetError: An id is not one of Cityscapes'.
    """
    classes = np.where(ids < _INSTANCES, ids, ids // _INSTANCES)
    semantic = semantic_of(classes, _SEMANTIC, source=source)
    objects = {}
    for value in values_of(ids):
        info = CITYSCAPES.by_id.get(value if value < _INSTANCES else value // _INSTANCES)
        if info is not None and info.is_thing:
            objects[value] = info.semantic_id
    groups = frozenset(value for value in objects if value < _INSTANCES)
    numbers = {value: value % _INSTANCES for value in objects if value not in groups}
    return Sample(
        name=name,
        image=image,
        semantic=semantic,
        things=things_of_map(ids, objects, crowds=groups, numbers=numbers),
        unknown=unknown,
    )


_SEMANTIC = dict.fromkeys(LABEL_IDS, VOID) | {
    info.id: info.semantic_id for info in CITYSCAPES.classes
}
