"""A folder of what was segmented: pictures, label images, and a table of the frames."""

from __future__ import annotations

import csv
import json
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from upsnet_ros.datasets.taxonomy import Taxonomy
from upsnet_ros.inference.frame import LABEL_DIVISOR, PanopticFrame
from upsnet_ros.inference.overlay import draw_overlay
from upsnet_ros.inference.video import VideoWriter

TABLE = "frames.csv"
INDEX = "index.json"
VIDEO = "overlay.mp4"
_FOLDERS = ("overlay", "labels", "unknown")
_COLUMNS = (
    "index", "stamp", "frame_id", "things", "stuff", "unknown_regions", "unknown_pixels",
    "void_pixels", "latency_ms",
)  # fmt: skip

# Quick to write rather than small: the pictures have to keep up with a camera.
_PNG_FAST = [cv2.IMWRITE_PNG_COMPRESSION, 1]


class RecordingError(RuntimeError):
    """The folder cannot be used or written; the message names the file."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RecordingSettings:
    """What a recording holds beside labels, unknown masks and the table.

    Attributes:
        pictures: Write an overlay PNG of each frame.
        video: Write an overlay video.
        video_rate_hz: Rate at which the video plays.
        codec: One of `upsnet_ros.inference.video.CODECS`.
        overwrite: Replace a recording that the folder already holds.
    """

    pictures: bool = True
    video: bool = True
    video_rate_hz: float = 10.0
    codec: str = "mp4v"
    overwrite: bool = False


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class RecordedFrame:
    """One frame with its segmentation, and where it came from.

    Attributes:
        image_bgr: uint8 (H, W, 3).
        panoptic: Its segmentation.
        stamp_ns: The header's stamp, nanoseconds.
        frame_id: The header's frame.
        unknown_regions: Number of regions that the instances message listed.
        latency_ms: From the arrival of the image to that of its last answer.
    """

    image_bgr: npt.NDArray[np.uint8]
    panoptic: PanopticFrame
    stamp_ns: int
    frame_id: str
    unknown_regions: int
    latency_ms: float


class Recording:
    """Writes frames into a folder; everything written stays readable if the process is killed.

    A picture appears under its name only when it is whole, a row of the table only when the
    frame's pictures are there, and the video is finished by a process of its own.

    Label images take one of two forms, the same for all frames of a recording:

    - 16-bit gray PNG in Cityscapes' instanceIds form where all ids of the taxonomy fit (stuff and
      void: the class id; things: class id * 1000 + k). k counts from 1, as on the labels topic,
      where Cityscapes' own files count from 0; its tools only ask that k differs.
    - Otherwise (COCO) an RGB PNG in COCO's panoptic form: id = R + 256 G + 65536 B.

    Raises:
        RecordingError: If the folder holds a recording and may not overwrite it, or a file cannot
            be written.
    """

    def __init__(self, folder: Path, *, taxonomy: Taxonomy, settings: RecordingSettings) -> None:
        self._folder, self._taxonomy, self._settings = folder, taxonomy, settings
        self._count = 0
        top_id = int(taxonomy.public_ids.max()) * LABEL_DIVISOR + LABEL_DIVISOR - 1
        self._fits_16_bit = top_id <= np.iinfo(np.uint16).max
        _prepare(folder, settings)
        self._table = (folder / TABLE).open("w", newline="", encoding="utf-8")
        self._rows = csv.writer(self._table)
        self._write_row(_COLUMNS)
        self._video = (
            VideoWriter(folder / VIDEO, rate_hz=settings.video_rate_hz, codec=settings.codec)
            if settings.video
            else None
        )
        self._write_index({"complete": False})

    @property
    def count(self) -> int:
        """Number of frames written."""
        return self._count

    def write(self, frame: RecordedFrame) -> None:
        """Write one frame: pictures first, then its row."""
        name = f"{self._count:06d}.png"
        panoptic = frame.panoptic
        if self._settings.pictures or self._video:
            overlay = draw_overlay(frame.image_bgr, panoptic, self._taxonomy)
            if self._settings.pictures:
                _write_png(self._folder / "overlay" / name, overlay)
            if self._video:
                self._video.write(overlay)
        _write_png(self._folder / "labels" / name, self._label_image(panoptic.labels))
        _write_png(self._folder / "unknown" / name, panoptic.unknown.astype(np.uint8) * 255)
        seconds, nanoseconds = divmod(frame.stamp_ns, 1_000_000_000)
        row = (
            self._count,
            f"{seconds}.{nanoseconds:09d}",
            frame.frame_id,
            len(panoptic.instances),
            len(panoptic.stuff),
            frame.unknown_regions,
            np.count_nonzero(panoptic.unknown),
            panoptic.labels.size - np.count_nonzero(panoptic.labels),
            f"{frame.latency_ms:.1f}",
        )
        self._write_row(row)
        self._count += 1

    def close(self, summary: Mapping[str, Any]) -> None:
        """Finish the video and note ``summary`` in the index.

        Raises:
            VideoError: If the video could not be finished; the rest is closed all the same.
        """
        self._table.close()
        self._write_index({"complete": True, **summary})
        if self._video:
            self._video.close()

    def _write_row(self, row: Sequence[object]) -> None:
        try:
            self._rows.writerow(row)
            self._table.flush()
        except OSError as error:
            raise RecordingError(
                f"cannot write {self._folder / TABLE}: {error.strerror}"
            ) from error

    def _label_image(self, labels: npt.NDArray[np.int32]) -> npt.NDArray[Any]:
        if self._fits_16_bit:
            return labels.astype(np.uint16)
        # OpenCV writes channels in the order BGR, so the low byte, red, comes last.
        return np.stack([labels >> 16, labels >> 8, labels], axis=2).astype(np.uint8)

    def _write_index(self, summary: Mapping[str, Any]) -> None:
        index = {
            "frames": self._count,
            **summary,
            "dataset": self._taxonomy.name,
            "label_divisor": LABEL_DIVISOR,
            "labels_form": "cityscapes_instance_ids" if self._fits_16_bit else "coco_panoptic_rgb",
            "classes": [
                {"id": info.id, "name": info.name, "is_thing": info.is_thing, "color": info.color}
                for info in self._taxonomy.classes
            ],
        }
        _write_whole(self._folder / INDEX, json.dumps(index, indent=1).encode())


def check_folder(folder: Path, settings: RecordingSettings) -> None:
    """Raise `RecordingError` where a recording must not begin in ``folder``."""
    if (folder / TABLE).exists() and not settings.overwrite:
        raise RecordingError(f"{folder} already holds a recording: name another, or --overwrite")


def remove_recording(folder: Path) -> None:
    """Remove the recording that ``folder`` holds, if any, and nothing else.

    Raises:
        RecordingError: If a file cannot be removed.
    """
    if not (folder / TABLE).exists():
        return
    try:
        for name in _FOLDERS:
            if (folder / name).exists():
                shutil.rmtree(folder / name)
        for name in (VIDEO, INDEX, TABLE):  # the table, by which it is known, last
            (folder / name).unlink(missing_ok=True)
    except OSError as error:
        raise RecordingError(f"cannot remove {error.filename}: {error.strerror}") from error


def _prepare(folder: Path, settings: RecordingSettings) -> None:
    check_folder(folder, settings)
    remove_recording(folder)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for name in _FOLDERS:
            if name != "overlay" or settings.pictures:
                (folder / name).mkdir()
    except FileExistsError as error:
        raise RecordingError(
            f"{error.filename} exists and is no recording's: name another folder"
        ) from error
    except OSError as error:
        raise RecordingError(f"cannot write to {error.filename}: {error.strerror}") from error


def _write_png(path: Path, pixels: npt.NDArray[Any]) -> None:
    encoded, data = cv2.imencode(".png", pixels, _PNG_FAST)
    if not encoded:
        raise RecordingError(f"cannot encode {path}")
    _write_whole(path, data.tobytes())


def _write_whole(path: Path, data: bytes) -> None:
    """Write a file that is never seen half done."""
    partial = path.with_name(path.name + ".part")
    try:
        partial.write_bytes(data)
        partial.replace(path)
    except OSError as error:
        partial.unlink(missing_ok=True)  # where the disk is full it needs the room
        raise RecordingError(f"cannot write {path}: {error.strerror}") from error
