"""`upsnet scenes`: draw driving scenes with their ground truth, as Cityscapes lays its data out."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Annotated

import typer
from rich.progress import track

from upsnet_ros.cli import fail
from upsnet_ros.cli.sizes import parse_rows_columns
from upsnet_ros.datasets.scenes.seeds import SPLITS
from upsnet_ros.datasets.scenes.writer import SceneJob, write_scenes


def scenes(
    out: Annotated[Path, typer.Option(help="Folder to write to, a Cityscapes root afterwards.")],
    split: Annotated[
        str, typer.Option(help="train, val or test: their scenes never meet.")
    ] = "val",
    seed: Annotated[int, typer.Option(min=0, help="Which set of streets.")] = 0,
    sequences: Annotated[int, typer.Option(min=1, help="Streets, a sequence each.")] = 1,
    first: Annotated[int, typer.Option(min=0, help="Number of the first street.")] = 0,
    length: Annotated[int, typer.Option(min=1, help="Frames of a sequence, 10 a second.")] = 30,
    size: Annotated[str, typer.Option(help="Rows x columns of a frame.")] = "512x1024",
    every: Annotated[int, typer.Option(min=1, help="Annotate every so many frames.")] = 1,
    workers: Annotated[int, typer.Option(min=1, help="Processes that draw.")] = 2,
) -> None:
    """Draw driving scenes with exact labels, in the layout of Cityscapes."""
    if split not in SPLITS:
        fail(f"unknown split {split!r}: choose one of {', '.join(SPLITS)}")
    job = SceneJob(
        out=out,
        split=split,
        seed=seed,
        sequences=sequences,
        first=first,
        length=length,
        size=parse_rows_columns(size),
        every=every,
    )
    start = time.perf_counter()
    for _ in track(write_scenes(job, workers=min(workers, job.total)), "Drawing", total=job.total):
        pass
    rate = job.total / (time.perf_counter() - start)
    typer.echo(f"{job.total} frames of {job.city} in {out} ({rate:.1f} frames a second)")
