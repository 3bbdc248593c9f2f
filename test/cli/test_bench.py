"""`upsnet bench`, from the command line to the report."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from upsnet_ros.benchmark.goals import MET, NOT_MEASURED
from upsnet_ros.benchmark.stages import STAGES
from upsnet_ros.cli import main

SMALL = ["bench", "--variant", "cityscapes-r18", "--device", "cpu", "--warmup", "1"]


def run(*arguments: str) -> int:
    with pytest.raises(SystemExit) as ending:
        main([*SMALL, *arguments])
    return int(ending.value.code or 0)


def test_stages(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "bench.json"
    assert run("--size", "128x256", "--iterations", "2", "--json", str(file)) == 0

    report = json.loads(file.read_text())
    assert report["settings"]["network_size"] == [128, 256]
    assert report["settings"]["precision"] in ("fp32", "bf16"), "what auto stood for"
    assert list(report["stages_ms"]) == list(STAGES)
    network = [report["stages_ms"][name] for name in STAGES[1:-1]]
    assert all(0 <= stage["p0"] <= stage["p50"] <= stage["p99"] for stage in network)
    # The stages are the frame, but for what lies between them.
    assert sum(stage["p0"] for stage in network) <= report["frame_ms"]["p100"]
    assert sum(stage["p100"] for stage in network) > 0.8 * report["frame_ms"]["p0"]
    assert 0 < report["panoptic_share"] < 1
    assert report["machine"]["versions"]["torch"]
    printed = capsys.readouterr().out
    assert all(re.search(rf"│ {name} ", printed) for name in STAGES)


def test_compare(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "300")
    file, table = tmp_path / "bench.json", tmp_path / "bench.md"
    ending = run(
        *("--compare", "--only", "race,agreement,stages", "--precision", "fp32"),
        *("--size", "64x128", "--iterations", "2", "--scenes", "2"),
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
    assert verdicts["quality"][0] == MET
    assert verdicts["lone_frame"] == (NOT_MEASURED, "no GPU; cityscapes-r18 at 64x128")
    assert verdicts["agreement"][1].endswith("--parity")
    printed = capsys.readouterr().out
    for goal in report["goals"]:
        assert goal["shown"] in printed
        assert f"| {goal['shown'] or '-'} | **{goal['verdict']}**" in table.read_text()


def test_own_picture(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("--size", "64x64", "--iterations", "1", "--image", str(tmp_path / "no.png")) == 1
    assert "no.png is no image that OpenCV can read" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("option", "value", "message"),
    [
        ("--size", "640", "--size '640' is not HEIGHTxWIDTH, as in 512x1024"),
        ("--size", "16x64", "scale 16 is too small"),
        ("--variant", "r1000", "unknown variant"),
        ("--precision", "fp16", "needs a CUDA device"),
        ("--weights", "/nowhere/w.pth", "/nowhere/w.pth"),
        ("--only", "race,tea", "no part 'tea'"),
        ("--parity", "/nowhere", "/nowhere has no parity cases"),
    ],
)
def test_what_cannot_be_is_one_line(
    option: str, value: str, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    compare = ["--compare"] if option in ("--only", "--parity") else []
    assert run("--iterations", "1", *compare, option, value) == 1
    error = capsys.readouterr().err
    assert error.startswith("error: ")
    assert message in error
    assert "Traceback" not in error
