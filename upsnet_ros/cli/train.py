"""`upsnet train`: train a network as a settings file says."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import torch
import typer
from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.table import Column

from upsnet_ros.cli import fail
from upsnet_ros.datasets.base import DatasetError
from upsnet_ros.inference.device import resolve_device
from upsnet_ros.network.checkpoint import CheckpointError
from upsnet_ros.training.datasets import open_dataset
from upsnet_ros.training.distributed import World, world_of_environment
from upsnet_ros.training.objective import LOSSES
from upsnet_ros.training.run_settings import RunSettings, SettingsError, load_settings
from upsnet_ros.training.trainer import NonFiniteLossError, Step, Trainer
from upsnet_ros.training.validation import PanopticEvaluator

#: Weight of the newest step in the losses that the bar shows.
_SMOOTHING = 0.05


def train(
    config: Annotated[
        Path, typer.Option(metavar="FILE", help="Settings, YAML or TOML; see config/train.")
    ],
    out: Annotated[Path, typer.Option(metavar="DIR", help="Where the run's files go.")] = Path(
        "training_output"
    ),
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on from the checkpoint in DIR.")
    ] = False,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda or cuda:N.")] = "auto",
    threads: Annotated[
        int, typer.Option(min=0, help="Threads for computing on a CPU; 0: torch's choice.")
    ] = 0,
    settings: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="NAME=VALUE", help="Change a setting: losses.panoptic=0.2"),
    ] = None,
) -> None:
    """Train UPSNet. Start it with torchrun for several GPUs or machines."""
    try:
        chosen = str(resolve_device(device))
    except ValueError as error:
        fail(str(error))
    try:
        run = load_settings(config, settings or ())
        if threads:
            torch.set_num_threads(threads)
        with world_of_environment(chosen) as world:
            trainer = _trainer(run, out=out, world=world, resume=resume)
            _announce(trainer)
            with _progress(trainer) as report:
                trainer.run(report)
    except (SettingsError, DatasetError, CheckpointError, NonFiniteLossError) as error:
        fail(str(error))
    except KeyboardInterrupt:
        typer.echo(f"stopped; `--resume` goes on from the last checkpoint in {out}", err=True)
        raise typer.Exit(130) from None
    if world.is_first:
        typer.echo(f"weights: {trainer.files.last}")


def _trainer(run: RunSettings, *, out: Path, world: World, resume: bool) -> Trainer:
    dataset = open_dataset(run.train, variant=run.variant)
    evaluator = None
    if run.validation is not None:
        validation = open_dataset(run.validation, variant=run.variant)
        evaluator = PanopticEvaluator(run, dataset=validation, device=world.device)
    return Trainer(
        run, dataset=dataset, folder=out, world=world, evaluator=evaluator, resume=resume
    )


def _announce(trainer: Trainer) -> None:
    """Say on stderr what the weights to start from lacked, in the first process."""
    start = trainer.start
    if start is None or not trainer.world.is_first:
        return
    if trainer.settings.start.kind == "nothing":
        if trainer.settings.batch_norm == "frozen" or trainer.settings.frozen_stages:
            typer.echo(
                "warning: starting from nothing with frozen layers, which stay as drawn; set"
                " batch_norm=trained and frozen_stages=0",
                err=True,
            )
        return
    for names, what in ((start.drawn, "drawn at random"), (start.unused, "not used")):
        modules = sorted({name.rpartition(".")[0] for name in names})
        if modules:
            typer.echo(f"{what}: {', '.join(modules)}", err=True)


@contextmanager
def _progress(trainer: Trainer) -> Iterator[Callable[[Step], None]]:
    """Show a bar with time left and losses on stderr, in the first process."""
    if not trainer.world.is_first:
        yield lambda _: None
        return
    fixed = Column(no_wrap=True)
    columns = (
        MofNCompleteColumn(table_column=fixed),
        BarColumn(bar_width=10, table_column=fixed),
        TimeElapsedColumn(table_column=fixed),
        TextColumn("left", table_column=fixed),
        TimeRemainingColumn(table_column=fixed),
        TextColumn("{task.description}", table_column=Column(ratio=1)),
    )
    smooth: dict[str, float] = {}
    with Progress(*columns, console=Console(stderr=True), expand=True) as progress:
        task = progress.add_task(
            "", total=trainer.settings.schedule.iterations, completed=trainer.iteration
        )

        def report(step: Step) -> None:
            for name, value in step.values.items():
                smooth[name] = smooth.get(name, value) * (1 - _SMOOTHING) + value * _SMOOTHING
            parts = " ".join(f"{name} {smooth[name]:.3g}" for name in LOSSES if name in smooth)
            total = f"[bold]loss {smooth['total']:.3f}[/bold]"
            progress.update(
                task,
                completed=step.iteration + 1,
                description=f"{total}: {parts} rate {step.rate:.2g}",
            )

        yield report
