"""Frames of video files, network streams and webcams, decoded by OpenCV."""

from __future__ import annotations

import itertools
import math
import os
import re
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import cv2
import numpy as np
import numpy.typing as npt

from upsnet_ros.datasets.images import MAX_PIXELS_VARIABLE, max_pixels
from upsnet_ros.errors import SourceError

#: Frame rate of a folder of images, which has no times of its own.
FOLDER_RATE_HZ = 10.0

#: Assumed frame rate of a webcam that does not report one.
WEBCAM_RATE_HZ = 30.0

_MAX_RATE_HZ = 1000.0
# Containers without a frame rate report 0, NaN, 1000 or 90000; then the rate of the first frames is
# measured.
_PLAUSIBLE_RATE_HZ = 250.0
_MEASURED_FRAMES = 30
_LEAST_STEP_NS = 1000

NS = 1_000_000_000
_PASSWORD = re.compile(r"//[^/@]*@")
_OPEN_TIMEOUT_MS = 5000
_READ_TIMEOUT_MS = 5000
# Supported container formats. Playlists (m3u8, ffconcat, mpd, sdp) are excluded: a file from an
# untrusted source must not open other files or addresses.
_FILE_FORMATS = (
    "mov,mp4,m4a,3gp,3g2,mj2,matroska,webm,avi,mpegts,mpeg,mpegvideo,m4v,h261,h263,h264,hevc,vvc,"
    "av1,obu,ivf,mjpeg,mjpeg_2000,gif,apng,flv,live_flv,asf,asf_o,ogg,mxf,mxf_opatom,gxf,dv,nut,"
    "yuv4mpegpipe,rm,wtv,vc1,swf,nsv"
)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class SourceFrame:
    """One frame of a source.

    Attributes:
        image: uint8 (H, W, 3), BGR.
        name: File name, or "VIDEO#12" for the frame with index 12.
        time_ns: Nanoseconds since the source's first frame, non-decreasing.
    """

    image: npt.NDArray[np.uint8]
    name: str
    time_ns: int


@dataclass(slots=True)
class Skipped:
    """Counts frames that could not be read and were skipped.

    Attributes:
        allowed: Whether to skip them; otherwise the first one raises an error.
        count: Number of skipped frames over all iterations so far.
        first: Reason for the first skip.
    """

    allowed: bool = False
    count: int = 0
    first: str = ""

    def add(self, reason: str) -> None:
        """Count one frame.

        Raises:
            SourceError: If frames must not be skipped.
        """
        if not self.allowed:
            raise SourceError(f"{reason} (--skip-bad skips what cannot be read)")
        self.first = self.first or reason
        self.count += 1

    def summary(self) -> str:
        """Return what to append to "read N frames"; empty if no frame was skipped."""
        return f", skipped {self.count} (the first: {self.first})" if self.count else ""


class VideoFile:
    """A video that OpenCV can decode, of constant or variable frame rate.

    Raises:
        SourceError: If it cannot be opened; while iterating, if it is cut off or damaged.
    """

    live = False

    def __init__(self, path: Path, *, skipped: Skipped | None = None) -> None:
        self.name = str(path)
        self._path = path
        self.skipped = skipped or Skipped()
        capture = self._open()
        rate = capture.get(cv2.CAP_PROP_FPS)
        count = capture.get(cv2.CAP_PROP_FRAME_COUNT)
        self.rate_hz = rate if 0 < rate <= _PLAUSIBLE_RATE_HZ else self._measured_rate(capture)
        capture.release()
        # Where the container has no count, FFmpeg estimates one.
        counted = count > 0 and self._container().counts_frames
        self.length: int | None = int(count) if counted else None

    def __iter__(self) -> Iterator[SourceFrame]:
        capture = self._open()
        times = _FrameTimes(self.rate_hz)
        index = 0
        try:
            while True:
                decoded, image = capture.read()
                if not decoded:
                    break
                yield SourceFrame(
                    image=np.asarray(image, np.uint8),
                    name=f"{self._path.name}#{index}",
                    time_ns=times.next_ns(capture.get(cv2.CAP_PROP_POS_MSEC)),
                )
                index += 1
        finally:
            capture.release()
        if self._is_damaged(index, times.last_ns):
            self.skipped.add(f"{self.name} is cut off or damaged: it ends after {index} frames")

    def _open(self) -> cv2.VideoCapture:
        with _capture_options(f"format_whitelist;{_FILE_FORMATS}"):
            # An absolute path is never parsed as an address.
            capture = cv2.VideoCapture(str(self._path.absolute()), cv2.CAP_FFMPEG)
        if not capture.isOpened():
            raise SourceError(
                f"cannot read {self.name} as a video: not a video, damaged, or of an unsupported"
                " format, such as a playlist"
            )
        _check_frame_size(capture, self.name)
        return capture

    @staticmethod
    def _measured_rate(capture: cv2.VideoCapture) -> float:
        """Return the frame rate of the first frames."""
        times: list[float] = []
        while len(times) < _MEASURED_FRAMES and capture.grab():
            times.append(capture.get(cv2.CAP_PROP_POS_MSEC))
        span = (times[-1] - times[0]) / 1e3 if times else 0.0
        return (len(times) - 1) / span if span > 0 else FOLDER_RATE_HZ

    def _container(self) -> Container:
        try:
            return read_container(self._path)
        except OSError as error:
            raise SourceError(f"cannot read {self.name}: {error.strerror}") from None

    def _is_damaged(self, frames: int, last_ns: int) -> bool:
        if frames == 0 or self._container().cut_off:
            return True
        if self.length is None:
            return False
        # Containers list a frame or two that no decoder returns, and edit lists leave some out at
        # the ends. Damage is what also falls short of the duration.
        few = frames < self.length - max(2, self.length // 100)
        return few and last_ns < 0.95 * self.length * NS / self.rate_hz - NS // 10


class _FrameTimes:
    """Times of a video's frames from the decoder; increasing even if the decoder reports none."""

    def __init__(self, rate_hz: float) -> None:
        self._first_ms: float | None = None
        self._decoder_ms = -math.inf  # of the frame before
        self._advanced = False
        self._step_ns = round(NS / rate_hz)
        self.last_ns = 0

    def next_ns(self, decoder_ms: float) -> int:
        """Return the time of the next frame in ns since the first, for a decoder at ``decoder_ms``.

        For raw streams without times the decoder stays at 0; some files lack the time of the last
        frame, for which the decoder returns to 0.
        """
        if not math.isfinite(decoder_ms):
            decoder_ms = -math.inf
        if self._first_ms is None:
            self._first_ms = self._decoder_ms = max(decoder_ms, 0.0)
            return 0
        if decoder_ms > self._decoder_ms:
            self._step_ns = round((decoder_ms - self._decoder_ms) * 1e6)
            self._advanced = True
            time_ns = round((decoder_ms - self._first_ms) * 1e6)
            self._decoder_ms = decoder_ms
        elif decoder_ms == self._decoder_ms and self._advanced:
            time_ns = self.last_ns
        else:
            time_ns = self.last_ns + self._step_ns
        self.last_ns = max(time_ns, self.last_ns + _LEAST_STEP_NS)
        return self.last_ns


class NetworkStream:
    """Frames that a camera or server sends at a network address.

    Raises:
        SourceError: If nothing responds within a few seconds; while iterating, if the stream stops.
    """

    def __init__(self, address: str) -> None:
        self.name = _PASSWORD.sub("//", address)
        self.skipped = Skipped()
        self._address = address
        self._capture: cv2.VideoCapture | None = self._open()
        rate = self._capture.get(cv2.CAP_PROP_FPS)
        count = self._capture.get(cv2.CAP_PROP_FRAME_COUNT)
        self.rate_hz = rate if 0 < rate <= _MAX_RATE_HZ else WEBCAM_RATE_HZ
        self.length: int | None = None  # the server's count may be an estimate
        self.live = not count > 0

    def __iter__(self) -> Iterator[SourceFrame]:
        capture = self._capture or self._open()
        self._capture = None
        times, start_ns = _FrameTimes(self.rate_hz), time.monotonic_ns()
        try:
            for index in itertools.count():
                decoded, image = capture.read()
                if not decoded:
                    break
                # A live frame gets its arrival time, a frame of a file the time in the file.
                yield SourceFrame(
                    image=np.asarray(image, np.uint8),
                    name=f"{self.name}#{index}",
                    time_ns=time.monotonic_ns() - start_ns
                    if self.live
                    else times.next_ns(capture.get(cv2.CAP_PROP_POS_MSEC)),
                )
        finally:
            capture.release()
        if self.live or index == 0:
            raise SourceError(f"{self.name} stopped delivering after {index} frames")

    def _open(self) -> cv2.VideoCapture:
        limits = [
            *(cv2.CAP_PROP_OPEN_TIMEOUT_MSEC, _OPEN_TIMEOUT_MS),
            *(cv2.CAP_PROP_READ_TIMEOUT_MSEC, _READ_TIMEOUT_MS),
        ]
        with _capture_options(""):
            capture = cv2.VideoCapture(self._address, cv2.CAP_FFMPEG, limits)
        if not capture.isOpened():
            raise SourceError(
                f"cannot open {self.name}: no video there, or no response within"
                f" {_OPEN_TIMEOUT_MS // 1000} s"
            )
        _check_frame_size(capture, self.name)
        return capture


class Webcam:
    """A local camera, given by index or device file; it does not end by itself."""

    length: int | None = None
    live = True

    def __init__(self, device: int | Path) -> None:
        self.name = f"webcam {device}" if isinstance(device, int) else str(device)
        self.skipped = Skipped()
        with _capture_options(""):
            self._capture = (
                cv2.VideoCapture(device)
                if isinstance(device, int)
                else cv2.VideoCapture(str(device), cv2.CAP_V4L2)
            )
        if not self._capture.isOpened():
            raise SourceError(
                f"cannot open {self.name}: no such camera, or another program uses it"
            )
        # Otherwise a camera that is read more slowly than it records returns ever older frames.
        self._capture.set(cv2.CAP_PROP_BUFFERSIZE, 1)
        rate = self._capture.get(cv2.CAP_PROP_FPS)
        self.rate_hz = rate if 0 < rate <= _MAX_RATE_HZ else WEBCAM_RATE_HZ

    def __iter__(self) -> Iterator[SourceFrame]:
        start_ns = time.monotonic_ns()
        for index in itertools.count():
            decoded, image = self._capture.read()
            if not decoded:
                raise SourceError(f"{self.name} stopped delivering after {index} frames")
            yield SourceFrame(
                image=np.asarray(image, np.uint8),
                name=f"{self.name}#{index}",
                time_ns=time.monotonic_ns() - start_ns,
            )


def _check_frame_size(capture: cv2.VideoCapture, name: str) -> None:
    """Raise `SourceError` if frames exceed the limit on the size of images."""
    width, height = (
        int(capture.get(one)) for one in (cv2.CAP_PROP_FRAME_WIDTH, cv2.CAP_PROP_FRAME_HEIGHT)
    )
    limit = max_pixels()
    if width * height > limit:
        raise SourceError(
            f"{name} has frames of {width}x{height} pixels, and an image may have {limit}: if you"
            f" trust it, set {MAX_PIXELS_VARIABLE}={width * height}"
        )


@contextmanager
def _capture_options(options: str) -> Iterator[None]:
    """Pass options to FFmpeg, and keep FFmpeg and OpenCV from writing to stderr, while opening.

    OpenCV reads both from environment variables; options that the user set there are kept.
    """
    name = "OPENCV_FFMPEG_CAPTURE_OPTIONS"
    own = os.environ.get(name)
    os.environ.setdefault("OPENCV_FFMPEG_LOGLEVEL", "-8")  # read once, when the first is opened
    level = cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_SILENT)
    if options:
        os.environ[name] = f"{own}|{options}" if own else options
    try:
        yield
    finally:
        cv2.utils.logging.setLogLevel(level)
        if own is not None:
            os.environ[name] = own
        elif options:
            del os.environ[name]


@dataclass(frozen=True, slots=True)
class Container:
    """Properties of a video container that OpenCV does not report.

    A truncated file just ends early there, and FFmpeg estimates a missing frame count from the
    duration.

    Attributes:
        cut_off: The file is shorter than its container declares.
        counts_frames: The container lists its frames, so its frame count is exact.
    """

    cut_off: bool = False
    counts_frames: bool = False


def read_container(path: Path) -> Container:
    """Return the properties of an AVI, MP4-like, Matroska or WebM file; defaults for others.

    Raises:
        OSError: The file cannot be read.
    """
    with path.open("rb") as file:
        size = os.fstat(file.fileno()).st_size
        start = file.read(12)
        if start[:4] == b"RIFF" and start[8:] == b"AVI ":
            return Container(8 + int.from_bytes(start[4:8], "little") > size, counts_frames=True)
        if start[:4] == b"\x1a\x45\xdf\xa3":
            return Container(_matroska_end(file, size) > size)
        if start[4:8] in _MP4_BOXES:
            ends = dict(itertools.islice(_mp4_boxes(file, size), _MAX_BOXES))  # the last of a kind
            cut_off = any(end > size for end in ends.values())
            return Container(cut_off, counts_frames=b"moov" in ends and b"moof" not in ends)
    return Container()


# More than a file with a fragment for each frame of an hour has.
_MAX_BOXES = 1_000_000
# Before a Matroska segment there are a header and maybe a gap.
_MAX_ELEMENTS = 16

# Boxes with frames or metadata about them, and those that may precede them. Boxes that cameras
# append are not read.
_MP4_BOXES = frozenset(
    {b"ftyp", b"styp", b"free", b"skip", b"wide", b"uuid", b"sidx", b"moov", b"moof", b"mdat"}
)


def _mp4_boxes(file: BinaryIO, size: int) -> Iterator[tuple[bytes, int]]:
    """Yield kind and end offset of each top-level box, up to the first of unknown kind."""
    at = 0
    while at < size:
        file.seek(at)
        head = file.read(16)
        length, kind = int.from_bytes(head[:4], "big"), head[4:8]
        if kind not in _MP4_BOXES:
            return
        if length == 1:
            length = int.from_bytes(head[8:16], "big")
        elif length == 0:  # to the end of the file
            length = size - at
        if length < 8:
            return
        at += length
        yield kind, at


def _matroska_end(file: BinaryIO, size: int) -> int:
    """Return the end offset of the segment; 0 if unknown, as in recordings of live streams."""
    at = 0
    for _ in range(_MAX_ELEMENTS):
        if at >= size:  # file systems refuse to seek beyond the largest possible file
            break
        file.seek(at)
        head = file.read(12)
        # A number's leading zero bits say how many bytes it has.
        id_length = 9 - head[0].bit_length()
        if id_length > 4 or len(head) < id_length + 1:
            return 0
        size_length = 9 - head[id_length].bit_length()
        if size_length > 8:
            return 0
        begin = id_length + size_length
        if len(head) < begin:
            file.seek(at)
            head = file.read(begin)
        mask = (1 << 7 * size_length) - 1
        length = int.from_bytes(head[id_length:begin], "big") & mask
        if length == mask:  # unknown
            return 0
        at += begin + length
        if head[:id_length] == b"\x18\x53\x80\x67":
            return at
    return 0
