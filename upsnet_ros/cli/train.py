"""`upsnet train`: train a network from a settings file."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from upsnet_ros.cli.commands import fail
from upsnet_ros.cli.options import Device, check_device, require_file
from upsnet_ros.cli.terminal import console
from upsnet_ros.output_files import OutputFolder

if TYPE_CHECKING:
    from upsnet_ros.training.distributed import World
    from upsnet_ros.training.settings import RunSettings
    from upsnet_ros.training.trainer import Step, Trainer

#: Weight of the newest step in the losses that the bar shows.
_SMOOTHING = 0.05
#: The files of a run; `upsnet_ros.training.trainer.RunFiles` writes them.
_CHECKPOINT = "checkpoint.pt"
_NAMES = (
    _CHECKPOINT,
    "weights_last.safetensors",
    "weights_best.safetensors",
    "curve.jsonl",
    "settings.yaml",
    "tensorboard/events.out.tfevents.*",
)


def train(
    config: Annotated[
        Path, typer.Option(metavar="FILE", help="Settings, YAML or TOML; see config/train.")
    ],
    out: Annotated[Path, typer.Option(metavar="DIR", help="Output folder.")] = Path(
        "training_output"
    ),
    resume: Annotated[
        bool, typer.Option("--resume", help="Continue from the checkpoint in DIR.")
    ] = False,
    device: Device = "auto",
    threads: Annotated[
        int, typer.Option(metavar="N", min=0, help="CPU threads; 0: torch's choice.")
    ] = 0,
    settings: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="NAME=VALUE", help="Change a setting: losses.panoptic=0.2"),
    ] = None,
) -> None:
    """Train UPSNet; with several GPUs or machines, start it with torchrun."""
    require_file(config)
    check_device(device)
    folder = _output_folder(out, resume=resume)
    from upsnet_ros.training.settings import check_files, load_settings

    run = load_settings(config, settings or ())
    check_files(run, resume=resume)
    # Only here: torch takes seconds to import.
    import torch

    from upsnet_ros.inference.model import resolve_device
    from upsnet_ros.training.distributed import world_of_environment

    chosen = str(resolve_device(device))
    if threads:
        torch.set_num_threads(threads)
    try:
        with world_of_environment(chosen) as world:
            trainer = _trainer(run, out=out, world=world, resume=resume)
            _announce(trainer)
            with folder, _progress(trainer) as report:
                trainer.run(report)
    except KeyboardInterrupt:
        then = (
            f"--resume continues from the last checkpoint in {out}"
            if (out / _CHECKPOINT).is_file()
            else f"there is no checkpoint in {out}"
        )
        typer.echo(f"stopped; {then}", err=True)
        raise typer.Exit(130) from None
    if world.is_first:
        typer.echo(f"weights: {trainer.files.last}{_scores(trainer)}")


def _scores(trainer: Trainer) -> str:
    """Return the PQ of the last and of the best evaluation, as the end of a line."""
    scores = {"": trainer.last_score, f" best ({trainer.files.best.name})": trainer.best_score}
    known = [
        f"{what} {100 * score:.1f} %"
        for what, score in scores.items()
        if score is not None and score >= 0
    ]
    return f"; validation PQ{','.join(known)}" if known else ""


def _output_folder(out: Path, *, resume: bool) -> AbstractContextManager[object]:
    """Return the run's output folder; an empty context in processes that do not write to it.

    Raises:
        OutputError: If something is in the way, such as a checkpoint.
    """
    if os.environ.get("RANK", "0") != "0":
        return nullcontext()
    checkpoint = out / _CHECKPOINT
    if resume and not checkpoint.is_file():
        fail(f"there is no checkpoint {checkpoint} to resume from")
    if not resume and checkpoint.exists():
        fail(f"{out} holds a checkpoint already; --resume continues it, or name another folder")
    return OutputFolder(
        out,
        command="train",
        names=_NAMES,
        again="update" if resume else "replace",
        resume=resume,
        adopt=_NAMES if resume else (),
    )


def _trainer(run: RunSettings, *, out: Path, world: World, resume: bool) -> Trainer:
    from upsnet_ros.training.loading import open_dataset
    from upsnet_ros.training.trainer import Trainer, evaluate_weights

    dataset = open_dataset(run.train, variant=run.variant)
    evaluator = None
    if run.validation is not None:
        validation = open_dataset(run.validation, variant=run.variant)
        evaluator = partial(evaluate_weights, settings=run, dataset=validation, device=world.device)
    return Trainer(
        run, dataset=dataset, folder=out, world=world, evaluator=evaluator, resume=resume
    )


def _announce(trainer: Trainer) -> None:
    """Print on stderr, in the first process, which weights were missing or not used."""
    start = trainer.start
    if start is None or not trainer.world.is_first:
        return
    if trainer.settings.start.kind == "nothing":
        if trainer.settings.batch_norm == "frozen" or trainer.settings.frozen_stages:
            typer.echo(
                "warning: frozen layers keep their random weights because start is nothing; set"
                " batch_norm=trained and frozen_stages=0",
                err=True,
            )
        return
    for names, what in ((start.drawn, "initialized at random"), (start.unused, "not used")):
        modules = sorted({name.rpartition(".")[0] for name in names})
        if modules:
            typer.echo(f"{what}: {', '.join(modules)}", err=True)
    if start.licence:
        name, credit = start.licence.get("licence", ""), start.licence.get("attribution", "")
        typer.echo(f"the trained weights keep the licence {name} of {credit}", err=True)


@contextmanager
def _progress(trainer: Trainer) -> Iterator[Callable[[Step], None]]:
    """Show a progress bar with losses on stderr, in the first process."""
    if not trainer.world.is_first:
        yield lambda _: None
        return
    import rich.progress
    from rich.table import Column

    from upsnet_ros.training.objective import LOSSES

    fixed = Column(no_wrap=True)
    columns = (
        rich.progress.MofNCompleteColumn(table_column=fixed),
        rich.progress.BarColumn(bar_width=10, table_column=fixed),
        rich.progress.TimeElapsedColumn(table_column=fixed),
        rich.progress.TextColumn("left", table_column=fixed),
        rich.progress.TimeRemainingColumn(table_column=fixed),
        rich.progress.TextColumn("{task.description}", table_column=Column(ratio=1)),
    )
    smooth: dict[str, float] = {}
    with rich.progress.Progress(*columns, console=console(stderr=True), expand=True) as progress:
        schedule = trainer.settings.schedule
        by_time = schedule.seconds is not None
        task = progress.add_task(
            "",
            total=schedule.seconds if by_time else schedule.iterations,
            completed=int(trainer.elapsed) if by_time else trainer.iteration,
        )

        def report(step: Step) -> None:
            for name, value in step.values.items():
                smooth[name] = smooth.get(name, value) * (1 - _SMOOTHING) + value * _SMOOTHING
            parts = " ".join(f"{name} {smooth[name]:.3g}" for name in LOSSES if name in smooth)
            total = f"[bold]loss {smooth['total']:.3f}[/bold]"
            progress.update(
                task,
                completed=step.elapsed if by_time else step.iteration + 1,
                description=f"{total}: {parts} rate {step.rate:.2g}",
            )

        yield report
