"""`upsnet bench`: where a frame's time goes, alone, beside Mask R-CNN, and in the running node."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.progress import MofNCompleteColumn, Progress, TimeElapsedColumn
from rich.table import Table

from upsnet_ros.benchmark.run import BenchSettings, run
from upsnet_ros.cli import fail

_NODE = "The running node"


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
    precision: Annotated[str, typer.Option(help="fp32, or on CUDA fp16 or bf16.")] = "fp32",
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
            "--compare", help="Time torchvision's Mask R-CNN too, in turn with each frame."
        ),
    ] = False,
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
        show(report, Console(soft_wrap=True, highlight=False))
        _write(report, json_file)
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
        compare=compare,
    )
    errors = Console(stderr=True)
    columns = (*Progress.get_default_columns()[:2], MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=errors, transient=True) as progress:
        task = progress.add_task("frames", total=warmup + iterations)
        try:
            report = run(settings, progress=lambda: progress.advance(task))
        except ValueError as error:
            fail(str(error))
    _print(report, Console(soft_wrap=True))
    _write(report, json_file)


def _rates(text: str) -> tuple[float, ...]:
    try:
        return tuple(float(part) for part in text.split(",") if part)
    except ValueError:
        raise ValueError(f"--rates {text!r} is no list of numbers, as in 10,30,60") from None


def _write(report: dict[str, Any], path: Path | None) -> None:
    if path is not None:
        path.write_text(json.dumps(report, indent=2) + "\n")
        Console(stderr=True).print(f"wrote {path}")


def _print(report: dict[str, Any], console: Console) -> None:
    settings, machine = report["settings"], report["machine"]
    height, width = settings["network_size"]
    where = machine.get("gpu") or f"{machine['cpu']}, {settings['threads']} threads"
    console.print(
        f"UPSNet {settings['variant']}, {height}x{width}, {settings['precision']}, {where};"
        f" {settings['iterations']} frames after {settings['warmup']};"
        f" weights: {settings['weights']}"
    )
    table = Table()
    for heading in ("stage", "p50 ms", "p99 ms", "share"):
        table.add_column(heading, justify="left" if heading == "stage" else "right")
    whole = report["frame_ms"]
    for name, summary in report["stages_ms"].items():
        if summary is None:
            table.add_row(name, "n/a", "n/a", "", style="dim")
            continue
        in_frame = name not in ("decode", "publish")
        share = f"{summary['p50'] / whole['p50']:.1%}" if in_frame else ""
        table.add_row(name, _ms(summary["p50"]), _ms(summary["p99"]), share)
    table.add_section()
    table.add_row("upload to download", _ms(whole["p50"]), _ms(whole["p99"]), "", style="bold")
    if "maskrcnn_ms" in report:
        rival = report["maskrcnn_ms"]
        table.add_row("Mask R-CNN R50-FPN", _ms(rival["p50"]), _ms(rival["p99"]), "")
    console.print(table)
    console.print(
        f"{report['instances']:g} instances of {report['segmented_boxes']:g} segmented boxes;"
        f" load average {machine['load_average'][0]} at the start"
    )
    console.print(f"panoptic head and post-processing: {report['panoptic_share']:.1%} of the frame")
    if "ratio_to_maskrcnn" in report:
        spread = report["ratio_to_maskrcnn_spread"]
        console.print(
            f"UPSNet takes {spread['median']:.2f} times Mask R-CNN's time (median of"
            f" {spread['pairs']} pairs, p10 {spread['p10']:.2f}, p90 {spread['p90']:.2f};"
            f" {report['maskrcnn_instances']:g} instances there)"
        )
    if report["stages_ms"]["publish"] is None:
        console.print("n/a: needs ROS 2 and the messages of this package")


def _ms(value: float) -> str:
    return f"{value:.1f}"
