from __future__ import annotations

import fcntl
import os
from pathlib import Path

import pytest

from upsnet_ros.ros.leftovers import remove_leftovers

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
