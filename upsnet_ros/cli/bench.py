"""`upsnet bench`: where a frame's time goes, what became of goals, and the running node."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.progress import MofNCompleteColumn, Progress, TimeElapsedColumn

from upsnet_ros.benchmark.compare import compare as compare_all
from upsnet_ros.benchmark.markdown import to_markdown
from upsnet_ros.benchmark.run import run
from upsnet_ros.benchmark.settings import (
    PARTS,
    BenchSettings,
    CompareSettings,
)
from upsnet_ros.cli import fail
from upsnet_ros.cli.bench_tables import show_goals, show_stages
from upsnet_ros.cli.evaluate_output import write
from upsnet_ros.inference.device import resolve_device
from upsnet_ros.inference.precision import resolve_precision

_COMPARE, _NODE = "The goals, side by side", "The running node"


def bench(
    variant: Annotated[str, typer.Option(help="Network to time.")] = "cityscapes-r50",
    size: Annotated[
        str,
        typer.Option(
            metavar="HxW",
            help="Height and width of the frames, as in 512x1024; the network runs at this size"
            " unless it is longer than the variant allows.",
        ),
    ] = "1024x2048",
    device: Annotated[str, typer.Option(help="auto, cpu, cuda or cuda:N.")] = "auto",
    precision: Annotated[
        str,
        typer.Option(
            help="fp32, bf16, or on CUDA fp16. auto: fp16 on CUDA, bf16 on CPUs that multiply it,"
            " else fp32."
        ),
    ] = "auto",
    threads: Annotated[
        int | None, typer.Option(min=1, help="Threads on the CPU. Not given: torch's choice.")
    ] = None,
    iterations: Annotated[int, typer.Option(min=1, help="Frames to time.")] = 10,
    warmup: Annotated[int, typer.Option(min=1, help="Frames before those.")] = 2,
    weights: Annotated[
        Path | None, typer.Option(help="File of weights. Not given: drawn at random.")
    ] = None,
    image: Annotated[
        Path | None, typer.Option(help="Picture to segment. Not given: drawn driving scenes.")
    ] = None,
    compare: Annotated[
        bool,
        typer.Option(
            "--compare",
            help="Measure every goal of docs/performance.md in one run: in turn with each frame the"
            " plain fp32 path and torchvision's Mask R-CNN; cameras in batches; agreement; memory.",
            rich_help_panel=_COMPARE,
        ),
    ] = False,
    cameras: Annotated[
        int, typer.Option(help="Cameras that share the network.", rich_help_panel=_COMPARE)
    ] = 4,
    scenes: Annotated[
        int,
        typer.Option(
            help="Drawn scenes on which answers are compared with plain fp32.",
            rich_help_panel=_COMPARE,
        ),
    ] = 12,
    parity: Annotated[
        Path | None,
        typer.Option(
            help="Folder of parity cases to compare on too, such as test/parity.",
            rich_help_panel=_COMPARE,
        ),
    ] = None,
    only: Annotated[
        str,
        typer.Option(metavar="PART,...", help="What to measure of it.", rich_help_panel=_COMPARE),
    ] = ",".join(PARTS),
    markdown: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE", help="Write the table for documents.", rich_help_panel=_COMPARE
        ),
    ] = None,
    json_file: Annotated[
        Path | None, typer.Option("--json", metavar="FILE", help="Write the report for machines.")
    ] = None,
    node: Annotated[
        bool,
        typer.Option(
            "--node",
            help="Measure the running node over DDS instead: the highest rate of frames with fewer"
            " than 5 % missed, then fixed rates.",
            rich_help_panel=_NODE,
        ),
    ] = False,
    rates: Annotated[
        str, typer.Option(metavar="HZ,...", help="The fixed rates.", rich_help_panel=_NODE)
    ] = "10,30,60",
    limit: Annotated[
        float, typer.Option(help="No rate above is searched, Hz.", rich_help_panel=_NODE)
    ] = 200.0,
    duration: Annotated[
        float, typer.Option(help="Seconds of every run.", rich_help_panel=_NODE)
    ] = 5.0,
    least_frames: Annotated[
        int,
        typer.Option(
            help="Frames of every run; makes it longer where rates are low.", rich_help_panel=_NODE
        ),
    ] = 20,
    repeats: Annotated[
        int, typer.Option(help="Runs of every rate that is reported.", rich_help_panel=_NODE)
    ] = 3,
    timeout: Annotated[
        float,
        typer.Option(
            help="Seconds to wait for the node, and for a frame's answer.", rich_help_panel=_NODE
        ),
    ] = 120.0,
) -> None:
    """Time every stage of a frame, with the median and the 99th percentile."""
    shape = re.fullmatch(r"(\d+)x(\d+)", size)
    if shape is None:
        fail(f"--size {size!r} is not HEIGHTxWIDTH, as in 512x1024")
    height, width = int(shape[1]), int(shape[2])
    console = Console(soft_wrap=True, highlight=False)
    if node:
        from upsnet_ros.benchmark.node_run import NodeBenchSettings
        from upsnet_ros.cli.bench_node import bench_node, show

        try:
            node_settings = NodeBenchSettings(
                height=height,
                width=width,
                image=None if image is None else str(image),
                rates=_rates(rates),
                limit=limit,
                duration=duration,
                least_frames=least_frames,
                repeats=repeats,
                timeout=timeout,
            )
            precision = resolve_precision(precision, resolve_device(device))
        except ValueError as error:
            fail(str(error))
        values: dict[str, Any] = {
            "variant": variant,
            "device": device,
            "precision": precision,
            "scale": min(height, width),
            "weights": "" if weights is None else str(weights),
            "allow_random_weights": weights is None,
        }
        report = bench_node(node_settings, values=values, threads=threads)
        show(report, console)
        _write_json(report, json_file)
        return
    settings = BenchSettings(
        variant=variant,
        height=height,
        width=width,
        device=device,
        precision=precision,
        threads=threads,
        iterations=iterations,
        warmup=warmup,
        weights=None if weights is None else str(weights),
        image=None if image is None else str(image),
    )
    if not compare:
        report = _bench(settings)
        show_stages(report, console)
        _write_json(report, json_file)
        return
    try:
        goals = CompareSettings(
            cameras=cameras,
            scenes=scenes,
            parity=None if parity is None else str(parity),
            parts=tuple(part.strip() for part in only.split(",") if part.strip()),
        )
    except ValueError as error:
        fail(str(error))
    report = _compare(settings, goals)
    show_goals(report, console)
    _write_json(report, json_file)
    if markdown is not None:
        write(markdown, to_markdown(report))


def _compare(settings: BenchSettings, goals: CompareSettings) -> dict[str, Any]:
    with Console(stderr=True).status("") as status:
        try:
            return compare_all(settings, goals, progress=status.update)
        except ValueError as error:
            fail(str(error))


def _bench(settings: BenchSettings) -> dict[str, Any]:
    columns = (*Progress.get_default_columns()[:2], MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as progress:
        task = progress.add_task("frames", total=settings.warmup + settings.iterations)
        try:
            return run(settings, progress=lambda: progress.advance(task))
        except ValueError as error:
            fail(str(error))


def _rates(text: str) -> tuple[float, ...]:
    try:
        return tuple(float(part) for part in text.split(",") if part)
    except ValueError:
        raise ValueError(f"--rates {text!r} is no list of numbers, as in 10,30,60") from None


def _write_json(report: Mapping[str, Any], path: Path | None) -> None:
    if path is not None:
        write(path, json.dumps(report, indent=2) + "\n")
