"""`upsnet demo`: source, node and recorder as processes of their own, over real DDS."""

from __future__ import annotations

import shutil
import signal
import time
from pathlib import Path
from typing import Annotated, NoReturn

import typer
from rich.console import Console

from upsnet_ros.cli import fail
from upsnet_ros.cli.demo_report import BAG, REPORT, list_files, recorded_classes, write_report
from upsnet_ros.cli.processes import ProcessError, ProcessGroup
from upsnet_ros.cli.progress import frame_progress
from upsnet_ros.datasets.scenes.writer import SceneJob, write_scenes
from upsnet_ros.evaluation.errors import EvaluationError
from upsnet_ros.inference.recording import TABLE, RecordingError, remove_recording
from upsnet_ros.ros.sources import SourceError, open_source
from upsnet_ros.ros.transport import (
    PROFILE_VARIABLES,
    private_environment,
    shared_memory_profile,
)
from upsnet_ros.weights import shipped_weights

_POLL_SECONDS = 0.2
_SPLIT = "test"  # no training sees it
_STREET = 8  # furniture has fallen on the road there


def demo(
    source: Annotated[
        str | None,
        typer.Argument(
            metavar="SOURCE",
            help="Your own frames: a video, a folder of images, a Cityscapes folder. Not given: a"
            " street is drawn.",
        ),
    ] = None,
    out: Annotated[
        Path, typer.Option(metavar="DIR", help="Where to write; an older demo there is replaced.")
    ] = Path("demo_output"),
    frames: Annotated[int, typer.Option(min=1, help="Number of frames.")] = 30,
    variant: Annotated[str, typer.Option(help="Network variant.")] = "cityscapes-r18",
    scale: Annotated[
        int, typer.Option(help="Short side in pixels at which the network runs; 0: the variant's.")
    ] = 384,
    weights: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="Trained weights. Not given: those that ship for the variant, or random ones.",
        ),
    ] = None,
    timeout: Annotated[
        float, typer.Option(help="Seconds to wait for the node to start, and for each frame.")
    ] = 180.0,
) -> None:
    """Play frames to the node over DDS, record its answers, and show what was written."""
    # Ends the other processes on SIGTERM too, on the way out of the `with` below.
    signal.signal(signal.SIGTERM, _exit_on_signal)
    console = Console(stderr=True)
    named, weights = weights, weights or shipped_weights(variant)
    if weights is None:
        console.print(
            f"[yellow]No weights ship for {variant}, so random ones are used: the labels below "
            "show the machinery at work and mean nothing. --weights FILE takes trained ones."
        )
    elif named is None:
        console.print(
            "The weights are those that ship, made on drawn streets like this one. "
            "--weights FILE takes others."
        )
    try:
        truth = _draw_street(out / "scenes", frames) if source is None else None
        source = source or str(truth)
        length = open_source(source).length
        remove_recording(out)  # only now that there is something to put in its place
        (out / REPORT).unlink(missing_ok=True)
        shutil.rmtree(out / BAG, ignore_errors=True)
        count = frames if length is None else min(frames, length)
        _run(
            source=source,
            out=out,
            count=count,
            timeout=timeout,
            node_options=_node_options(variant, scale, weights),
        )
        model = f"{variant}, short side {scale or 'as trained'}"
        if truth is not None and recorded_classes(out) == "cityscapes":
            facts = [("Model", model), ("Weights", str(named or (weights and "shipped")))]
            write_report(out, root=truth, split=_SPLIT, facts=facts)
    except KeyboardInterrupt:
        typer.echo(f"stopped; what was recorded is in {out}", err=True)
        raise typer.Exit(130) from None
    except (SourceError, RecordingError, ProcessError, EvaluationError) as error:
        fail(str(error))
    list_files(out, model=model)
    if weights is None:
        console.print("[yellow]Random weights: these labels mean nothing.")


def _node_options(variant: str, scale: int, weights: Path | None) -> list[str]:
    model = (
        ["--allow-random-weights"] if weights is None else ["--weights", str(weights.absolute())]
    )
    # Smooth outlines, where the network runs at less than the image's size.
    return ["--variant", variant, "--scale", str(scale), "--label-resize", "bilinear", *model]


def _draw_street(folder: Path, count: int) -> Path:
    """Draw ``count`` frames and their ground truth as a Cityscapes root ``folder``; returns it."""
    shutil.rmtree(folder, ignore_errors=True)
    job = SceneJob(
        out=folder, split=_SPLIT, seed=0, first=_STREET, sequences=1, length=count, size=(512, 1024)
    )
    with frame_progress() as progress:
        task = progress.add_task("drawing a street", total=count)
        for _ in write_scenes(job, workers=2):
            progress.advance(task)
    return folder


def _run(*, source: str, out: Path, count: int, timeout: float, node_options: list[str]) -> None:
    """Node, recorder and player until ``count`` frames are recorded.

    Raises:
        ProcessError: If one of them fails.
    """
    profile = str(shared_memory_profile())
    environment = {**private_environment(), **dict.fromkeys(PROFILE_VARIABLES, profile)}
    limits = ["--count", str(count), "--timeout", str(timeout)]
    with ProcessGroup(out / "logs", environment) as group, frame_progress() as progress:
        task = progress.add_task("starting the node", total=count)
        # In lockstep nothing may be lost, so all ask each other for every frame.
        group.start("node", ["node", "--image-reliability", "reliable", *node_options])
        recorder = ["--image-reliability", "reliable", "--codec", "vp09", *limits]
        outputs = ["--out", str(out), "--bag", str(out / BAG)]
        group.start("record", ["record", *outputs, *recorder])
        player = ["--lockstep", "--wait-for-subscribers", "2", *limits]
        group.start("play", ["play", source, *player])
        while group.running("record"):
            group.require("node")
            group.running("play")
            recorded = _recorded(out)
            progress.update(
                task,
                completed=recorded,
                description="finishing the video"
                if recorded == count
                else "segmenting"
                if recorded is not None
                else "starting the node",
            )
            time.sleep(_POLL_SECONDS)
        progress.update(task, completed=_recorded(out))
        group.end("play")
        group.end("node")


def _recorded(out: Path) -> int | None:
    """Number of frames recorded so far; None before the recorder has begun."""
    try:
        return max(0, (out / TABLE).read_text(encoding="utf-8").count("\n") - 1)
    except FileNotFoundError:
        return None


def _exit_on_signal(number: int, _frame: object) -> NoReturn:
    raise SystemExit(128 + number)
