"""A folder of images with label maps as a drive."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml

from upsnet_ros.bags.drives import FOCAL_SHARE, DriveFrame, truth_of
from upsnet_ros.bags.errors import BagError
from upsnet_ros.datasets.folder import Folder
from upsnet_ros.datasets.taxonomy import Taxonomy
from upsnet_ros.evaluation.naming import frame_name
from upsnet_ros.ros.sources import FOLDER_RATE_HZ

__all__ = ["FolderDrive", "read_classes"]

_SECOND = 1_000_000_000


class FolderDrive:
    """A folder of images and one of label maps (see `upsnet_ros.datasets.folder.Folder`).

    Raises:
        DatasetError: As `Folder`.
    """

    rate_hz = FOLDER_RATE_HZ

    def __init__(
        self, images: Path, labels: Path, *, taxonomy: str, classes: Mapping[int, str | None]
    ) -> None:
        self._folder = Folder(images, labels, taxonomy=taxonomy, classes=classes)
        self.taxonomy: Taxonomy | None = self._folder.taxonomy
        self.length: int | None = len(self._folder)

    def __iter__(self) -> Iterator[DriveFrame]:
        for index in range(len(self._folder)):
            sample = self._folder[index]
            yield DriveFrame(
                name=frame_name(sample.name),
                time_ns=round(index * _SECOND / self.rate_hz),
                image=sample.image,
                focal=FOCAL_SHARE * sample.image.shape[1],
                truth=truth_of(sample, self._folder.taxonomy),
            )


def read_classes(path: Path) -> dict[int, str | None]:
    """What each value of label maps means: a class's name, or None for void, from a YAML file.

    Raises:
        BagError: The file cannot be read, or is of another form.
    """
    try:
        content: Any = yaml.safe_load(path.read_text("utf-8"))
    except OSError as error:
        raise BagError(f"cannot read {path}: {error.strerror}") from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise BagError(f"{path} is no YAML file: {error}") from None
    if not isinstance(content, dict) or not all(
        isinstance(value, int) and (name is None or isinstance(name, str))
        for value, name in content.items()
    ):
        raise BagError(
            f"{path} must map values of the label maps to names of classes or null, as 0: sky"
        )
    return content
