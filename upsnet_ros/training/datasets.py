"""Opening the data set that settings name."""

from __future__ import annotations

from upsnet_ros.datasets.base import Dataset, DatasetError
from upsnet_ros.datasets.cityscapes import Cityscapes
from upsnet_ros.datasets.coco_panoptic import CocoPanoptic
from upsnet_ros.datasets.folder import Folder
from upsnet_ros.network.variants import get_variant
from upsnet_ros.training.run_settings import (
    CityscapesSettings,
    CocoPanopticSettings,
    DatasetSettings,
    FolderSettings,
)


def open_dataset(settings: DatasetSettings, *, variant: str) -> Dataset:
    """Open a data set, which must have the classes of the network.

    Raises:
        DatasetError: It cannot be read, or has other classes.
    """
    dataset: Dataset
    if isinstance(settings, CityscapesSettings):
        dataset = Cityscapes(settings.root, split=settings.split, images=settings.images)
    elif isinstance(settings, CocoPanopticSettings):
        dataset = CocoPanoptic(settings.images, settings.annotations, segments=settings.segments)
    elif isinstance(settings, FolderSettings):
        dataset = Folder(
            settings.images,
            settings.labels,
            taxonomy=settings.taxonomy,
            classes=settings.classes,
            min_area=settings.min_area,
        )
    else:
        from upsnet_ros.datasets.drawn import DrawnScenes  # half a second that others need not wait

        dataset = DrawnScenes(
            split=settings.split,
            seed=settings.seed,
            length=settings.length,
            size=settings.size,
            cache=settings.cache,
        )
    wanted = get_variant(variant).dataset
    if dataset.taxonomy.name != wanted:
        raise DatasetError(
            f"{settings.kind} has the classes of {dataset.taxonomy.name}, but {variant} those of"
            f" {wanted}"
        )
    return dataset
