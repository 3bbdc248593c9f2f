"""`upsnet bench`, from the command line to the report."""

from __future__ import annotations

import json
import re
import signal
import subprocess
import sys
from pathlib import Path
from typing import NoReturn

import pytest

from upsnet_ros.benchmark.goals import MET, NOT_MEASURED
from upsnet_ros.benchmark.stages import STAGES
from upsnet_ros.cli import main

SMALL = ["--variant", "cityscapes-r18", "--device", "cpu", "--warmup", "1"]


def run(mode: str, *arguments: str) -> int:
    with pytest.raises(SystemExit) as ending:
        main(["bench", mode, *SMALL, *arguments])
    return int(ending.value.code or 0)


def test_stages(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "bench.json"
    assert run("stages", "--size", "128x256", "--iterations", "2", "--json", str(file)) == 0

    report = json.loads(file.read_text())
    assert report["settings"]["network_size"] == [128, 256]
    assert report["settings"]["precision"] in ("fp32", "bf16"), "what auto stood for"
    assert list(report["stages_ms"]) == list(STAGES)
    network = [report["stages_ms"][name] for name in STAGES[1:-1]]
    assert all(0 <= stage["p0"] <= stage["p50"] <= stage["p99"] for stage in network)
    # The stages are the frame, but for what lies between them.
    assert sum(stage["p0"] for stage in network) <= report["frame_ms"]["p100"]
    assert sum(stage["p100"] for stage in network) > 0.8 * report["frame_ms"]["p0"]
    panoptic, download = (report["stages_ms"][name]["p50"] for name in ("panoptic", "download"))
    share = (panoptic + download) / report["frame_ms"]["p50"]
    assert report["panoptic_share"] == pytest.approx(share, abs=1e-3)
    assert report["machine"]["versions"]["torch"]
    printed = capsys.readouterr().out
    assert all(re.search(rf"│ {name} ", printed) for name in STAGES)


def test_compare(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "300")
    file, table = tmp_path / "bench.json", tmp_path / "bench.md"
    ending = run(
        *("goals", "--only", "race,agreement,stages", "--precision", "fp32"),
        *("--size", "64x128", "--iterations", "2", "--scenes", "2"),
        *("--goals", str(Path(__file__).parents[2] / "benchmarks" / "goals.json")),
        *("--json", str(file), "--markdown", str(table)),
    )
    assert ending == 0

    report = json.loads(file.read_text())
    race = report["race"]
    assert race["maskrcnn_instances"] == race["boxes"] > 0
    for key in ("plain", "maskrcnn"):
        ratio = race[f"{key}_ms"]["p50"] / race["fast_ms"]["p50"]
        assert race[f"{key}_over_fast"]["median"] == pytest.approx(ratio, rel=0.7)
    # In one precision the static path and the plain one are one algorithm.
    for figures in (report["frames"], report["scenes"]["agreement"]):
        assert figures["minimum"]["label"] > 99.9
    assert report["scenes"]["fast_pq"] == pytest.approx(report["scenes"]["exact_pq"], abs=0.5)
    assert report["stages"]["frame_ms"]["p50"] > 0
    assert report["head"] is report["cameras"] is report["memory"] is None

    verdicts = {goal["key"]: (goal["verdict"], goal["why"]) for goal in report["goals"]}
    assert verdicts["quality"][0] == verdicts["trained"][0] == MET
    assert verdicts["graph"] == (NOT_MEASURED, "no CUDA graph on this device")
    assert verdicts["lone_frame"] == (NOT_MEASURED, "no GPU; cityscapes-r18 at 64x128")
    assert verdicts["agreement"][1].endswith("--parity")
    printed = capsys.readouterr().out
    for goal in report["goals"]:
        assert goal["shown"] in printed
        assert f"| {goal['shown'] or '-'} | **{goal['verdict']}**" in table.read_text()


def test_what_is_finished_is_on_disk(tmp_path: Path) -> None:
    file, table = tmp_path / "bench.json", tmp_path / "bench.md"
    arguments = [
        *("--only", "race,agreement,head", "--precision", "fp32"),
        *("--size", "64x64", "--iterations", "1", "--scenes", "1", "--parity", "test/parity"),
        *("--json", str(file), "--markdown", str(table)),
    ]
    with subprocess.Popen(
        [sys.executable, "-m", "upsnet_ros.cli", "bench", "goals", *SMALL, *arguments],
        cwd=Path(__file__).parents[2],
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stderr is not None
        lines = []
        for line in process.stderr:
            lines.append(line)
            if line.startswith("race: done after "):
                process.kill()
    assert process.returncode == -signal.SIGKILL, lines
    report = json.loads(file.read_text())
    assert report["race"]["fast_ms"]["p50"] > 0
    assert report["head"] is report["scenes"] is None
    assert "| lone frame, ms: p50, p99 |" in table.read_text()
    assert set(tmp_path.iterdir()) == {file, table}, "nothing half written"


def test_a_part_that_fails_leaves_the_others(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: object, **__: object) -> NoReturn:
        raise RuntimeError("CUDA error: an illegal memory access\nmore lines")

    monkeypatch.setattr("upsnet_ros.benchmark.compare.measure_cameras", broken)
    file = tmp_path / "bench.json"
    options = ("goals", "--only", "cameras,stages", "--precision", "fp32", "--size", "64x64")
    assert run(*options, "--iterations", "1", "--json", str(file)) == 1
    report = json.loads(file.read_text())
    assert report["failed"] == {"cameras": "CUDA error: an illegal memory access"}
    assert report["stages"]["frame_ms"]["p50"] > 0
    error = capsys.readouterr().err
    assert re.search(r"^cameras: failed: CUDA error: an illegal memory access after", error, re.M)
    assert error.splitlines()[-1].startswith("error: part cameras failed: CUDA error")


def test_a_report_that_cannot_be_written(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").touch()
    target = tmp_path / "file" / "bench.json"
    assert run("stages", "--size", "64x64", "--iterations", "1", "--json", str(target)) == 1
    assert f"error: cannot write {target}" in capsys.readouterr().err


def test_own_picture(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    options = ("--size", "64x64", "--iterations", "1", "--image", str(tmp_path / "no.png"))
    assert run("stages", *options) == 1
    assert "no.png" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("option", "value", "message"),
    [
        ("--size", "640", "size '640' is not HEIGHTxWIDTH"),
        ("--size", "16x64", "too small"),
        ("--variant", "r1000", "unknown variant"),
        ("--precision", "fp16", "needs a CUDA device"),
        ("--weights", "/nowhere/w.pth", "/nowhere/w.pth"),
        ("--only", "race,tea", "no part 'tea'"),
        ("--parity", "/nowhere", "/nowhere"),
    ],
)
def test_what_cannot_be_is_one_line(
    option: str, value: str, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    mode = "goals" if option in ("--only", "--parity") else "stages"
    assert run(mode, "--iterations", "1", option, value) == 1
    error = capsys.readouterr().err
    assert error.startswith("error: ")
    assert message in error
    assert "Traceback" not in error
