"""A folder of images and one of label maps, of any origin."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt

from upsnet_ros.datasets.base import VOID, DatasetError, Sample, Thing, things_of_map
from upsnet_ros.datasets.images import read_image, read_labels, semantic_of, values_of
from upsnet_ros.datasets.taxonomy import Taxonomy, get_taxonomy

_IMAGES = frozenset({".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff", ".webp"})


class Folder:
    """Images with label maps of the same name, ``<name>.png``, in the order of their names.

    A label map holds classes, not objects: the connected components of a thing's class stand in
    for its objects.

    Args:
        images: Folder of the images.
        labels: Folder of the label maps.
        taxonomy: Name of the taxonomy to translate to.
        classes: What each value of the maps means: a name of that taxonomy's classes, or None
            for void.
        min_area: Components of things with fewer pixels become void.

    Raises:
        DatasetError: There are no images, or a class has another name.
    """

    def __init__(
        self,
        images: str | Path,
        labels: str | Path,
        *,
        taxonomy: str,
        classes: Mapping[int, str | None],
        min_area: int = 20,
    ) -> None:
        self.taxonomy: Taxonomy = get_taxonomy(taxonomy)
        folder = Path(images).expanduser()
        self._images = sorted(p for p in folder.glob("*") if p.suffix.lower() in _IMAGES)
        if not self._images:
            raise DatasetError(f"there are no images in {folder}")
        self._labels = Path(labels).expanduser()
        self._min_area = min_area
        ids = {info.name: info.semantic_id for info in self.taxonomy.classes}
        self._table = {}
        for value, name in classes.items():
            if name is not None and name not in ids:
                raise DatasetError(
                    f"{name!r} is no class of {taxonomy}; choose from {', '.join(ids)}"
                )
            self._table[value] = VOID if name is None else ids[name]

    def __len__(self) -> int:
        return len(self._images)

    def __getitem__(self, index: int) -> Sample:
        path = self._images[index]
        image = read_image(path)
        labels = self._labels / f"{path.stem}.png"
        ids = read_labels(labels, size=(image.shape[0], image.shape[1]))
        semantic = semantic_of(ids, self._table, source=labels)
        things: list[Thing] = []
        for semantic_id in values_of(semantic.astype(np.int32)):
            if self.taxonomy.num_stuff <= semantic_id < self.taxonomy.num_classes:
                things += self._components(semantic, semantic_id)
        return Sample(name=str(path), image=image, semantic=semantic, things=tuple(things))

    def _components(self, semantic: npt.NDArray[np.uint8], semantic_id: int) -> tuple[Thing, ...]:
        """Return the objects of a class; specks become void in ``semantic``."""
        mask = (semantic == semantic_id).astype(np.uint8)
        count, numbers, stats, _ = cv2.connectedComponentsWithStats(mask, connectivity=8)
        areas = stats[:, cv2.CC_STAT_AREA]
        large = [n for n in range(1, count) if areas[n] >= self._min_area]
        semantic[(mask > 0) & ~np.isin(numbers, large)] = VOID
        return things_of_map(numbers.astype(np.int32), dict.fromkeys(large, semantic_id))
