"""Shows an evaluation: as JSON, as tables for the terminal, and as a self-contained HTML page."""

from __future__ import annotations

import base64
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np
import numpy.typing as npt

from upsnet_ros.evaluation.metrics import EvaluationResult, FrameMeasures
from upsnet_ros.evaluation.panoptic_quality import PanopticQuality, class_ious, mean_iou
from upsnet_ros.evaluation.points import PointCounts
from upsnet_ros.evaluation.run import Series, Snapshot
from upsnet_ros.evaluation.unknown import (
    LOST_LIMIT,
    UnknownCounts,
    average_precision,
    best_within,
    false_positive_rate,
)

if TYPE_CHECKING:
    from rich.table import Table


def headline(result: EvaluationResult) -> dict[str, float]:
    """Return PQ, SQ, RQ and related metrics as fractions; only those measured and defined."""
    figures = {**_panoptic(result.quality), "mIoU": result.mean_iou}
    if result.boundary is not None:
        figures["boundary_PQ"] = float(result.boundary.all[0])
    if result.video is not None:
        windows = {f"VPQ_{k}": float(quality.all[0]) for k, quality in result.video.items()}
        figures |= windows | {"VPQ": sum(windows.values()) / len(windows)}
    if result.tracks is not None:
        figures |= dict(zip(("MOTSA", "sMOTSA"), result.tracks.all.tolist(), strict=True))
    if result.instances is not None:
        figures |= {"AP": result.instances.ap, "AP50": result.instances.ap50}
    if result.unknown is not None:
        figures["unknown_recall"] = result.unknown.recall
        figures["known_pixels_lost"] = result.unknown.known_pixels_lost
    if result.points is not None:
        figures["points_mIoU"] = result.points.mean_iou
        figures["points_unknown_recall"] = result.points.unknown_recall
        figures["points_coverage"] = result.points.coverage
    return {name: value for name, value in figures.items() if not math.isnan(value)}


def to_json(result: EvaluationResult) -> dict[str, Any]:
    """Return all metrics as JSON-compatible values; None for undefined metrics."""
    report: dict[str, Any] = {
        **_panoptic(result.quality),
        "mIoU": result.mean_iou,
        "frames_evaluated": len(result.frames),
        "sequences": len({frame.sequence for frame in result.frames}),
        "intervals": {name: list(ends) for name, ends in result.intervals.items()},
        "classes": _classes(result),
        "frames": [_frame(frame, result) for frame in result.frames],
    }
    if result.boundary is not None:
        report["boundary"] = _panoptic(result.boundary)
    if result.video is not None:
        windows = {str(k): _panoptic(quality) for k, quality in result.video.items()}
        report["video"] = {
            "windows": windows,
            "VPQ": sum(window["PQ"] for window in windows.values()) / len(windows),
        }
    if result.tracks is not None:
        motsa, smotsa = result.tracks.all.tolist()
        switches = int(result.tracks.switches.sum())
        report["tracks"] = {"id_switches": switches, "MOTSA": motsa, "sMOTSA": smotsa}
    if result.instances is not None:
        report["AP"], report["AP50"] = result.instances.ap, result.instances.ap50
    if result.unknown is not None:
        report["unknown"] = _unknown(result.unknown)
    if result.points is not None:
        report["points"] = _points(result.points, result)
    return _without_nan(report)


def _panoptic(quality: PanopticQuality) -> dict[str, float]:
    """Return means over all classes, over things and over stuff."""
    parts = (("", quality.all), ("_things", quality.things), ("_stuff", quality.stuff))
    return {
        f"{name}{part}": float(value)
        for part, values in parts
        for name, value in zip(("PQ", "SQ", "RQ"), values, strict=True)
    }


def _classes(result: EvaluationResult) -> list[dict[str, Any]]:
    counts = result.counts
    rows = []
    for place, info in enumerate(result.categories.classes):
        pq, sq, rq = result.quality.classes[place].tolist()
        row = {
            "id": info.id,
            "name": info.name,
            "is_thing": info.is_thing,
            "PQ": pq,
            "SQ": sq,
            "RQ": rq,
            "tp": int(counts.tp[place]),
            "fp": int(counts.fp[place]),
            "fn": int(counts.fn[place]),
            "IoU": float(result.class_ious[place]),
        }
        if result.boundary is not None:
            row["boundary_PQ"] = float(result.boundary.classes[place, 0])
        if result.tracks is not None and info.is_thing:
            row["id_switches"] = int(result.tracks.switches[place])
            row["MOTSA"], row["sMOTSA"] = result.tracks.classes[place].tolist()
        if result.instances is not None and info.is_thing:
            row["AP"] = result.instances.classes[info.id]
        rows.append(row)
    return rows


def _frame(frame: FrameMeasures, result: EvaluationResult) -> dict[str, Any]:
    counts = frame.panoptic
    row: dict[str, Any] = {
        "name": frame.name,
        "sequence": frame.sequence,
        "number": frame.number,
        "PQ": float(counts.quality(result.categories).all[0]),
        "mIoU": float(mean_iou(class_ious(frame.pixels))),
        "tp": int(counts.tp.sum()),
        "fp": int(counts.fp.sum()),
        "fn": int(counts.fn.sum()),
    }
    if frame.unknown is not None:
        row["unknown_recall"] = frame.unknown.recall
        row["known_pixels_lost"] = frame.unknown.known_pixels_lost
    return row


def _unknown(counts: UnknownCounts) -> dict[str, Any]:
    return {
        "recall": counts.recall,
        "known_pixels_lost": counts.known_pixels_lost,
        "precision": counts.precision,
        "region_recall": counts.region_recall,
        "regions": counts.regions,
        "unknown_pixels": counts.unknown,
        "scores": {name: _score(table) for name, table in counts.scores.items()},
    }


def _points(counts: PointCounts, result: EvaluationResult) -> dict[str, Any]:
    ious = class_ious(counts.classes).tolist()
    names = [info.name for info in result.categories.classes]
    return {
        "mIoU": counts.mean_iou,
        "unknown_recall": counts.unknown_recall,
        "coverage": counts.coverage,
        "points": counts.points,
        "IoU": dict(zip(names, ious, strict=True)),
        "distances": counts.by_distance(),
    }


def _score(table: npt.NDArray[np.int64]) -> dict[str, float]:
    recall, threshold = best_within(table)
    return {
        "AP": average_precision(table),
        "FPR_at_95_recall": false_positive_rate(table),
        f"recall_at_{100 * LOST_LIMIT:.0f}_percent_lost": recall,
        "threshold": threshold,
    }


def _without_nan(value: Any) -> Any:
    """Return the value with nan, which JSON cannot represent, replaced by None recursively."""
    if isinstance(value, dict):
        return {key: _without_nan(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_without_nan(item) for item in value]
    return None if isinstance(value, float) and math.isnan(value) else value


def class_table(result: EvaluationResult) -> Table:
    """Return a table of PQ, SQ, RQ in percent and counts, by class and for groups of classes."""
    from rich.table import Table

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
    """Return one line for each headline metric, with its interval if it has one.

    Those of segments come first, then those of unknown pixels, then those of points.
    """
    segments: dict[str, str] = {}
    unknown: dict[str, str] = {}
    points: dict[str, str] = {}
    for name, value in headline(result).items():
        if name.startswith(("SQ_", "RQ_")):
            continue
        of_unknown = name in ("unknown_recall", "known_pixels_lost")
        group = points if name.startswith("points_") else unknown if of_unknown else segments
        text = f"{percent(value):>6}{_interval(result.intervals, name)}"
        group[name.replace("_", " ")] = text
    if result.tracks is not None:
        segments["id switches"] = f"{result.tracks.switches.sum():6}"
    if result.unknown is not None:
        unknown["region recall"] = f"{percent(result.unknown.region_recall):>6}"
    rows = segments | unknown | points
    width = max(18, *map(len, rows)) if rows else 18
    return [f"{name:{width}} {text}" for name, text in rows.items()]


def unknown_table(result: EvaluationResult) -> Table | None:
    """Return a table of how well scores separate unknown from known pixels; None without scores."""
    scores = (to_json(result).get("unknown") or {}).get("scores")
    if not scores:
        return None
    from rich.table import Table

    table = Table("score of unknown", title="unknown objects, %", title_justify="left")
    for column in ("AP", "FPR at 95 recall", "recall at 2 lost", "its threshold"):
        table.add_column(column, justify="right")
    for name, figures in scores.items():
        *shares, threshold = (math.nan if value is None else value for value in figures.values())
        # In the unit of the parameter unknown_threshold.
        last = "-" if math.isnan(threshold) else f"{threshold:.3f}"
        table.add_row(name.replace("_", " "), *map(percent, shares), last)
    return table


def points_table(result: EvaluationResult) -> Table | None:
    """Return a table of unknown objects' points by distance; None without labelled points."""
    if result.points is None:
        return None
    from rich.table import Table

    table = Table("distance", title="labelled points", title_justify="left")
    for column in ("unknown points", "recall, %", "known points", "lost, %"):
        table.add_column(column, justify="right")
    for row in result.points.by_distance():
        end = "" if row["to"] is None else f"{row['to']:.0f}"
        table.add_row(
            f"{row['from']:.0f} to {end} m" if end else f"above {row['from']:.0f} m",
            str(row["unknown_points"]),
            percent(row["unknown_recall"]),
            str(row["known_points"]),
            percent(row["known_points_lost"]),
        )
    return table


def percent(value: float) -> str:
    """Return a fraction as percent with one decimal; a dash for nan."""
    return "-" if math.isnan(value) else f"{100 * value:.1f}"


def _interval(intervals: Mapping[str, tuple[float, float]], name: str) -> str:
    if name not in intervals:
        return ""
    low, high = intervals[name]
    return f"  ({percent(low)} to {percent(high)})"


FloatArray = npt.NDArray[np.float64]
Color = tuple[int, int, int]

# Linear RGB as seen without one kind of cone: Machado, Oliveira and Fernandes, 2009, severity 1.
_VISIONS = {
    "full": np.eye(3),
    "protanopia": np.array(
        [
            [0.152286, 1.052583, -0.204868],
            [0.114503, 0.786281, 0.099216],
            [-0.003882, -0.048116, 1.051998],
        ]
    ),
    "deuteranopia": np.array(
        [
            [0.367322, 0.860646, -0.227968],
            [0.280085, 0.672501, 0.047413],
            [-0.011820, 0.042940, 0.968881],
        ]
    ),
    "tritanopia": np.array(
        [
            [1.255528, -0.076749, -0.178779],
            [-0.078411, 0.930809, 0.147602],
            [0.004733, 0.691367, 0.303900],
        ]
    ),
}
_STEPS = 12
#: Void is black and text on the page is dark or white: colours keep away from both.
_LIGHTNESS = (25.0, 93.0)


@cache
def safe_colors(count: int) -> tuple[Color, ...]:
    """Choose RGB colours, each as far as can be from those before it in the worst of all visions.

    The first ones are the best apart, so that few classes are told easily and many as well as
    possible.
    """
    levels = np.linspace(0, 255, _STEPS).round()
    grid = np.stack(np.meshgrid(levels, levels, levels), axis=-1).reshape(-1, 3)
    seen = _seen(grid)
    lightness = seen[0, :, 0]
    usable = (lightness >= _LIGHTNESS[0]) & (lightness <= _LIGHTNESS[1])
    grid, seen = grid[usable], seen[:, usable]
    chosen = [int(np.argmax(seen[0, :, 0]))]  # the lightest of them
    nearest = _distance(seen, chosen[0])
    while len(chosen) < count:
        chosen.append(int(np.argmax(nearest)))
        nearest = np.minimum(nearest, _distance(seen, chosen[-1]))
    return tuple((int(r), int(g), int(b)) for r, g, b in grid[chosen[:count]])


def _distance(seen: FloatArray, place: int) -> FloatArray:
    """Distance of each colour from one of them, in the vision where it is smallest: (N,)."""
    return np.linalg.norm(seen - seen[:, place : place + 1], axis=-1).min(axis=0)


def _seen(colors: FloatArray) -> FloatArray:
    """CIELAB of RGB colours (N, 3) in each vision: (V, N, 3)."""
    srgb = colors / 255
    linear = np.where(srgb <= 0.04045, srgb / 12.92, ((srgb + 0.055) / 1.055) ** 2.4)
    views = np.stack([np.clip(linear @ matrix.T, 0, 1) for matrix in _VISIONS.values()])
    lab = cv2.cvtColor(views.astype(np.float32), cv2.COLOR_LRGB2Lab)
    return np.asarray(lab, np.float64)


_LABELS = {
    "PQ": "Panoptic quality",
    "SQ": "Segmentation quality",
    "RQ": "Recognition quality",
    "PQ_things": "PQ of things",
    "PQ_stuff": "PQ of stuff",
    "mIoU": "Mean IoU",
    "boundary_PQ": "Boundary PQ",
    "VPQ": "Video PQ",
    "MOTSA": "MOTSA of things",
    "sMOTSA": "sMOTSA of things",
    "AP": "AP of things",
    "AP50": "AP at IoU 0.5",
    "unknown_recall": "Unknown pixels found",
    "known_pixels_lost": "Known pixels lost",
    "points_mIoU": "Mean IoU of points",
    "points_unknown_recall": "Unknown points found",
    "points_coverage": "Points with a label",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Page:
    """What a report shows.

    Attributes:
        title: Its heading.
        result: The figures.
        snapshots: The frames that can be looked at.
        facts: What was compared and how, as pairs of name and text.
        notes: What the reader has to know, such as frames left out.
        series: Plots along the run.
    """

    title: str
    result: EvaluationResult
    snapshots: Sequence[Snapshot]
    facts: Sequence[tuple[str, str]] = ()
    notes: Sequence[str] = ()
    series: Sequence[Series] = ()

    def html(self) -> str:
        """The page, which opens without network and without other files."""
        # Only here: who wants no report need not have it, nor wait for it.
        from jinja2 import Environment, PackageLoader, StrictUndefined

        environment = Environment(
            loader=PackageLoader("upsnet_ros.evaluation", "."),
            autoescape=True,
            undefined=StrictUndefined,
            trim_blocks=True,
            lstrip_blocks=True,
        )
        template = environment.get_template("report.html")
        return template.render(
            title=self.title,
            tiles=self._tiles(),
            facts=[*self.facts, *self._switches()],
            notes=self.notes,
            data=self._data(),
            figures=to_json(self.result),
        )

    def _tiles(self) -> list[dict[str, Any]]:
        """The headline figures."""
        intervals = self.result.intervals
        return [
            {
                "name": name,
                "label": _LABELS[name],
                "value": f"{100 * value:.1f}",
                "interval": [f"{100 * end:.1f}" for end in intervals.get(name, ())],
            }
            for name, value in headline(self.result).items()
            if name in _LABELS
        ]

    def _switches(self) -> list[tuple[str, str]]:
        """How often things changed their ids: a number, unlike the figures, which are shares."""
        tracks = self.result.tracks
        return [] if tracks is None else [("Id switches", str(tracks.switches.sum()))]

    def _data(self) -> dict[str, Any]:
        """What the page's script works with."""
        result = self.result
        figures = {row["name"]: row for row in to_json(result)["frames"]}
        classes = result.categories.classes
        return {
            "classes": [{"name": info.name, "thing": info.is_thing} for info in classes],
            "palettes": {
                "dataset": [list(info.color) for info in classes],
                "safe": [list(color) for color in safe_colors(len(classes))],
            },
            "frames": [{**figures[shot.name], **_pictures(shot)} for shot in self.snapshots],
            "quality": [
                {"name": row["name"], "sequence": row["sequence"], "PQ": row["PQ"]}
                for row in figures.values()
            ],
            "series": [
                {
                    "title": series.title,
                    "times": list(series.times),
                    "values": [None if math.isnan(value) else value for value in series.values],
                    "marks": list(series.marks),
                    "marksTitle": series.marks_title,
                }
                for series in self.series
            ],
        }


def _pictures(shot: Snapshot) -> dict[str, Any]:
    return {
        "width": shot.width,
        "height": shot.height,
        "image": _uri(shot.image, "jpeg"),
        "truth": _uri(shot.truth, "png"),
        "prediction": _uri(shot.prediction, "png"),
        "unknown": _uri(shot.unknown, "png"),
        "truthPoints": _uri(shot.truth_points, "png"),
        "predictionPoints": _uri(shot.prediction_points, "png"),
    }


def _uri(data: bytes | None, kind: str) -> str | None:
    if data is None:
        return None
    return f"data:image/{kind};base64,{base64.b64encode(data).decode()}"
