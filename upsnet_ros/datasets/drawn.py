"""Driving scenes as a data set, drawn when they are asked for."""

from __future__ import annotations

import os
from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt

from upsnet_ros.datasets.base import Sample
from upsnet_ros.datasets.cityscapes import sample_of_ids
from upsnet_ros.datasets.images import read_image, read_labels
from upsnet_ros.datasets.scenes import DrivingScenes, SceneFrame
from upsnet_ros.datasets.taxonomy import CITYSCAPES

# Written once and read often: hardly larger than at the best level, and much quicker.
_PNG = [cv2.IMWRITE_PNG_COMPRESSION, 1]


class DrawnScenes:
    """Driving scenes with Cityscapes' classes.

    A frame out of order takes up to seconds, since its street is laid out first; with a cache that
    happens once.

    Args:
        split: ``train``, ``val`` or ``test``; their scenes never meet.
        seed: Which set of streets.
        length: Number of frames.
        size: Height and width of a frame.
        cache: Folder where drawn frames are kept; None to draw them anew each time. Remove it when
            the way scenes are drawn has changed.

    Raises:
        ValueError: A value is not possible.
    """

    def __init__(
        self,
        *,
        split: str,
        seed: int,
        length: int,
        size: tuple[int, int],
        cache: str | Path | None = None,
    ) -> None:
        self.taxonomy = CITYSCAPES
        self._scenes = DrivingScenes(split, seed, length, size)
        self._set = f"{split}{seed}"
        self._cache: Path | None = None
        if cache is not None:
            self._cache = Path(cache).expanduser() / f"{self._set}_{size[0]}x{size[1]}"
            self._cache.mkdir(parents=True, exist_ok=True)

    def __len__(self) -> int:
        return len(self._scenes)

    def __getitem__(self, index: int) -> Sample:
        street, place = divmod(index, self._scenes.per_street)
        name = f"{self._set}_{street:06d}_{place:06d}"
        if self._cache is not None:
            return self._cached(index, self._cache / name)
        scene = self._scenes[index]
        return _sample(scene.image, scene.instances, scene.unknown, name=name)

    def _cached(self, index: int, base: Path) -> Sample:
        image, ids, unknown = (
            base.with_name(f"{base.name}_{kind}.png") for kind in ("image", "ids", "unknown")
        )
        if not image.is_file():
            scene: SceneFrame = self._scenes[index]
            _write(ids, scene.instances.astype(np.uint16))
            _write(unknown, scene.unknown.astype(np.uint8))
            _write(image, scene.image)  # last: where it is, the others are
        pixels = read_image(image)
        size = (pixels.shape[0], pixels.shape[1])
        return _sample(
            pixels,
            read_labels(ids, size=size),
            read_labels(unknown, size=size) > 0,
            name=str(image),
        )


def _sample(
    image: npt.NDArray[np.uint8],
    ids: npt.NDArray[np.int32],
    unknown: npt.NDArray[np.bool_],
    *,
    name: str,
) -> Sample:
    return sample_of_ids(ids, image, name=name, source=name, unknown=unknown)


def _write(path: Path, pixels: npt.NDArray[np.uint8] | npt.NDArray[np.uint16]) -> None:
    """Write a PNG in one step: other processes may draw the same frame."""
    new = path.with_name(f".{os.getpid()}_{path.name}")
    cv2.imwrite(str(new), pixels, _PNG)
    new.replace(path)
