from __future__ import annotations

import os
import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from upsnet_ros.bags.judging import BagTask, judge_bag
from upsnet_ros.cluster.errors import ClusterError
from upsnet_ros.cluster.model import ModelSettings
from upsnet_ros.cluster.results import encode
from upsnet_ros.cluster.state import State
from upsnet_ros.evaluation.measures import Metrics


@pytest.fixture
def task(bags: list[Path], tmp_path: Path) -> BagTask:
    return BagTask(bag=Path(shutil.copytree(bags[0], tmp_path / "street")))


@pytest.fixture
def data(task: BagTask) -> bytes:
    return encode(judge_bag(task))


def stored(folder: Path, task: BagTask, data: bytes) -> State:
    state = State(folder, None)
    assert state.load(task) is None
    state.store(task, data)
    return state


def test_what_was_judged_is_found_again(task, data, tmp_path: Path):
    state = stored(tmp_path / "deep" / "state", task, data)
    for other in (state, State(state.folder, None)):
        found = other.load(task)
        assert found is not None
        assert encode(found) == data
    (file,) = state.folder.iterdir()
    assert file.match("street-*.result")


@pytest.mark.parametrize("change", ["time", "size", "file"])
def test_a_changed_bag_is_another_one(task, data, tmp_path: Path, change: str):
    state = stored(tmp_path / "state", task, data)
    (file,) = task.bag.glob("*.mcap")
    stat = file.stat()
    if change == "time":
        os.utime(file, ns=(stat.st_atime_ns, stat.st_mtime_ns + 1))
    elif change == "size":
        with file.open("ab") as stream:
            stream.write(b"\0")
        os.utime(file, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    else:
        (task.bag / "more.mcap").touch()
    assert state.load(task) is None


def test_other_settings_are_another_task(task, data, tmp_path: Path):
    state = stored(tmp_path / "state", task, data)
    others = {
        "metrics": Metrics(boundary=True),
        "pictures": 1,
        "prefix": "a",
        "truth": task.bag,
        "outputs": "/panoptic",
        "limit": 1,
    }
    for name, value in others.items():
        assert state.load(replace(task, **{name: value})) is None
    weights = tmp_path / "weights.pth"
    weights.write_bytes(b"first")
    settings = ModelSettings(weights=weights)
    modelled = State(tmp_path / "state", settings)
    assert modelled.load(task) is None
    modelled.store(task, data)
    assert modelled.load(task) is not None
    weights.write_bytes(b"another")
    assert State(tmp_path / "state", settings).load(task) is None
    assert State(tmp_path / "state", replace(settings, scale=64)).load(task) is None


def test_a_whole_bag_serves_where_less_would_do(task, data, tmp_path: Path):
    lenient = replace(task, allow_missing=True)
    assert stored(tmp_path / "strict", task, data).load(lenient) is not None
    assert stored(tmp_path / "lenient", lenient, data).load(task) is None


def test_a_damaged_file_counts_for_nothing(task, data, tmp_path: Path):
    state = stored(tmp_path / "state", task, data)
    (file,) = state.folder.iterdir()
    content = file.read_bytes()
    for damaged in (b"", content[:-9], content[:40], data):
        file.write_bytes(damaged)
        assert state.load(task) is None
    state.store(task, data)
    assert state.load(task) is not None
    assert list(state.folder.iterdir()) == [file]


def test_a_folder_that_cannot_be(task, data, tmp_path: Path):
    (tmp_path / "file").touch()
    with pytest.raises(ClusterError, match=r"cannot write results to .*file"):
        State(tmp_path / "file" / "state", None)
    state = State(tmp_path / "state", None)
    state.load(task)
    shutil.rmtree(state.folder)
    with pytest.raises(ClusterError, match=r"cannot write .*street-"):
        state.store(task, data)
