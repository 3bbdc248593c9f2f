"""The demo for real: its processes, DDS, files; and how it ends when one of them fails."""

from __future__ import annotations

import csv
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import cv2
import numpy as np
import pytest

pytest.importorskip("rclpy", reason="ROS 2 is not installed")

from command_runs import CommandRun

from upsnet_ros.bags.reader import open_bag
from upsnet_ros.bags.replay_topics import topics_of

COMMAND = [sys.executable, "-m", "upsnet_ros.cli", "demo"]
FAST = ["--scale", "64"]
SECONDS = 240

pytestmark = pytest.mark.dds


@pytest.fixture(autouse=True)
def one_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    monkeypatch.setenv("COLUMNS", "200")


def processes_of(out: Path) -> list[str]:
    """Command lines of running processes that name the folder ``out``."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            words = path.read_bytes().decode(errors="replace").split("\0")
        except OSError:  # it has just ended
            continue
        if any(word.startswith(str(out)) for word in words):
            found.append(" ".join(words))
    return found


def table_of(out: Path) -> list[dict[str, str]]:
    """The rows of the recording's table."""
    with (out / "frames.csv").open(newline="") as table:
        return list(csv.DictReader(table))


def test_it_says_what_it_did(demo_run: CommandRun) -> None:
    assert demo_run.code == 0, demo_run.stderr
    assert "Using the bundled weights" in demo_run.stderr
    assert "3 frames; image to result: p50" in demo_run.stdout
    assert "; 0 lost" in demo_run.stdout
    assert "scenes/**/*.png" in demo_run.stdout
    assert "scenes/**/*.tiff" in demo_run.stdout
    assert "3 label images" in demo_run.stdout
    assert "PQ " in demo_run.stdout
    assert "points mIoU" in demo_run.stdout
    assert not processes_of(demo_run.out)


def test_every_frame_is_in_the_report_and_in_the_table(demo_run: CommandRun) -> None:
    report = (demo_run.out / "report.html").read_text()
    assert report.count("drawn0_000008_00000") >= 3
    assert len(table_of(demo_run.out)) == 3


def test_labels_overlays_and_unknown_masks_agree(demo_run: CommandRun) -> None:
    out = demo_run.out
    rendered = out / "scenes/leftImg8bit_sequence/test/drawn0"
    for number, row in enumerate(table_of(out)):
        labels = cv2.imread(str(out / f"labels/{number:06d}.png"), cv2.IMREAD_UNCHANGED)
        assert labels.shape == (512, 1024)
        values = np.unique(labels)
        assert np.count_nonzero(values >= 1000) == int(row["things"])
        assert np.count_nonzero((values > 0) & (values < 1000)) == int(row["stuff"])
        frame = cv2.imread(str(rendered / f"drawn0_000008_{number:06d}_leftImg8bit.png"))
        overlay = cv2.imread(str(out / f"overlay/{number:06d}.png"))
        void = labels == 0
        unknown = cv2.imread(str(out / f"unknown/{number:06d}.png"), cv2.IMREAD_UNCHANGED) > 0
        assert void[unknown].all()
        assert (frame[~void] != overlay[~void]).mean() > 0.3, "nothing was drawn"


def test_video_and_bag_have_every_frame(demo_run: CommandRun) -> None:
    capture = cv2.VideoCapture(str(demo_run.out / "overlay.mp4"))
    assert sum(1 for _ in iter(lambda: capture.read()[0], False)) == 3
    with open_bag(demo_run.out / "bag") as bag:
        counts = {topic.name: topic.count for topic in bag.topics}
    outputs = ("labels", "instances", "unknown_mask", "points")
    truth = ("labels", "unknown_mask", "points", "frame")
    assert counts == {
        "/camera/image_raw": 3,
        "/panoptic/label_info": 1,
        **{f"/panoptic/{name}": 3 for name in outputs},
        "/ground_truth/label_info": 1,
        **{f"/ground_truth/{name}": 3 for name in truth},
    }


def test_the_report_shows_every_frame_from_above(demo_run: CommandRun) -> None:
    report = (demo_run.out / "report.html").read_text()
    assert len(re.findall('"truthPoints": "data:image/png', report)) == 3
    assert len(re.findall('"predictionPoints": "data:image/png', report)) == 3


def test_the_street_can_be_replayed(demo_run: CommandRun) -> None:
    topics = topics_of(demo_run.out / "street")
    assert topics.camera == "/camera/image_raw"
    assert topics.clouds == ("/lidar/points",)


def test_frames_of_ones_own_have_no_points(tmp_path: Path) -> None:
    source, out = tmp_path / "frames", tmp_path / "out"
    source.mkdir()
    for number in range(2):
        cv2.imwrite(str(source / f"{number}.png"), np.full((64, 128, 3), 90, np.uint8))
    result = subprocess.run(
        [*COMMAND, str(source), "--out", str(out), *FAST],
        capture_output=True,
        text=True,
        timeout=SECONDS,
    )
    assert result.returncode == 0, result.stderr
    assert "have no ground truth, so there is no report" in result.stderr
    with open_bag(out / "bag") as bag:
        counts = {topic.name: topic.count for topic in bag.topics}
    names = ("image", "labels", "instances", "unknown_mask")
    assert counts == {"/panoptic/label_info": 1, **{f"/panoptic/{name}": 2 for name in names}}
    assert not (out / "street").exists()


def test_another_demo_replaces_it_and_keeps_what_the_user_added(
    demo_run: CommandRun, tmp_path: Path
) -> None:
    out = shutil.copytree(demo_run.out, tmp_path / "out")
    mine = [out / "notes.txt", out / "labels/mine.png", out / "bag/mine.txt"]
    for path in mine:
        path.write_text("mine")
    again = [*COMMAND, "--frames", "1", "--out", str(out), *FAST]
    result = subprocess.run(again, capture_output=True, text=True, timeout=SECONDS)
    assert result.returncode == 0, result.stderr
    assert f"of an earlier `upsnet demo` in {out}" in result.stderr
    assert sorted(path.name for path in (out / "labels").iterdir()) == ["000000.png", "mine.png"]
    with open_bag(out / "bag") as bag:
        assert {topic.count for topic in bag.topics} == {1}
    (out / "report.html").write_text("edited")
    result = subprocess.run(again, capture_output=True, text=True, timeout=SECONDS)
    assert result.returncode == 1
    assert "report.html was changed" in result.stderr
    assert (out / "report.html").read_text() == "edited"
    assert [path.read_text() for path in mine] == ["mine"] * 3


@pytest.mark.long
def test_weights_of_other_classes_than_the_street_give_no_report(
    tmp_path: Path,
) -> None:
    options = ["--variant", "coco-fpn-r50", "--frames", "1", "--out", str(tmp_path / "out")]
    result = subprocess.run(
        [*COMMAND, *options, *FAST], capture_output=True, text=True, timeout=SECONDS
    )
    assert result.returncode == 0, result.stderr
    assert "other classes than the weights, so there is no report" in result.stderr
    assert f"Open this: {tmp_path / 'out/overlay.mp4'}" in result.stderr
    assert not (tmp_path / "out/report.html").exists()


def test_bad_weights_are_told_with_the_nodes_own_words(tmp_path: Path) -> None:
    source, out = tmp_path / "frames", tmp_path / "out"
    source.mkdir()
    cv2.imwrite(str(source / "0.png"), np.zeros((64, 128, 3), np.uint8))
    (tmp_path / "weights.pth").write_bytes(b"\x80\x02 no checkpoint")
    result = subprocess.run(
        [*COMMAND, str(source), "--out", str(out), "--weights", str(tmp_path / "weights.pth")],
        capture_output=True,
        text=True,
        timeout=SECONDS,
    )
    assert result.returncode == 1
    assert "`upsnet node` ended with exit code 1" in result.stderr
    assert "weights.pth" in result.stderr.split("ends:")[1]
    assert "Traceback" not in result.stderr
    assert not processes_of(tmp_path)


@pytest.mark.parametrize(
    ("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 128 + signal.SIGTERM)]
)
def test_a_signal_ends_every_process(tmp_path: Path, number: int, code: int) -> None:
    source, out = tmp_path / "frames", tmp_path / "out"
    source.mkdir()
    for index in range(200):
        cv2.imwrite(str(source / f"{index}.png"), np.zeros((64, 128, 3), np.uint8))
    with (tmp_path / "log.txt").open("w") as log:
        demo = subprocess.Popen(
            [*COMMAND, str(source), "--frames", "200", "--out", str(out), *FAST], stderr=log
        )
    end = time.monotonic() + SECONDS
    while not ((out / "frames.csv").exists() and len((out / "frames.csv").read_text()) > 150):
        assert demo.poll() is None, (tmp_path / "log.txt").read_text()
        assert time.monotonic() < end, "no frame was recorded"
        time.sleep(0.1)
    os.kill(demo.pid, number)
    assert demo.wait(SECONDS) == code
    assert "Traceback" not in (tmp_path / "log.txt").read_text()
    assert not processes_of(tmp_path)
    assert cv2.VideoCapture(str(out / "overlay.mp4")).read()[0], "the video was not finished"


def test_a_source_that_is_not_there_is_named_and_the_last_demo_kept(tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out/frames.csv").write_text("the last demo's")
    result = subprocess.run(
        [*COMMAND, str(tmp_path / "nowhere"), "--out", str(tmp_path / "out")],
        capture_output=True,
        text=True,
        timeout=SECONDS,
    )
    assert result.returncode == 1
    assert "nowhere" in result.stderr
    assert (tmp_path / "out/frames.csv").exists()
