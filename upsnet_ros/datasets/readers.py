"""Readers of labelled datasets: Cityscapes, COCO panoptic, and folders of images and label maps."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt

from upsnet_ros.datasets.base import VOID, Sample, Thing, things_of_map
from upsnet_ros.datasets.coco_format import (
    PanopticFile,
    file_inside,
    read_panoptic_file,
    read_segment_ids,
)
from upsnet_ros.datasets.images import (
    check_size,
    image_files,
    read_image,
    read_labels,
    semantic_of,
    values_of,
)
from upsnet_ros.datasets.taxonomy import CITYSCAPES, COCO, ClassInfo, Taxonomy, get_taxonomy
from upsnet_ros.errors import DatasetError, listed

#: All label ids of Cityscapes; those not in `CITYSCAPES` are void.
LABEL_IDS = range(34)
#: Ids below this in an instanceIds map are class ids; others are class * 1000 + number.
_INSTANCES = 1000
#: Ending of the files with the instanceIds of a frame of Cityscapes.
LABELS = "_gtFine_instanceIds.png"
#: An extension of this package: synthetic scenes mark unknown objects in this file.
_UNKNOWN = "_gtFine_unknownMask.png"


class Cityscapes:
    """The labelled frames of a split, sorted by path.

    Args:
        root: The folder that contains ``gtFine`` and the image folder.
        split: ``train``, ``val`` or ``test``.
        images: Folder of the images, ``leftImg8bit`` or ``leftImg8bit_sequence``.

    Raises:
        DatasetError: There are no labels.
    """

    def __init__(self, root: str | Path, *, split: str, images: str = "leftImg8bit") -> None:
        self.taxonomy = CITYSCAPES
        labels = Path(root).expanduser() / "gtFine" / split
        self._labels = sorted(
            path
            for path in labels.glob(f"*/*{LABELS}")
            if not any(part.startswith(".") for part in path.relative_to(labels).parts)
        )
        if not self._labels:
            raise DatasetError(f"there are no labels {labels}/<city>/*{LABELS}")
        self._images = Path(root).expanduser() / images / split

    def __len__(self) -> int:
        return len(self._labels)

    def __getitem__(self, index: int) -> Sample:
        labels = self._labels[index]
        frame = labels.name.removesuffix(LABELS)
        image_path = self._images / labels.parent.name / f"{frame}_leftImg8bit.png"
        return read_sample(labels, read_image(image_path), name=str(image_path))


def read_sample(labels: Path, image: npt.NDArray[np.uint8], *, name: str) -> Sample:
    """Return the sample of an image, uint8 (H, W, 3) BGR, with the file of its instanceIds.

    Raises:
        DatasetError: The file, or the mask of unknown objects beside it, cannot be read or has
            another size, or an id is not a Cityscapes id.
    """
    size = (image.shape[0], image.shape[1])
    mask = labels.with_name(f"{labels.name.removesuffix(LABELS)}{_UNKNOWN}")
    unknown = read_labels(mask, size=size) > 0 if mask.is_file() else None
    ids = read_labels(labels, size=size)
    return sample_of_ids(ids, image, name=name, source=labels, unknown=unknown)


def sample_of_ids(
    ids: npt.NDArray[np.int32],
    image: npt.NDArray[np.uint8],
    *,
    name: str,
    source: Path | str,
    unknown: npt.NDArray[np.bool_] | None = None,
) -> Sample:
    """Return the sample of an image with a Cityscapes instanceIds map.

    Args:
        ids: int32 (H, W): class * 1000 + number for things, the class id for stuff and for groups
            of things.
        image: uint8 (H, W, 3), BGR.
        name: Name of the sample.
        source: File named in error messages.
        unknown: bool (H, W): objects outside the classes, or None if not annotated.

    Raises:
        DatasetError: An id is not a Cityscapes id.
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


class CocoPanoptic:
    """The images of a panoptic annotation file, in the order of the file.

    Categories are matched with COCO's by name; their ids may differ.

    Args:
        images: Folder of the images, e.g. ``train2017``.
        annotations: The JSON file, e.g. ``annotations/panoptic_train2017.json``.
        segments: Folder of the PNG files; default: the path of the JSON file without extension.

    Raises:
        DatasetError: The JSON file is missing or invalid, or uses a category that is not in COCO.
    """

    def __init__(
        self, images: str | Path, annotations: str | Path, *, segments: str | Path | None = None
    ) -> None:
        self.taxonomy = COCO
        path = Path(annotations).expanduser()
        self._folder = Path(images).expanduser()
        self._segments = Path(segments).expanduser() if segments else path.with_suffix("")
        file = read_panoptic_file(path)
        self._classes = _classes(file)
        self._annotations, self._images = file.annotations, file.images
        for annotation in file.annotations:
            if annotation.image_id not in file.images:
                raise DatasetError(f"{path}: images has no file_name of id {annotation.image_id!r}")

    def __len__(self) -> int:
        return len(self._annotations)

    def __getitem__(self, index: int) -> Sample:
        annotation = self._annotations[index]
        image_path = file_inside(self._folder, self._images[annotation.image_id])
        image = read_image(image_path)
        path = file_inside(self._segments, annotation.file_name)
        ids = read_segment_ids(path).astype(np.int32)
        check_size(path, (ids.shape[0], ids.shape[1]), (image.shape[0], image.shape[1]))
        table, objects, crowds = {0: VOID}, {}, set()
        for segment in annotation.segments:
            info = self._classes[segment.category_id]
            table[segment.id] = info.semantic_id
            if info.is_thing:
                objects[segment.id] = info.semantic_id
                if segment.crowd:
                    crowds.add(segment.id)
        return Sample(
            name=str(image_path),
            image=image,
            semantic=semantic_of(
                ids, table, source=path, complaint="ids without an entry in segments_info"
            ),
            things=things_of_map(ids, objects, crowds=frozenset(crowds)),
            frame=image_path.relative_to(self._folder).with_suffix("").as_posix(),
        )


def _classes(file: PanopticFile) -> dict[int, ClassInfo]:
    """Return the COCO class of each category that the file uses, by the file's category id."""
    used = {segment.category_id for row in file.annotations for segment in row.segments}
    by_name = {info.name: info for info in COCO.classes}
    named = {category.id: category for category in file.categories}
    unnamed = sorted(used - named.keys())
    if unnamed:
        raise DatasetError(f"{file.path}: its list of categories lacks ids: {listed(unnamed)}")
    other = [named[number].name for number in sorted(used) if named[number].name not in by_name]
    if other:
        raise DatasetError(
            f"{file.path} has categories that are not COCO's: {listed(other)}; networks for COCO"
            " know its 133 only"
        )
    classes = {number: by_name[named[number].name] for number in sorted(used)}
    for number, info in classes.items():
        if named[number].is_thing != info.is_thing:
            kinds = ("stuff", "a thing")
            raise DatasetError(
                f"{file.path}: category {info.name} is {kinds[named[number].is_thing]}, but"
                f" {kinds[info.is_thing]} in COCO"
            )
    return classes


class Folder:
    """Images with label maps of the same name, ``<name>.png``, in natural order.

    Label maps may also have another lossless format, such as BMP or TIFF. They contain classes, not
    instances; each connected component of a thing class becomes one object.

    Args:
        images: Folder of the images.
        labels: Folder of the label maps.
        taxonomy: Name of the taxonomy, "cityscapes" or "coco".
        classes: Class name in that taxonomy for each value in the maps; None for void.
        min_area: Smaller components of things, in pixels, become void.

    Raises:
        DatasetError: There are no images, two have the same name, one has no label map, or a class
            has another name.
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
        self._images = image_files(folder)
        if not self._images:
            raise DatasetError(f"there are no images in {folder}")
        self._labels = Path(labels).expanduser()
        self._maps = {path.stem: path for path in _lossless(self._labels)}
        names: dict[str, Path] = {}
        for path in self._images:
            other = names.setdefault(path.stem, path)
            if other != path:
                raise DatasetError(f"{other} and {path} would have the same label map {path.stem}")
        self._min_area = min_area
        ids = {info.name: info.semantic_id for info in self.taxonomy.classes}
        self._table = {}
        for value, name in classes.items():
            if name is not None and name not in ids:
                raise DatasetError(
                    f"{name!r} is not a class of {taxonomy}; choose from {', '.join(ids)}"
                )
            self._table[value] = VOID if name is None else ids[name]
        missing = [path for path in self._images if path.stem not in self._maps]
        if missing:
            count = f"{len(missing)} of {len(self._images)}"
            raise DatasetError(
                f"there is no label map {self._labels / missing[0].stem}.png; images without one:"
                f" {count}"
            )

    def __len__(self) -> int:
        return len(self._images)

    def __getitem__(self, index: int) -> Sample:
        path = self._images[index]
        image = read_image(path)
        labels = self._maps[path.stem]
        ids = read_labels(labels, size=(image.shape[0], image.shape[1]))
        semantic = semantic_of(
            ids, self._table, source=labels, complaint="values that `classes` does not name"
        )
        things: list[Thing] = []
        for semantic_id in values_of(semantic.astype(np.int32)):
            if self.taxonomy.num_stuff <= semantic_id < self.taxonomy.num_classes:
                things += self._components(semantic, semantic_id)
        return Sample(name=str(path), image=image, semantic=semantic, things=tuple(things))

    def _components(self, semantic: npt.NDArray[np.uint8], semantic_id: int) -> tuple[Thing, ...]:
        """Return the objects of a class; smaller components become void in ``semantic``."""
        mask = (semantic == semantic_id).astype(np.uint8)
        count, numbers, stats, _ = cv2.connectedComponentsWithStats(mask, connectivity=8)
        areas = stats[:, cv2.CC_STAT_AREA]
        large = [n for n in range(1, count) if areas[n] >= self._min_area]
        semantic[(mask > 0) & ~np.isin(numbers, large)] = VOID
        return things_of_map(numbers.astype(np.int32), dict.fromkeys(large, semantic_id))


def _lossless(folder: Path) -> list[Path]:
    """Return the lossless images of a folder, PNGs last so that they take precedence."""
    files = [path for path in image_files(folder) if path.suffix.lower() not in (".jpg", ".jpeg")]
    return sorted(files, key=lambda path: path.suffix.lower() == ".png")
