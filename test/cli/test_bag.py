from __future__ import annotations

import json
from pathlib import Path

import cv2
import numpy as np
import pytest

from upsnet_ros.bags import open_bag
from upsnet_ros.cli import main


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
    assert "2 frames, 2 with truth" in out
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


def test_info_tells_what_is_lost(tmp_path, images, capfd) -> None:
    drive = tmp_path / "drive"
    assert _run(capfd, "bag", "make", images, "--out", drive)[0] == 0
    file = drive / "drive.mcap"
    file.write_bytes(file.read_bytes()[:-50])
    code, out, _ = _run(capfd, "bag", "info", drive)
    assert code == 0
    assert "lost: drive.mcap: it is cut off" in out
    assert "6 messages" in out


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
    assert "3 frames, 3 with truth" in out
    classes.write_text("- road\n")
    code, _, err = _run(
        capfd, "bag", "make", images, "--labels", labels, "--classes", classes, "--out", tmp_path
    )
    assert code == 1
    assert "must map values" in err


@pytest.mark.parametrize(
    ("args", "reason"),
    [
        ((), "name a SOURCE, or --scenes"),
        (("nowhere",), "nowhere does not exist"),
        (("nowhere", "--labels", "maps"), "--labels and --classes go together"),
        (("--scenes", "1", "--split", "dev"), "unknown split 'dev'"),
        (("--scenes", "1", "--size", "8"), "size '8' is not"),
        (("--scenes", "1", "--storage", "leveldb"), "'leveldb' is none of"),
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
    assert "exists" in err


def test_no_bag(tmp_path, capfd) -> None:
    code, _, err = _run(capfd, "bag", "info", tmp_path / "none")
    assert code == 1
    assert "there is no bag" in err
