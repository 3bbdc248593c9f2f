"""Writes results to a folder: overlay images, label PNGs, a table and a video.

An MP4 is unreadable until its index is written at the very end. The encoder therefore runs in a
separate process and session and reads frames from a pipe: Ctrl-C does not reach it, and if the
parent process ends, even by ``kill -9``, the pipe closes and the encoder finishes the file.
"""

from __future__ import annotations

import csv
import json
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import cv2
import numpy as np
import numpy.typing as npt

from upsnet_ros.datasets.coco_format import rgb_ids
from upsnet_ros.datasets.taxonomy import Taxonomy
from upsnet_ros.drawing.export import encode_png, fits_16_bits
from upsnet_ros.drawing.overlay import draw_overlay
from upsnet_ros.errors import OutputError, SettingsError, VideoError, printable
from upsnet_ros.inference.frame import LABEL_DIVISOR, PanopticFrame
from upsnet_ros.output_files import OutputFolder, write_whole, writing
from upsnet_ros.processes.child_processes import child_command

#: ``mp4v`` (MPEG-4 part 2) takes 3 ms per frame of 512x1024, but browsers do not play it;
#: ``vp09`` (VP9) plays everywhere and takes a hundred times as long.
CODECS = ("mp4v", "vp09")

TABLE = "frames.csv"
INDEX = "index.json"
VIDEO = "overlay.mp4"
_FOLDERS = ("overlay", "labels", "unknown")
#: File patterns of a recording, for `OutputFolder`.
NAMES = (*(f"{folder}/{'[0-9]' * 6}*.png" for folder in _FOLDERS), TABLE, INDEX, VIDEO)
_COLUMNS = (
    "index", "stamp", "frame_id", "things", "stuff", "unknown_regions", "unknown_pixels",
    "void_pixels", "latency_ms",
)  # fmt: skip


class VideoWriter:
    """Writes frames to an MP4; the first frame sets the size, later ones are scaled to it.

    Args:
        path: File to write.
        rate_hz: Frames per second of the video.
        codec: One of `CODECS`.
    """

    def __init__(self, path: Path, *, rate_hz: float, codec: str = "mp4v") -> None:
        if codec not in CODECS:
            raise SettingsError(f"codec must be one of {', '.join(CODECS)}, not {codec!r}")
        self._path = path
        self._arguments = [str(path), codec, str(rate_hz)]
        self._size = (0, 0)
        self._encoder: subprocess.Popen[bytes] | None = None
        self._errors = tempfile.TemporaryFile()  # noqa: SIM115 - closed with the writer

    def write(self, image_bgr: npt.NDArray[np.uint8]) -> None:
        """Append a frame, uint8 (H, W, 3) BGR.

        Raises:
            VideoError: If the encoder has ended.
        """
        if self._encoder is None:
            # Chroma is stored per 2x2 pixels; encoders reject or crop an odd row or column.
            height, width = (length + length % 2 for length in image_bgr.shape[:2])
            self._size = (width, height)
            self._encoder = subprocess.Popen(
                child_command(
                    "upsnet_ros.drawing.result_folder", *self._arguments, *map(str, self._size)
                ),
                stdin=subprocess.PIPE,
                stderr=self._errors,
                start_new_session=True,
            )
        assert self._encoder.stdin is not None
        if image_bgr.shape[1::-1] != self._size:
            image_bgr = np.asarray(cv2.resize(image_bgr, self._size), np.uint8)
        try:
            self._encoder.stdin.write(np.ascontiguousarray(image_bgr).data)
            self._encoder.stdin.flush()  # a buffered frame would be lost if this process is killed
        except BrokenPipeError:
            raise self._failure() from None

    def close(self) -> None:
        """Finish the file. No file is written if there was no frame.

        Raises:
            VideoError: If the encoder failed.
        """
        with self._errors:
            if self._encoder is None:
                return
            assert self._encoder.stdin is not None
            try:
                self._encoder.stdin.close()
            except BrokenPipeError:
                raise self._failure() from None
            if self._encoder.wait() != 0:
                raise self._failure()

    def _failure(self) -> VideoError:
        assert self._encoder is not None
        self._encoder.wait()
        self._errors.seek(0)
        lines = self._errors.read().decode(errors="replace").strip().splitlines()
        return VideoError(f"cannot write {self._path}: {lines[-1] if lines else 'encoder ended'}")


def _encode(path: str, codec: str, rate_hz: float, width: int, height: int) -> None:
    """Encode raw frames from stdin into ``path`` until stdin ends (runs in the child process)."""
    writer = cv2.VideoWriter(
        path, cv2.CAP_FFMPEG, cv2.VideoWriter.fourcc(*codec), rate_hz, (width, height)
    )
    if not writer.isOpened():
        sys.exit(f"OpenCV cannot encode {codec} to this path")
    size = width * height * 3
    # The last frame may be incomplete if the parent process was killed.
    while len(data := sys.stdin.buffer.read(size)) == size:
        writer.write(np.frombuffer(data, np.uint8).reshape(height, width, 3))
    writer.release()


@dataclass(frozen=True, slots=True, kw_only=True)
class RecordingSettings:
    """What to write in addition to labels, unknown masks and the table.

    Attributes:
        pictures: Write an overlay PNG of each frame.
        video: Write an overlay video.
        video_rate_hz: Frames per second of the video.
        codec: One of `CODECS`.
        overwrite: Replace an existing recording in the folder.
        inside: The folder is managed by the caller: do not check or lock it.
    """

    pictures: bool = True
    video: bool = True
    video_rate_hz: float = 10.0
    codec: str = "mp4v"
    overwrite: bool = False
    inside: bool = False


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class RecordedFrame:
    """A camera image with its segmentation and header.

    Attributes:
        image_bgr: uint8 (H, W, 3).
        panoptic: Segmentation of the image.
        stamp_ns: Header stamp, nanoseconds.
        frame_id: Header frame id.
        unknown_regions: Number of unknown regions in the instances message.
        latency_ms: Time from the arrival of the image to the arrival of its last result,
            milliseconds.
    """

    image_bgr: npt.NDArray[np.uint8]
    panoptic: PanopticFrame
    stamp_ns: int
    frame_id: str
    unknown_regions: int
    latency_ms: float


class Recording:
    """Writes frames to a folder; everything written stays readable if the process is killed.

    Images are written atomically, a row of the table is written after the frame's images, and the
    video is finished by a separate process.

    Label images have one of two formats, the same for all frames of a recording:

    - 16-bit gray PNG in Cityscapes' instanceIds format if all ids of the taxonomy fit (stuff and
      void: class id; things: class id * 1000 + k). k starts at 1, as on the labels topic;
      Cityscapes' own files start at 0, but its tools only require that k differs.
    - Otherwise (COCO) an RGB PNG in COCO's panoptic format: id = R + 256 G + 65536 B.

    Args:
        folder: Output folder.
        taxonomy: Classes of the frames.
        settings: What to write.

    Raises:
        OutputError: If the folder contains other files, or a recording that must not be
            overwritten, or a file cannot be written.
    """

    def __init__(self, folder: Path, *, taxonomy: Taxonomy, settings: RecordingSettings) -> None:
        self._folder, self._taxonomy, self._settings = folder, taxonomy, settings
        self._count = 0
        self._fits_16_bit = fits_16_bits(taxonomy)
        with ExitStack() as stack:  # closes what is already open if a later step fails
            owned = check_folder(folder, settings)
            if owned is not None:
                stack.enter_context(owned)
            _make_folders(folder, settings)
            with writing(folder / TABLE):
                self._table = (folder / TABLE).open("x", newline="", encoding="utf-8")
            stack.callback(self._close_table)
            self._rows = csv.writer(self._table)
            self._write_row(_COLUMNS)
            self._video = (
                VideoWriter(folder / VIDEO, rate_hz=settings.video_rate_hz, codec=settings.codec)
                if settings.video
                else None
            )
            if self._video:
                stack.callback(self._video.close)
            self._write_index({"complete": False})
            self._open = stack.pop_all()

    @property
    def count(self) -> int:
        """Number of frames written."""
        return self._count

    def write(self, frame: RecordedFrame) -> None:
        """Write the images of a frame, then its row in the table."""
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
            _cell(frame.frame_id),
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
        """Finish the video and write ``summary`` to the index.

        All files are closed and the encoder has ended, even if an error is raised.

        Raises:
            VideoError: If the video could not be finished.
            OutputError: If another file could not be written.
        """
        with self._open:
            self._write_index({"complete": True, **summary})

    def _write_row(self, row: Sequence[object]) -> None:
        with writing(self._folder / TABLE):
            self._rows.writerow(row)
            self._table.flush()

    def _close_table(self) -> None:
        with writing(self._folder / TABLE):
            self._table.close()

    def _label_image(self, labels: npt.NDArray[np.int32]) -> npt.NDArray[Any]:
        if self._fits_16_bit:
            return labels.astype(np.uint16)
        return rgb_ids(labels)[..., ::-1]  # OpenCV writes channels in the order BGR

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
        write_whole(self._folder / INDEX, json.dumps(index, indent=1).encode(), durable=False)


def check_folder(folder: Path, settings: RecordingSettings) -> OutputFolder | None:
    """Return the folder as this recording's `OutputFolder`; None if the caller manages it.

    Raises:
        OutputError: If a recording must not be written there.
    """
    if settings.inside:
        return None
    again: Literal["replace", "refuse"] = "replace" if settings.overwrite else "refuse"
    return OutputFolder(folder, command="record", names=NAMES, again=again, what="recording")


def _make_folders(folder: Path, settings: RecordingSettings) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for name in _FOLDERS:
            if name != "overlay" or settings.pictures:
                (folder / name).mkdir(exist_ok=True)
    except OSError as error:
        raise OutputError(f"cannot write to {error.filename}: {error.strerror}") from error


def _cell(text: str) -> str:
    """Return untrusted text for a table cell; spreadsheets would run a leading formula."""
    text = printable(text)
    return f"'{text}" if text.startswith(("=", "+", "-", "@")) else text


def _write_png(path: Path, pixels: npt.NDArray[Any]) -> None:
    write_whole(path, encode_png(pixels, path), durable=False)


if __name__ == "__main__":
    _encode(sys.argv[1], sys.argv[2], float(sys.argv[3]), int(sys.argv[4]), int(sys.argv[5]))
