"""The training loop on tiny frames: what it computes, saves, resumes and refuses."""

from __future__ import annotations

import json
import os
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from click.testing import Result
from safetensors.torch import load_file
from typer.testing import CliRunner

from upsnet_ros import Predictor
from upsnet_ros.cli.commands import app
from upsnet_ros.errors import (
    CheckpointError,
    DatasetError,
    NonFiniteLossError,
    OutputError,
    SettingsError,
)
from upsnet_ros.network.checkpoint import load_checkpoint, save_checkpoint
from upsnet_ros.network.upsnet import UPSNet
from upsnet_ros.network.variants import get_variant
from upsnet_ros.network.weights_file import read_state_dict
from upsnet_ros.training.distributed import World, place_processes
from upsnet_ros.training.loading import open_dataset
from upsnet_ros.training.settings import RunSettings, parse_settings
from upsnet_ros.training.trainer import RunFiles, Step, Trainer, evaluate_weights
from upsnet_ros.weights.install import read_metadata

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


@pytest.fixture
def one_thread() -> Iterator[None]:
    """As in the processes of `run_command`: more threads sum in another order."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def test_a_run_of_some_seconds_ends_and_resumes_with_the_time_left(
    content: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = iter(range(0, 10_000, 10))  # each look at the clock is ten seconds later
    monkeypatch.setattr("upsnet_ros.training.trainer.monotonic", lambda: float(next(clock)))
    schedule = {"seconds": 60, "kind": "cosine", "warmup": 0}
    settings = settings_of(content, schedule=schedule, checkpoint_every=4)

    class StopError(Exception):
        pass

    def stop(step: Step) -> None:
        steps.append(step)
        if len(steps) == 5:
            raise StopError

    steps: list[Step] = []
    with pytest.raises(StopError):
        trainer_of(settings, tmp_path).run(stop)
    assert [step.elapsed for step in steps] == [10, 20, 30, 40, 50]
    rest: list[Step] = []
    resumed = trainer_of(settings, tmp_path, resume=True)
    resumed.run(rest.append)
    assert [(step.iteration, step.elapsed) for step in rest] == [(4, 50), (5, 60)]
    # The rate of a step is that of the time at its start, the same before and after.
    assert rest[0].rate == pytest.approx(steps[4].rate)
    assert [entry["iteration"] for entry in read_curve(tmp_path)] == list(range(6))
    assert (tmp_path / "weights_last.safetensors").is_file()


def test_weights_in_half_precision(content: dict[str, Any], tmp_path: Path) -> None:
    settings = settings_of(content, schedule={"iterations": 1}, weights_precision="fp16")
    trainer = trainer_of(settings, tmp_path)
    with torch.no_grad():
        trainer.network.rcnn.bbox_pred.bias.fill_(1e6)
        trainer.network.rcnn.bbox_pred.requires_grad_(False)
    trainer.run()
    tensors = load_file(tmp_path / "weights_last.safetensors")
    wide = {name for name, tensor in tensors.items() if tensor.dtype == torch.float32}
    assert wide == {"rcnn.bbox_pred.bias"}, "what half precision cannot hold stays as it is"
    again = UPSNet(get_variant(settings.variant))
    load_checkpoint(again, tmp_path / "weights_last.safetensors")
    assert again.rcnn.bbox_pred.bias[0].item() == 1e6
    state = torch.load(tmp_path / "checkpoint.pt", weights_only=True)["network"]
    assert all(tensor.dtype != torch.float16 for tensor in state.values())


@pytest.mark.parametrize("name", ["weights_last.safetensors", "checkpoint.pt"])
def test_a_full_disk_is_told_by_the_file_and_leaves_the_old_one(tmp_path: Path, name: str) -> None:
    network, files = torch.nn.Linear(100, 100), RunFiles(tmp_path)

    def save() -> None:
        if name == files.checkpoint.name:
            files.save_checkpoint(network.state_dict())
        else:
            files.save_weights(network, files.last, dtype=torch.float32)

    save()
    before = (tmp_path / name).read_bytes()
    # A limit on the size of files fails as a full disk does, in the middle of writing.
    old = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, old[1]))
    try:
        with pytest.raises(OutputError, match=rf"cannot write .*{name}: File too large"):
            save()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, old)
    assert [path.name for path in tmp_path.iterdir()] == [name]
    assert (tmp_path / name).read_bytes() == before


def test_the_licence_of_the_first_weights_stays(content: dict[str, Any], tmp_path: Path) -> None:
    first = tmp_path / "first.safetensors"
    terms = {"licence": "CC BY-SA 3.0", "attribution": "somebody", "other": "not passed on"}
    save_checkpoint(UPSNet(get_variant("cityscapes-r18")), first, metadata=terms)
    start = {"kind": "checkpoint", "weights": str(first)}
    settings = settings_of(content, schedule={"iterations": 1}, start=start)
    trainer_of(settings, tmp_path / "run").run()

    def kept() -> dict[str, str]:
        metadata = read_metadata(tmp_path / "run" / "weights_last.safetensors")
        assert "first.safetensors" in metadata.pop("changes")
        return metadata

    assert kept() == {"licence": "CC BY-SA 3.0", "attribution": "somebody"}
    first.unlink()  # what is resumed needs it no more
    settings = settings_of(content, schedule={"iterations": 2}, start=start)
    trainer_of(settings, tmp_path / "run", resume=True).run()
    assert kept() == {"licence": "CC BY-SA 3.0", "attribution": "somebody"}


def test_the_memory_format_changes_no_result(content: dict[str, Any], tmp_path: Path) -> None:
    found = []
    for channels_last in (False, True):
        settings = settings_of(content, schedule={"iterations": 2}, channels_last=channels_last)
        trainer = trainer_of(settings, tmp_path / str(channels_last))
        trainer.run()
        kernel = trainer.network.fpn.fpn_p2.weight
        assert kernel.is_contiguous(memory_format=torch.channels_last) == channels_last
        found.append(totals(tmp_path / str(channels_last)))
    assert found[0] == pytest.approx(found[1], rel=1e-3)
    # A run may be resumed in the other format.
    settings = settings_of(content, schedule={"iterations": 3}, channels_last=True)
    resumed = trainer_of(settings, tmp_path / "False", resume=True)
    resumed.run()
    assert resumed.iteration == 3


def test_the_precision_of_products_is_set_for_the_run(
    content: dict[str, Any], tmp_path: Path
) -> None:
    settings = settings_of(content, schedule={"iterations": 1}, float32_matmul_precision="high")
    before, during = torch.get_float32_matmul_precision(), []
    trainer_of(settings, tmp_path).run(
        lambda _: during.append(torch.get_float32_matmul_precision())
    )
    assert (during, torch.get_float32_matmul_precision()) == (["high"], before)


@pytest.mark.parametrize(
    ("device", "ranks", "gpus", "devices", "own"),
    [
        ("cpu", 2, 0, ["cpu", "cpu"], False),
        ("cuda", 2, 2, ["cuda:0", "cuda:1"], True),
        ("cuda", 3, 1, ["cuda:0", "cuda:0", "cuda:0"], False),
        ("cuda:1", 4, 2, ["cuda:0", "cuda:1", "cuda:0", "cuda:1"], False),
    ],
)
def test_where_processes_compute(
    device: str, ranks: int, gpus: int, devices: list[str], own: bool
) -> None:
    placed = [
        place_processes(torch.device(device), local_rank=rank, local_processes=ranks, gpus=gpus)
        for rank in range(ranks)
    ]
    assert placed == [(torch.device(name), own) for name in devices]


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


def test_killed_run_resumes_on_the_same_curve(
    content: dict[str, Any], tmp_path: Path, one_thread: None
) -> None:
    """The killed run is a process; the others, in this one, compute what such a process does."""
    content |= {"schedule": {"iterations": 5}}
    config = tmp_path / "run.yaml"
    config.write_text(yaml.safe_dump(content))
    killed = run_command(config, tmp_path / "killed")
    curve = tmp_path / "killed" / "curve.jsonl"
    deadline = time.monotonic() + 200
    # After the checkpoint of iteration 2, so that a step is lost and has to be made again.
    while not (curve.exists() and len(curve.read_text().splitlines()) >= 3):
        assert killed.poll() is None, killed.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.005)
    killed.send_signal(signal.SIGKILL)
    killed.communicate()
    assert len(totals(tmp_path / "killed")) < 5
    trainer_of(settings_of(content), tmp_path / "killed", resume=True).run()
    trainer_of(settings_of(content), tmp_path / "whole").run()
    assert totals(tmp_path / "killed") == totals(tmp_path / "whole")
    ours, theirs = (
        read_state_dict(tmp_path / name / "weights_last.safetensors")
        for name in ("killed", "whole")
    )
    assert all(torch.equal(tensor, theirs[name]) for name, tensor in ours.items())


@pytest.fixture
def whole_batch(content: dict[str, Any], tmp_path: Path, one_thread: None) -> list[dict[str, Any]]:
    """The curve of two steps in which a batch is computed at once; it changes ``content``."""
    content |= {"batch_norm": "frozen", "start": {"kind": "nothing"}, "frozen_stages": 2}
    # From random weights sums in another order grow with each step: to 1 % in the fourth.
    content |= {"schedule": {"iterations": 2}}
    trainer_of(settings_of(content, images_per_pass=2), tmp_path / "one").run()
    curve = read_curve(tmp_path / "one")
    assert len(curve) == 2
    return curve


def test_an_accumulated_batch_computes_what_a_whole_one_does(
    content: dict[str, Any], tmp_path: Path, whole_batch: list[dict[str, Any]]
) -> None:
    trainer_of(settings_of(content, images_per_pass=1, workers=1), tmp_path / "accumulated").run()
    want = [entry["total"] for entry in whole_batch]
    assert totals(tmp_path / "accumulated") == pytest.approx(want, rel=1e-3)


@pytest.mark.long
def test_two_processes_compute_what_one_does(
    content: dict[str, Any], tmp_path: Path, whole_batch: list[dict[str, Any]]
) -> None:
    """The same batch, shared by two processes."""
    config = tmp_path / "run.yaml"
    config.write_text(yaml.safe_dump(content))
    finish(run_command(config, tmp_path / "two", processes=2))
    for ours, theirs in zip(read_curve(tmp_path / "two"), whole_batch, strict=True):
        assert ours == pytest.approx(theirs, rel=1e-3)


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
    evaluator = partial(evaluate_weights, settings=settings, dataset=dataset, device=ALONE.device)
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
        NonFiniteLossError, match=r"iteration 0 \(.*semantic.*images/\d.png"
    ) as error:
        trainer.run()
    assert str(error.value).count(".png") == 1  # images_per_pass


@pytest.mark.parametrize("evaluated", [False, True])
def test_diverged_training_names_the_iteration_and_the_learning_rate(
    content: dict[str, Any], tmp_path: Path, *, evaluated: bool
) -> None:
    settings = settings_of(
        content,
        schedule={"iterations": 3, "warmup": 0},
        optimizer={"kind": "sgd", "learning_rate": 1e6},
        validation=content["train"],
        evaluate_scale=64,
        evaluate_every=1,
        evaluate_images=1,
    )
    evaluator = None
    if evaluated:
        dataset = open_dataset(settings.train, variant=settings.variant)
        evaluator = partial(
            evaluate_weights, settings=settings, dataset=dataset, device=ALONE.device
        )
    trainer = trainer_of(settings, tmp_path / "run", evaluator=evaluator)
    iteration = 0 if evaluated else 1
    with pytest.raises(
        NonFiniteLossError, match=rf"diverged at iteration {iteration} .*learning_rate"
    ):
        trainer.run()


@pytest.mark.parametrize("workers", [0, 1])
def test_broken_file_is_named(
    content: dict[str, Any], frames: Path, tmp_path: Path, workers: int
) -> None:
    for path in (frames / "labels").iterdir():
        path.write_bytes(b"no image")
    trainer = trainer_of(settings_of(content, workers=workers), tmp_path / "run")
    with pytest.raises(DatasetError, match=r"labels/\d.png is not an image"):
        trainer.run()


def test_bfloat16_trains(content: dict[str, Any], tmp_path: Path) -> None:
    runs = {}
    for precision in ("fp32", "bf16"):
        settings = settings_of(content, precision=precision, schedule={"iterations": 2})
        trainer_of(settings, tmp_path / precision).run()
        runs[precision] = totals(tmp_path / precision)
    assert runs["bf16"] == pytest.approx(runs["fp32"], rel=0.1)
    assert runs["bf16"] != runs["fp32"]
    with pytest.raises(SettingsError, match=r"fp16 .*CUDA"):
        trainer_of(settings_of(content, precision="fp16"), tmp_path / "fp16")


def test_folders_are_neither_overwritten_nor_mixed(content: dict[str, Any], tmp_path: Path) -> None:
    folder = tmp_path / "run"
    settings = settings_of(content, schedule={"iterations": 1})
    with pytest.raises(CheckpointError, match="cannot resume from"):
        trainer_of(settings, folder, resume=True)
    trainer_of(settings, folder).run()
    with pytest.raises(CheckpointError, match="already contains a checkpoint"):
        trainer_of(settings, folder)
    other = settings_of(content, schedule={"iterations": 1}, batch_size=3, seed=4)
    with pytest.raises(CheckpointError, match=r"other settings: batch_size, seed"):
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


def run_here(config: Path, out: Path, *options: str) -> Result:
    arguments = ["--config", str(config), "--out", str(out), "--device", "cpu", *options]
    return CliRunner().invoke(app, ["train", *arguments])


def test_command_ends_with_the_last_and_the_best_score(
    content: dict[str, Any], tmp_path: Path
) -> None:
    config, out = tmp_path / "run.yaml", tmp_path / "run"
    content |= {"schedule": {"iterations": 1}, "evaluate_scale": 64, "evaluate_images": 1}
    config.write_text(yaml.safe_dump(content))
    result = run_here(config, out)
    assert result.output.splitlines()[-1] == f"weights: {out}/weights_last.safetensors"

    config.write_text(yaml.safe_dump({**content, "validation": content["train"]}))
    result = run_here(config, out, "--resume", "--set", "schedule.iterations=2")
    (figures,) = read_curve(out, "validation")
    shown = f"{100 * figures['PQ']:.1f} %"
    end = f"; validation PQ {shown}, best (weights_best.safetensors) {shown}"
    assert result.output.splitlines()[-1].endswith(end)


@pytest.mark.parametrize("resume", [False, True])
def test_an_interrupted_command_names_a_checkpoint_only_if_there_is_one(
    content: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, *, resume: bool
) -> None:
    config, out = tmp_path / "run.yaml", tmp_path / "run"
    config.write_text(yaml.safe_dump(content))
    if resume:
        trainer_of(settings_of(content, schedule={"iterations": 1}), out).run()

    def interrupt(*_arguments: object, **_options: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("upsnet_ros.training.loading.open_dataset", interrupt)
    result = run_here(config, out, *(["--resume"] if resume else []))
    assert result.exit_code == 130
    assert ("--resume continues" in result.stderr) == resume
    assert ("there is no checkpoint" in result.stderr) != resume


def test_command_says_what_is_wrong(content: dict[str, Any], tmp_path: Path) -> None:
    config = tmp_path / "run.yaml"
    config.write_text(yaml.safe_dump(content))
    arguments = ["--config", str(config), "--out", str(tmp_path / "run"), "--set", "batch_size=0"]
    result = CliRunner().invoke(app, ["train", *arguments])
    assert result.exit_code == 1
    assert "run.yaml" in result.stderr
    assert "batch_size: Input should be greater than or equal to 1" in result.stderr
    assert "Traceback" not in result.stderr
