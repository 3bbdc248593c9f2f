"""What a replay came to, for people."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from rich.table import Table

__all__ = ["histogram_table", "summary_lines"]

_BAR = 40


def summary_lines(report: Mapping[str, Any]) -> Iterator[str]:
    """Counts, latency and everything unusual, a line each; see `Replayer.report`."""
    latency = report["latency_ms"]
    yield (
        f"{report['sent']} images sent, {report['answered']} answered, {report['missed']} missed"
        f" ({report['missed_share']:.1%})"
    )
    if latency:
        yield (
            f"image to answer: mean {latency['mean']:.1f} ms, p50 {latency['p50']:.1f},"
            f" p90 {latency['p90']:.1f}, p99 {latency['p99']:.1f}, max {latency['max']:.1f}"
        )
    if report["partly_answered"]:
        yield f"{report['partly_answered']} of the missed images were answered in part"
    if report["repeated_stamps"]:
        yield (
            f"{report['repeated_stamps']} images carry the stamp of one before that was not"
            " answered yet: their answers cannot be told apart"
        )
    if report["late_ms"] > 100:
        yield f"the bag could not be played that fast: up to {report['late_ms']:.0f} ms late"
    for topic, why in report["left_out"].items():
        yield f"{topic} was not played: {why}"
    for loss in report["losses"]:
        yield f"not readable: {loss}"


def histogram_table(histogram: Mapping[str, Sequence[float]]) -> Table:
    """The latencies' histogram as bars; see `upsnet_ros.ros.replay_tally.histogram`."""
    edges, counts = histogram["edges_ms"], histogram["counts"]
    table = Table("ms", "images", "", title="image to answer", box=None, title_justify="left")
    table.columns[0].justify = table.columns[1].justify = "right"
    for low, high, count in zip(edges[:-1], edges[1:], counts, strict=True):
        bar = "█" * round(_BAR * count / max(counts))
        table.add_row(f"{low:g}-{high:g}", str(count), bar or ("▏" if count else ""))
    return table
