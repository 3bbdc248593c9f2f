"""Training loop: optimiser steps, checkpoints, evaluation, and the files of a run."""

from __future__ import annotations

import io
import json
import math
import sys
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import AbstractContextManager, closing, nullcontext
from dataclasses import dataclass
from pathlib import Path
from time import monotonic
from typing import Any

import torch
import yaml
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torch.utils.tensorboard import SummaryWriter

from upsnet_ros.datasets.base import Dataset
from upsnet_ros.errors import CheckpointError, DivergedError, NonFiniteLossError, SettingsError
from upsnet_ros.evaluation.datasets import evaluate_dataset
from upsnet_ros.evaluation.report import headline
from upsnet_ros.inference.predictor import Predictor
from upsnet_ros.network.checkpoint import save_checkpoint
from upsnet_ros.network.upsnet import UPSNet
from upsnet_ros.network.variants import get_variant
from upsnet_ros.network.weights_file import read_torch_file
from upsnet_ros.output_files import replacing, write_whole
from upsnet_ros.training.distributed import World
from upsnet_ros.training.initial import Start, load_start_
from upsnet_ros.training.loading import Batch, TrainingImages, load_steps, positions_of_steps
from upsnet_ros.training.objective import TrainingNetwork
from upsnet_ros.training.optimizer import (
    build_optimizer,
    freeze_stages,
    set_rate,
    thaw_batch_norms_,
)
from upsnet_ros.training.settings import RunSettings, to_plain


@dataclass(frozen=True, slots=True)
class RunFiles:
    """The files of a run in its folder."""

    folder: Path

    @property
    def checkpoint(self) -> Path:
        """State needed to resume."""
        return self.folder / "checkpoint.pt"

    @property
    def last(self) -> Path:
        """Weights of the last checkpoint."""
        return self.folder / "weights_last.safetensors"

    @property
    def best(self) -> Path:
        """Weights with the best evaluation score."""
        return self.folder / "weights_best.safetensors"

    @property
    def curve(self) -> Path:
        """Losses and evaluations, one JSON object per line."""
        return self.folder / "curve.jsonl"

    @property
    def settings(self) -> Path:
        """The complete settings."""
        return self.folder / "settings.yaml"

    def prepare(self, settings: Mapping[str, Any]) -> None:
        """Create the folder and write the settings."""
        self.folder.mkdir(parents=True, exist_ok=True)
        text = yaml.safe_dump(dict(settings), sort_keys=False)
        write_whole(self.settings, text.encode())

    def save_checkpoint(self, state: Mapping[str, Any]) -> None:
        """Write a checkpoint of tensors and plain values."""
        # Through memory: for a full disk torch raises an error that does not say so.
        buffer = io.BytesIO()
        torch.save(dict(state), buffer)
        write_whole(self.checkpoint, buffer.getbuffer())

    def load_checkpoint(self) -> dict[str, Any]:
        """Read what `save_checkpoint` wrote.

        Raises:
            CheckpointError: If the file does not exist or is damaged.
        """
        if not self.checkpoint.is_file():
            raise CheckpointError(f"cannot resume from {self.checkpoint}: no such file")
        content: dict[str, Any] = read_torch_file(self.checkpoint)
        return content

    def save_weights(
        self,
        network: nn.Module,
        path: Path,
        *,
        dtype: torch.dtype,
        metadata: Mapping[str, str] | None = None,
    ) -> None:
        """Write the network's weights as safetensors, floating-point tensors in ``dtype``."""
        with replacing(path) as new:
            save_checkpoint(network, new, dtype=dtype, metadata=metadata)


class Curve:
    """Writes losses and evaluations by iteration to TensorBoard and as JSON lines.

    Args:
        files: Files of the run.
        start: First iteration to train; existing entries of an interrupted run from there on are
            removed.
    """

    def __init__(self, files: RunFiles, *, start: int) -> None:
        kept: list[str] = []
        if start and files.curve.is_file():
            lines = files.curve.read_text(encoding="utf-8").splitlines(keepends=True)
            # A killed run may leave an incomplete line.
            complete = [line for line in lines if line.endswith("\n")]
            kept = [line for line in complete if json.loads(line)["iteration"] < start]
        write_whole(files.curve, "".join(kept).encode())
        self._file = files.curve.open("a", encoding="utf-8", buffering=1)
        self._board = SummaryWriter(files.folder / "tensorboard", purge_step=start)

    def add(self, iteration: int, group: str, values: Mapping[str, float]) -> None:
        """Append values measured in an iteration, such as ``train`` or ``validation``."""
        entry = {"iteration": iteration, "group": group, **values}
        self._file.write(json.dumps(entry) + "\n")
        for name, value in values.items():
            self._board.add_scalar(f"{group}/{name}", value, iteration)

    def close(self) -> None:
        """Flush and close the files."""
        self._file.close()
        self._board.close()


def evaluate_weights(
    weights: Path, *, settings: RunSettings, dataset: Dataset, device: torch.device
) -> Mapping[str, float]:
    """Evaluate weights through a `Predictor`, as in deployment.

    Args:
        weights: File of the weights.
        settings: Settings of the run.
        dataset: The validation set.
        device: Device to run on.

    Returns:
        The headline metrics as fractions, and ``score``, which is PQ.
    """
    predictor = Predictor(
        weights,
        variant=settings.variant,
        device=str(device),
        scale=settings.evaluation_scale,
    )
    count = min(len(dataset), settings.evaluate_images or len(dataset))
    metrics = headline(evaluate_dataset(dataset, predictor, indices=range(count)))
    # PQ is undefined if no image has a segment; then all weights are equally good.
    return metrics | {"score": metrics.get("PQ", 0.0)}


#: Returns metrics of a weights file by name; the run keeps the weights with the highest ``score``.
Evaluator = Callable[[Path], Mapping[str, float]]

_AUTOCAST = {"fp16": torch.float16, "bf16": torch.bfloat16}
_WEIGHTS = {"fp32": torch.float32, "fp16": torch.float16}
#: Settings that may differ between an interrupted run and its continuation.
_FREE_TO_CHANGE = frozenset(
    {
        "schedule",
        "float32_matmul_precision",
        "channels_last",
        "weights_precision",
        "validation",
        "workers",
        "images_per_pass",
        "checkpoint_every",
        "evaluate_every",
        "log_every",
    }
)


@dataclass(frozen=True, slots=True)
class Step:
    """Report of one optimiser step.

    Attributes:
        iteration: Index of the step, from 0.
        elapsed: Training time at the end of the step, seconds.
        rate: Learning rate of the weights.
        values: Losses and accuracies, averaged over the batch.
    """

    iteration: int
    elapsed: float
    rate: float
    values: Mapping[str, float]


class Trainer:
    """Trains one network.

    Args:
        settings: Settings of the run.
        dataset: Training set.
        folder: Output folder of the run.
        world: The processes of the run.
        evaluator: Evaluates the weights; None disables evaluation.
        resume: Whether to continue from the folder's checkpoint.

    Attributes:
        last_score: Score of the last evaluation of this process; None before it.
        best_score: Highest score of the run, also before it was resumed; -inf before the first.

    Raises:
        SettingsError: If the settings do not match the device or the number of processes.
        CheckpointError: If the initial weights cannot be used; if there is no checkpoint to resume
            from, or it was made with other settings; or if a checkpoint would be overwritten.
    """

    def __init__(
        self,
        settings: RunSettings,
        *,
        dataset: Dataset,
        folder: Path,
        world: World,
        evaluator: Evaluator | None = None,
        resume: bool = False,
    ) -> None:
        if settings.precision == "fp16" and world.device.type != "cuda":
            raise SettingsError("precision fp16 needs a CUDA device; use fp32 or bf16 on a CPU")
        self.settings = settings
        self.world = world
        self.files = RunFiles(folder)
        self._evaluator = evaluator
        self._images = TrainingImages(
            dataset, augment=settings.augment, quirks=settings.quirks, seed=settings.seed
        )
        self.network = UPSNet(get_variant(settings.variant))
        self.start: Start | None = None
        self._licence: Mapping[str, str] = {}
        if not resume:
            self.start = load_start_(self.network, settings.start, seed=settings.seed)
            self._licence = self.start.licence
        freeze_stages(self.network, settings.frozen_stages)
        if settings.batch_norm == "trained":
            thaw_batch_norms_(self.network, shared=world.has_own_gpus)
        on_cuda = world.device.type == "cuda"
        self._channels_last = on_cuda if settings.channels_last is None else settings.channels_last
        self.network.to(world.device).train()
        if self._channels_last:
            self.network.to(memory_format=torch.channels_last)
        self._optimizer = build_optimizer(
            self.network, settings.optimizer, settings.quirks, fused=on_cuda
        )
        self._scaler = torch.amp.GradScaler(world.device.type, enabled=settings.precision == "fp16")
        self.iteration = 0
        self.elapsed = 0.0
        self.last_score: float | None = None
        self.best_score = -math.inf
        self._window: dict[str, float] = {}  # sums since the last entry of the loss curve
        if resume:
            self._restore(self.files.load_checkpoint())
        elif self.files.checkpoint.exists():
            raise CheckpointError(
                f"{folder} already contains a checkpoint; resume it, or choose another folder"
            )
        model = TrainingNetwork(
            self.network,
            targets=settings.targets,
            losses=settings.losses,
            quirks=settings.quirks,
        )
        self._model: TrainingNetwork | DistributedDataParallel = model
        if world.processes > 1:
            self._model = DistributedDataParallel(model)

    def run(self, report: Callable[[Step], None] = lambda _: None) -> None:
        """Train until the end of the schedule.

        Args:
            report: Called after every step.

        Raises:
            DatasetError: If an image cannot be read; the message names its file.
            NonFiniteLossError: If training diverged: a loss or an output of the network is not
                finite. The message names the iteration and, for a loss, the batch's images.
        """
        settings, world = self.settings, self.world
        curve = None
        if world.is_first:
            self.files.prepare(to_plain(settings))
            curve = Curve(self.files, start=self.iteration)
        precision = torch.get_float32_matmul_precision()
        torch.set_float32_matmul_precision(settings.float32_matmul_precision)
        # `_step` broadcasts the time of the first process: all must agree on the rate and the end.
        begin = monotonic() - self.elapsed
        try:
            with closing(self._batches()) as batches:
                while not self._is_over():
                    step = self._step(next(batches), begin=begin)
                    self.iteration += 1
                    self._log(step, curve)
                    report(step)
                    self._save_and_evaluate(curve)
        finally:
            torch.set_float32_matmul_precision(precision)
            if curve is not None:
                curve.close()

    def _is_over(self) -> bool:
        return self.settings.schedule.is_over(self.iteration, self.elapsed)

    def _log(self, step: Step, curve: Curve | None) -> None:
        """Add a step to the window; at the end of the window write its means to the loss curve."""
        every = self.settings.log_every
        for name, value in {"rate": step.rate, **step.values}.items():
            self._window[name] = self._window.get(name, 0.0) + value / every
        if self.iteration % every == 0:
            if curve is not None:
                curve.add(step.iteration, "train", self._window)
            self._window = {}

    def _batches(self) -> Generator[list[Batch], None, None]:
        end = self.settings.schedule.iterations
        steps = positions_of_steps(
            range(self.iteration, sys.maxsize if end is None else end),
            batch_size=self.settings.batch_size,
            rank=self.world.rank,
            processes=self.world.processes,
        )
        return load_steps(
            self._images,
            steps,
            images_per_pass=self.settings.images_per_pass,
            workers=self.settings.workers,
            pin_memory=self.world.device.type == "cuda",
        )

    def _step(self, passes: Sequence[Batch], *, begin: float) -> Step:
        settings = self.settings
        rate = set_rate(
            self._optimizer, settings.optimizer, settings.schedule, self.iteration, self.elapsed
        )
        self._optimizer.zero_grad(set_to_none=True)
        images = sum(map(len, passes))
        names: list[str] = []
        sums: list[Tensor] = []
        for index, batch in enumerate(passes):
            share = len(batch) / images
            with self._without_sync() if index + 1 < len(passes) else nullcontext():
                results = self._losses(batch)
                self._scaler.scale(results["total"] * share).backward()
            names = list(results)
            sums.append(torch.stack([value.detach() for value in results.values()]) * share)
        self._scaler.unscale_(self._optimizer)
        if settings.optimizer.clip_norm is not None:
            torch.nn.utils.clip_grad_norm_(self.network.parameters(), settings.optimizer.clip_norm)
        self._scaler.step(self._optimizer)
        self._scaler.update()
        means = self.world.mean(torch.stack(sums).sum(dim=0)).tolist()
        self.elapsed = self.world.of_first(monotonic() - begin)
        return Step(self.iteration, self.elapsed, rate, dict(zip(names, means, strict=True)))

    def _losses(self, batch: Batch) -> dict[str, Tensor]:
        device = self.world.device
        dtype = _AUTOCAST.get(self.settings.precision)
        try:
            with torch.autocast(device.type, dtype=dtype, enabled=dtype is not None):
                results: dict[str, Tensor] = self._model(batch.to(device))
        except DivergedError as error:
            raise self._diverged(self.iteration, str(error)) from error
        if not math.isfinite(float(results["total"].detach())):
            wrong = [name for name, value in results.items() if not bool(value.isfinite())]
            names = ", ".join(batch.names)
            raise self._diverged(self.iteration, f"{', '.join(wrong)} not finite, images: {names}")
        return results

    def _diverged(self, iteration: int, what: str) -> NonFiniteLossError:
        rate = self.settings.optimizer.learning_rate
        return NonFiniteLossError(
            f"training diverged at iteration {iteration} ({what}): lower"
            f" optimizer.learning_rate ({rate:g}) or set optimizer.clip_norm"
        )

    def _without_sync(self) -> AbstractContextManager[None]:
        if isinstance(self._model, DistributedDataParallel):
            return self._model.no_sync()
        return nullcontext()

    def _save_and_evaluate(self, curve: Curve | None) -> None:
        settings, done = self.settings, self.iteration
        last = self._is_over()
        every = settings.evaluate_every
        if self._evaluator is not None and (last or (every and done % every == 0)):
            if curve is not None:
                self._save_weights(self.files.last)
                try:
                    measures = self._evaluator(self.files.last)
                except DivergedError as error:
                    raise self._diverged(done - 1, "in the evaluation") from error
                curve.add(done - 1, "validation", measures)
                self.last_score = measures["score"]
                if measures["score"] > self.best_score:
                    self.best_score = measures["score"]
                    self._save_weights(self.files.best)
            self.world.wait()
        if last or done % settings.checkpoint_every == 0:
            if curve is not None:
                self._save_weights(self.files.last)
                self.files.save_checkpoint(self._state())
            self.world.wait()

    def _save_weights(self, path: Path) -> None:
        dtype = _WEIGHTS[self.settings.weights_precision]
        self.files.save_weights(self.network, path, dtype=dtype, metadata=self._licence)

    def _state(self) -> dict[str, Any]:
        return {
            "licence": dict(self._licence),
            "iteration": self.iteration,
            "elapsed": self.elapsed,
            "best_score": self.best_score,
            "window": self._window,
            "settings": to_plain(self.settings),
            "network": self.network.state_dict(),
            "optimizer": self._optimizer.state_dict(),
            "scaler": self._scaler.state_dict(),
        }

    def _restore(self, state: Mapping[str, Any]) -> None:
        mine, theirs = to_plain(self.settings), dict(state["settings"])
        changed = [
            name for name in mine if name not in _FREE_TO_CHANGE and mine[name] != theirs.get(name)
        ]
        if changed:
            raise CheckpointError(
                f"{self.files.checkpoint} was made with other settings: {', '.join(changed)}"
            )
        self.network.load_state_dict(state["network"])
        self._optimizer.load_state_dict(state["optimizer"])
        self._scaler.load_state_dict(state["scaler"])
        self.iteration = state["iteration"]
        # Absent in checkpoints of older versions.
        self.elapsed = state.get("elapsed", 0.0)
        self._licence = state.get("licence", {})
        self.best_score = state["best_score"]
        self._window = state["window"]
