from __future__ import annotations

import os
import shutil
from dataclasses import replace
from pathlib import Path

import pytest

import upsnet_ros
from upsnet_ros.bag_evaluation.scoring import BagTask, evaluate_bag
from upsnet_ros.bag_evaluation.tasks import METRIC_PACKAGES, ModelSettings, State, encode
from upsnet_ros.errors import ClusterError
from upsnet_ros.evaluation.metrics import Metrics


@pytest.fixture
def task(bags: list[Path], tmp_path: Path) -> BagTask:
    return BagTask(bag=Path(shutil.copytree(bags[0], tmp_path / "street")))


@pytest.fixture
def data(task: BagTask) -> bytes:
    return encode(evaluate_bag(task))


def stored(folder: Path, task: BagTask, data: bytes) -> State:
    state = State(folder, None)
    assert state.load(task) is None
    state.store(task, data)
    return state


def test_results_are_found_again(task, data, tmp_path: Path):
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


def test_the_code_of_a_result_is_that_of_existing_packages() -> None:
    root = Path(upsnet_ros.__file__).parent
    assert [name for name in METRIC_PACKAGES if not any((root / name).rglob("*.py"))] == []


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


def test_an_edited_label_map_is_another_task(task, data, tmp_path: Path):
    label_map = tmp_path / "map.yaml"
    label_map.write_text("from: cityscapes\nto: x\nclasses: {a: [car]}\n")
    settings = ModelSettings(label_map=str(label_map))
    state = State(tmp_path / "state", settings)
    assert state.load(task) is None
    state.store(task, data)
    assert State(tmp_path / "state", settings).load(task) is not None
    assert State(tmp_path / "state", ModelSettings()).load(task) is None
    label_map.write_text("from: cityscapes\nto: x\nclasses: {a: [car, bus]}\n")
    assert State(tmp_path / "state", settings).load(task) is None


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
    with pytest.raises(ClusterError, match=r"cannot write .*file"):
        State(tmp_path / "file" / "state", None)
    state = State(tmp_path / "state", None)
    state.load(task)
    shutil.rmtree(state.folder)
    with pytest.raises(ClusterError, match=r"cannot write .*street-"):
        state.store(task, data)
