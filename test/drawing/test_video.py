"""The video is whole however its writer ends."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import cv2
import numpy as np
import pytest

from upsnet_ros.drawing.result_folder import CODECS, VideoWriter
from upsnet_ros.errors import VideoError


def shades(path: Path) -> list[float]:
    """Mean of each frame of a video."""
    capture = cv2.VideoCapture(str(path))
    found = []
    while (read := capture.read())[0]:
        found.append(float(read[1].mean()))
    return found


@pytest.mark.parametrize("codec", CODECS)
def test_frames_come_back(tmp_path: Path, codec: str) -> None:
    path = tmp_path / "video.mp4"
    writer = VideoWriter(path, rate_hz=12.5, codec=codec)
    for shade in (20, 120, 220):
        writer.write(np.full((47, 63, 3), shade, np.uint8))  # odd sizes too
    writer.write(np.full((20, 20, 3), 70, np.uint8))  # another size
    writer.close()
    assert shades(path) == pytest.approx([20, 120, 220, 70], abs=4)
    capture = cv2.VideoCapture(str(path))
    assert capture.get(cv2.CAP_PROP_FPS) == pytest.approx(12.5)
    size = capture.get(cv2.CAP_PROP_FRAME_WIDTH), capture.get(cv2.CAP_PROP_FRAME_HEIGHT)
    assert size == (64, 48)


def test_no_frame_no_file(tmp_path: Path) -> None:
    VideoWriter(tmp_path / "video.mp4", rate_hz=10).close()
    assert not list(tmp_path.iterdir())


def test_a_killed_writer_leaves_a_whole_video(tmp_path: Path) -> None:
    path = tmp_path / "video.mp4"
    program = f"""
import numpy as np, pathlib, time
from upsnet_ros.drawing.result_folder import VideoWriter
writer = VideoWriter(pathlib.Path({str(path)!r}), rate_hz=10)
for _ in range(6):
    writer.write(np.full((480, 640, 3), 90, np.uint8))
print("written", flush=True)
time.sleep(600)
"""
    process = subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE)
    assert process.stdout is not None
    assert process.stdout.readline() == b"written\n"
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    end = time.monotonic() + 240
    while not (path.exists() and len(shades(path)) == 6):
        assert time.monotonic() < end, "the encoder did not finish the file"
        time.sleep(0.1)


def test_a_path_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    writer = VideoWriter(tmp_path / "missing" / "video.mp4", rate_hz=10)
    with pytest.raises(VideoError, match=r"missing/video\.mp4"):
        writer.write(np.zeros((480, 640, 3), np.uint8))
        writer.close()


def test_unknown_codec_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="mp4v, vp09, not 'xvid'"):
        VideoWriter(tmp_path / "video.mp4", rate_hz=10, codec="xvid")
