from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import video_files
from typer.testing import CliRunner

from upsnet_ros.bags import make
from upsnet_ros.bags.reader import open_bag
from upsnet_ros.cli import main
from upsnet_ros.cli.commands import app


def _run(capfd, *args: object) -> tuple[int, str, str]:
    with pytest.raises(SystemExit) as end:
        main([str(arg) for arg in args])
    out, err = capfd.readouterr()
    return end.value.code or 0, out, err


@pytest.fixture
def images(tmp_path: Path) -> Path:
    folder = tmp_path / "images"
    folder.mkdir()
    for number in range(3):
        picture = np.full((20, 30, 3), 50 * number, np.uint8)
        assert cv2.imwrite(str(folder / f"{number}.png"), picture)
    return folder


def test_scenes_into_a_bag_and_what_it_holds(tmp_path, capfd) -> None:
    drive = tmp_path / "drive"
    code, out, err = _run(
        capfd, "bag", "make", "--scenes", 5, "--length", 2, "--size", "32x64", "--out", drive
    )
    assert code == 0, err
    assert "2 frames, 2 with ground truth" in out
    code, out, err = _run(capfd, "bag", "info", drive)
    assert code == 0, err
    assert "11 messages in 0.100 s" in out
    code, out, err = _run(capfd, "bag", "info", drive, "--json")
    assert code == 0, err
    content = json.loads(out)
    rows = {row["name"]: row for row in content["topics"]}
    assert rows["/camera/image_raw"]["rate_hz"] == pytest.approx(10)
    assert rows["/ground_truth/label_info"]["latched"]
    assert content["losses"] == []


def test_a_video_of_variable_rate_keeps_its_times(tmp_path, capfd) -> None:
    times_ms = [0, 20, 40, 340, 360]
    video_files.matroska(tmp_path / "v.webm", times_ms, claims_hz=1000, duration_ms=90_000)
    code, out, err = _run(capfd, "bag", "make", tmp_path / "v.webm", "--out", tmp_path / "drive")
    assert code == 0, err
    assert "5 frames" in out
    with open_bag(tmp_path / "drive", topics=["/camera/image_raw"]) as bag:
        times = [record.time_ns for record in bag]
    assert [(one - times[0]) / 1e6 for one in times] == times_ms


def test_a_damaged_image_ends_it_or_is_skipped(tmp_path, images, capfd) -> None:
    (images / "1.png").write_bytes(b"nonsense")
    code, _, err = _run(capfd, "bag", "make", images, "--out", tmp_path / "strict")
    assert code == 1
    assert "1.png is not an image" in err
    assert "--skip-bad" in err
    code, out, err = _run(capfd, "bag", "make", images, "--out", tmp_path / "drive", "--skip-bad")
    assert code == 0, err
    assert out.startswith("2 frames, ")
    assert ", skipped 1 (the first: " in out


def test_where_no_image_can_be_read_there_is_no_bag(tmp_path, images, capfd) -> None:
    for image in images.iterdir():
        image.write_bytes(b"nonsense")
    make = ("bag", "make", images, "--out", tmp_path / "drive")
    for more in ((), ("--skip-bad",)):
        code, _, err = _run(capfd, *make, *more)
        assert code == 1 and err.count("\n") == 1
        assert not (tmp_path / "drive").exists()
    assert "no image of" in err and "skipped 3" in err


def test_opencv_adds_no_line_to_the_error_about_an_image(tmp_path) -> None:
    image = tmp_path / "float.tiff"
    assert cv2.imwrite(str(image), np.zeros((20, 30), np.float32))
    done = subprocess.run(
        [sys.executable, "-m", "upsnet_ros.cli", "bag", "make", image, "--out", tmp_path / "bag"],
        capture_output=True,
        text=True,
        env={name: value for name, value in os.environ.items() if name != "OPENCV_LOG_LEVEL"},
    )
    assert done.returncode == 1
    assert done.stderr.startswith("error: ") and done.stderr.count("\n") == 1


def test_a_bag_that_is_not_finished_says_what_it_holds(tmp_path, images, capfd) -> None:
    (tmp_path / "labels").mkdir()
    classes = tmp_path / "classes.yaml"
    classes.write_text("0: road\n")
    maps = [tmp_path / "labels" / f"{number}.png" for number in range(3)]
    for path in maps:
        assert cv2.imwrite(str(path), np.zeros((20, 30), np.uint8))
    out = tmp_path / "drive"
    make = ("bag", "make", images, "--labels", maps[0].parent, "--classes", classes, "--out", out)
    maps[2].write_bytes(b"nonsense")
    code, _, err = _run(capfd, *make)
    assert code == 1 and "2.png" in err
    assert err.splitlines()[-1].strip() == f"{out} holds 2 frames so far"
    assert _run(capfd, "bag", "info", out)[0] == 0
    # The next one replaces it, and a failure before the first frame leaves no bag.
    maps[0].write_bytes(b"nonsense")
    code, _, err = _run(capfd, *make)
    assert code == 1 and "0.png" in err and "so far" not in err
    assert not (out / "metadata.yaml").exists() and not list(out.glob("*.mcap"))


def test_ctrl_c_says_what_the_bag_holds(tmp_path, images, monkeypatch) -> None:
    def interrupted(drive: Any, job: make.BagJob) -> Iterator[make.DriveFrame]:
        frames = make_bag(drive, job)
        yield next(frames)
        frames.close()
        raise KeyboardInterrupt

    make_bag = make.make_bag
    monkeypatch.setattr(make, "make_bag", interrupted)
    done = CliRunner().invoke(app, ["bag", "make", str(images), "--out", str(tmp_path / "drive")])
    assert done.exit_code == 130
    assert f"{tmp_path / 'drive'} holds 1 frame so far" in " ".join(done.stderr.split())


def test_a_limit_that_is_no_number_is_not_an_image_that_is_bad(
    tmp_path, images, capfd, monkeypatch
) -> None:
    monkeypatch.setenv("UPSNET_MAX_PIXELS", "abc")
    for more in ((), ("--skip-bad",)):
        code, _, err = _run(capfd, "bag", "make", images, "--out", tmp_path / "drive", *more)
        assert code == 1
        assert "UPSNET_MAX_PIXELS is 'abc'" in err and "--skip-bad" not in err
        assert not (tmp_path / "drive").exists()


@pytest.mark.parametrize(
    ("source", "says"),
    [
        ("", "no source is named"),
        ("0", "a webcam never ends"),
        ("/dev/null", "is a device, but not a camera"),
        ("rtsp://127.0.0.1:1/x", "cannot open rtsp://127.0.0.1:1/x"),
    ],
)
def test_what_is_no_source_of_a_bag(tmp_path, capfd, source, says) -> None:
    code, _, err = _run(capfd, "bag", "make", source, "--out", tmp_path / "drive")
    assert code == 1
    assert says in err
    assert not (tmp_path / "drive").exists()


@pytest.mark.parametrize("missing", ["images", "maps", "classes.yaml"])
def test_a_labelled_folder_that_is_not_there(tmp_path, images, missing, capfd) -> None:
    paths = {"images": images, "maps": tmp_path, "classes.yaml": images / "0.png"}
    paths[missing] = tmp_path / "nowhere"
    labels = ("--labels", paths["maps"], "--classes", paths["classes.yaml"])
    code, _, err = _run(capfd, "bag", "make", paths["images"], *labels, "--out", tmp_path / "drive")
    assert code == 1
    assert "nowhere" in err and ("there is no" in err or "does not exist" in err)


def test_info_tells_what_is_lost(tmp_path, images, capfd) -> None:
    drive = tmp_path / "drive"
    assert _run(capfd, "bag", "make", images, "--out", drive)[0] == 0
    file = drive / "drive.mcap"
    file.write_bytes(file.read_bytes()[:-50])
    code, out, _ = _run(capfd, "bag", "info", drive)
    assert code == 0
    assert "lost: drive.mcap: it is cut off" in out
    assert "6 messages" in out


NAMES = (
    "/camera/camera_info", "sensor_msgs/CameraInfo", "/ground_truth/label_info (latched)",
    "upsnet_ros/PanopticLabelInfo", "/ground_truth/unknown_mask",
)  # fmt: skip


@pytest.mark.parametrize(("columns", "terminal"), [(80, True), (140, True), (80, False)])
def test_info_breaks_no_name(tmp_path, capfd, monkeypatch, columns, terminal) -> None:
    """On a terminal of 80 columns types go below the topics; in a pipe lines may be longer."""
    drive = tmp_path / "drive"
    scenes = ("--scenes", 7, "--length", 2, "--size", "64x128")
    assert _run(capfd, "bag", "make", *scenes, "--out", drive)[0] == 0
    monkeypatch.chdir(tmp_path)  # the title is the path
    monkeypatch.setenv("COLUMNS", str(columns))
    if terminal:
        monkeypatch.setenv("FORCE_COLOR", "1")
    code, out, _ = _run(capfd, "bag", "info", "drive")
    assert code == 0
    lines = re.sub(r"\x1b\[[0-9;]*m", "", out).splitlines()
    if terminal:
        assert max(len(line.rstrip()) for line in lines) <= columns
    for name in NAMES:
        assert sum(name in line for line in lines) == 1, name
    rows = [line for line in lines if "/camera/image_raw" in line]
    assert len(rows) == 1 and "0.00 - 0.10" in rows[0]
    assert ("sensor_msgs/Image" in rows[0]) == (columns > 80 or not terminal)


def test_a_video_into_a_compressed_bag(tmp_path, capfd) -> None:
    video = tmp_path / "drive.avi"
    writer = cv2.VideoWriter(str(video), cv2.VideoWriter.fourcc(*"MJPG"), 25, (64, 48))
    for number in range(4):
        writer.write(np.full((48, 64, 3), 60 * number, np.uint8))
    writer.release()
    code, _, err = _run(
        capfd, "bag", "make", video, "--jpeg", 90, "--camera", "front", "--storage", "sqlite3",
        "--compression", "zstd", "--out", tmp_path / "bag",
    )  # fmt: skip
    assert code == 0, err
    with open_bag(tmp_path / "bag", topics=["/front/image_raw/compressed"]) as bag:
        times = [record.time_ns for record in bag]
    assert np.diff(times).tolist() == [40_000_000] * 3


def test_a_folder_with_label_maps(tmp_path, images, capfd) -> None:
    labels = tmp_path / "labels"
    labels.mkdir()
    for number in range(3):
        assert cv2.imwrite(str(labels / f"{number}.png"), np.full((20, 30), number, np.uint8))
    classes = tmp_path / "classes.yaml"
    classes.write_text("0: road\n1: sky\n2: null\n")
    code, out, err = _run(
        capfd, "bag", "make", images, "--labels", labels, "--classes", classes,
        "--out", tmp_path / "bag",
    )  # fmt: skip
    assert code == 0, err
    assert "3 frames, 3 with ground truth" in out
    classes.write_text("- road\n")
    code, _, err = _run(
        capfd,
        "bag",
        "make",
        images,
        "--labels",
        labels,
        "--classes",
        classes,
        "--out",
        tmp_path / "other",
    )
    assert code == 1
    assert "must map values" in err


@pytest.mark.parametrize(
    ("args", "reason"),
    [
        ((), "give either SOURCE, or --scenes"),
        (("nowhere",), "nowhere"),
        ((".", "--labels", "."), "--labels and --classes belong together"),
        (("--scenes", "1", "--split", "dev"), "unknown split 'dev'"),
        (("--scenes", "1", "--size", "8"), "size '8' is not"),
        (("--scenes", "1", "--storage", "leveldb"), "unknown storage 'leveldb'"),
        (("--scenes", "1", "--rate", "0"), "rate 0.0 Hz"),
    ],
)
def test_what_cannot_be_made(args, reason, tmp_path, capfd) -> None:
    code, _, err = _run(capfd, "bag", "make", *args, "--out", tmp_path / "bag")
    assert code == 1
    assert reason in err
    assert not (tmp_path / "bag").exists()


def test_an_existing_bag_is_kept(tmp_path, images, capfd) -> None:
    code, _, err = _run(capfd, "bag", "make", images, "--out", tmp_path)
    assert code == 1
    assert "is not empty" in err


def test_no_bag(tmp_path, capfd) -> None:
    code, _, err = _run(capfd, "bag", "info", tmp_path / "none")
    assert code == 1
    assert "there is no bag" in err
