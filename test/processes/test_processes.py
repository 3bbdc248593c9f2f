"""Processes that live and end together, with their last words when one fails."""

from __future__ import annotations

import sys
import time
from pathlib import Path

import psutil
import pytest

pytest.importorskip("rclpy", reason="ROS 2 is not installed")

from upsnet_ros.errors import ProcessError
from upsnet_ros.processes.child_processes import ProcessGroup


def wait_for_end(group: ProcessGroup, name: str) -> None:
    end = time.monotonic() + 120
    while group.running(name):
        assert time.monotonic() < end
        time.sleep(0.05)


def test_a_failing_process_is_told_with_its_last_words(tmp_path: Path) -> None:
    with ProcessGroup(tmp_path / "logs", {}) as group:
        group.start("play", ["play", "missing.mp4"])
        with pytest.raises(ProcessError) as failure:
            wait_for_end(group, "play")
    assert "`upsnet play` ended with exit code 1" in str(failure.value)
    assert f"{tmp_path}/logs/play.log ends:" in failure.value.details
    assert failure.value.details.endswith("  | error: source missing.mp4 does not exist")


def test_a_required_process_must_not_end_even_well(tmp_path: Path) -> None:
    with ProcessGroup(tmp_path, {}) as group:
        group.start("node", ["--help"])
        wait_for_end(group, "node")
        with pytest.raises(ProcessError, match="ended too early"):
            group.require("node")


#: SIGINT is blocked until here, however soon it came.
STARTING = """
import os, signal
signal.signal(signal.SIGINT, lambda *_: os._exit(130))
signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})
while True:
    signal.pause()
"""


def test_a_process_may_be_ended_while_it_starts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        "upsnet_ros.processes.child_processes.child_command",
        lambda *_: [sys.executable, "-c", STARTING],
    )
    with ProcessGroup(tmp_path, {}) as group:
        group.start("node", ["node"])
        group.end("node")
        assert not psutil.pid_exists(group.pid("node"))
