"""Writes labelled frames into a bag: images, camera_info, and ground truth on separate topics."""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import yaml

from upsnet_ros.bags.messages import (
    CAMERA_INFO,
    COMPRESSED,
    HEADER,
    IMAGE,
    LABEL_INFO,
    POINT_CLOUD,
    TRANSFORMS,
    TRUTH,
    Messages,
    label_encoding,
)
from upsnet_ros.bags.sources import FOLDER_RATE_HZ, FrameSource, open_source
from upsnet_ros.bags.writer import BagWriter, Compression, Storage, check_form
from upsnet_ros.datasets.base import Sample
from upsnet_ros.datasets.readers import LABELS, Folder, read_sample, sample_of_ids
from upsnet_ros.datasets.taxonomy import CITYSCAPES, Taxonomy
from upsnet_ros.errors import BagError, SourceError, parse_failure
from upsnet_ros.evaluation.datasets import map_from_sample
from upsnet_ros.evaluation.maps import frame_name
from upsnet_ros.synthetic.dataset import read_depth, scene_frame
from upsnet_ros.synthetic.lidar import POINT, TRUTH_FIELDS, Lidar, Sweep, sweep
from upsnet_ros.synthetic.renderer import RATE_HZ, SceneFrame, world

_SECOND = 1_000_000_000
#: Focal length divided by image width of the Cityscapes camera; used for unknown cameras.
FOCAL_SHARE = 2262.52 / 2048
#: Frame of the simulated lidar; its clouds are on ``/lidar/points``.
LIDAR = "lidar"


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Truth:
    """The ground truth of a frame.

    Attributes:
        labels: int32 (H, W): ``class * 1000 + k`` for things, where k persists along a sequence if
            the source has such numbers; the class id for stuff and for groups of things; 0 for
            void.
        unknown: bool (H, W): objects outside the classes; None if not annotated.
    """

    labels: npt.NDArray[np.int32]
    unknown: npt.NDArray[np.bool_] | None


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class FramePoints:
    """What depth camera and lidar would measure of a frame.

    Attributes:
        depth: float32 (H, W), metres; infinity in the sky. None leaves it out.
        swept: The lidar's points with their ground truth.
        extrinsics: Pose of the lidar in the camera's frame, as in `Lidar.extrinsics`.
    """

    depth: npt.NDArray[np.float32] | None
    swept: Sweep
    extrinsics: tuple[float, ...]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class DriveFrame:
    """One frame of a drive.

    Attributes:
        name: Name of the frame, as in evaluations of files.
        time_ns: Time since the first frame in ns, at the rate of the drive.
        image: uint8 (H, W, 3), BGR.
        focal: Focal length of the camera in pixels.
        truth: Ground truth; None if the frame is not labelled.
        points: Depth and lidar; None if the drive has none.
    """

    name: str
    time_ns: int
    image: npt.NDArray[np.uint8]
    focal: float
    truth: Truth | None
    points: FramePoints | None = None


class Drive(Protocol):
    """Frames in order of time.

    Attributes:
        taxonomy: Classes of the ground truth; None if there is none.
        rate_hz: Frame rate of the drive.
        length: Number of frames; None if not known in advance.
    """

    taxonomy: Taxonomy | None
    rate_hz: float
    length: int | None

    def __iter__(self) -> Iterator[DriveFrame]: ...


class ImagesDrive:
    """A frame source (video, image or folder of images) without ground truth.

    Raises:
        SourceError: While iterating: a frame cannot be read, or all were skipped.
    """

    taxonomy: Taxonomy | None = None

    def __init__(self, source: FrameSource) -> None:
        self._source = source
        self.rate_hz, self.length = source.rate_hz, source.length
        self.skipped = source.skipped

    def __iter__(self) -> Iterator[DriveFrame]:
        count = 0
        for count, frame in enumerate(self._source, 1):  # noqa: B007
            yield DriveFrame(
                name=frame_name(frame.name),
                time_ns=frame.time_ns,
                image=frame.image,
                focal=FOCAL_SHARE * frame.image.shape[1],
                truth=self._truth(frame.name, frame.image),
            )
        if not count:
            raise SourceError(
                f"no image of {self._source.name} could be read{self.skipped.summary()}"
            )

    def _truth(self, name: str, image: npt.NDArray[np.uint8]) -> Truth | None:
        return None


class CityscapesDrive(ImagesDrive):
    """A split of Cityscapes: all frames of its sequences, some of them labelled.

    Args:
        root: The folder with ``gtFine`` and ``leftImg8bit_sequence`` or ``leftImg8bit``.
        split: ``train``, ``val`` or ``test``.
        skip_bad: As in `open_source`.

    Raises:
        BagError: The split does not exist or has no labels.
        SourceError: The split has no images.
    """

    def __init__(self, root: Path, split: str, *, skip_bad: bool = False) -> None:
        self.taxonomy = CITYSCAPES
        kinds = ("leftImg8bit_sequence", "leftImg8bit")
        images = next(
            (root / kind / split for kind in kinds if (root / kind / split).is_dir()), None
        )
        if images is None:
            raise BagError(f"{root} has no split {split}: there is no {kinds[0]}/{split}")
        super().__init__(open_source(images, skip_bad=skip_bad))
        paths = (root / "gtFine" / split).glob(f"*/*{LABELS}")
        self._labels = {path.name.removesuffix(LABELS): path for path in paths}
        if not self._labels:
            raise BagError(f"{root} has no labels gtFine/{split}/<city>/*{LABELS}")

    def _truth(self, name: str, image: npt.NDArray[np.uint8]) -> Truth | None:
        frame = frame_name(name)
        if frame not in self._labels:
            return None
        return truth_of(read_sample(self._labels[frame], image, name=frame), CITYSCAPES)


class ScenesDrive:
    """Synthetic driving scenes, rendered while iterating; each street is a sequence.

    Args:
        split: ``train``, ``val`` or ``test``; splits are disjoint.
        seed: Selects the set of streets.
        sequences: Number of streets.
        first: Index of the first street.
        frames: Frames per street, at 10 Hz.
        size: Height and width.
        points: Measure depth, and simulate a lidar.

    Raises:
        ValueError: While iterating: a value is invalid.
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
        points: bool = False,
    ) -> None:
        self.taxonomy: Taxonomy | None = CITYSCAPES
        self._lidar = Lidar() if points else None
        self.length: int | None = sequences * frames
        self._split, self._seed, self._size = split, seed, size
        self._streets, self._frames = range(first, first + sequences), frames

    def __iter__(self) -> Iterator[DriveFrame]:
        step = round(_SECOND / self.rate_hz)
        # One second between streets, as between Cityscapes sequences.
        pause = _SECOND + (self._frames - 1) * step
        for index, street in enumerate(self._streets):
            for number in range(self._frames):
                scene = scene_frame(self._split, street, number, self._size, seed=self._seed)
                name = f"drawn{self._seed}_{street:06d}_{number:06d}"
                sample = sample_of_ids(
                    scene.instances, scene.image, name=name, source=name, unknown=scene.unknown
                )
                focal = world(self._split, self._seed, street).street.focal
                yield DriveFrame(
                    name=name,
                    time_ns=index * pause + number * step,
                    image=scene.image,
                    focal=focal * self._size[1],
                    truth=truth_of(sample, CITYSCAPES),
                    points=self._points(scene),
                )

    def _points(self, scene: SceneFrame) -> FramePoints | None:
        if self._lidar is None:
            return None
        return FramePoints(
            depth=scene.depth,
            swept=sweep(scene, self._lidar),
            extrinsics=self._lidar.extrinsics,
        )


def truth_of(sample: Sample, taxonomy: Taxonomy) -> Truth:
    """Return the ground truth of a dataset's sample."""
    labels = map_from_sample(sample, taxonomy).pixels.astype(np.int32, copy=False)
    return Truth(labels=labels, unknown=sample.unknown)


class LidarDrive(CityscapesDrive):
    """A split of synthetic scenes that were written with depth, with a simulated lidar.

    Args:
        root: The folder, as of `CityscapesDrive`.
        split: ``train``, ``val`` or ``test``.

    Raises:
        BagError: As `CityscapesDrive`.
        SourceError: As `CityscapesDrive`.
        DatasetError: While iterating: a file with depth is missing or damaged.
    """

    def __init__(self, root: Path, split: str) -> None:
        super().__init__(root, split)
        self._root, self._split, self._lidar = root, split, Lidar()

    def __iter__(self) -> Iterator[DriveFrame]:
        for frame in super().__iter__():
            if frame.truth is None or frame.truth.unknown is None:
                raise BagError(f"{frame.name} has no labels, which a lidar's points need")
            size = (frame.image.shape[0], frame.image.shape[1])
            depth, camera = read_depth(self._root, self._split, frame.name, size=size)
            labels = frame.truth.labels
            scene = SceneFrame(
                image=frame.image,
                semantic=np.where(labels >= 1000, labels // 1000, labels).astype(np.uint8),
                instances=labels,
                unknown=frame.truth.unknown,
                depth=depth,
                camera=camera,
            )
            points = FramePoints(
                depth=None,
                swept=sweep(scene, self._lidar),
                extrinsics=self._lidar.extrinsics,
            )
            yield replace(frame, focal=camera.focal, points=points)


class FolderDrive:
    """A folder of images with a folder of label maps (see `upsnet_ros.datasets.readers.Folder`)."""

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
    """Return the class name of each label value (None for void) from a YAML file.

    Raises:
        BagError: The file cannot be read or has the wrong structure.
    """
    try:
        content: Any = yaml.safe_load(path.read_text("utf-8"))
    except OSError as error:
        raise BagError(f"cannot read {path}: {error.strerror}") from None
    except (yaml.YAMLError, ValueError) as error:
        raise BagError(parse_failure(path, error)) from None
    if not isinstance(content, dict) or not all(
        isinstance(value, int) and (name is None or isinstance(name, str))
        for value, name in content.items()
    ):
        raise BagError(
            f"{path} must map values of the label maps to names of classes or null, as 0: sky"
        )
    return content


#: Stamp of the first frame; constant, so that bags are reproducible.
_START_NS = 1_700_000_000 * 1_000_000_000


@dataclass(frozen=True, slots=True, kw_only=True)
class BagJob:
    """Settings for writing a drive.

    Attributes:
        path: Folder of the bag; must not contain a bag.
        camera: Name of the camera: used for the topics ``/<camera>/image_raw`` and
            ``/<camera>/camera_info`` and as frame_id.
        jpeg: JPEG quality, 1 to 100, for ``/<camera>/image_raw/compressed``; None: raw images.
        rate_hz: Frame rate; None: the rate of the drive.
        storage: "mcap" or "sqlite3".
        compression: "none" or "zstd".

    Raises:
        BagError: A value is invalid.
    """

    path: Path
    camera: str = "camera"
    jpeg: int | None = None
    rate_hz: float | None = None
    storage: Storage = "mcap"
    compression: Compression = "none"

    def __post_init__(self) -> None:
        if not re.fullmatch(r"[A-Za-z]\w*(/[A-Za-z]\w*)*", self.camera):
            raise BagError(f"camera {self.camera!r} is not the name of a topic")
        if self.jpeg is not None and not 1 <= self.jpeg <= 100:
            raise BagError(f"JPEG quality {self.jpeg} is not from 1 to 100")
        if self.rate_hz is not None and not 0 < self.rate_hz <= 1000:
            raise BagError(f"rate {self.rate_hz} Hz is not above 0 and at most 1000")
        check_form(self.storage, self.compression)


def make_bag(drive: Drive, job: BagJob) -> Iterator[DriveFrame]:
    """Write a drive into a bag, which is made once there is a first frame.

    Stamps start at the same time in every bag and equal the receive times. The ground-truth topics
    are ``labels`` (ids as published by the node), ``unknown_mask`` if annotated, ``frame`` (a
    header with the frame's name as frame_id), ``points`` (the lidar's, with their truth), and
    ``label_info`` (latched).

    Yields:
        Each frame after it is written.

    Raises:
        BagError: The bag cannot be written, or the drive has no frame.
        ValueError: From the drive.
    """
    frames = iter(drive)
    first = next(frames, None)
    if first is None:
        raise BagError(f"there is no frame to write into {job.path}")
    slower = 1.0 if job.rate_hz is None else drive.rate_hz / job.rate_hz
    with BagWriter(path=job.path, storage=job.storage, compression=job.compression) as bag:
        messages = Messages(bag.types, job.camera)
        if drive.taxonomy is not None:
            bag.add_topic(f"{TRUTH}/label_info", LABEL_INFO, latched=True)
            info = messages.label_info(drive.taxonomy, _START_NS)
            bag.write(f"{TRUTH}/label_info", info, _START_NS, LABEL_INFO)
        mounted = False
        for frame in itertools.chain((first,), frames):
            stamp_ns = _START_NS + round(frame.time_ns * slower)
            if frame.points is not None and not mounted:
                bag.add_topic("/tf_static", TRANSFORMS, latched=True)
                pose = messages.transform(LIDAR, frame.points.extrinsics, stamp_ns)
                bag.write("/tf_static", pose, stamp_ns, TRANSFORMS)
                mounted = True
            _write_image(bag, messages, job, frame, stamp_ns)
            if frame.truth is not None and drive.taxonomy is not None:
                encoding = label_encoding(drive.taxonomy)
                labels = messages.image(frame.truth.labels, encoding, stamp_ns)
                bag.write(f"{TRUTH}/labels", labels, stamp_ns, IMAGE)
                if frame.truth.unknown is not None:
                    mask = messages.image(frame.truth.unknown * np.uint8(255), "mono8", stamp_ns)
                    bag.write(f"{TRUTH}/unknown_mask", mask, stamp_ns, IMAGE)
                name = messages.header(stamp_ns, frame.name)
                bag.write(f"{TRUTH}/frame", name, stamp_ns, HEADER)
            yield frame


def _write_image(
    bag: BagWriter, messages: Messages, job: BagJob, frame: DriveFrame, stamp_ns: int
) -> None:
    size = (frame.image.shape[0], frame.image.shape[1])
    info = messages.camera_info(size, frame.focal, stamp_ns)
    bag.write(f"/{job.camera}/camera_info", info, stamp_ns, CAMERA_INFO)
    if frame.points is not None:
        _write_points(bag, messages, job, frame.points, stamp_ns)
    topic = f"/{job.camera}/image_raw"
    if job.jpeg is None:
        bag.write(topic, messages.image(frame.image, "bgr8", stamp_ns), stamp_ns, IMAGE)
    else:
        image = messages.jpeg(frame.image, job.jpeg, stamp_ns)
        bag.write(f"{topic}/compressed", image, stamp_ns, COMPRESSED)


def _write_points(
    bag: BagWriter, messages: Messages, job: BagJob, points: FramePoints, stamp_ns: int
) -> None:
    """Write depth and cloud before the image, so that a replay sends them before its labels."""
    if points.depth is not None:
        depth = messages.image(points.depth, "32FC1", stamp_ns)
        bag.write(f"/{job.camera}/depth", depth, stamp_ns, IMAGE)
    measured, truth = points.swept.points, points.swept.truth
    cloud = messages.cloud(measured, LIDAR, stamp_ns)
    bag.write(f"/{LIDAR}/points", cloud, stamp_ns, POINT_CLOUD)
    labelled = np.zeros(len(measured), POINT.descr + TRUTH_FIELDS.descr)
    for part in (measured, truth):
        for name in part.dtype.names or ():
            labelled[name] = part[name]
    bag.write(f"{TRUTH}/points", messages.cloud(labelled, LIDAR, stamp_ns), stamp_ns, POINT_CLOUD)
