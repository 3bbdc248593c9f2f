"""Frame sources: what is found, in which order, at which times, and what is refused."""

from __future__ import annotations

import http.server
import os
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import cv2
import numpy as np
import pytest
import video_files
from hypothesis import given
from hypothesis import strategies as st

from upsnet_ros.bags.sources import (
    CITYSCAPES_RATE_HZ,
    CityscapesSequence,
    ImageFolder,
    VideoFile,
    count_frames,
    open_source,
)
from upsnet_ros.bags.video import read_container
from upsnet_ros.errors import SourceError


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
    with pytest.raises(SourceError, match=r"cannot read .*fake\.mp4"):
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
    with pytest.raises(SourceError, match=r"1\.png is not an image.*--skip-bad"):
        next(frames)


def test_image_that_vanishes_is_named(tmp_path: Path) -> None:
    write_image(tmp_path / "0.png", 1)
    source = open_source(tmp_path)
    (tmp_path / "0.png").unlink()
    with pytest.raises(SourceError, match=r"there is no file .*0\.png"):
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
    with pytest.raises(
        SourceError, match=rf"{path} is cut off or damaged: it ends after \d+ frames"
    ):
        for _ in source:
            read += 1
    assert 10 < read < 40


def times_ms(path: Path) -> list[float]:
    return [frame.time_ns / 1e6 for frame in open_source(path)]


# As a phone in dim light: 30, 10 and 30 frames a second.
PHONE = [0, 31, 64, 99, 131, 166, 266, 366, 468, 567, 600, 634, 667]


@pytest.mark.parametrize("last_ms", [33, 10_000])
def test_times_of_a_phones_video_are_the_decoders(tmp_path: Path, last_ms: int) -> None:
    video_files.quicktime(tmp_path / "phone.mov", PHONE, last_ms=last_ms)
    assert times_ms(tmp_path / "phone.mov") == PHONE
    assert open_source(tmp_path / "phone.mov").length == len(PHONE)


@pytest.mark.parametrize("claims_hz", [None, 30, 1000])
@pytest.mark.parametrize("duration_ms", [None, 700, 60_000])
@pytest.mark.parametrize("live", [False, True])
def test_what_a_recorder_claims_is_not_believed(
    tmp_path: Path, claims_hz: float | None, duration_ms: float | None, live: bool
) -> None:
    path = tmp_path / "browser.webm"
    video_files.matroska(path, PHONE, claims_hz=claims_hz, duration_ms=duration_ms, live=live)
    source = open_source(path)
    assert source.length is None, "an estimate"
    assert [frame.time_ns / 1e6 for frame in source] == PHONE
    assert 15 < source.rate_hz < 35
    assert count_frames(source, at_most=5) == 5
    assert count_frames(source, at_most=500) == len(PHONE)


def test_times_never_fall_where_the_decoder_has_none(tmp_path: Path) -> None:
    """A raw stream has none, some frames have equal ones, and one file lacks that of the last."""
    (tmp_path / "raw.mjpeg").write_bytes(b"".join(video_files.frames(5)))
    raw = times_ms(tmp_path / "raw.mjpeg")
    assert raw == sorted(set(raw))
    video_files.matroska(tmp_path / "twice.mkv", [0, 0, 40, 40, 80, 120])
    twice = times_ms(tmp_path / "twice.mkv")
    assert twice == sorted(set(twice))
    assert twice == pytest.approx([0, 40, 40, 40, 80, 120], abs=0.01)
    writer = cv2.VideoWriter(
        str(tmp_path / "last.mpg"), cv2.VideoWriter.fourcc(*"mpg2"), 10, (64, 48)
    )
    for value in range(5):
        writer.write(np.full((48, 64, 3), value, np.uint8))
    writer.release()
    assert times_ms(tmp_path / "last.mpg") == pytest.approx([0, 100, 200, 300, 400])


@pytest.mark.parametrize("kept", [0.3, 0.7, 0.99])
@pytest.mark.parametrize("skip_bad", [False, True])
@pytest.mark.parametrize("kind", ["avi", "mkv"])
def test_a_video_that_is_cut_off(tmp_path: Path, kind: str, kept: float, skip_bad: bool) -> None:
    path = tmp_path / f"drive.{kind}"
    if kind == "mkv":
        video_files.matroska(path, range(0, 3000, 100))
    else:
        writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"MJPG"), 10, (64, 48))
        noise = np.random.default_rng(0)
        for _ in range(30):
            writer.write(noise.integers(0, 255, (48, 64, 3), np.uint8))
        writer.release()
    path.write_bytes(path.read_bytes()[: int(kept * path.stat().st_size)])
    source, read = open_source(path, skip_bad=skip_bad), 0
    if skip_bad:
        read = len(list(source))
        assert source.skipped.count == 1
    else:
        with pytest.raises(SourceError, match="is cut off or damaged"):
            for _ in source:
                read += 1
    assert read == pytest.approx(30 * kept, abs=3)


def test_a_video_that_is_damaged_in_the_middle_is_named(tmp_path: Path) -> None:
    path = tmp_path / "drive.mov"
    video_files.quicktime(path, range(0, 3000, 100))
    content = bytearray(path.read_bytes())
    begin, end = content.index(b"mdat") + 4, content.rindex(b"moov") - 4
    content[begin + (end - begin) // 3 : end] = bytes(end - begin - (end - begin) // 3)
    path.write_bytes(content)
    with pytest.raises(SourceError, match=r"is cut off or damaged: it ends after 1[0-3] frames"):
        list(open_source(path))


@given(
    start=st.sampled_from(
        [b"RIFF\0\0\0\0AVI ", b"\x1a\x45\xdf\xa3", b"\0\0\0\x08ftyp", b"\0\0\0\x01mdat", b""]
    ),
    rest=st.lists(st.binary(max_size=9) | st.sampled_from([b"\0\0\0\x08free", b"\xec\x80"])),
)
def test_any_file_has_a_container_or_none(
    tmp_path_factory: pytest.TempPathFactory, start: bytes, rest: list[bytes]
) -> None:
    path = tmp_path_factory.getbasetemp() / "any.video"
    path.write_bytes(start + b"".join(rest))
    read_container(path)


def test_frames_of_a_video_are_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    video_files.quicktime(tmp_path / "large.mov", PHONE)
    monkeypatch.setenv("UPSNET_MAX_PIXELS", str(64 * 48 - 1))
    with pytest.raises(SourceError, match="frames of 64x48 pixels, and an image may have 3071"):
        open_source(tmp_path / "large.mov")
    monkeypatch.setenv("UPSNET_MAX_PIXELS", str(64 * 48))
    assert times_ms(tmp_path / "large.mov") == PHONE


PLAYLISTS = {
    "list.m3u8": "#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXTINF:1,\ninner.ts\n#EXT-X-ENDLIST\n",
    "list.mp4": "ffconcat version 1.0\nfile inner.ts\n",
    "list.txt": "ffconcat version 1.0\nfile inner.ts\n",
    "list.sdp": "v=0\no=- 0 0 IN IP4 127.0.0.1\ns=x\nc=IN IP4 127.0.0.1\nt=0 0\n"
    "m=video 5004 RTP/AVP 26\n",
}


@pytest.mark.parametrize("name", PLAYLISTS)
def test_a_playlist_opens_no_other_file(tmp_path: Path, name: str) -> None:
    writer = cv2.VideoWriter(
        str(tmp_path / "inner.ts"), cv2.VideoWriter.fourcc(*"mp4v"), 10, (64, 48)
    )
    writer.write(np.zeros((48, 64, 3), np.uint8))
    writer.release()
    assert count_frames(open_source(tmp_path / "inner.ts"), at_most=9) == 1
    (tmp_path / name).write_text(PLAYLISTS[name])
    with pytest.raises(SourceError, match=r"cannot read .* as a video.*playlist"):
        open_source(tmp_path / name)


def test_names_are_no_addresses(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("concat:a.avi", "file:b.avi", "c%03d.avi", "12.avi"):
        video_files.matroska(Path(name), [0, 40])
        assert count_frames(open_source(name), at_most=9) == 2


@pytest.mark.parametrize("spec", ["", " "])
def test_no_name_is_not_the_current_folder(spec: str) -> None:
    with pytest.raises(SourceError, match="no source is named"):
        open_source(spec)


def special_files(folder: Path) -> Iterator[tuple[Path, str]]:
    pipe = folder / "pipe"
    os.mkfifo(pipe)
    yield pipe, "is a pipe"
    yield Path("/dev/null"), "is a device, but not a camera"
    with socket.socket(socket.AF_UNIX) as bound:
        bound.bind(str(folder / "socket"))
        yield folder / "socket", "is a socket"


@pytest.mark.parametrize("linked", [False, True])
def test_a_file_that_is_none_says_what_to_give(tmp_path: Path, linked: bool) -> None:
    for path, says in special_files(tmp_path):
        if linked:
            link = tmp_path / f"{path.name}.mp4"
            link.symlink_to(path)
        with pytest.raises(SourceError, match=rf"{says}: give a video"):
            open_source(link if linked else path)


def test_a_cameras_device_file_is_opened_as_a_camera(tmp_path: Path) -> None:
    device = tmp_path / "video0"
    try:
        os.mknod(device, 0o600 | 0o020000, os.makedev(81, 250))
    except PermissionError:
        pytest.skip("only root makes device files")
    link = tmp_path / "by-id"
    link.symlink_to(device)
    for path in (device, link):
        with pytest.raises(SourceError, match=rf"cannot open {device}: no such camera"):
            open_source(path)


@pytest.mark.parametrize(
    ("spec", "says"),
    [
        ("gopher://host/x", r"cannot open gopher:// addresses: .* rtsp"),
        ("file:///tmp/x.mp4", "cannot open file:// addresses: give a path"),
        ("rtsp://user:secret@127.0.0.1:1/x", "cannot open rtsp://127.0.0.1:1/x: no video there"),
        ("http://127.0.0.1:1/x.mjpg", "cannot open http://127.0.0.1:1/x.mjpg: no video there"),
        ("~nobody-of-this-name/x.mp4", "~nobody-of-this-name/x.mp4"),
        ("/dev/null/x.mp4", "cannot open source /dev/null/x.mp4: Not a directory"),
        ("x" * 300, "cannot open source x+: File name too long"),
    ],
)
def test_what_cannot_be_opened_is_named_in_one_line(spec: str, says: str) -> None:
    with pytest.raises(SourceError, match=says) as caught:
        open_source(spec)
    assert "\n" not in str(caught.value)
    assert "secret" not in str(caught.value)


def test_an_address_that_does_not_answer_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("upsnet_ros.bags.video._OPEN_TIMEOUT_MS", 200)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        port = silent.getsockname()[1]
        for scheme in ("rtsp", "http"):
            with pytest.raises(SourceError, match="no response within"):
                open_source(f"{scheme}://127.0.0.1:{port}/x")


@contextmanager
def web_server(folder: Path) -> Iterator[str]:
    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *args: object) -> None: ...

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=folder)) as one:
        thread = threading.Thread(target=one.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{one.server_port}"
        one.shutdown()
        thread.join()


def test_a_video_at_an_address(tmp_path: Path) -> None:
    video_files.quicktime(tmp_path / "phone.mov", PHONE)
    video_files.matroska(tmp_path / "live.mkv", PHONE, live=True)
    with web_server(tmp_path) as address:
        source = open_source(f"{address}/phone.mov")
        assert not source.live
        for _ in range(2):
            assert [frame.time_ns / 1e6 for frame in source] == PHONE
        camera = open_source(f"{address}/live.mkv")
        assert camera.live
        read = []
        with pytest.raises(SourceError, match="stopped delivering after 13 frames"):
            read.extend(frame.time_ns for frame in camera)


@pytest.mark.parametrize("kind", ["folder", "cityscapes"])
@pytest.mark.parametrize("content", [b"", b"\x89PNG\r\n\x1a\n broken"])
def test_damaged_images_are_skipped_and_counted(tmp_path: Path, kind: str, content: bytes) -> None:
    name = "{}.png" if kind == "folder" else "ulm_000000_{:06d}_leftImg8bit.png"
    for index in (0, 1, 2):
        write_image(tmp_path / name.format(index), index)
    (tmp_path / name.format(1)).write_bytes(content)
    source = open_source(tmp_path, skip_bad=True)
    assert count_frames(source, at_most=9) == 2
    frames = list(source)
    assert [int(frame.image[0, 0, 0]) for frame in frames] == [0, 2]
    assert frames[1].time_ns == round(2e9 / source.rate_hz), "its time is left out too"
    assert source.skipped.count == 2, "one in each round"
    assert "1.png" in source.skipped.first or "000001" in source.skipped.first


@pytest.mark.parametrize("kind", ["folder", "cityscapes"])
def test_linked_folders_and_hidden_files(tmp_path: Path, kind: str) -> None:
    """As data sets are put together, and as macOS copies them."""
    name = "{}.png" if kind == "folder" else "ulm_000000_{:06d}_leftImg8bit.png"
    stored = tmp_path / "disk" / "ulm"
    for index in (0, 1):
        write_image(stored / name.format(index), index)
    (stored / f"._{name.format(0)}").write_bytes(b"\x00\x05\x16\x07")
    (tmp_path / "root").mkdir()
    (tmp_path / "root/linked").symlink_to(stored)
    start = tmp_path / "root" / ("linked" if kind == "folder" else "")
    assert [frame.name for frame in open_source(start)] == [name.format(0), name.format(1)]


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
    with pytest.raises(SourceError, match="drive: no camera"):
        open_source(tmp_path / "drive")


@pytest.mark.parametrize("skip_bad", [False, True])
def test_a_message_of_a_bag_that_cannot_be_read(tmp_path: Path, skip_bad: bool) -> None:
    pytest.importorskip("rclpy", reason="ROS 2 is not installed")
    from bag_messages import IMAGE, make_image

    from upsnet_ros.bags.writer import BagWriter

    with BagWriter(path=tmp_path / "drive") as bag:
        for time_ns in (1, 2, 3):
            message = make_image(time_ns)
            message.encoding = "nonsense" if time_ns == 2 else "mono8"
            bag.write("/camera/image_raw", message, time_ns, IMAGE)
    source = open_source(tmp_path / "drive", skip_bad=skip_bad)
    if skip_bad:
        assert len(list(source)) == 2
        assert source.skipped.count == 1
    else:
        with pytest.raises(SourceError, match=r"message 1: encoding 'nonsense'.*--skip-bad"):
            list(source)


@pytest.mark.parametrize("bad", [0, 2])
def test_a_damaged_image_is_found_before_the_frames_are_played(tmp_path: Path, bad: int) -> None:
    for index in range(4):
        cv2.imwrite(str(tmp_path / f"{index}.png"), np.zeros((8, 8, 3), np.uint8))
    (tmp_path / f"{bad}.png").write_bytes(b"no image")
    with pytest.raises(SourceError, match=f"{bad}.png is not an image"):
        count_frames(open_source(tmp_path), at_most=4)
    assert count_frames(open_source(tmp_path, skip_bad=True), at_most=4) == 3
