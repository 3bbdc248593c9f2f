"""`upsnet replay` for real: a bag, a node of its own, DDS, and a bag of answers."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

pytest.importorskip("rclpy", reason="ROS 2 is not installed")

import drive_bag
from command_runs import CommandRun
from rosbags.rosbag2 import StoragePlugin, Writer
from rosbags.typesys import Stores, get_typestore

from upsnet_ros.bags.reader import open_bag
from upsnet_ros.inference.frame import LABEL_DIVISOR

COMMAND = [sys.executable, "-m", "upsnet_ros.cli", "replay"]
NODE = ["--variant", "cityscapes-r18", "--scale", "64", "--allow-random-weights"]
SECONDS = 240

pytestmark = pytest.mark.dds


@pytest.fixture(autouse=True)
def one_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    monkeypatch.setenv("COLUMNS", "200")


def replay(*arguments: object) -> subprocess.CompletedProcess[str]:
    command = [*COMMAND, *(str(one) for one in arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=SECONDS)


def stamp_of(message: Any) -> int:
    return message.header.stamp.sec * 10**9 + message.header.stamp.nanosec


def read(path: Path) -> dict[str, list[Any]]:
    """Messages by topic; the bag has to be whole."""
    with open_bag(path) as bag:
        messages: dict[str, list[Any]] = {topic.name: [] for topic in bag.topics}
        for record in bag:
            messages[record.topic].append(record.message)
        assert bag.losses == []
    return messages


def write_elsewhere(path: Path, count: int) -> None:
    """As others record: SQLite, JPEG on a topic of an odd name, types of their own, no truth."""
    store = get_typestore(Stores.ROS2_HUMBLE)
    make = store.types
    kinds = {"/eye/jpeg": "sensor_msgs/msg/CompressedImage", "/speed": "std_msgs/msg/Float32"}
    with Writer(path, version=8, storage_plugin=StoragePlugin.SQLITE3) as writer:
        topics = {
            name: writer.add_connection(name, kind, typestore=store) for name, kind in kinds.items()
        }
        for index in range(count):
            time_ns = 5_000_000_000 + index * 50_000_000
            stamp = make["builtin_interfaces/msg/Time"](sec=3, nanosec=index)
            header = make["std_msgs/msg/Header"](stamp=stamp, frame_id="eye")
            pixels = np.full((60, 80, 3), 40 * index, np.uint8)
            jpeg = cv2.imencode(".jpg", pixels)[1].reshape(-1)
            image = make[kinds["/eye/jpeg"]](header=header, format="jpeg", data=jpeg)
            speed = make[kinds["/speed"]](data=float(index))
            for name, message in (("/speed", speed), ("/eye/jpeg", image)):
                raw = store.serialize_cdr(message, kinds[name])
                writer.write(topics[name], time_ns, raw)


def test_a_bag_of_others_in_realtime(tmp_path: Path) -> None:
    write_elsewhere(tmp_path / "theirs", 4)
    out = tmp_path / "out"
    done = replay(
        *(tmp_path / "theirs", "--realtime", "0.2", "--clock", "--out", out, *NODE),
        *("--publish-unknown-score", "--storage", "sqlite3"),
    )
    assert done.returncode == 0, done.stderr
    figures = json.loads((out / "replay.json").read_text())
    assert (figures["mode"], figures["rate"], figures["sent"]) == ("realtime", 0.2, 4)
    assert figures["sent"] == figures["answered"] + figures["missed"]
    assert f"4 images sent, {figures['answered']} with results" in done.stdout
    assert 1 <= figures["answered"] == sum(figures["histogram"]["counts"])
    messages = read(out / "bag")
    outputs = ("labels", "instances", "unknown_mask", "unknown_score")
    assert set(messages) == {"/eye/jpeg", *(f"/panoptic/{one}" for one in ("label_info", *outputs))}
    images = [stamp_of(image) for image in messages["/eye/jpeg"]]
    assert images == [3_000_000_000 + index for index in range(4)]
    for name in outputs:
        answered = [stamp_of(answer) for answer in messages[f"/panoptic/{name}"]]
        assert answered == sorted(answered)
        assert set(answered) <= set(images)
        assert images[-1] in answered, "the newest image is always answered"
        assert len(answered) == figures["answered"]
    for labels in messages["/panoptic/labels"]:
        assert (labels.height, labels.width, labels.header.frame_id) == (60, 80, "eye")


def test_lockstep_until_ctrl_c(tmp_path: Path) -> None:
    drive, out = drive_bag.write_drive(tmp_path / "drive", 300), tmp_path / "out"
    with (tmp_path / "log.txt").open("w") as log:
        process = subprocess.Popen(
            [*COMMAND, str(drive), "--out", str(out), *NODE], stdout=log, stderr=log
        )
    end = time.monotonic() + SECONDS
    while not any(path.stat().st_size > 60_000 for path in (out / "bag").glob("*.mcap")):
        assert process.poll() is None, (tmp_path / "log.txt").read_text()
        assert time.monotonic() < end, "nothing was recorded"
        time.sleep(0.05)
    os.kill(process.pid, signal.SIGINT)
    assert process.wait(SECONDS) == 130, (tmp_path / "log.txt").read_text()
    said = (tmp_path / "log.txt").read_text()
    assert "Traceback" not in said
    assert not list_processes(tmp_path)
    messages = read(out / "bag")
    count = len(messages[drive_bag.CAMERA])
    assert 0 < count < 300
    stamps = drive_bag.stamps(count)
    assert [stamp_of(one) for one in messages[drive_bag.CAMERA]] == stamps
    for name in ("labels", "instances", "unknown_mask"):
        answered = [stamp_of(answer) for answer in messages[f"/panoptic/{name}"]]
        assert answered in (stamps, stamps[:-1]), "all but perhaps the last one are answered"
    assert [stamp_of(one) for one in messages[drive_bag.TRUTH]] in (stamps, stamps[:-1])
    (info,) = messages["/panoptic/label_info"]
    assert info.label_divisor == LABEL_DIVISOR
    figures = json.loads((out / "replay.json").read_text())
    assert figures["interrupted"]
    assert figures["sent"] == count


def test_one_command_from_a_bag_to_its_results(replay_run: CommandRun) -> None:
    assert replay_run.code == 0, replay_run.stderr
    figures = json.loads((replay_run.out / "replay.json").read_text())
    assert (figures["mode"], figures["sent"], figures["answered"]) == ("lockstep", 4, 4)
    assert figures["truth"] == [drive_bag.TRUTH]
    with open_bag(replay_run.out / "bag") as bag:
        latched = {topic.name for topic in bag.topics if topic.latched}
    assert latched == {"/panoptic/label_info"}


def test_one_command_from_a_bag_to_its_report(replay_run: CommandRun) -> None:
    evaluation = json.loads((replay_run.out / "evaluation.json").read_text())
    assert evaluation["frames_evaluated"] == 4
    assert {"PQ", "SQ", "RQ", "classes"} <= evaluation.keys()
    assert "<html" in (replay_run.out / "report.html").read_text()


def list_processes(folder: Path) -> list[str]:
    """Command lines of running processes that name a place in ``folder``."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            words = path.read_bytes().decode(errors="replace")
        except OSError:  # it has just ended
            continue
        if str(folder) in words:
            found.append(words)
    return found


def test_a_node_that_cannot_start_is_told_with_its_own_words(tmp_path: Path) -> None:
    drive = drive_bag.write_drive(tmp_path / "drive", 1)
    (tmp_path / "weights.pth").write_bytes(b"\x80\x02 no checkpoint")
    done = replay(drive, "--out", tmp_path / "out", "--weights", tmp_path / "weights.pth")
    assert done.returncode == 1
    assert "`upsnet node` ended with exit code 1" in done.stderr
    assert "weights.pth" in done.stderr.split("ends:")[1]
    assert "Traceback" not in done.stderr
    assert read(tmp_path / "out/bag") == {}


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["{drive}x"], "drivex"),
        (["{drive}", "--lockstep", "--realtime", "1"], "--lockstep and --realtime exclude each"),
        (["{drive}", "--realtime", "0"], "rate must be above 0"),
        (["{drive}", "--max-rate", "5"], "--max-rate drops images"),
        (["{drive}", "--topic", "/front"], "topic /front is not in the bag"),
        (["{drive}", "--truth", "/nowhere", "--evaluate"], "no ground truth under /nowhere"),
        (["{plain}", "--evaluate"], "--evaluate needs ground truth"),
        (
            ["{drive}", "--no-node", "--scale", "64"],
            "--scale is an option of the node that --no-node",
        ),
        (["{drive}", "--record", "lables"], "output 'lables' is none of"),
        (["{drive}", "--out", "{full}"], "did not write bag"),
        (["{drive}", "--points"], "drive: points need one topic of PointCloud2 or"),
        (["{drive}", "--points-input", "cloud"], "one topic of PointCloud2, not none"),
        (["{drive}", "--points-input", "depth"], "points need one topic of depth images"),
        (["{drive}", "--points", "--no-node"], "--points starts a points node"),
        (["{drive}", "--points-input", "depth", "--no-node"], "--points starts a points node"),
        (["{drive}", "--record", "points"], "--record points needs --points"),
        (["{drive}", "--record", "objects"], "--record objects needs --points"),
    ],
)
def test_what_cannot_be_done_ends_with_one_line(
    tmp_path: Path, arguments: list[str], says: str
) -> None:
    from typer.testing import CliRunner

    from upsnet_ros.cli.commands import app

    drive = drive_bag.write_drive(tmp_path / "drive", 1)
    (tmp_path / "full/bag").mkdir(parents=True)
    plain = drive_bag.write_drive(tmp_path / "plain", 1, truth=False)
    names = {"drive": drive, "plain": plain, "full": tmp_path / "full"}
    filled = [one.format(**names) for one in arguments]
    result = CliRunner().invoke(app, ["replay", *filled])
    assert result.exit_code == 1
    assert result.stderr.startswith("error: ")
    assert says in result.stderr
    assert len(result.stderr.splitlines()) == 1
    assert (tmp_path / "full/bag").exists()


def test_transforms_that_are_not_played_but_read_are_told_as_read() -> None:
    from upsnet_ros.cli.replay import summary_lines

    report = {
        "sent": 1, "answered": 1, "missed": 0, "missed_share": 0.0, "latency_ms": {},
        "partly_answered": 0, "repeated_stamps": 0, "late_ms": 0.0, "losses": [],
        "left_out": {"/tf_static": "not installed", "/other": "not installed"}, "points": None,
    }  # fmt: skip
    assert not any("was read" in line for line in summary_lines(report))
    report["points"] = ["points", "-p", "extrinsics:=[0.0]"]
    lines = [line for line in summary_lines(report) if "was read from it" in line]
    assert len(lines) == 1 and lines[0].startswith("/tf_static")
