"""Writing a video that ends well however the writer ends.

An MP4 cannot be read before its index is written at the very end. The encoder therefore runs in a
process and session of its own, fed through a pipe: Ctrl-C does not reach it, and when the process
that feeds it ends, even by ``kill -9``, the pipe closes and the encoder finishes the file.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt

#: ``mp4v`` (MPEG-4 part 2) costs 3 ms for a frame of 512x1024, but browsers do not play it;
#: ``vp09`` (VP9) plays everywhere and costs a hundred times as much.
CODECS = ("mp4v", "vp09")


class VideoError(RuntimeError):
    """The video could not be written; the message names its file."""


class VideoWriter:
    """Writes frames to an MP4; the first one decides on the size, others are scaled to it."""

    def __init__(self, path: Path, *, rate_hz: float, codec: str = "mp4v") -> None:
        if codec not in CODECS:
            raise ValueError(f"codec must be one of {', '.join(CODECS)}, not {codec!r}")
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
            # Chroma is stored for 2x2 pixels; encoders refuse or crop an odd row or column.
            height, width = (length + length % 2 for length in image_bgr.shape[:2])
            self._size = (width, height)
            self._encoder = subprocess.Popen(
                [sys.executable, "-m", __name__, *self._arguments, str(width), str(height)],
                stdin=subprocess.PIPE,
                stderr=self._errors,
                start_new_session=True,
            )
        assert self._encoder.stdin is not None
        if image_bgr.shape[1::-1] != self._size:
            image_bgr = np.asarray(cv2.resize(image_bgr, self._size), np.uint8)
        try:
            self._encoder.stdin.write(np.ascontiguousarray(image_bgr).data)
            self._encoder.stdin.flush()  # what lingers here would die with this process
        except BrokenPipeError:
            raise self._failure() from None

    def close(self) -> None:
        """Finish the file; no frame, no file.

        Raises:
            VideoError: If the encoder failed.
        """
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
    """The encoder's side: raw frames from stdin into ``path`` until stdin ends."""
    writer = cv2.VideoWriter(
        path, cv2.CAP_FFMPEG, cv2.VideoWriter.fourcc(*codec), rate_hz, (width, height)
    )
    if not writer.isOpened():
        sys.exit(f"OpenCV cannot encode {codec} to this path")
    size = width * height * 3
    # The last frame may be cut off, where its writer was killed.
    while len(data := sys.stdin.buffer.read(size)) == size:
        writer.write(np.frombuffer(data, np.uint8).reshape(height, width, 3))
    writer.release()


if __name__ == "__main__":
    _encode(sys.argv[1], sys.argv[2], float(sys.argv[3]), int(sys.argv[4]), int(sys.argv[5]))
