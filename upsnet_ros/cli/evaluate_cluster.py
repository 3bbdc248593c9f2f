"""`upsnet evaluate --cluster`: bags judged by many workers, on one machine or more."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from upsnet_ros.cli.progress import frame_progress
from upsnet_ros.evaluation.errors import EvaluationError
from upsnet_ros.evaluation.partial import PartialResult

if TYPE_CHECKING:
    from upsnet_ros.bags.judging import BagTask
    from upsnet_ros.cluster.gather import Found
    from upsnet_ros.cluster.model import ModelSettings
    from upsnet_ros.cluster.pool import Pool
    from upsnet_ros.cluster.spread import Outcome

Facts = list[tuple[str, str]]

KINDS = ("ray", "local")
#: What a shell tells of a command that Ctrl-C ended.
_INTERRUPTED = 130


@dataclass(frozen=True, slots=True, kw_only=True)
class Cluster:
    """Where bags are judged.

    Attributes:
        kind: "ray", or "local" for processes of this machine.
        address: Of a Ray cluster that runs; None: one of our own.
        workers: How many at most; None: as many as fit, or a process for each CPU.
        state: Folder for the results of bags.

    Raises:
        EvaluationError: The kind is unknown, or has no address.
    """

    kind: str
    address: str | None
    workers: int | None
    state: Path

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise EvaluationError(f"unknown cluster {self.kind!r}; use {' or '.join(KINDS)}")
        if self.kind == "local" and self.address:
            raise EvaluationError("--cluster-address is of --cluster ray")

    def judge(
        self, tasks: Sequence[BagTask], model: Mapping[str, Any] | None, *, allow_missing: bool
    ) -> tuple[PartialResult, Facts]:
        """Judge bags, and say what is to be said of the model.

        Args:
            tasks: The bags.
            model: Options of the model; None where the bags hold outputs.
            allow_missing: Whether to go on without bags that cannot be judged.

        Raises:
            EvaluationError: As `upsnet_ros.cluster.gather.gather`.
        """
        try:
            return self._judge(tasks, model, allow_missing)
        except ModuleNotFoundError as error:
            if error.name not in ("msgspec", "ray"):
                raise
            install = "pip install 'upsnet_ros[cluster]', or run `make setup`"
            raise EvaluationError(f"--cluster needs {error.name}: {install}") from None
        except KeyboardInterrupt:
            typer.echo(
                f"stopped; what was judged is kept in {self.state}, and the same command goes on",
                err=True,
            )
            raise typer.Exit(_INTERRUPTED) from None

    def _judge(
        self, tasks: Sequence[BagTask], options: Mapping[str, Any] | None, allow_missing: bool
    ) -> tuple[PartialResult, Facts]:
        from upsnet_ros.cluster.gather import gather
        from upsnet_ros.cluster.model import ModelSettings
        from upsnet_ros.cluster.spread import Failed, Retried
        from upsnet_ros.cluster.state import State

        model = None if options is None else ModelSettings(**options)
        facts, notes = _about(model)
        with frame_progress() as progress:
            bar = progress.add_task("evaluating bags", total=len(tasks))

            def watch(outcome: Found | Outcome) -> None:
                if isinstance(outcome, Retried):
                    line = f"{outcome.task.bag}: {outcome.reason}; another one takes it"
                    progress.console.print(line, highlight=False, markup=False)
                    return
                if isinstance(outcome, Failed):
                    line = f"failed: {outcome.task.bag}: {outcome.reason}"
                    progress.console.print(line, highlight=False, markup=False)
                progress.advance(bar)

            part = gather(
                tasks,
                state=State(self.state, model),
                pool=lambda: self._pool(model),
                allow_missing=allow_missing,
                watch=watch,
            )
        return replace(part, notes=(*part.notes, *notes)), facts

    def _pool(self, model: ModelSettings | None) -> AbstractContextManager[Pool]:
        if self.kind == "local":
            from upsnet_ros.cluster.process_pool import ProcessPool

            return ProcessPool(size=self.workers or os.cpu_count() or 1, model=model)
        from upsnet_ros.cluster.ray_pool import RayPool

        return RayPool(size=self.workers, model=model, address=self.address)


def _about(model: ModelSettings | None) -> tuple[Facts, list[str]]:
    """What to say of the model, and what to warn of; ends early where it cannot be loaded."""
    if model is None:
        return [], []
    loaded = model.model()
    facts = [
        ("Model", f"{loaded.variant.name}, {loaded.path or 'random weights'}"),
        ("Short side", f"{model.scale or loaded.variant.scale} px"),
        ("Device", f"{model.device}, {model.precision}"),
    ]
    random = [] if loaded.path else ["random weights: these figures mean nothing"]
    return facts, random
