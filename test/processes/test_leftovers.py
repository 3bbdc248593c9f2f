from __future__ import annotations

import fcntl
import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from dds_fixtures import Process
from leaks import is_of_one_domain, make_old, shared_memory

from upsnet_ros.processes.transport import free_domain, remove_leftovers

DEAD, ALIVE, YOUNG = (f"fastrtps_{number:016x}" for number in range(3))


def make(folder: Path, *names: str, age: float = 100) -> None:
    for name in names:
        (folder / name).touch()
        before = (folder / name).stat().st_mtime - age
        os.utime(folder / name, (before, before))


@pytest.mark.parametrize("lock_by", ["_el", "_sl"])
def test_only_what_no_living_process_holds_is_removed(tmp_path: Path, lock_by: str) -> None:
    make(tmp_path, DEAD, f"{DEAD}_el", ALIVE, f"{ALIVE}_el", f"{ALIVE}_sl")
    make(tmp_path, YOUNG, f"{YOUNG}_el", age=0)
    port = "fastrtps_port7411"
    ports = (port, f"{port}_el", f"sem.{port}_mutex")
    make(tmp_path, *ports)
    make(tmp_path, "other_el", "fastrtps_mine_el", "fastrtps_0000")
    kept = {ALIVE, f"{ALIVE}_el", f"{ALIVE}_sl", YOUNG, f"{YOUNG}_el"}
    kept |= {"other_el", "fastrtps_mine_el", "fastrtps_0000", *ports}
    with (tmp_path / (ALIVE + lock_by)).open("rb") as held:
        fcntl.flock(held, fcntl.LOCK_SH)
        assert remove_leftovers(tmp_path) == [DEAD]
        assert {path.name for path in tmp_path.iterdir()} == kept
    assert remove_leftovers(tmp_path) == [ALIVE]


def test_without_shared_memory_there_is_nothing_to_do(tmp_path: Path) -> None:
    assert remove_leftovers(tmp_path / "none") == []


PARTICIPANT = """
import rclpy
rclpy.init()
node = rclpy.create_node("participant")
print("here", flush=True)
rclpy.spin(node)
"""


def join(run: Callable[..., Process]) -> tuple[Process, set[Path], set[Path]]:
    """A process on the network, its segments, and the ports of this domain that it reads."""
    process = run(sys.executable, "-c", PARTICIPANT)
    process.until_it_says("here")
    files = shared_memory(process.popen.pid)
    ports = {file for file in files if "port" in file.name}
    return process, files - ports, {file for file in ports if is_of_one_domain(file)}


@pytest.mark.dds
def test_a_killed_process_leaves_no_segment_and_its_ports_to_the_next(
    run: Callable[..., Process], monkeypatch: pytest.MonkeyPatch
) -> None:
    # Others in the domain would have ports too, which come and go with them.
    monkeypatch.setenv("ROS_DOMAIN_ID", str(free_domain()))
    killed, segments, ports = join(run)
    assert segments and ports
    killed.signal(signal.SIGKILL)
    assert all(file.exists() for file in segments | ports)
    make_old(segments)  # and no others: processes of other tests may be starting
    remove_leftovers()
    assert not any(file.exists() for file in segments)
    alive, its_segments, its_ports = join(run)
    assert its_ports == ports
    make_old(its_segments)
    remove_leftovers()
    assert all(file.exists() for file in its_segments | its_ports)
    assert alive.popen.poll() is None
