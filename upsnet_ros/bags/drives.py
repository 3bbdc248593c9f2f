"""What a bag is made of: a camera's frames in order of time, with truth where there is any."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
import numpy.typing as npt

from upsnet_ros.bags.errors import BagError
from upsnet_ros.datasets.base import Sample
from upsnet_ros.datasets.cityscapes import sample_of_ids
from upsnet_ros.datasets.images import read_labels
from upsnet_ros.datasets.scenes import RATE_HZ, scene_frame
from upsnet_ros.datasets.scenes.renderer import world
from upsnet_ros.datasets.taxonomy import CITYSCAPES, Taxonomy
from upsnet_ros.evaluation.datasets import map_of_sample
from upsnet_ros.evaluation.naming import frame_name
from upsnet_ros.ros.sources import FrameSource, open_source

__all__ = [
    "FOCAL_SHARE",
    "CityscapesDrive",
    "Drive",
    "DriveFrame",
    "ImagesDrive",
    "ScenesDrive",
    "Truth",
    "truth_of",
]

_SECOND = 1_000_000_000
#: Focal length over image width of Cityscapes' camera, for cameras of which nothing is known.
FOCAL_SHARE = 2262.52 / 2048
_LABELS = "_gtFine_instanceIds.png"
_UNKNOWN = "_gtFine_unknownMask.png"


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Truth:
    """What is known of a frame.

    Attributes:
        labels: int32 (H, W): ``class * 1000 + k`` for things, k lasting along a sequence where the
            source numbers them so; the class for stuff, and for groups of things that were not
            told apart; 0 for void.
        unknown: bool (H, W): objects outside the classes; None where that is not told.
    """

    labels: npt.NDArray[np.int32]
    unknown: npt.NDArray[np.bool_] | None


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class DriveFrame:
    """One frame.

    Attributes:
        name: As evaluations of files call it.
        time_ns: Since the drive's first frame, at the drive's own rate.
        image: uint8 (H, W, 3), BGR.
        focal: The camera's focal length in pixels.
        truth: None where the frame is not labelled.
    """

    name: str
    time_ns: int
    image: npt.NDArray[np.uint8]
    focal: float
    truth: Truth | None


class Drive(Protocol):
    """Frames in order of time.

    Attributes:
        taxonomy: Classes of the truth; None where there is none.
        rate_hz: The drive's own frame rate.
        length: Number of frames, or None where it is not known before they are read.
    """

    taxonomy: Taxonomy | None
    rate_hz: float
    length: int | None

    def __iter__(self) -> Iterator[DriveFrame]: ...


class ImagesDrive:
    """A video, an image or a folder of images, without truth.

    Raises:
        SourceError: There is nothing there that can be read.
    """

    taxonomy: Taxonomy | None = None

    def __init__(self, source: FrameSource) -> None:
        self._source = source
        self.rate_hz, self.length = source.rate_hz, source.length

    def __iter__(self) -> Iterator[DriveFrame]:
        for frame in self._source:
            yield DriveFrame(
                name=frame_name(frame.name),
                time_ns=frame.time_ns,
                image=frame.image,
                focal=FOCAL_SHARE * frame.image.shape[1],
                truth=self._truth(frame.name, frame.image),
            )

    def _truth(self, name: str, image: npt.NDArray[np.uint8]) -> Truth | None:
        return None


class CityscapesDrive(ImagesDrive):
    """A split of a Cityscapes root: every frame of its sequences, and the truth of some.

    Args:
        root: The folder that holds ``gtFine`` and ``leftImg8bit_sequence``, or ``leftImg8bit``.
        split: ``train``, ``val`` or ``test``.

    Raises:
        BagError: There is no such split, or it has no labels.
        SourceError: It has no images.
    """

    def __init__(self, root: Path, split: str) -> None:
        self.taxonomy = CITYSCAPES
        kinds = ("leftImg8bit_sequence", "leftImg8bit")
        images = next(
            (root / kind / split for kind in kinds if (root / kind / split).is_dir()), None
        )
        if images is None:
            raise BagError(f"{root} has no split {split}: there is no {kinds[0]}/{split}")
        super().__init__(open_source(images))
        paths = (root / "gtFine" / split).glob(f"*/*{_LABELS}")
        self._labels = {path.name.removesuffix(_LABELS): path for path in paths}
        if not self._labels:
            raise BagError(f"{root} has no labels gtFine/{split}/<city>/*{_LABELS}")

    def _truth(self, name: str, image: npt.NDArray[np.uint8]) -> Truth | None:
        frame = frame_name(name)
        if frame not in self._labels:
            return None
        path = self._labels[frame]
        size = (image.shape[0], image.shape[1])
        mask = path.with_name(f"{frame}{_UNKNOWN}")
        unknown = read_labels(mask, size=size) > 0 if mask.is_file() else None
        ids = read_labels(path, size=size)
        sample = sample_of_ids(ids, image, name=frame, source=path, unknown=unknown)
        return truth_of(sample, CITYSCAPES)


class ScenesDrive:
    """Driving scenes, drawn as they are asked for; each street is a sequence.

    Args:
        split: ``train``, ``val`` or ``test``; their scenes never meet.
        seed: Which set of streets.
        sequences: Number of streets.
        first: Number of the first one.
        frames: Frames of a street, 10 a second.
        size: Rows and columns.

    Raises:
        ValueError: While iterating: a value is not possible.
    """

    rate_hz = RATE_HZ

    def __init__(
        self,
        *,
        split: str,
        seed: int,
        sequences: int,
        first: int,
        frames: int,
        size: tuple[int, int],
    ) -> None:
        self.taxonomy: Taxonomy | None = CITYSCAPES
        self.length: int | None = sequences * frames
        self._split, self._seed, self._size = split, seed, size
        self._streets, self._frames = range(first, first + sequences), frames

    def __iter__(self) -> Iterator[DriveFrame]:
        step = round(_SECOND / self.rate_hz)
        # A second's pause between streets, as between the sequences of Cityscapes.
        pause = _SECOND + (self._frames - 1) * step
        for place, street in enumerate(self._streets):
            for number in range(self._frames):
                scene = scene_frame(self._split, street, number, self._size, seed=self._seed)
                name = f"drawn{self._seed}_{street:06d}_{number:06d}"
                sample = sample_of_ids(
                    scene.instances, scene.image, name=name, source=name, unknown=scene.unknown
                )
                focal = world(self._split, self._seed, street).street.focal
                yield DriveFrame(
                    name=name,
                    time_ns=place * pause + number * step,
                    image=scene.image,
                    focal=focal * self._size[1],
                    truth=truth_of(sample, CITYSCAPES),
                )


def truth_of(sample: Sample, taxonomy: Taxonomy) -> Truth:
    """What a sample of a data set knows of its image."""
    labels = map_of_sample(sample, taxonomy).pixels.astype(np.int32, copy=False)
    return Truth(labels=labels, unknown=sample.unknown)
