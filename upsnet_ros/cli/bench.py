"""`upsnet bench`: measure the stages of a frame, the running node, or every performance goal."""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from upsnet_ros.benchmark.settings import (
    PARTS,
    BenchSettings,
    CompareSettings,
    NodeBenchSettings,
    read_goals,
)
from upsnet_ros.cli.commands import errors_as_one_line, fail
from upsnet_ros.cli.node import check_parameters
from upsnet_ros.cli.options import (
    Device,
    JsonFile,
    Overwrite,
    check_as_parameter,
    check_device,
    check_precision,
    command_group,
    parse_height_width,
    rare,
    require_file,
    require_path,
    require_weights,
    with_option_groups,
)
from upsnet_ros.cli.terminal import console, frame_progress, write_report
from upsnet_ros.errors import SettingsError, printable
from upsnet_ros.output_files import check_distinct, check_file, write_file
from upsnet_ros.weights import find_weights, name_of

if TYPE_CHECKING:
    from upsnet_ros.node.parameter_info import Value

bench = command_group(
    "bench", "Measure the stages of a frame, the running node, or every performance goal."
)


@dataclass(frozen=True, slots=True, kw_only=True)
class NetworkOptions:
    """The network and the frames to measure, and the report."""

    variant: Annotated[
        str | None, typer.Option(help="Network. Default: that of the weights, or cityscapes-r50.")
    ] = None
    size: Annotated[
        str,
        typer.Option(metavar="HxW", help="Height x width of frames."),
    ] = "1024x2048"
    device: Device = "auto"
    precision: Annotated[str, typer.Option(help="fp32, fp16, bf16 or auto.")] = "auto"
    threads: Annotated[
        int | None, typer.Option(metavar="N", min=1, help="CPU threads. Default: torch's choice.")
    ] = None
    weights: Annotated[
        str | None, typer.Option(metavar="FILE", help="File or name. Default: random.")
    ] = None
    image: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Image. Default: synthetic scenes.")
    ] = None
    json_file: JsonFile = None
    overwrite: Overwrite = False

    def check(self) -> None:
        """Check what can be checked without importing torch.

        Raises:
            SettingsError: If a value is not possible, or a file is missing.
            DatasetError: If the image cannot be read.
            OutputError: If the report cannot be written.
        """
        check_file(self.json_file, overwrite=self.overwrite)
        require_weights(self.weights, variant=self.variant)
        require_file(self.image)
        check_device(self.device)
        check_as_parameter("variant", self.variant)
        check_as_parameter("precision", self.precision)
        check_precision(self.precision, device=self.device)
        parse_height_width(self.size)
        if self.image is not None:  # last, because it imports OpenCV
            from upsnet_ros.datasets.images import read_image

            read_image(self.image)

    @property
    def weights_file(self) -> str | None:
        """The weights file; None for random weights."""
        return None if self.weights is None else str(find_weights(self.weights))

    @property
    def network(self) -> str:
        """The variant, or ``auto`` for that of a weights file."""
        if self.variant or not self.weights:
            return self.variant or "cityscapes-r50"
        return name_of(self.weights) or "auto"

    def settings(self, *, iterations: int, warmup: int) -> BenchSettings:
        """Return the settings of a benchmark of frames.

        Args:
            iterations: Number of measured frames.
            warmup: Number of frames before them.
        """
        height, width = parse_height_width(self.size)
        return BenchSettings(
            variant=self.network,
            height=height,
            width=width,
            device=self.device,
            precision=self.precision,
            threads=self.threads,
            iterations=iterations,
            warmup=warmup,
            weights=self.weights_file,
            image=None if self.image is None else str(self.image),
        )


Iterations = Annotated[int, typer.Option(metavar="N", min=1, help="Frames to measure.")]
Warmup = Annotated[int, typer.Option(metavar="N", min=1, help="Frames before them.")]


@bench.command("stages")
@with_option_groups
def _stages(network: NetworkOptions, iterations: Iterations = 10, warmup: Warmup = 2) -> None:
    """Measure every stage of a frame: median and 99th percentile."""
    network.check()
    settings = network.settings(iterations=iterations, warmup=warmup)
    from upsnet_ros.benchmark.stages import run

    with frame_progress() as progress:
        task = progress.add_task("frames", total=warmup + iterations)
        report = run(settings, progress=lambda: progress.advance(task))
    show_stages(report, console(soft_wrap=True))
    _write_json(report, network.json_file)


@bench.command("goals")
@with_option_groups
def _goals(
    network: NetworkOptions,
    iterations: Iterations = 10,
    warmup: Warmup = 2,
    only: Annotated[str, typer.Option(metavar="PART,...", help="Parts to measure.")] = ",".join(
        PARTS
    ),
    parity: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help="Parity cases to compare too, such as test/parity."),
    ] = None,
    goals: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Goals, such as benchmarks/goals.json."),
    ] = None,
    markdown: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Write the table as Markdown.")
    ] = None,
    cameras: Annotated[int, rare(metavar="N", help="Cameras that share the network.")] = 4,
    scenes: Annotated[int, rare(metavar="N", help="Synthetic scenes to compare with fp32.")] = 12,
) -> None:
    """Measure every metric of docs/performance.md, and compare it with goals.

    Compares the fast path with fp32 and Mask R-CNN. Files are written after each part.
    """
    network.check()
    check_distinct({"--json": network.json_file, "--markdown": markdown})
    check_file(markdown, overwrite=network.overwrite)
    require_path(parity, "folder")
    require_file(goals)
    settings = network.settings(iterations=iterations, warmup=warmup)
    compared = CompareSettings(
        cameras=cameras,
        scenes=scenes,
        parity=None if parity is None else str(parity),
        parts=tuple(part.strip() for part in only.split(",") if part.strip()),
        goals=() if goals is None else read_goals(goals),
    )
    from upsnet_ros.benchmark.compare import compare
    from upsnet_ros.benchmark.goals import to_markdown

    terminal = console(stderr=True, soft_wrap=True)
    files: list[tuple[Path, Callable[[_Report], str]]] = []
    files += [(network.json_file, _json)] if network.json_file else []
    files += [(markdown, to_markdown)] if markdown else []

    def finished(part: str, seconds: float, report: dict[str, Any]) -> None:
        for path, convert in files:
            write_file(path, convert(report), overwrite=True)  # checked before the work
        failure = report["failed"].get(part)
        outcome = "done" if failure is None else f"failed: {failure}"
        terminal.print(f"{part}: {outcome} after {seconds:.1f} s")

    with terminal.status("") as status:
        report = compare(settings, compared, progress=status.update, finished=finished)
    show_goals(report, console(soft_wrap=True))
    for path, _ in files:
        typer.echo(f"wrote {path}", err=True)
    if report["failed"]:
        fail("; ".join(f"part {part} failed: {why}" for part, why in report["failed"].items()))


@bench.command("node")
@with_option_groups
def _node(
    network: NetworkOptions,
    rates: Annotated[str, typer.Option(metavar="HZ,...", help="Fixed rates.")] = "10,30,60",
    limit: Annotated[float, typer.Option(metavar="HZ", help="Highest rate to try.")] = 200.0,
    duration: Annotated[float, typer.Option(metavar="S", help="Seconds of each run.")] = 5.0,
    repeats: Annotated[int, typer.Option(metavar="N", help="Runs at each reported rate.")] = 3,
    least_frames: Annotated[
        int, rare(metavar="N", help="Minimum number of frames of each run.")
    ] = 20,
    timeout: Annotated[
        float, rare(metavar="S", help="Seconds to wait for the node, and for each result.")
    ] = 120.0,
) -> None:
    """Measure the running node over DDS.

    Finds the highest rate at which fewer than 5 % of the frames are missed, then measures fixed
    rates. Needs ROS 2.
    """
    network.check()
    height, width = parse_height_width(network.size)
    settings = NodeBenchSettings(
        height=height,
        width=width,
        image=None if network.image is None else str(network.image),
        rates=_rates(rates),
        limit=limit,
        duration=duration,
        least_frames=least_frames,
        repeats=repeats,
        timeout=timeout,
    )
    check_parameters({"variant": network.network, "scale": min(height, width)})
    from upsnet_ros.inference.model import resolve_device, resolve_precision

    values: dict[str, Value] = {
        "variant": network.network,
        "device": network.device,
        "precision": resolve_precision(network.precision, resolve_device(network.device)),
        "scale": min(height, width),
        "weights": network.weights_file or "",
        "allow_random_weights": network.weights is None,
    }
    with _measured_node(settings, values=values, threads=network.threads) as report:
        show_node(report, console(soft_wrap=True))
        _write_json(report, network.json_file)


@contextmanager
def _measured_node(
    settings: NodeBenchSettings, *, values: Mapping[str, Value], threads: int | None
) -> Iterator[dict[str, Any]]:
    """Start a node in a ROS domain of its own, measure it, and end it.

    Leaving the context must be the last thing that this process does, as with `RosProcess`.

    Args:
        settings: What to measure.
        values: Parameters of the node.
        threads: CPU threads of the node; None for torch's choice.

    Yields:
        The report of `run_node`, with the node's parameters under ``node``.
    """
    from upsnet_ros.benchmark.node import run_node
    from upsnet_ros.cli.node import ros_arguments
    from upsnet_ros.inference.model import resolve_device
    from upsnet_ros.node.process import RosProcess
    from upsnet_ros.processes.child_processes import ProcessGroup
    from upsnet_ros.processes.transport import private_environment

    device = resolve_device(str(values["device"]))
    os.environ.update(private_environment())
    environment = {} if threads is None else {"OMP_NUM_THREADS": str(threads)}
    with RosProcess([], signals=False) as ros, errors_as_one_line("bench"):
        with (
            tempfile.TemporaryDirectory(prefix="upsnet_bench_") as logs,
            ProcessGroup(Path(logs), environment) as group,
            console(stderr=True).status("starting the node") as status,
        ):
            group.start("node", ["node", *ros_arguments(values)])
            report = run_node(
                settings,
                ros=ros,
                pid=group.pid("node"),
                device=device,
                alive=lambda: group.require("node"),
                progress=status.update,
            )
            group.end("node")
        yield {"node": {**values, "threads": threads}, **report}


_Report = Mapping[str, Any]


def show_stages(report: _Report, console: Console) -> None:
    """Print the time of each stage of a frame."""
    console.print(_headline(report), markup=False)
    _show_times(report, console)
    if report["memory"] is not None:
        _show_memory(report["memory"], console)


def show_goals(report: _Report, console: Console) -> None:
    """Print whether each goal was met, and the measurements behind it."""
    from upsnet_ros.benchmark.goals import MET, NOT_MET, details

    styles = {MET: "green", NOT_MET: "red"}
    console.print(_headline(report), markup=False)
    table = Table("metric", "goal", "here", "verdict", show_lines=True)
    for outcome in report["goals"]:
        style = styles.get(outcome["verdict"], "yellow")
        verdict = Text(outcome["verdict"], style)
        if outcome["why"]:
            verdict.append(f": {printable(outcome['why'])}", style="default")
        table.add_row(outcome["what"], outcome["goal"] or "-", outcome["shown"] or "-", verdict)
    console.print(table)
    further = Table("measured", "", box=None)
    for what, shown in details(report):
        further.add_row(what, shown, style="red" if " failed" in what else None)
    console.print(further)


def _headline(report: _Report) -> str:
    settings, machine = report["settings"], report["machine"]
    height, width = settings["network_size"]
    where = machine.get("gpu") or f"{machine['cpu']}, {settings['threads']} threads"
    return (
        f"UPSNet {settings['variant']}, {height}x{width}, {settings['precision']}, {where};"
        f" {settings['iterations']} frames after {settings['warmup']};"
        f" weights: {settings['weights']}; load average {machine['load_average'][0]} at the start"
    )


def _show_times(report: _Report, console: Console) -> None:
    table = _table("stage", "p50 ms", "p99 ms", "share")
    frame = report["frame_ms"]
    for name, summary in report["stages_ms"].items():
        if summary is None:
            table.add_row(name, "n/a", "n/a", "", style="dim")
            continue
        in_frame = name not in ("decode", "publish")
        share = f"{summary['p50'] / frame['p50']:.1%}" if in_frame else ""
        table.add_row(name, *_p50_p99(summary), share)
    table.add_section()
    table.add_row("upload to download", *_p50_p99(frame), "", style="bold")
    console.print(table)
    if graph := report["graph_ms"]:
        console.print(
            f"the graph, bytes to labels on the GPU: p50 {graph['p50']:.2f} ms,"
            f" p99 {graph['p99']:.2f} ms; stages are timed with events in a second graph"
        )
    console.print(
        f"{report['instances']:g} instances; panoptic head and post-processing"
        f" (panoptic + download): {report['panoptic_share']:.1%} of the frame"
    )
    if report["stages_ms"]["publish"] is None:
        console.print("n/a: needs ROS 2 and the messages of this package")


def _show_memory(memory: _Report, console: Console) -> None:
    kinds = ("weights", "tensors_peak", "reserved_peak", "reserved", "driver")
    mib = {key: f"{memory[f'{key}_mib']:.0f} MiB" for key in kinds}
    console.print(
        f"GPU memory in addition to {mib['weights']} of weights:"
        f" peak {mib['tensors_peak']} of tensors,"
        f" {mib['reserved_peak']} of torch's pools; after warm-up {mib['reserved']} of pools,"
        f" {mib['driver']} by the driver"
    )


def _table(names: str, *numbers: str) -> Table:
    """Return a table of a column of names and columns of numbers, which are aligned right."""
    table = Table(names)
    for heading in numbers:
        table.add_column(heading, justify="right")
    return table


def _p50_p99(summary: _Report) -> tuple[str, str]:
    return f"{summary['p50']:.1f}", f"{summary['p99']:.1f}"


def show_node(report: Mapping[str, Any], out: Console) -> None:
    """Print the metrics of `upsnet bench node` as tables."""
    settings, machine = report["settings"], report["machine"]
    out.print(
        f"node, {report['node']['variant']}, frames of {settings['height']}x{settings['width']},"
        f" {machine.get('gpu') or machine['cpu']}, {machine['ros']['middleware']};"
        f" {settings['repeats']} runs of at least {settings['duration']:g} s and"
        f" {settings['least_frames']} frames each: medians, ms"
    )
    headings = ("Hz", "sent", "missed", "mean", "min", "p50", "p99", "max", "jitter", "CPU")
    table = Table(*headings, *(("GPU",) if "gpu" in machine else ()), box=None)
    table.padding, table.pad_edge = (0, 1, 0, 0), False  # fits into 80 columns
    for column in table.columns:
        column.justify, column.no_wrap = "right", True
    for row in _node_rows(report):
        table.add_row(*row[: len(table.columns)])
    out.print(table)
    maximum = report["maximum"]
    out.print(
        f"highest rate with fewer than 5 % missed: {maximum['rate_hz']:.3g} Hz"
        f" (load average {machine['load_average'][0]} at the start)"
        if maximum
        else "no rate was found at which fewer than 5 % of the frames are missed"
    )


def _node_rows(report: Mapping[str, Any]) -> Iterator[list[str]]:
    maximum = report["maximum"]
    named = [("one by one", report["one_by_one"])]
    named += [(f"{maximum['rate_hz']:.3g} max", maximum)] if maximum else []
    named += [(f"{metrics['rate_hz']:.3g}", metrics) for metrics in report["fixed"]]
    for name, metrics in named:
        latency, jitter, use = (metrics[key] for key in ("latency_ms", "jitter_ms", "use"))
        yield [
            name,
            f"{metrics['sent']:g}",
            f"{metrics['missed']:g} ({metrics['missed_share']:.0%})",
            *(
                f"{latency[k]:.1f}" if latency else "-"
                for k in ("mean", "min", "p50", "p99", "max")
            ),
            f"{jitter['mean']:.1f}" if jitter else "-",
            f"{use['cpu_percent']:.0f} %",
            f"{use['gpu_percent']['mean']:.0f} %" if "gpu_percent" in use else "-",
        ]


def _rates(text: str) -> tuple[float, ...]:
    try:
        return tuple(float(part) for part in text.split(",") if part)
    except ValueError:
        message = f"--rates {text!r} is not a list of numbers, such as 10,30,60"
        raise SettingsError(message) from None


def _write_json(report: Mapping[str, Any], path: Path | None) -> None:
    if path is not None:
        write_report(path, _json(report), overwrite=True)  # checked before the work


def _json(report: Mapping[str, Any]) -> str:
    return json.dumps(report, indent=2) + "\n"
