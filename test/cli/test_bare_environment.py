"""`upsnet bench` and `upsnet train` where little is installed, as on a rented GPU without ROS."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import yaml

RUNNER = Path(__file__).parents[1] / "support" / "bare_environment.py"
BENCH = "torch,torchvision,triton,numpy,opencv-python-headless,safetensors,rich,typer"
#: Settings files, TensorBoard's log and the settings' checks.
TRAIN = f"{BENCH},pyyaml,tensorboard,pydantic"


def run(packages: str, *arguments: str) -> None:
    result = subprocess.run(
        [sys.executable, str(RUNNER), packages, *arguments],
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=240,
    )
    assert result.returncode == 0, result.stderr


def test_bench(tmp_path: Path) -> None:
    report = tmp_path / "bench.json"
    run(
        *(BENCH, "bench", "goals", "--only", "race,agreement,stages", "--precision", "fp32"),
        *("--variant", "cityscapes-r18", "--device", "cpu", "--size", "64x64"),
        *("--iterations", "1", "--warmup", "1", "--scenes", "1", "--json", str(report)),
    )
    found = json.loads(report.read_text())
    assert found["race"]["fast_ms"]["p50"] > 0
    assert found["stages"]["stages_ms"]["publish"] is None, "ROS is not there"


def test_train(tmp_path: Path) -> None:
    scenes = {"kind": "scenes", "length": 2, "size": [64, 64]}
    config = tmp_path / "config.yaml"
    settings = {
        "variant": "cityscapes-r18",
        "train": {**scenes, "split": "train"},
        "validation": {**scenes, "split": "val", "length": 1},
        "augment": {"scales": [64], "max_size": 64},
        "schedule": {"iterations": 1},
        "targets": {"rpn_top_n": 50, "rois": 16, "roi_positives": 8},
        "batch_size": 1,
        "batch_norm": "trained",
        "frozen_stages": 0,
        "workers": 0,
        "evaluate_scale": 64,
    }
    config.write_text(yaml.safe_dump(settings))
    out = tmp_path / "run"
    run(TRAIN, "train", "--config", str(config), "--out", str(out), "--device", "cpu")
    assert (out / "weights_best.safetensors").is_file()
