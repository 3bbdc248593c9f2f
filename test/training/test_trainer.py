"""The training loop on tiny frames: what it computes, saves, resumes and refuses."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from upsnet_ros import Predictor
from upsnet_ros.datasets.base import DatasetError
from upsnet_ros.network import CheckpointError
from upsnet_ros.network.checkpoint import read_state_dict
from upsnet_ros.training.datasets import open_dataset
from upsnet_ros.training.distributed import World
from upsnet_ros.training.run_settings import RunSettings, SettingsError, parse_settings
from upsnet_ros.training.trainer import NonFiniteLossError, Trainer
from upsnet_ros.training.validation import PanopticEvaluator

ALONE = World(0, 1, torch.device("cpu"))


def settings_of(content: Mapping[str, Any], **changes: Any) -> RunSettings:
    return parse_settings({**content, **changes}, source="test")


def trainer_of(settings: RunSettings, folder: Path, **options: Any) -> Trainer:
    dataset = open_dataset(settings.train, variant=settings.variant)
    return Trainer(settings, dataset=dataset, folder=folder, world=ALONE, **options)


def read_curve(folder: Path, group: str = "train") -> list[dict[str, Any]]:
    lines = (folder / "curve.jsonl").read_text().splitlines()
    return [entry for entry in map(json.loads, lines) if entry.pop("group") == group]


def totals(folder: Path) -> list[float]:
    return [entry["total"] for entry in read_curve(folder)]


def run_command(config: Path, out: Path, *options: str, processes: int = 1) -> subprocess.Popen:
    launcher = ["-m", "torch.distributed.run", "--standalone", f"--nproc_per_node={processes}"]
    command = [*(launcher if processes > 1 else []), "-m", "upsnet_ros.cli", "train"]
    command += ["--config", str(config), "--out", str(out), "--device", "cpu", "--threads", "1"]
    return subprocess.Popen(
        [sys.executable, *command, *options],
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        stderr=subprocess.PIPE,
        text=True,
    )


def finish(process: subprocess.Popen) -> str:
    _, errors = process.communicate(timeout=240)
    assert process.returncode == 0, errors
    return errors


def test_loss_falls_and_weights_load(content: dict[str, Any], tmp_path: Path) -> None:
    settings = settings_of(
        content,
        schedule={"iterations": 10},
        optimizer={"kind": "adamw", "learning_rate": 0.001, "weight_decay": 0.0},
        log_every=2,
    )
    steps = []
    trainer_of(settings, tmp_path / "run").run(steps.append)
    assert [step.iteration for step in steps] == list(range(10))
    curve = totals(tmp_path / "run")
    assert len(curve) == 5
    assert curve[0] == pytest.approx((steps[0].values["total"] + steps[1].values["total"]) / 2)
    assert curve[-1] < 0.75 * curve[0], curve
    weights = tmp_path / "run" / "weights_last.safetensors"
    assert Predictor(weights, variant="cityscapes-r18", device="cpu").random_weights is False
    assert any((tmp_path / "run" / "tensorboard").iterdir())
    again = yaml.safe_load((tmp_path / "run" / "settings.yaml").read_text())
    assert parse_settings(again, source="again") == settings


def test_killed_run_resumes_on_the_same_curve(content: dict[str, Any], tmp_path: Path) -> None:
    config = tmp_path / "run.yaml"
    config.write_text(yaml.safe_dump(content | {"schedule": {"iterations": 5}}))
    whole = run_command(config, tmp_path / "whole")
    killed = run_command(config, tmp_path / "killed")
    curve = tmp_path / "killed" / "curve.jsonl"
    deadline = time.monotonic() + 200
    # After the checkpoint of iteration 2, so that a step is lost and has to be made again.
    while not (curve.exists() and len(curve.read_text().splitlines()) >= 3):
        assert killed.poll() is None, killed.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.02)
    killed.send_signal(signal.SIGKILL)
    killed.communicate()
    finish(whole)
    assert len(totals(tmp_path / "killed")) < 5
    finish(run_command(config, tmp_path / "killed", "--resume"))
    assert totals(tmp_path / "killed") == totals(tmp_path / "whole")
    ours, theirs = (
        read_state_dict(tmp_path / name / "weights_last.safetensors")
        for name in ("killed", "whole")
    )
    assert all(torch.equal(tensor, theirs[name]) for name, tensor in ours.items())


def test_two_processes_compute_what_one_does(content: dict[str, Any], tmp_path: Path) -> None:
    """The same batch, shared by two processes, or accumulated by one image by image."""
    content |= {"batch_norm": "frozen", "start": {"kind": "nothing"}, "frozen_stages": 2}
    config = tmp_path / "run.yaml"
    config.write_text(yaml.safe_dump(content))
    two = run_command(config, tmp_path / "two", processes=2)
    trainer_of(settings_of(content, images_per_pass=2), tmp_path / "one").run()
    finish(two)
    want = read_curve(tmp_path / "one")
    assert len(want) == 4
    for ours, theirs in zip(read_curve(tmp_path / "two"), want, strict=True):
        assert ours == pytest.approx(theirs, rel=1e-3)
    accumulated = tmp_path / "accumulated"
    trainer_of(settings_of(content, images_per_pass=1, workers=1), accumulated).run()
    assert totals(accumulated) == pytest.approx([entry["total"] for entry in want], rel=1e-3)


def test_best_weights_are_kept(content: dict[str, Any], tmp_path: Path) -> None:
    scores = iter([0.2, 0.5, 0.4])
    biases = []

    def evaluate(weights: Path) -> Mapping[str, float]:
        biases.append(read_state_dict(weights)["rcnn.cls_score.bias"])
        return {"score": next(scores)}

    settings = settings_of(content, schedule={"iterations": 3}, evaluate_every=1)
    trainer = trainer_of(settings, tmp_path / "run", evaluator=evaluate)
    trainer.run()
    assert [entry["score"] for entry in read_curve(tmp_path / "run", "validation")] == [
        0.2,
        0.5,
        0.4,
    ]
    best = read_state_dict(tmp_path / "run" / "weights_best.safetensors")["rcnn.cls_score.bias"]
    assert torch.equal(best, biases[1])
    assert not torch.equal(best, biases[2])


def test_evaluation_reports_panoptic_quality(content: dict[str, Any], tmp_path: Path) -> None:
    settings = settings_of(
        content,
        schedule={"iterations": 1},
        validation=content["train"],
        evaluate_scale=64,
        evaluate_images=2,
    )
    dataset = open_dataset(settings.train, variant=settings.variant)
    evaluator = PanopticEvaluator(settings, dataset=dataset, device=ALONE.device)
    trainer_of(settings, tmp_path / "run", evaluator=evaluator).run()
    (figures,) = read_curve(tmp_path / "run", "validation")
    assert figures["score"] == figures["PQ"]
    assert 0 <= figures["PQ"] <= 1
    assert "mIoU" in figures
    assert (tmp_path / "run" / "weights_best.safetensors").exists()


def test_non_finite_loss_names_the_images(content: dict[str, Any], tmp_path: Path) -> None:
    trainer = trainer_of(settings_of(content), tmp_path / "run")
    trainer.network.fcn_head.score.bias.data.fill_(float("nan"))
    with pytest.raises(
        NonFiniteLossError, match=r"iteration 0: .*semantic.*images/\d.png"
    ) as error:
        trainer.run()
    assert str(error.value).count(".png") == 1  # images_per_pass


@pytest.mark.parametrize("workers", [0, 1])
def test_broken_file_is_named(
    content: dict[str, Any], frames: Path, tmp_path: Path, workers: int
) -> None:
    for path in (frames / "labels").iterdir():
        path.write_bytes(b"no image")
    trainer = trainer_of(settings_of(content, workers=workers), tmp_path / "run")
    with pytest.raises(DatasetError, match=r"labels/\d.png is no image, or it is damaged"):
        trainer.run()


def test_bfloat16_trains(content: dict[str, Any], tmp_path: Path) -> None:
    runs = {}
    for precision in ("fp32", "bf16"):
        settings = settings_of(content, precision=precision, schedule={"iterations": 2})
        trainer_of(settings, tmp_path / precision).run()
        runs[precision] = totals(tmp_path / precision)
    assert runs["bf16"] == pytest.approx(runs["fp32"], rel=0.1)
    assert runs["bf16"] != runs["fp32"]
    with pytest.raises(SettingsError, match="precision fp16 needs a CUDA device"):
        trainer_of(settings_of(content, precision="fp16"), tmp_path / "fp16")


def test_folders_are_neither_overwritten_nor_mixed(content: dict[str, Any], tmp_path: Path) -> None:
    folder = tmp_path / "run"
    settings = settings_of(content, schedule={"iterations": 1})
    with pytest.raises(CheckpointError, match=r"there is no checkpoint .* to resume from"):
        trainer_of(settings, folder, resume=True)
    trainer_of(settings, folder).run()
    with pytest.raises(CheckpointError, match=r"holds a checkpoint already"):
        trainer_of(settings, folder)
    other = settings_of(content, schedule={"iterations": 1}, batch_size=3, seed=4)
    with pytest.raises(CheckpointError, match=r"with other settings: batch_size, seed"):
        trainer_of(other, folder, resume=True)
    longer = settings_of(content, schedule={"iterations": 2})
    trainer_of(longer, folder, resume=True).run()
    assert len(totals(folder)) == 2


def test_frozen_stages_do_not_learn(content: dict[str, Any], tmp_path: Path) -> None:
    settings = settings_of(content, frozen_stages=2, schedule={"iterations": 1})
    trainer = trainer_of(settings, tmp_path / "run")
    before = {name: tensor.clone() for name, tensor in trainer.network.state_dict().items()}
    trainer.run()
    after = trainer.network.state_dict()
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    assert not any(
        name.startswith(("resnet_backbone.conv1", "resnet_backbone.res2")) for name in changed
    )
    assert "resnet_backbone.res3.layers.0.bn1.running_mean" in changed
    assert "resnet_backbone.res3.layers.0.conv1.weight" in changed


def test_command_says_what_is_wrong(content: dict[str, Any], tmp_path: Path) -> None:
    config = tmp_path / "run.yaml"
    config.write_text(yaml.safe_dump(content))
    process = run_command(config, tmp_path / "run", "--set", "batch_size=0")
    _, errors = process.communicate(timeout=240)
    assert process.returncode == 1
    assert "run.yaml: batch_size: Input should be greater than or equal to 1" in errors
    assert "Traceback" not in errors
