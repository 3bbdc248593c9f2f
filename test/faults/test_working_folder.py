"""Files of the working folder, a user's data for one: none of them runs as code."""

from __future__ import annotations

import importlib.util
import json
import re
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
from command_runs import MAIN, write_modules
from faults import fault
from result_bag import write_result_bag

pytestmark = pytest.mark.dds

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def folder(tmp_path):
    """A working folder with modules in it that tell when they run."""
    write_modules(tmp_path / "data", tmp_path / "ran")
    return tmp_path / "data"


@pytest.fixture
def within(run, tmp_path, folder):
    """Runs a script, whose own folder is another one, within the working folder."""

    def within(script, *arguments):
        path = tmp_path / "bin" / "script.py"
        path.parent.mkdir(exist_ok=True)
        path.write_text(script)
        enter = ("sh", "-c", 'cd "$0" && exec "$@"', str(folder))
        process = run(*enter, sys.executable, str(path), *arguments)
        assert process.wait() == 0, process.output
        assert not (tmp_path / "ran").exists(), (tmp_path / "ran").read_text()
        return process

    return within


def scenes(folder):
    return [
        "scenes",
        "--out",
        "out",
        "--workers",
        "2",
        "--sequences",
        "2",
        "--length",
        "1",
        "--size",
        "64x128",
    ]


def play(folder):
    """One frame, to nobody."""
    (folder / "frames").mkdir()
    cv2.imwrite(str(folder / "frames/0.png"), np.zeros((8, 8, 3), np.uint8))
    return ["play", "frames", "--count", "1"]


def evaluate(folder):
    """Eight frames of one segment, evaluated by two processes."""
    rows = []
    for number in range(8):
        name = f"frankfurt_000000_{number:06d}"
        (folder / "truth").mkdir(exist_ok=True)
        cv2.imwrite(str(folder / "truth" / f"{name}.png"), np.full((8, 8, 3), (0, 0, 7), np.uint8))
        segment = {"id": 7, "category_id": 7, "area": 64, "iscrowd": 0, "bbox": [0, 0, 8, 8]}
        rows.append({"image_id": name, "file_name": f"{name}.png", "segments_info": [segment]})
    (folder / "truth.json").write_text(
        json.dumps(
            {
                "images": [{"id": row["image_id"], "width": 8, "height": 8,
                            "file_name": row["file_name"]} for row in rows],
                "annotations": rows,
                "categories": [{"id": 7, "name": "road", "isthing": 0, "color": [128, 64, 128]}],
            }
        )
    )  # fmt: skip
    return [
        "evaluate",
        "files",
        "--gt-json",
        "truth.json",
        "--pred-json",
        "truth.json",
        "--processes",
        "2",
    ]


@fault(
    "Modules called as those that are imported (cv2, torch, selectors, upsnet_ros, 13 in all) in"
    " the working folder of `upsnet demo` (with node, points, record and replay), `play`, `scenes`,"
    " `replay --evaluate` and `evaluate --processes`",
    often="{cases} commands",
    happens="None of them runs in any process",
)
@pytest.mark.parametrize("command", ["demo", "replay", play, scenes, evaluate])
def test_modules_in_the_working_folder_of_a_command(request, command):
    if isinstance(command, str):
        done = request.getfixturevalue(f"{command}_run")
        assert done.code == 0, done.stderr
        assert done.imported == ""
    else:
        within = request.getfixturevalue("within")
        within(MAIN, *command(request.getfixturevalue("folder")))


LIBRARY = """
from torch.utils.data import DataLoader
from upsnet_ros.processes.child_processes import process_context
from upsnet_ros.messages import images

if __name__ == "__main__":
    loader = DataLoader(range(4), num_workers=1, multiprocessing_context=process_context("spawn"))
    assert len(list(loader)) == 4
    images._cv_bridge_works()
"""


@fault(
    "Such modules where a program starts a worker that reads training images, or tries cv_bridge in"
    " a process",
    often="2 kinds of processes",
    happens="None of them runs in any process",
)
def test_modules_in_the_working_folder_of_a_program(within):
    within(LIBRARY)


CLUSTER = """
import sys
from pathlib import Path
from upsnet_ros.bag_evaluation.scoring import BagTask
from upsnet_ros.bag_evaluation.workers import Finished, evaluate_on_ray

if __name__ == "__main__":
    (outcome,) = evaluate_on_ray([BagTask(bag=Path("street0"))], workers=1, model=None)
    assert isinstance(outcome, Finished), outcome
"""


@pytest.mark.timeout(900)  # a cluster is several processes, which start slowly beside others
@fault(
    "Such modules where bags are evaluated on a Ray cluster of this machine",
    often="once",
    happens="None of them runs in any process, Ray's workers among them",
)
def test_modules_in_the_working_folder_of_a_cluster(within, folder):
    if importlib.util.find_spec("ray") is None:
        pytest.skip("the extra `cluster` is not installed")
    write_result_bag(folder / "street0", 0)
    within(CLUSTER)


@fault(
    "A process of this package not started by `processes.children`, which keeps"
    " the working folder out",
    often="every source file",
    happens="There is none",
)
def test_one_place_starts_processes():
    pattern = re.compile(r"\[sys\.executable|get_context\(|multiprocessing_context=\"|\bos\.fork\b")
    found = {
        str(path.relative_to(ROOT))
        for path in (ROOT / "upsnet_ros").rglob("*.py")
        if pattern.search(path.read_text())
    }
    assert found == {"upsnet_ros/processes/child_processes.py"}
