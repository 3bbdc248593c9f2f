"""`upsnet bench`, from the command line to the report."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from upsnet_ros.benchmark.run import STAGES
from upsnet_ros.cli import main

SMALL = ["bench", "--variant", "cityscapes-r18", "--device", "cpu", "--warmup", "1"]


def run(*arguments: str) -> int:
    with pytest.raises(SystemExit) as ending:
        main([*SMALL, *arguments])
    return int(ending.value.code or 0)


def test_compare(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "bench.json"
    assert run("--size", "128x256", "--iterations", "2", "--compare", "--json", str(file)) == 0

    report = json.loads(file.read_text())
    assert report["settings"]["network_size"] == [128, 256]
    assert list(report["stages_ms"]) == list(STAGES)
    network = [report["stages_ms"][name] for name in STAGES[1:-1]]
    assert all(0 <= stage["p0"] <= stage["p50"] <= stage["p99"] for stage in network)
    # The stages are the frame, but for what lies between them.
    assert sum(stage["p0"] for stage in network) <= report["frame_ms"]["p100"]
    assert sum(stage["p100"] for stage in network) > 0.8 * report["frame_ms"]["p0"]
    assert 0 < report["panoptic_share"] < 1
    assert report["maskrcnn_instances"] == report["segmented_boxes"] > 0
    ratio = report["frame_ms"]["p50"] / report["maskrcnn_ms"]["p50"]
    assert report["ratio_to_maskrcnn"] == pytest.approx(ratio, rel=0.5)
    assert report["machine"]["versions"]["torch"]

    printed = capsys.readouterr().out
    assert all(re.search(rf"│ {name} ", printed) for name in STAGES)
    assert "times Mask R-CNN's time" in printed


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
    ],
)
def test_what_cannot_be_is_one_line(
    option: str, value: str, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("--iterations", "1", option, value) == 1
    error = capsys.readouterr().err
    assert error.startswith("error: ")
    assert message in error
    assert "Traceback" not in error
