"""Every place where weights are named takes a name in place of a path."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

pytest.importorskip("rclpy", reason="ROS 2 is not installed")

from upsnet_ros import Predictor
from upsnet_ros.bag_evaluation.tasks import ModelSettings
from upsnet_ros.cli.commands import app
from upsnet_ros.errors import CheckpointError, EvaluationError
from upsnet_ros.network.upsnet import UPSNet
from upsnet_ros.network.variants import get_variant
from upsnet_ros.training.initial import load_start_
from upsnet_ros.training.settings import StartSettings

NAME = "coco-fpn-r50"
#: Command lines; {weights} is the name, {here} a folder with a bag, a data set and an image.
COMMANDS = {
    "node": "node --weights {weights}",
    "replay": "replay {here}/bag --weights {weights} --out {here}/new",
    "demo": "demo {here}/frames --weights {weights} --out {here}/new",
    "evaluate bags": "evaluate bags {here}/bag --weights {weights}",
    "evaluate dataset": "evaluate dataset scenes --weights {weights}",
    "bench stages": "bench stages --weights {weights} --size 32x64",
    "bench goals": "bench goals --weights {weights} --size 32x64",
    "bench node": "bench node --weights {weights} --size 32x64",
    "weights check": "weights check {weights} --coco {here}",
}


@pytest.mark.parametrize("command", COMMANDS.values(), ids=COMMANDS)
def test_a_name_that_is_not_here_yet_tells_the_command_to_get_it(
    cache: Path, tmp_path: Path, command: str
):
    for folder in ("bag", "frames"):
        (tmp_path / folder).mkdir()
    (tmp_path / "frames/0.png").touch()
    done = CliRunner().invoke(app, command.format(weights=NAME, here=tmp_path).split())
    assert done.exit_code == 1 and isinstance(done.exception, SystemExit), done.exception
    lines = [line for line in done.stderr.splitlines() if line]
    told = f"error: {NAME} is not here yet: get it with `upsnet weights get {NAME}`"
    assert lines == [told]
    assert not cache.exists(), "nothing is downloaded"
    assert not (tmp_path / "new").exists()


def test_so_do_the_functions(cache: Path):
    network = UPSNet(get_variant("cityscapes-r18"))
    calls = {
        CheckpointError: [
            lambda: Predictor(NAME, device="cpu"),
            lambda: load_start_(
                network, StartSettings(kind="checkpoint", weights="coco-r50"), seed=0
            ),
        ],
        EvaluationError: [ModelSettings(weights=NAME).model, ModelSettings(weights=NAME).predictor],
    }
    for error, functions in calls.items():
        for function in functions:
            with pytest.raises(error, match="`upsnet weights get coco-"):
                function()


def test_bundled_weights_start_a_training_by_name():
    network = UPSNet(get_variant("cityscapes-r18"))
    start = StartSettings(kind="checkpoint", weights="cityscapes-r18")
    assert load_start_(network, start, seed=0).drawn == ()


def test_an_evaluation_by_name(named: Path, coco: Path, tmp_path: Path):
    out = tmp_path / "e.json"
    command = f"evaluate dataset coco --root {coco} --weights {NAME} --scale 64 --limit 1"
    done = CliRunner().invoke(app, [*command.split(), "--device", "cpu", "--json", str(out)])
    assert done.exit_code == 0, done.output
    facts = json.loads(out.read_text())["facts"]
    assert facts["Model"] == f"{NAME}, {named / NAME}.safetensors"


@pytest.mark.parametrize(
    "which", ["stages", pytest.param("goals --only stages", marks=pytest.mark.long)]
)
def test_a_benchmark_by_name(named: Path, tmp_path: Path, which: str):
    out = tmp_path / "b.json"
    command = f"bench {which} --weights {NAME} --size 64x96 --device cpu --precision fp32"
    done = CliRunner().invoke(
        app, [*command.split(), "--iterations", "1", "--warmup", "1", "--json", str(out)]
    )
    assert done.exit_code == 0, done.output
    assert json.loads(out.read_text())["settings"]["variant"] == NAME


def test_goals_of_upsnet_cannot_be_measured_of_panoptic_fpn(named: Path):
    command = f"bench goals --only head --weights {NAME} --size 64x96 --device cpu"
    done = CliRunner().invoke(app, command.split())
    assert done.exit_code == 1 and isinstance(done.exception, SystemExit)
    assert "use --only cameras,stages" in done.stderr


def test_a_file_called_like_a_name_is_told_by_its_path(
    named: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """Of options too: the text reaches the function that decides."""
    monkeypatch.chdir(tmp_path)
    done = CliRunner().invoke(app, f"bench stages --weights ./{NAME} --size 64x96".split())
    assert done.exit_code == 1 and "there is no weights file" in done.stderr
