"""Making a bag of a drive: images, camera_info, and the truth on topics of its own."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from upsnet_ros.bags.drives import Drive, DriveFrame
from upsnet_ros.bags.errors import BagError
from upsnet_ros.bags.messages import (
    CAMERA_INFO,
    COMPRESSED,
    HEADER,
    IMAGE,
    LABEL_INFO,
    TRUTH,
    Messages,
    label_encoding,
)
from upsnet_ros.bags.writer import BagWriter, Compression, Storage

__all__ = ["BagJob", "make_bag"]

#: Stamp of the first frame: always the same, as the bag of the same drive shall be.
_START_NS = 1_700_000_000 * 1_000_000_000


@dataclass(frozen=True, slots=True, kw_only=True)
class BagJob:
    """How to write a drive.

    Attributes:
        path: Folder of the bag; must not exist yet.
        camera: The camera's name: its topics are ``/<camera>/image_raw`` and
            ``/<camera>/camera_info``, and it is the headers' frame_id.
        jpeg: Quality, 1 to 100, to write ``/<camera>/image_raw/compressed`` instead; None: raw.
        rate_hz: Frames a second; None: the drive's own.
        storage: "mcap" or "sqlite3".
        compression: "none" or "zstd".

    Raises:
        BagError: A value is not possible.
    """

    path: Path
    camera: str = "camera"
    jpeg: int | None = None
    rate_hz: float | None = None
    storage: Storage = "mcap"
    compression: Compression = "none"

    def __post_init__(self) -> None:
        if not re.fullmatch(r"[A-Za-z]\w*(/[A-Za-z]\w*)*", self.camera):
            raise BagError(f"camera {self.camera!r} is no name of a topic")
        if self.jpeg is not None and not 1 <= self.jpeg <= 100:
            raise BagError(f"JPEG quality {self.jpeg} is not from 1 to 100")
        if self.rate_hz is not None and not 0 < self.rate_hz <= 1000:
            raise BagError(f"rate {self.rate_hz} Hz is not above 0 and at most 1000")


def make_bag(drive: Drive, job: BagJob) -> Iterator[DriveFrame]:
    """Write a drive into a bag.

    Stamps begin at the same moment in every bag, and messages count as received at their stamps.
    The truth's topics are ``labels`` (the node's ids), ``unknown_mask`` where unknown objects are
    told, ``frame`` (a header whose frame_id is the frame's name), and ``label_info``, latched.

    Yields:
        Each frame once it is written.

    Raises:
        BagError: The bag cannot be written.
        ValueError: As the drive.
    """
    slower = 1.0 if job.rate_hz is None else drive.rate_hz / job.rate_hz
    with BagWriter(path=job.path, storage=job.storage, compression=job.compression) as bag:
        messages = Messages(bag.types, job.camera)
        if drive.taxonomy is not None:
            bag.add_topic(f"{TRUTH}/label_info", LABEL_INFO, latched=True)
            info = messages.label_info(drive.taxonomy, _START_NS)
            bag.write(f"{TRUTH}/label_info", info, _START_NS, LABEL_INFO)
        for frame in drive:
            stamp_ns = _START_NS + round(frame.time_ns * slower)
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
    topic = f"/{job.camera}/image_raw"
    if job.jpeg is None:
        bag.write(topic, messages.image(frame.image, "bgr8", stamp_ns), stamp_ns, IMAGE)
    else:
        image = messages.jpeg(frame.image, job.jpeg, stamp_ns)
        bag.write(f"{topic}/compressed", image, stamp_ns, COMPRESSED)
