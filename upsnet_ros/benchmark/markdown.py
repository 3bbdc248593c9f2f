"""The table of goals as docs/performance.md shows it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from upsnet_ros.benchmark.summary import short

__all__ = ["to_markdown"]


def to_markdown(report: Mapping[str, Any]) -> str:
    """Write a report of `compare` as Markdown: where it ran, the goals, and what is behind them."""
    settings, machine = report["settings"], report["machine"]
    height, width = settings["network_size"]
    where = machine.get("gpu") or f"{machine['cpu']}, {settings['threads']} threads"
    lines = [
        f"{settings['variant']} at {height}x{width}, {settings['precision']}, on {where};"
        f" weights {settings['weights']}, drawn frames of seed {settings['seed']},"
        f" {settings['iterations']} after {settings['warmup']}; load average"
        f" {machine['load_average'][0]} at the start; torch {machine['versions']['torch']}.",
        "",
        *_table(("", "goal", "here", ""), map(_goal, report["goals"])),
    ]
    details = list(_details(report))
    if details:
        lines += ["", *_table(("beside it", ""), details)]
    return "\n".join(lines) + "\n"


def _goal(outcome: Mapping[str, Any]) -> tuple[str, ...]:
    verdict = f"**{outcome['verdict']}**"
    if outcome["why"]:
        verdict += f": {outcome['why']}"
    return outcome["what"], outcome["goal"], outcome["shown"] or "-", verdict


def _details(report: Mapping[str, Any]) -> Iterable[tuple[str, str]]:
    if (race := report["race"]) is not None:
        for key, name in (("fast", "lone frame"), ("plain", "plain"), ("maskrcnn", "Mask R-CNN")):
            yield f"{name}, ms: p50, p99", _p50_p99(race[f"{key}_ms"])
        yield (
            "instances; boxes of the mask heads; instances of Mask R-CNN",
            f"{race['instances']:g}; {race['boxes']:g}; {race['maskrcnn_instances']:g}",
        )
    if (head := report["head"]) is not None:
        parts = (head[f"{key}_ms"]["p50"] for key in ("accept", "maps", "segments"))
        yield "mask removal, head, segments, ms: p50", ", ".join(map(short, parts))
    if (memory := report["memory"]) is not None:
        sizes = (memory[f"{key}_mib"] for key in ("allocated", "reserved", "driver"))
        yield "memory, MiB: tensors, pools, driver", ", ".join(f"{size:.0f}" for size in sizes)
    if report["graph_ms"] is not None:
        yield "graph, bytes to labels on the GPU, ms: p50, p99", _p50_p99(report["graph_ms"])
    if report["frames"] is not None:
        yield _agreement("frames", report["frames"])
    if report["scenes"] is not None:
        yield _agreement("scenes", report["scenes"]["agreement"])
    for name, shares in report["parity"].items():
        yield f"{name}: same segment, class, label", _shares(shares)
    if report["stages"] is not None:
        for name, stage in report["stages"]["stages_ms"].items():
            if stage is not None:
                yield f"{name}, ms: p50, p99", _p50_p99(stage)
    for kernel, reason in report["kernels_failed"].items():
        yield f"kernel {kernel} failed", reason


def _agreement(name: str, figures: Mapping[str, Any]) -> tuple[str, str]:
    median, least = (_shares(figures[key]) for key in ("median", "minimum"))
    return (
        f"{figures['pictures']} {name}: same segment, class, label",
        f"{median}; least {least}",
    )


def _shares(shares: Mapping[str, float]) -> str:
    return ", ".join(f"{shares[key]:.2f} %" for key in ("segment", "category", "label"))


def _p50_p99(summary: Mapping[str, float]) -> str:
    return f"{short(summary['p50'])}, {short(summary['p99'])}"


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> list[str]:
    lines = [_row(head), _row(["---"] * len(head))]
    # A reason may be an error's text, over several lines.
    lines += [_row([" ".join(cell.replace("|", "\\|").split()) for cell in row]) for row in rows]
    return lines


def _row(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"
