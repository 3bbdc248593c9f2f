"""Opens a source of frames: a video, images, a Cityscapes sequence, a bag or a camera."""

from __future__ import annotations

import itertools
import os
import re
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Protocol

from upsnet_ros.bags.reader import open_bag
from upsnet_ros.bags.replay_topics import topics_of
from upsnet_ros.bags.video import (
    FOLDER_RATE_HZ,
    NS,
    NetworkStream,
    Skipped,
    SourceFrame,
    VideoFile,
    Webcam,
)
from upsnet_ros.datasets.images import IMAGE_SUFFIXES, image_files, read_file, read_image
from upsnet_ros.errors import BagError, DatasetError, ImageError, SourceError, TopicError
from upsnet_ros.messages.images import to_bgr

_BAG_SUFFIXES = frozenset({".db3", ".mcap"})
_ZSTD = frozenset({".zst", ".zstd"})

#: Frame rate of Cityscapes recordings; their frames are numbered.
CITYSCAPES_RATE_HZ = 17.0

_CITYSCAPES_NAME = re.compile(r"(?P<city>.+)_(?P<sequence>\d{6})_(?P<frame>\d{6})_leftImg8bit\.\w+")

# Schemes of network addresses that FFmpeg reads frames from.
_SCHEMES = ("http", "https", "rtsp", "rtsps", "rtmp", "rtp", "srt", "tcp", "udp")
_ADDRESS = re.compile(r"(?P<scheme>[A-Za-z][A-Za-z0-9+.-]+)://.+")

_V4L_MAJOR = 81  # major device number of Video4Linux


class FrameSource(Protocol):
    """Frames in order of time; every iteration starts at the first one.

    Attributes:
        name: Name of the source, for messages.
        rate_hz: Mean frame rate of the source.
        length: Number of frames, or None if it is not known before they are read; a video may
            list a few that cannot be decoded, see `count_frames`.
        live: Whether it is a camera, which does not end by itself.
        skipped: The frames that were skipped because they could not be read.
    """

    name: str
    rate_hz: float
    length: int | None
    live: bool
    skipped: Skipped

    def __iter__(self) -> Iterator[SourceFrame]: ...


def open_source(spec: str | Path, *, skip_bad: bool = False) -> FrameSource:
    """Open the source that ``spec`` names.

    Args:
        spec: A camera's index or device file, a network address, a video or image file, a folder of
            images, a bag, or a Cityscapes root or any folder within one (known by names like
            ``aachen_000000_000019_leftImg8bit.png``).
        skip_bad: Skip frames that cannot be read, and count them, instead of raising.

    Raises:
        SourceError: If it does not exist, or cannot be played.
    """
    check_source(spec)
    text, skipped = str(spec), Skipped(skip_bad)
    if _is_index(text):
        return Webcam(int(text))
    if _ADDRESS.fullmatch(text):
        return NetworkStream(text)
    try:
        return _open_path(Path(spec).expanduser(), skipped)
    except (OSError, RuntimeError) as error:
        raise SourceError(f"cannot open source {text}: {_reason(error)}") from None
    except DatasetError as error:
        raise SourceError(str(error)) from None


def check_source(spec: str | Path) -> None:
    """Check the ``spec`` of a source for `open_source` without opening the source.

    Raises:
        SourceError: If it does not exist, or the scheme of an address is not supported.
    """
    text = str(spec)
    if not text.strip():
        raise SourceError("no source is named")
    address = _ADDRESS.fullmatch(text)
    if address and address["scheme"].lower() not in _SCHEMES:
        raise SourceError(
            f"cannot open {address['scheme']}:// addresses: give a path, or an address that begins"
            f" with one of {', '.join(_SCHEMES)}"
        )
    if address or _is_index(text):
        return
    try:
        Path(spec).expanduser().stat()
    except FileNotFoundError:
        raise SourceError(f"source {text} does not exist") from None
    except (OSError, RuntimeError) as error:  # e.g. the home folder of an unknown user
        raise SourceError(f"cannot open source {text}: {_reason(error)}") from None


def _is_index(text: str) -> bool:
    return text.isascii() and text.isdecimal()


def _open_path(path: Path, skipped: Skipped) -> FrameSource:
    status = path.stat()
    if stat.S_ISCHR(status.st_mode) and os.major(status.st_rdev) == _V4L_MAJOR:
        return Webcam(path.resolve())
    if not (path.is_file() or path.is_dir()):
        raise SourceError(
            f"{path} is {_KINDS.get(stat.S_IFMT(status.st_mode), 'no file')}: give a video, an"
            " image, a folder, a bag, a camera's index or device (/dev/video0), or an address"
        )
    if _is_bag(path):
        return BagImages(path, skipped=skipped)
    if path.is_file():
        if path.suffix.lower() in IMAGE_SUFFIXES:
            return ImageFolder([path], skipped=skipped)
        return VideoFile(path, skipped=skipped)

    if (path / "leftImg8bit_sequence").is_dir():
        path /= "leftImg8bit_sequence"  # leftImg8bit repeats some of its frames
    images = image_files(path)
    if images and not all(_CITYSCAPES_NAME.fullmatch(one.name) for one in images):
        return ImageFolder(images, skipped=skipped)
    below = image_files(path, recursive=True)
    sequence = [one for one in below if _CITYSCAPES_NAME.fullmatch(one.name)]
    if sequence:
        return CityscapesSequence(sequence, name=str(path), skipped=skipped)
    raise SourceError(
        f"folder {path} holds no images ({' '.join(sorted(IMAGE_SUFFIXES))}) "
        "and no Cityscapes frames (*_leftImg8bit.*)"
    )


_KINDS = {
    stat.S_IFIFO: "a pipe",
    stat.S_IFSOCK: "a socket",
    stat.S_IFCHR: "a device, but not a camera",
    stat.S_IFBLK: "a device, but not a camera",
}


def _reason(error: Exception) -> str:
    return (error.strerror if isinstance(error, OSError) else "") or str(error)


def _is_bag(path: Path) -> bool:
    if path.is_file():
        return _is_bag_file(path)
    return (path / "metadata.yaml").is_file() or any(map(_is_bag_file, path.iterdir()))


def _is_bag_file(path: Path) -> bool:
    bare = path.with_suffix("" if path.suffix in _ZSTD else path.suffix)
    return bare.suffix in _BAG_SUFFIXES and not path.name.startswith(".")


def count_frames(source: FrameSource, *, at_most: int) -> int:
    """Return the number of frames of a source, at most ``at_most``; videos are decoded for that.

    Of image files, the first is decoded and the headers of the others are read.

    Raises:
        SourceError: If the source cannot be read.
    """
    if source.live:
        return at_most
    if isinstance(source, ImageFolder) and not source.skipped.allowed:
        next(iter(source), None)
        for path in source.paths[:at_most]:
            try:
                read_file(path)
            except DatasetError as error:
                raise SourceError(str(error)) from None
        return min(len(source.paths), at_most)
    return sum(1 for _ in itertools.islice(source, at_most))


class ImageFolder:
    """Image files in the given order, at `FOLDER_RATE_HZ`."""

    live = False
    rate_hz = FOLDER_RATE_HZ

    def __init__(
        self, paths: list[Path], *, name: str | None = None, skipped: Skipped | None = None
    ) -> None:
        self.paths = paths
        self.name = name or str(paths[0].parent if len(paths) > 1 else paths[0])
        self.length: int | None = len(paths)
        self.skipped = skipped or Skipped()

    def __iter__(self) -> Iterator[SourceFrame]:
        for path, time_ns in zip(self.paths, self._times(), strict=True):
            yield from _read_frame(path, time_ns, self.skipped)

    def _times(self) -> Iterator[int]:
        """Yield the time of each image in ns."""
        return (round(index * NS / self.rate_hz) for index in range(len(self.paths)))


class CityscapesSequence(ImageFolder):
    """Frames with Cityscapes' file names; times follow the frame numbers, including gaps.

    Each sequence starts one second after the end of the previous one.
    """

    rate_hz = CITYSCAPES_RATE_HZ

    def _times(self) -> Iterator[int]:
        current: tuple[str, str] | None = None
        first_number = start_ns = time_ns = 0
        for path in self.paths:
            match = _CITYSCAPES_NAME.fullmatch(path.name)
            assert match is not None, path
            sequence = (match["city"], match["sequence"])
            if sequence != current:
                start_ns = 0 if current is None else time_ns + NS
                first_number = int(match["frame"])
                current = sequence
            time_ns = start_ns + round((int(match["frame"]) - first_number) * NS / self.rate_hz)
            yield time_ns


def _read_frame(path: Path, time_ns: int, skipped: Skipped) -> Iterator[SourceFrame]:
    """Yield the frame of an image file; nothing if it is skipped."""
    try:
        image = read_image(path)
    except DatasetError as error:
        skipped.add(str(error))
    else:
        yield SourceFrame(image=image, name=path.name, time_ns=time_ns)


class BagImages:
    """The images of the only camera in a bag, at the times the recorder received them.

    Use `upsnet replay` to play all topics of a bag.

    Raises:
        SourceError: The path is not a bag, or the bag has no camera or several; while iterating:
            an image cannot be read.
    """

    live = False

    def __init__(self, path: Path, *, skipped: Skipped | None = None) -> None:
        self.name = str(path)
        self.skipped = skipped or Skipped()
        try:
            self._topic = topics_of(path).camera
            with open_bag(path, topics=[self._topic]) as bag:
                count = next(one.count for one in bag.topics if one.name == self._topic)
                seconds = bag.seconds
        except (BagError, TopicError) as error:
            raise SourceError(str(error)) from error
        self.length: int | None = count
        self.rate_hz = (count - 1) / seconds if seconds > 0 and count > 1 else FOLDER_RATE_HZ

    def __iter__(self) -> Iterator[SourceFrame]:
        first_ns: int | None = None
        try:
            with open_bag(self.name, topics=[self._topic]) as bag:
                for index, record in enumerate(bag):
                    first_ns = record.time_ns if first_ns is None else first_ns
                    try:
                        image = to_bgr(record.message)
                    except ImageError as error:
                        self.skipped.add(f"{self.name}: {self._topic}: message {index}: {error}")
                        continue
                    yield SourceFrame(
                        image=image,
                        name=f"{Path(self.name).name}#{index}",
                        time_ns=record.time_ns - first_ns,
                    )
        except BagError as error:
            raise SourceError(str(error)) from error
