"""The figures of an evaluation as tables on a terminal."""

from __future__ import annotations

import math
from collections.abc import Mapping

from rich.table import Table

from upsnet_ros.evaluation.evaluation import EvaluationResult
from upsnet_ros.evaluation.figures import headline, to_json


def class_table(result: EvaluationResult) -> Table:
    """PQ, SQ, RQ and counts by class and for all, things and stuff, in percent."""
    table = Table("class", title="panoptic quality, %", title_justify="left")
    for column in ("PQ", "SQ", "RQ", "TP", "FP", "FN", "IoU"):
        table.add_column(column, justify="right")
    counts = result.counts
    for place, info in enumerate(result.categories.classes):
        found = (counts.tp[place], counts.fp[place], counts.fn[place])
        if not any(found) and math.isnan(result.class_ious[place]):
            continue
        table.add_row(
            info.name + (" *" if info.is_thing else ""),
            *(percent(value) for value in result.quality.classes[place].tolist()),
            *(str(number) for number in found),
            percent(float(result.class_ious[place])),
        )
    table.add_section()
    quality = result.quality
    for name, values in (
        ("all", quality.all), ("things *", quality.things), ("stuff", quality.stuff),
    ):  # fmt: skip
        mean = percent(result.mean_iou) if name == "all" else ""
        table.add_row(name, *(percent(value) for value in values.tolist()), "", "", "", mean)
    return table


def headline_lines(result: EvaluationResult) -> list[str]:
    """One line a figure, with its interval where there is one."""
    figures = headline(result)
    lines = [
        f"{name.replace('_', ' '):18} {percent(value):>6}{_interval(result.intervals, name)}"
        for name, value in figures.items()
        if not name.startswith(("SQ_", "RQ_"))
    ]
    if result.tracks is not None:
        lines.append(f"{'id switches':18} {result.tracks.switches.sum():6}")
    return lines


def unknown_table(result: EvaluationResult) -> Table | None:
    """How well each score ranks unknown pixels above known ones, in percent; None without any."""
    scores = (to_json(result).get("unknown") or {}).get("scores")
    if not scores:
        return None
    table = Table("score of unknown", title="unknown objects, %", title_justify="left")
    for column in ("AP", "FPR at 95 recall", "recall at 2 lost", "by threshold"):
        table.add_column(column, justify="right")
    for name, figures in scores.items():
        values = [math.nan if value is None else value for value in figures.values()]
        table.add_row(name.replace("_", " "), *map(percent, values))
    return table


def percent(value: float) -> str:
    """One decimal; a dash for what is not defined."""
    return "-" if math.isnan(value) else f"{100 * value:.1f}"


def _interval(intervals: Mapping[str, tuple[float, float]], name: str) -> str:
    if name not in intervals:
        return ""
    low, high = intervals[name]
    return f"  ({percent(low)} to {percent(high)})"
