"""The script for a GPU that is there for minutes, on a CPU: every step runs, and none is lost."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
#: Typer's exit status of what refuses to run without a GPU.
NO_GPU = 2
#: Pytest's where all tests are left out: these need a GPU.
NO_TESTS = 5
STEPS = {
    "A": {
        "probe": 0,
        "kernel_tests": 0,
        "self_test": 0,
        "profile_quick": 0,
        "profile_fpn": 0,
        "kernel_times": NO_GPU,
        "profile_tuned": 0,
        "goals_race": 0,
        "goals_head": 0,
        "goals_cameras": 0,
        "train_smoke": 0,
    },
    "B": {
        "probe": 0,
        "graph_tests": 0,
        "frame_tests": NO_TESTS,
        "deform_forms": NO_GPU,
        "goals_agreement": 0,
        "train": 0,
    },
}
#: What a GPU of the size of the goals takes seconds for takes a CPU minutes.
SMALL = {
    "DEVICE": "cpu",
    "VARIANT": "cityscapes-r18",
    "SIZE": "64x64",
    "FPN_SIZE": "64x64",
    "PRECISION": "fp32",
    "SCENES_SIZE": "64x96",
    "FRAMES": "8",
    "FILL_WORKERS": "1",
    "KERNEL_TESTS": "test/ops/test_merge.py",
    "MARK": "not gpu and not long",
    "JOBS": "1",
    "LIMITS": "20",
    "TESTS_S": "300",
    "ITERATIONS": "1",
    "REPLAYS": "1",
    "BENCH": "--scenes 1 --warmup 1",
    "TRAIN_S": "3",
    "TRAIN": "--set batch_size=1 --set images_per_pass=1 --set workers=1 --set schedule.warmup=0"
    " --set precision=fp32 --set augment.scales=[64] --set augment.max_size=96"
    " --set augment.crop=[64,64] --set checkpoint_every=1000",
}


def run(part: str, folder: Path, **settings: str) -> list[dict[str, object]]:
    out = folder / "out"
    places = {"OUT": out, "WORK": folder / "work", "SCENES": folder / "scenes"}
    places["WHEELS"] = folder / "no_wheels"
    environment = SMALL | {name: str(path) for name, path in places.items()} | settings
    result = subprocess.run(
        ["bash", "benchmarks/gpu/first_contact.sh", part],
        cwd=ROOT,
        env=os.environ | {"PYTHON": sys.executable, "OMP_NUM_THREADS": "1"} | environment,
        capture_output=True,
        text=True,
        errors="replace",  # the last lines of logs are cut anywhere
        check=False,
    )
    assert result.returncode == 0, result.stderr
    assert not result.stderr
    files = list(out.rglob("*"))
    assert len(files) <= 8 and all(file.stat().st_size <= 16 << 20 for file in files)
    return [json.loads(line) for line in (out / "results.jsonl").read_text().splitlines()]


@pytest.mark.parametrize("name", ["benchmarks/gpu/first_contact.sh", "Makefile"])
def test_files_that_are_named_exist(name: str) -> None:
    """Files move, and a GPU's minutes are no time to learn of it."""
    named = set(
        re.findall(r"(?<![\w/.])(?:test|benchmarks|config)/[\w/]+\.\w+", (ROOT / name).read_text())
    )
    assert any(file.startswith("test/") for file in named)
    assert {file for file in named if not (ROOT / file).is_file()} == set()


def test_a_kernel_whose_tests_fail_can_be_turned_off() -> None:
    """Its name is made of that of the file, except of files that test several."""
    script = (ROOT / "benchmarks" / "gpu" / "first_contact.sh").read_text()
    chosen = re.search(r"KERNEL_TESTS=.*?\)\}", script, re.DOTALL)
    assert chosen is not None
    command = f"unset KERNEL_TESTS; {chosen[0]}; echo $KERNEL_TESTS"
    listed = subprocess.run(["bash", "-c", command], cwd=ROOT, capture_output=True, text=True)
    files = listed.stdout.split()
    assert len(files) == len(set(files)) > 10 and not listed.stderr
    sources = "".join(file.read_text() for file in (ROOT / "upsnet_ros" / "ops").glob("*.py"))
    kernels = set(re.findall(r'dispatch\.run\(\s*f?"(\w+)', sources))
    tested = {re.sub("_(triton|input)$", "", Path(file).stem[len("test_") :]) for file in files}
    assert tested - {"graph_on_gpu", "network_on_gpu", "cases"} == kernels
    assert files[0] == "test/ops/test_heuristic_merge.py"


@pytest.mark.parametrize("part", ["A", "B"])
def test_without_time_no_step_runs_and_each_is_named(part: str, tmp_path: Path) -> None:
    steps = run(part, tmp_path, BUDGET="0", KERNEL_TESTS="", FRAMES="1")
    # Kernel tests are many processes with limits of their own; training gets what is left.
    own = {"kernel_tests", "train"}
    found = {str(step["step"]): step["status"] for step in steps if step["step"] not in own}
    assert found == {name: None for name in STEPS[part] if name not in own}


#: A Python that computes nothing: it notes with which settings it was called, and fails where told.
STAND_IN = r"""#!/bin/bash
echo "${UPSNET_KERNELS-}|${UPSNET_CUDNN_PLANS-}|${ITERATIONS-}|${*//$'\n'/ }" >>"$CALLS"
out() { while [ "$1" != --out ]; do shift; done; echo "$2"; }
case "$*" in
%s
esac
"""


class Calls:
    """What the steps of a part called, with the settings of each."""

    def __init__(self, part: str, folder: Path, faults: dict[str, str]) -> None:
        folder.mkdir(exist_ok=True)
        stand_in = folder / "python"
        cases = [f'*"{words}"*) {action};;' for words, action in faults.items()]
        stand_in.write_text(STAND_IN % "\n".join(cases))
        stand_in.chmod(0o755)
        settings = {"PYTHON": str(stand_in), "CALLS": str(folder / "calls"), "BUDGET": "5000"}
        settings |= {"UPSNET_KERNELS": "", "UPSNET_CUDNN_PLANS": ""}
        own = run(part, folder, KERNEL_TESTS=KERNEL_TESTS, **settings)
        self.steps = {str(step["step"]): step["status"] for step in own}
        self._lines = [line.split("|", 3) for line in (folder / "calls").read_text().splitlines()]

    def off(self, words: str) -> set[str]:
        """Names of the kernels that are off in the call whose arguments contain words."""
        return {name for name in self._settings(words)[0].split(",") if name}

    def plans(self, words: str) -> str:
        return self._settings(words)[1]

    def _settings(self, words: str) -> list[str]:
        (found,) = (line for line in self._lines if words in line[3])
        return found[:3]


KERNEL_TESTS = " ".join(
    f"test/ops/test_{name}.py"
    for name in ("nms", "decode", "segments", "deform_conv_triton", "panoptic", "graph_on_gpu")
)


def test_what_fails_on_the_gpu_is_off_for_what_follows(tmp_path: Path) -> None:
    """A wrong value in a test may be the test's fault; a crash or a broken device is not."""
    faults = {
        "test/ops/test_nms.py": "exit 1",  # passes in the self-test
        "test/ops/test_decode.py": "exit 1",  # and this one does not
        "test/ops/test_segments.py": "echo 'RuntimeError: CUDA error: misaligned'; exit 1",
        "test/ops/test_deform_conv_triton.py": "exit 139",  # ended by SIGSEGV
        "test/ops/test_panoptic.py": "exit 2",  # a module that is missing
        "test/ops/test_graph_on_gpu.py": "exit 1",  # tests no kernel of its own
        "doctor": "printf 'self-test: %s\\n' 'nms passed' 'merge failed: 3 % are wrong' "
        "'conv_relu 64 -> 256, 1x1 / 1 failed: no plan: failed' 'graph failed: no' >&2; exit 1",
    }
    calls = Calls("A", tmp_path, faults)
    assert calls.steps == STEPS["A"] | {"kernel_tests": 6, "self_test": 1, "kernel_times": 0}
    broken = {"-segments", "-deform_conv"}
    assert calls.off("doctor") == broken
    later = broken | {"-decode", "-merge", "-conv_relu 64 -> 256"}
    for words in ("profile_quick", "kernel_times.py", "--only cameras", "train --config"):
        assert calls.off(words) == later
    assert calls.plans("profile_quick") == "0" and calls.plans("--only race") == ""


@pytest.mark.parametrize("cure", [True, False])
def test_a_frame_that_reads_what_lay_in_memory(cure: bool, tmp_path: Path) -> None:
    """Without `conv_relu` from then on, if that helps."""
    faults = {"work/profile_quick": """echo '"changed_by_nan": true'"""}
    faults |= {} if cure else {"work/profile_without_conv_relu": "exit 1"}
    calls = Calls("A", tmp_path, faults)
    assert calls.steps["profile_without_conv_relu"] == (0 if cure else 1)
    assert calls.off("work/profile_quick") == set()
    assert calls.off("work/profile_without_conv_relu") == {"-conv_relu"}
    assert calls.off("--only race") == ({"-conv_relu"} if cure else set())


def test_what_takes_too_long_is_measured_in_less_time(tmp_path: Path) -> None:
    late = "exit 124"  # of `timeout`
    calls = Calls("A", tmp_path, {"work/profile_tuned": late, "goals_race.json": late})
    assert calls.steps == STEPS["A"] | {
        "kernel_times": 0, "profile_tuned": 124, "goals_race": 124, "goals_race_short": 0
    }  # fmt: skip
    assert calls.plans("goals_race.json") == calls.plans("goals_head.json") == "1"
    assert calls.plans("goals_race_short.json") == "0"


def test_training_that_leaves_nothing_is_tried_without_what_may_fail(tmp_path: Path) -> None:
    weights = 'mkdir -p "$(out "$@")"; echo 1 >"$(out "$@")/weights_last.safetensors"'
    calls = Calls("B", tmp_path, {"work/train --": "exit 1", "work/train_plain --": weights})
    assert calls.steps["train"] == 1 and calls.steps["train_plain"] == 0
    assert (tmp_path / "out" / "weights.0").read_text() == "1\n"
    assert "train_plain" not in Calls("B", tmp_path / "again", {"work/train --": weights}).steps


@pytest.mark.long
@pytest.mark.timeout(1500)
@pytest.mark.parametrize("part", ["A", "B"])
def test_every_step(part: str, tmp_path: Path) -> None:
    steps = run(part, tmp_path, BUDGET="5000")
    logs = {path.name: path.read_text()[-2000:] for path in (tmp_path / "work").glob("*.log")}
    assert {str(step["step"]): step["status"] for step in steps} == STEPS[part], logs
    with tarfile.open(tmp_path / "out" / "results.tgz") as archive:
        names = set(archive.getnames())
    assert {f"./{step}.log" for step in STEPS[part]} <= names
    if part == "A":
        assert {"./goals_race.json", "./goals_race.md", "./profile_quick.json"} <= names
        assert len(list((tmp_path / "scenes").rglob("*_image.png"))) == 8
    else:
        halves = sorted((tmp_path / "out").glob("weights.*"))
        assert [half.name for half in halves] == ["weights.0", "weights.1"]
        whole = (tmp_path / "work" / "train" / "weights_last.safetensors").read_bytes()
        assert b"".join(half.read_bytes() for half in halves) == whole
