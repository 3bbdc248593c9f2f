"""What `upsnet bench` prints."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from upsnet_ros.benchmark.goals import MET, NOT_MET

__all__ = ["show_goals", "show_stages"]

_Report = Mapping[str, Any]
_STYLES = {MET: "green", NOT_MET: "red"}


def show_stages(report: _Report, console: Console) -> None:
    """Print where a frame's time goes."""
    console.print(_headline(report), markup=False)
    _show_stages(report, console)


def show_goals(report: _Report, console: Console) -> None:
    """Print what became of each goal, and what lies behind it."""
    console.print(_headline(report), markup=False)
    table = Table("goal of", "goal", "here", "verdict", show_lines=True)
    for outcome in report["goals"]:
        style = _STYLES.get(outcome["verdict"], "yellow")
        verdict = f"[{style}]{outcome['verdict']}[/]"
        if outcome["why"]:
            verdict += f": {escape(outcome['why'])}"
        table.add_row(outcome["what"], outcome["goal"], outcome["shown"] or "-", verdict)
    console.print(table)
    if report["race"] is not None:
        _show_race(report["race"], console)
    _show_agreement(report, console)
    if report["memory"] is not None:
        _show_memory(report["memory"], console)
    if report["stages"] is not None:
        console.print("without a graph, stage by stage:")
        _show_stages(report["stages"], console)
    if report["graph_ms"] is not None:
        graph = report["graph_ms"]
        console.print(
            f"the graph, bytes to labels on the GPU: p50 {graph['p50']:.2f} ms,"
            f" p99 {graph['p99']:.2f} ms"
        )
    for kernel, reason in report["kernels_failed"].items():
        console.print(f"kernel {kernel} failed, its twin ran: {reason}", style="red", markup=False)


def _headline(report: _Report) -> str:
    settings, machine = report["settings"], report["machine"]
    height, width = settings["network_size"]
    where = machine.get("gpu") or f"{machine['cpu']}, {settings['threads']} threads"
    return (
        f"UPSNet {settings['variant']}, {height}x{width}, {settings['precision']}, {where};"
        f" {settings['iterations']} frames after {settings['warmup']};"
        f" weights: {settings['weights']}; load average {machine['load_average'][0]} at the start"
    )


def _show_stages(figures: _Report, console: Console) -> None:
    table = Table()
    for heading in ("stage", "p50 ms", "p99 ms", "share"):
        table.add_column(heading, justify="left" if heading == "stage" else "right")
    whole = figures["frame_ms"]
    for name, summary in figures["stages_ms"].items():
        if summary is None:
            table.add_row(name, "n/a", "n/a", "", style="dim")
            continue
        in_frame = name not in ("decode", "publish")
        share = f"{summary['p50'] / whole['p50']:.1%}" if in_frame else ""
        table.add_row(name, *_p50_p99(summary), share)
    table.add_section()
    table.add_row("upload to download", *_p50_p99(whole), "", style="bold")
    console.print(table)
    console.print(
        f"{figures['instances']:g} instances; panoptic head and post-processing:"
        f" {figures['panoptic_share']:.1%} of the frame"
    )
    if figures["stages_ms"]["publish"] is None:
        console.print("n/a: needs ROS 2 and the messages of this package")


def _show_race(race: _Report, console: Console) -> None:
    table = Table()
    for heading in ("a lone frame, in turn", "p50 ms", "p99 ms", "mask head's boxes", "instances"):
        table.add_column(heading, justify="right" if table.columns else "left")
    fast, plain, rival = (_p50_p99(race[f"{key}_ms"]) for key in ("fast", "plain", "maskrcnn"))
    table.add_row("fast path", *fast, "", f"{race['instances']:g}")
    table.add_row("plain, eager, fp32", *plain, f"{race['boxes']:g}", "")
    table.add_row(
        "Mask R-CNN R50-FPN", *rival, f"{race['boxes']:g}", f"{race['maskrcnn_instances']:g}"
    )
    console.print(table)


def _show_agreement(report: _Report, console: Console) -> None:
    table = Table()
    for heading in ("agreement with plain fp32, %", "same segment", "class", "label with number"):
        table.add_column(heading, justify="right" if table.columns else "left")
    named = [("frames of the race", report["frames"])]
    if report["scenes"] is not None:
        named.append(("drawn scenes, shipped weights", report["scenes"]["agreement"]))
    for name, figures in named:
        if figures is not None:
            for kind in ("median", "minimum"):
                table.add_row(f"{figures['pictures']} {name}, {kind}", *_shares(figures[kind]))
    for name, shares in report["parity"].items():
        table.add_row(name, *_shares(shares))
    if table.rows:
        console.print(table)


def _show_memory(memory: _Report, console: Console) -> None:
    sizes = (memory[f"{key}_mib"] for key in ("allocated", "reserved", "driver", "weights"))
    tensors, pools, driver, weights = (f"{size:.0f}" for size in sizes)
    console.print(
        f"GPU memory, MiB: tensors {tensors}, torch's pools {pools}, by the driver {driver}, beyond"
        f" {weights} of weights"
    )


def _shares(shares: _Report) -> tuple[str, ...]:
    return tuple(f"{shares[key]:.2f}" for key in ("segment", "category", "label"))


def _p50_p99(summary: _Report) -> tuple[str, str]:
    return f"{summary['p50']:.1f}", f"{summary['p99']:.1f}"
