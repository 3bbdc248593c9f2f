"""The training loop."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor
from torch.nn.parallel import DistributedDataParallel

from upsnet_ros.datasets.base import Dataset
from upsnet_ros.network.checkpoint import CheckpointError
from upsnet_ros.network.upsnet import UPSNet
from upsnet_ros.network.variants import get_variant
from upsnet_ros.training.distributed import World
from upsnet_ros.training.files import Curve, RunFiles
from upsnet_ros.training.initial import Start, load_start_
from upsnet_ros.training.loading import Steps, TrainingImages, load_steps
from upsnet_ros.training.norms import thaw_batch_norms_
from upsnet_ros.training.objective import TrainingNetwork
from upsnet_ros.training.optimizer import build_optimizer, freeze_stages, set_rate
from upsnet_ros.training.prepare import Prepared
from upsnet_ros.training.run_settings import RunSettings, SettingsError, to_plain

_AUTOCAST = {"fp16": torch.float16, "bf16": torch.bfloat16}
#: Settings that may differ between an interrupted run and its continuation.
_FREE_TO_CHANGE = frozenset(
    {
        "schedule",
        "validation",
        "workers",
        "images_per_pass",
        "checkpoint_every",
        "evaluate_every",
        "log_every",
    }
)


class NonFiniteLossError(RuntimeError):
    """A loss is not a number or infinite; the message names the losses and the images."""


class Evaluator(Protocol):
    """Judges weights on the validation set."""

    def __call__(self, weights: Path) -> Mapping[str, float]:
        """Return measures by name; the run keeps the weights with the largest ``score``."""


@dataclass(frozen=True, slots=True)
class Step:
    """What one optimiser step reported.

    Attributes:
        iteration: Its number, from 0.
        rate: Learning rate of weights.
        values: Losses and accuracies, averaged over the batch.
    """

    iteration: int
    rate: float
    values: Mapping[str, float]


class Trainer:
    """Trains one network.

    Args:
        settings: Of the run.
        dataset: Images to learn from.
        folder: Where the run's files go.
        world: The processes that train together.
        evaluator: Judges the weights; None for no evaluation.
        resume: Whether to go on from the folder's checkpoint.

    Raises:
        SettingsError: The settings do not suit the device or the number of processes.
        CheckpointError: The weights to start from cannot be used; or there is no checkpoint to
            resume from, or it is of other settings, or there is one that would be overwritten.
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
            raise SettingsError("precision fp16 needs a CUDA device; a CPU has fp32 and bf16")
        self.settings = settings
        self.world = world
        self.files = RunFiles(folder)
        self._evaluator = evaluator
        self._images = TrainingImages(
            dataset, augment=settings.augment, quirks=settings.quirks, seed=settings.seed
        )
        self.network = UPSNet(get_variant(settings.variant))
        self.start: Start | None = None
        if not resume:
            self.start = load_start_(self.network, settings.start, seed=settings.seed)
        freeze_stages(self.network, settings.frozen_stages)
        if settings.batch_norm == "trained":
            several_gpus = world.processes > 1 and world.device.type == "cuda"
            thaw_batch_norms_(self.network, shared=several_gpus)
        self.network.to(world.device).train()
        self._optimizer = build_optimizer(self.network, settings.optimizer, settings.quirks)
        self._scaler = torch.amp.GradScaler(world.device.type, enabled=settings.precision == "fp16")
        self.iteration = 0
        self.best_score = -math.inf
        self._window: dict[str, float] = {}  # sums since the last entry of the loss curve
        if resume:
            self._restore(self.files.load_checkpoint())
        elif self.files.checkpoint.exists():
            raise CheckpointError(
                f"{folder} holds a checkpoint already; resume it, or choose another folder"
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
        """Train until the schedule's end.

        Args:
            report: Called after every step.

        Raises:
            DatasetError: An image cannot be read; its file is named.
            NonFiniteLossError: A loss is not finite; the batch's images are named.
        """
        settings, world = self.settings, self.world
        curve = None
        if world.is_first:
            self.files.prepare(to_plain(settings))
            curve = Curve(self.files, start=self.iteration)
        try:
            for batch in self._batches():
                step = self._step(batch)
                self.iteration += 1
                self._log(step, curve)
                report(step)
                self._save_and_evaluate(curve)
        finally:
            if curve is not None:
                curve.close()

    def _log(self, step: Step, curve: Curve | None) -> None:
        """Add to the window, and at its end put its means into the loss curve."""
        every = self.settings.log_every
        for name, value in {"rate": step.rate, **step.values}.items():
            self._window[name] = self._window.get(name, 0.0) + value / every
        if self.iteration % every == 0:
            if curve is not None:
                curve.add(step.iteration, "train", self._window)
            self._window = {}

    def _batches(self) -> Iterator[list[Prepared]]:
        steps = Steps(
            range(self.iteration, self.settings.schedule.iterations),
            batch_size=self.settings.batch_size,
            rank=self.world.rank,
            processes=self.world.processes,
        )
        return load_steps(
            self._images,
            steps,
            workers=self.settings.workers,
            pin_memory=self.world.device.type == "cuda",
        )

    def _step(self, batch: Sequence[Prepared]) -> Step:
        settings = self.settings
        rate = set_rate(self._optimizer, settings.optimizer, settings.schedule, self.iteration)
        self._optimizer.zero_grad(set_to_none=True)
        size = settings.images_per_pass
        passes = [batch[start : start + size] for start in range(0, len(batch), size)]
        sums: dict[str, Tensor] = {}
        for index, images in enumerate(passes):
            share = len(images) / len(batch)
            with self._without_sync() if index + 1 < len(passes) else nullcontext():
                results = self._losses(images)
                self._scaler.scale(results["total"] * share).backward()
            for name, value in results.items():
                sums[name] = sums.get(name, value.new_zeros(())) + value.detach() * share
        self._scaler.unscale_(self._optimizer)
        if settings.optimizer.clip_norm is not None:
            torch.nn.utils.clip_grad_norm_(self.network.parameters(), settings.optimizer.clip_norm)
        self._scaler.step(self._optimizer)
        self._scaler.update()
        means = self.world.mean(torch.stack(list(sums.values())))
        return Step(self.iteration, rate, dict(zip(sums, means.tolist(), strict=True)))

    def _losses(self, images: Sequence[Prepared]) -> dict[str, Tensor]:
        device = self.world.device
        dtype = _AUTOCAST.get(self.settings.precision)
        with torch.autocast(device.type, dtype=dtype, enabled=dtype is not None):
            results: dict[str, Tensor] = self._model([image.to(device) for image in images])
        if not math.isfinite(float(results["total"].detach())):
            wrong = [name for name, value in results.items() if not bool(value.isfinite())]
            names = ", ".join(image.name for image in images)
            raise NonFiniteLossError(
                f"iteration {self.iteration}: {', '.join(wrong)} not finite; images: {names}"
            )
        return results

    def _without_sync(self) -> AbstractContextManager[None]:
        if isinstance(self._model, DistributedDataParallel):
            return self._model.no_sync()
        return nullcontext()

    def _save_and_evaluate(self, curve: Curve | None) -> None:
        settings, done = self.settings, self.iteration
        last = done == settings.schedule.iterations
        every = settings.evaluate_every
        if self._evaluator is not None and (last or (every and done % every == 0)):
            if curve is not None:
                self.files.save_weights(self.network, self.files.last)
                measures = self._evaluator(self.files.last)
                curve.add(done - 1, "validation", measures)
                if measures["score"] > self.best_score:
                    self.best_score = measures["score"]
                    self.files.save_weights(self.network, self.files.best)
            self.world.wait()
        if last or done % settings.checkpoint_every == 0:
            if curve is not None:
                self.files.save_weights(self.network, self.files.last)
                self.files.save_checkpoint(self._state())
            self.world.wait()

    def _state(self) -> dict[str, Any]:
        return {
            "iteration": self.iteration,
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
        self.best_score = state["best_score"]
        self._window = state["window"]
