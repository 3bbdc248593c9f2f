"""`upsnet scenes`: render synthetic street scenes with labels, in the layout of Cityscapes."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Annotated

import typer

from upsnet_ros.cli.commands import fail
from upsnet_ros.cli.options import SceneOptions, Split, check_split, rare, with_option_groups
from upsnet_ros.cli.terminal import frame_progress


@with_option_groups
def scenes(
    scene: SceneOptions,
    out: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Output folder: a Cityscapes root.")
    ] = None,
    split: Split = "val",
    seed: Annotated[int, typer.Option(metavar="N", min=0, help="Seed of the streets.")] = 0,
    workers: Annotated[
        int, typer.Option(metavar="N", min=1, help="Number of worker processes.")
    ] = 2,
    every: Annotated[int, rare(metavar="N", min=1, help="Annotate every N-th frame.")] = 1,
    depth: Annotated[
        bool, rare("--depth", help="Write depth (float32 TIFF, metres) and the camera too.")
    ] = False,
    cache: Annotated[
        Path | None,
        rare(
            metavar="DIR",
            help="Instead of --out: fill the cache of a training dataset of kind scenes.",
        ),
    ] = None,
    frames: Annotated[
        int, rare(metavar="N", min=1, help="With --cache: length of the dataset.")
    ] = 4000,
) -> None:
    """Render synthetic street scenes with exact labels, in the layout of Cityscapes.

    DIR is new, empty, or contains such scenes: other seeds and streets are added, the same ones
    rendered again.
    """
    check_split(split)
    if (out is None) == (cache is None):
        fail("give either --out, or --cache to fill the cache of a training dataset")
    if depth and cache is not None:
        fail("--depth writes files beside the labels: it needs --out, not --cache")
    size = scene.image_size()
    done: Iterator[int]
    folder: AbstractContextManager[object] = nullcontext()
    if cache is not None:
        from upsnet_ros.synthetic.dataset import SceneDataset, fill_cache

        total, what = frames, f"frames of {split} {seed} in the cache {cache}"
        dataset = SceneDataset(split=split, seed=seed, length=frames, size=size, cache=cache)
        done = fill_cache(dataset, workers=min(workers, len(dataset.streets())))
    elif out is not None:
        from upsnet_ros.synthetic.dataset import SceneJob, output_folder, write_scenes

        job = SceneJob(
            out=out,
            split=split,
            seed=seed,
            sequences=scene.sequences,
            first=scene.first,
            length=scene.length,
            size=size,
            every=every,
            depth=depth,
        )
        folder = output_folder(job)
        total, what = job.total, f"frames of {job.city} in {out}"
        done = (1 for _ in write_scenes(job, workers=min(workers, job.total)))
    start = time.perf_counter()
    with folder, frame_progress() as progress:
        task = progress.add_task("rendering", total=total)
        for count in done:
            progress.advance(task, count)
    rate = total / (time.perf_counter() - start)
    typer.echo(f"{total} {what} ({rate:.1f} frames per second)")
