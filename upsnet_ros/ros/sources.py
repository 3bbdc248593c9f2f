"""Where frames come from: a video, images, a Cityscapes sequence, a bag, a webcam."""

from __future__ import annotations

import itertools
import re
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import cv2
import numpy as np
import numpy.typing as npt

IMAGE_SUFFIXES = frozenset(
    {".bmp", ".jpeg", ".jpg", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp"}
)

_BAG_SUFFIXES = frozenset({".db3", ".mcap"})
_ZSTD = frozenset({".zst", ".zstd"})

#: Cityscapes records 17 frames a second and numbers them.
CITYSCAPES_RATE_HZ = 17.0

#: What a folder of images is played at: it says nothing about time itself.
FOLDER_RATE_HZ = 10.0

#: What a webcam that does not tell its rate is taken to deliver.
WEBCAM_RATE_HZ = 30.0

_MAX_RATE_HZ = 1000.0  # containers without a frame rate claim 0, NaN or 90000

_CITYSCAPES_NAME = re.compile(r"(?P<city>.+)_(?P<sequence>\d{6})_(?P<frame>\d{6})_leftImg8bit\.\w+")
_NS = 1_000_000_000


class SourceError(ValueError):
    """A source that cannot be opened or read; the message names it."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class SourceFrame:
    """One frame of a source.

    Attributes:
        image: uint8 (H, W, 3), BGR.
        name: File name, or "VIDEO#12" for the frame with index 12.
        time_ns: Nanoseconds since the source's first frame, never falling.
    """

    image: npt.NDArray[np.uint8]
    name: str
    time_ns: int


class FrameSource(Protocol):
    """Frames in order of time. Iterating again begins anew.

    Attributes:
        name: What to call the source in messages.
        rate_hz: The source's own frame rate.
        length: Number of frames, or None where it is not known before they are read.
    """

    @property
    def name(self) -> str: ...  # noqa: D102

    @property
    def rate_hz(self) -> float: ...  # noqa: D102

    @property
    def length(self) -> int | None: ...  # noqa: D102

    def __iter__(self) -> Iterator[SourceFrame]: ...


def open_source(spec: str | Path) -> FrameSource:
    """The source that ``spec`` names.

    Args:
        spec: A webcam's index, a video or image file, a folder of images, a bag, or a Cityscapes
            root or any folder within one (known by names like
            ``aachen_000000_000019_leftImg8bit.png``).

    Raises:
        SourceError: If there is nothing there, or nothing that can be played.
    """
    if str(spec).isdecimal():
        return Webcam(int(str(spec)))
    path = Path(spec).expanduser()
    if not path.exists():
        raise SourceError(f"source {path} does not exist")
    if _is_bag(path):
        from upsnet_ros.ros.bag_source import BagImages  # needs rosbags; the others do not

        return BagImages(path)
    if path.is_file():
        return ImageFolder([path]) if path.suffix.lower() in IMAGE_SUFFIXES else VideoFile(path)

    if (path / "leftImg8bit_sequence").is_dir():
        path /= "leftImg8bit_sequence"  # leftImg8bit repeats some of its frames
    images = natural_sorted(p for p in path.iterdir() if p.suffix.lower() in IMAGE_SUFFIXES)
    if images and not all(_CITYSCAPES_NAME.fullmatch(p.name) for p in images):
        return ImageFolder(images)
    sequence = natural_sorted(
        p for p in path.rglob("*_leftImg8bit.*") if _CITYSCAPES_NAME.fullmatch(p.name)
    )
    if sequence:
        return CityscapesSequence(sequence, root=path)
    raise SourceError(
        f"folder {path} holds no images ({' '.join(sorted(IMAGE_SUFFIXES))}) "
        "and no Cityscapes frames (*_leftImg8bit.*)"
    )


def _is_bag(path: Path) -> bool:
    if path.is_file():
        return _is_bag_file(path)
    return (path / "metadata.yaml").is_file() or any(map(_is_bag_file, path.iterdir()))


def _is_bag_file(path: Path) -> bool:
    return path.with_suffix("" if path.suffix in _ZSTD else path.suffix).suffix in _BAG_SUFFIXES


def natural_sorted(paths: Iterator[Path] | list[Path]) -> list[Path]:
    """Paths in the order a reader expects: ``frame2`` before ``frame10``."""

    def key(path: Path) -> list[tuple[int, str]]:
        # Digits and text alternate, so entries at one place always compare like with like.
        parts = re.split(r"(\d+)", str(path))
        return [(int(part), "") if part.isdecimal() else (0, part.lower()) for part in parts]

    return sorted(paths, key=key)


class ImageFolder:
    """Image files in the order given, at a rate that is chosen, not known."""

    def __init__(self, paths: list[Path]) -> None:
        self._paths = paths
        self.name = str(paths[0].parent if len(paths) > 1 else paths[0])
        self.rate_hz = FOLDER_RATE_HZ
        self.length = len(paths)

    def __iter__(self) -> Iterator[SourceFrame]:
        for index, path in enumerate(self._paths):
            time_ns = round(index * _NS / self.rate_hz)
            yield SourceFrame(image=_read_image(path), name=path.name, time_ns=time_ns)


class CityscapesSequence:
    """Frames under Cityscapes' names; times follow the frame numbers, gaps included.

    Each sequence begins one second after the one before it ended.
    """

    def __init__(self, paths: list[Path], *, root: Path) -> None:
        self._paths = paths
        self.name = str(root)
        self.rate_hz = CITYSCAPES_RATE_HZ
        self.length = len(paths)

    def __iter__(self) -> Iterator[SourceFrame]:
        current: tuple[str, str] | None = None
        first_number = start_ns = time_ns = 0
        for path in self._paths:
            match = _CITYSCAPES_NAME.fullmatch(path.name)
            assert match is not None, path
            sequence = (match["city"], match["sequence"])
            if sequence != current:
                start_ns = 0 if current is None else time_ns + _NS
                first_number = int(match["frame"])
                current = sequence
            time_ns = start_ns + round((int(match["frame"]) - first_number) * _NS / self.rate_hz)
            yield SourceFrame(image=_read_image(path), name=path.name, time_ns=time_ns)


class VideoFile:
    """A video that OpenCV can decode.

    Raises:
        SourceError: If it cannot be opened; while iterating, if it ends before its own frame count.
    """

    def __init__(self, path: Path) -> None:
        self.name = str(path)
        capture = _open_capture(self.name, f"cannot read {path} as a video")
        rate = capture.get(cv2.CAP_PROP_FPS)
        count = int(capture.get(cv2.CAP_PROP_FRAME_COUNT))
        capture.release()
        self.rate_hz = rate if 0 < rate <= _MAX_RATE_HZ else FOLDER_RATE_HZ
        self.length = count if count > 0 else None

    def __iter__(self) -> Iterator[SourceFrame]:
        capture = _open_capture(self.name, f"cannot read {self.name} as a video")
        index = 0
        try:
            while True:
                decoded, image = capture.read()
                if not decoded:
                    break
                yield SourceFrame(
                    image=np.asarray(image, np.uint8),
                    name=f"{Path(self.name).name}#{index}",
                    time_ns=round(index * _NS / self.rate_hz),
                )
                index += 1
        finally:
            capture.release()
        # Containers count a frame or two that no decoder returns; more than that is damage.
        if self.length is not None and index < self.length - max(2, self.length // 100):
            raise SourceError(
                f"decoding {self.name} failed after frame {index} of {self.length}: "
                "the file is cut short or damaged"
            )


class Webcam:
    """A camera of this machine, by index; never ends by itself."""

    length = None

    def __init__(self, index: int) -> None:
        self.name = f"webcam {index}"
        self._capture = _open_capture(
            index, f"cannot open {self.name}: no such camera, or another program uses it"
        )
        # A camera that is read more slowly than it records would hand out ever older frames.
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


def _open_capture(spec: str | int, failure: str) -> cv2.VideoCapture:
    capture = cv2.VideoCapture(spec)
    if not capture.isOpened():
        raise SourceError(failure)
    return capture


def _read_image(path: Path) -> npt.NDArray[np.uint8]:
    # imread reports a missing and an undecodable file alike; reading the bytes tells them apart.
    try:
        encoded = np.frombuffer(path.read_bytes(), np.uint8)
    except OSError as error:
        raise SourceError(f"cannot read {path}: {error.strerror}") from error
    image = cv2.imdecode(encoded, cv2.IMREAD_COLOR) if encoded.size else None
    if image is None:
        raise SourceError(f"cannot decode {path}: not an image, or damaged")
    return np.asarray(image, np.uint8)
