"""Frame sources: what is found, in which order, at which times, and what is refused."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest

from upsnet_ros.ros.sources import (
    CITYSCAPES_RATE_HZ,
    CityscapesSequence,
    ImageFolder,
    SourceError,
    VideoFile,
    natural_sorted,
    open_source,
)


def write_image(path: Path, value: int, size: tuple[int, int] = (24, 32)) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    assert cv2.imwrite(str(path), np.full((*size, 3), value, np.uint8))


def write_video(path: Path, count: int, rate_hz: float = 12.0) -> None:
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"mp4v"), rate_hz, (64, 48))
    assert writer.isOpened()
    noise = np.random.default_rng(0)
    for _ in range(count):
        writer.write(noise.integers(0, 255, (48, 64, 3), np.uint8))
    writer.release()


def test_natural_order() -> None:
    names = ["b2.png", "a10.png", "a9.png", "A1.png", "10.png", "9.png", "a.png"]
    ordered = [path.name for path in natural_sorted([Path(name) for name in names])]
    assert ordered == ["9.png", "10.png", "A1.png", "a9.png", "a10.png", "a.png", "b2.png"]


def test_folder_of_images(tmp_path: Path) -> None:
    for index in (1, 2, 10):
        write_image(tmp_path / f"frame{index}.png", index)
    (tmp_path / "notes.txt").write_text("not a frame")
    source = open_source(tmp_path)
    assert isinstance(source, ImageFolder)
    assert source.length == 3
    frames = list(source)
    assert [frame.name for frame in frames] == ["frame1.png", "frame2.png", "frame10.png"]
    assert [int(frame.image[0, 0, 0]) for frame in frames] == [1, 2, 10]
    assert [frame.time_ns for frame in frames] == [0, 100_000_000, 200_000_000]
    assert frames[0].image.shape == (24, 32, 3)
    assert [frame.name for frame in source] == [frame.name for frame in frames], "no second round"


def test_grey_and_16_bit_images_become_bgr(tmp_path: Path) -> None:
    cv2.imwrite(str(tmp_path / "a.png"), np.full((4, 5), 7, np.uint8))
    cv2.imwrite(str(tmp_path / "b.png"), np.full((4, 5), 512, np.uint16))
    for frame in open_source(tmp_path):
        assert frame.image.shape == (4, 5, 3)
        assert frame.image.dtype == np.uint8


def test_single_image(tmp_path: Path) -> None:
    write_image(tmp_path / "one.jpg", 90)
    (frame,) = open_source(str(tmp_path / "one.jpg"))
    assert frame.name == "one.jpg"


@pytest.mark.parametrize("start", ["", "leftImg8bit_sequence", "leftImg8bit_sequence/val/aachen"])
def test_cityscapes_times_follow_frame_numbers(tmp_path: Path, start: str) -> None:
    folder = tmp_path / "leftImg8bit_sequence/val/aachen"
    for name in ("000000_000000", "000000_000001", "000000_000004", "000001_000019"):
        write_image(folder / f"aachen_{name}_leftImg8bit.png", 1)
    write_image(tmp_path / "gtFine/val/aachen/aachen_000000_000000_gtFine_color.png", 1)
    write_image(tmp_path / "leftImg8bit/val/aachen/aachen_000000_000004_leftImg8bit.png", 1)
    source = open_source(tmp_path / start)
    assert isinstance(source, CityscapesSequence)
    assert source.rate_hz == CITYSCAPES_RATE_HZ
    frames = list(source)
    assert len(frames) == 4  # none twice, though leftImg8bit repeats one
    assert frames[3].name == "aachen_000001_000019_leftImg8bit.png"
    step = 1e9 / CITYSCAPES_RATE_HZ
    assert [frame.time_ns for frame in frames] == [
        0, round(step), round(4 * step), round(4 * step) + 1_000_000_000
    ]  # fmt: skip


def test_video(tmp_path: Path) -> None:
    write_video(tmp_path / "drive.mp4", count=9)
    source = open_source(tmp_path / "drive.mp4")
    assert isinstance(source, VideoFile)
    assert (source.rate_hz, source.length) == (12.0, 9)
    frames = list(source)
    assert len(frames) == 9
    assert frames[8].name == "drive.mp4#8"
    assert frames[8].time_ns == round(8e9 / 12)
    assert frames[0].image.shape == (48, 64, 3)


def test_missing_source_is_named(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match=r"nowhere\.mp4 does not exist"):
        open_source(tmp_path / "nowhere.mp4")


def test_folder_without_images_is_named(tmp_path: Path) -> None:
    (tmp_path / "readme.txt").write_text("nothing to see")
    with pytest.raises(SourceError, match="holds no images"):
        open_source(tmp_path)


def test_file_that_is_no_video_is_named(tmp_path: Path) -> None:
    (tmp_path / "fake.mp4").write_bytes(b"this is no video" * 100)
    with pytest.raises(SourceError, match=r"cannot read .*fake\.mp4 as a video"):
        open_source(tmp_path / "fake.mp4")


def test_camera_that_is_not_there_is_named() -> None:
    with pytest.raises(SourceError, match="cannot open webcam 97"):
        open_source("97")


@pytest.mark.parametrize("content", [b"", b"\x89PNG\r\n\x1a\n broken"])
def test_damaged_image_is_named_after_the_good_ones(tmp_path: Path, content: bytes) -> None:
    write_image(tmp_path / "0.png", 1)
    (tmp_path / "1.png").write_bytes(content)
    frames = iter(open_source(tmp_path))
    assert next(frames).name == "0.png"
    with pytest.raises(SourceError, match=r"cannot decode .*1\.png"):
        next(frames)


def test_image_that_vanishes_is_named(tmp_path: Path) -> None:
    write_image(tmp_path / "0.png", 1)
    source = open_source(tmp_path)
    (tmp_path / "0.png").unlink()
    with pytest.raises(SourceError, match=r"cannot read .*0\.png: No such file"):
        next(iter(source))


def test_video_cut_short_is_named(tmp_path: Path) -> None:
    """An AVI's header tells its length, so the loss of its second half shows."""
    path = tmp_path / "drive.avi"
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"MJPG"), 10, (64, 48))
    noise = np.random.default_rng(0)
    for _ in range(60):
        writer.write(noise.integers(0, 255, (48, 64, 3), np.uint8))
    writer.release()
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    source = open_source(path)
    read = 0
    with pytest.raises(SourceError, match=rf"decoding {path} failed after frame \d+ of 60"):
        for _ in source:
            read += 1
    assert 10 < read < 40


def write_bag(path: Path, count: int) -> None:
    pytest.importorskip("rclpy", reason="ROS 2 is not installed")
    import drive_bag

    drive_bag.write_drive(path, count, step_ns=50_000_000)


@pytest.mark.parametrize("form", ["folder", "file", "folder without metadata"])
def test_the_camera_of_a_bag(tmp_path: Path, form: str) -> None:
    write_bag(tmp_path / "drive", 5)
    if form == "folder without metadata":
        (tmp_path / "drive/metadata.yaml").unlink()
    source = open_source(tmp_path / "drive" / ("drive.mcap" if form == "file" else ""))
    assert source.length == 5
    assert source.rate_hz == pytest.approx(20)
    frames = list(source)
    assert [frame.time_ns for frame in frames] == [index * 50_000_000 for index in range(5)]
    assert frames[4].name == ("drive.mcap#4" if form == "file" else "drive#4")
    for index, frame in enumerate(frames):
        pixels = np.random.default_rng(index).integers(0, 256, (48, 96, 3), np.uint8)
        np.testing.assert_array_equal(frame.image, pixels)


def test_a_bag_without_a_camera_is_named(tmp_path: Path) -> None:
    write_bag(tmp_path / "drive", 0)
    with pytest.raises(SourceError, match="no camera"):
        open_source(tmp_path / "drive")
