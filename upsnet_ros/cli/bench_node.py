"""`upsnet bench --node`: start a node, measure it, and show the figures."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table

from upsnet_ros.benchmark.node_run import NodeBenchSettings, run_node
from upsnet_ros.cli import fail
from upsnet_ros.cli.node_options import ros_arguments
from upsnet_ros.cli.processes import ProcessError, ProcessGroup
from upsnet_ros.inference.device import resolve_device
from upsnet_ros.ros.settings import Value
from upsnet_ros.ros.transport import private_environment, use_shared_memory_profile

__all__ = ["bench_node", "show"]


def bench_node(
    settings: NodeBenchSettings, *, values: Mapping[str, Value], threads: int | None
) -> dict[str, Any]:
    """Start a node in a ROS domain of its own, measure it, and end it.

    Args:
        settings: What to measure.
        values: Of the node's parameters.
        threads: Of the node's torch; None leaves them to it.

    Returns:
        The report of `run_node`, and under ``node`` the node's parameters.
    """
    from upsnet_ros.benchmark.load_node import LoadError

    try:
        device = resolve_device(str(values["device"]))
    except ValueError as error:
        fail(str(error))
    use_shared_memory_profile()
    os.environ.update(private_environment())
    environment = {} if threads is None else {"OMP_NUM_THREADS": str(threads)}
    errors = Console(stderr=True)
    with (
        tempfile.TemporaryDirectory(prefix="upsnet_bench_") as logs,
        ProcessGroup(Path(logs), environment) as group,
        errors.status("starting the node") as status,
    ):
        group.start("node", ["node", *ros_arguments(values)])
        try:
            report = run_node(
                settings,
                pid=group.pid("node"),
                device=device,
                alive=lambda: group.require("node"),
                progress=status.update,
            )
            group.end("node")
        except (LoadError, ProcessError, ValueError) as error:
            fail(str(error))
    return {"node": {**values, "threads": threads}, **report}


def show(report: Mapping[str, Any], console: Console) -> None:
    """The figures as a table."""
    settings, machine = report["settings"], report["machine"]
    console.print(
        f"node, {report['node']['variant']}, frames of {settings['height']}x{settings['width']},"
        f" {machine.get('gpu') or machine['cpu']}, {machine['ros']['middleware']};"
        f" {settings['repeats']} runs of at least {settings['duration']:g} s and"
        f" {settings['least_frames']} frames each: medians, ms"
    )
    headings = ("Hz", "sent", "missed", "mean", "min", "p50", "p99", "max", "jitter", "CPU")
    table = Table(*headings, *(("GPU",) if "gpu" in machine else ()), box=box.SIMPLE)
    for column in table.columns:
        column.justify, column.no_wrap = "right", True
    for row in _rows(report):
        table.add_row(*row)
    console.print(table)
    if report["maximum"] is None:
        console.print("no rate was found at which fewer than 5 % of the frames are missed")
    else:
        console.print(
            f"highest rate with fewer than 5 % missed: {report['maximum']['rate_hz']:.3g} Hz"
            f" (load average {machine['load_average'][0]} at the start)"
        )


def _rows(report: Mapping[str, Any]) -> Iterator[list[str]]:
    yield ["one by one", *_cells(report["one_by_one"], gpu="gpu" in report["machine"])]
    for figures in (report["maximum"], *report["fixed"]):
        if figures is not None:
            name = f"{figures['rate_hz']:.3g}" + (" max" if figures is report["maximum"] else "")
            yield [name, *_cells(figures, gpu="gpu" in report["machine"])]


def _cells(figures: Mapping[str, Any], *, gpu: bool) -> list[str]:
    latency, jitter, use = figures["latency_ms"], figures["jitter_ms"], figures["use"]
    names = ("mean", "min", "p50", "p99", "max")
    cells = [
        f"{figures['sent']:g}",
        f"{figures['missed']:g} ({figures['missed_share']:.0%})",
        *(f"{latency[name]:.1f}" if latency else "-" for name in names),
        f"{jitter['mean']:.1f}" if jitter else "-",
        f"{use['cpu_percent']:.0f} %",
    ]
    if gpu:
        cells.append(f"{use['gpu_percent']['mean']:.0f} %" if "gpu_percent" in use else "-")
    return cells
