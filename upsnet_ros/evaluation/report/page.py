"""Writing an evaluation as one HTML file that needs nothing else."""

from __future__ import annotations

import base64
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined

from upsnet_ros.evaluation.evaluation import EvaluationResult
from upsnet_ros.evaluation.figures import headline, to_json
from upsnet_ros.evaluation.report.palette import safe_colors
from upsnet_ros.evaluation.snapshot import Snapshot

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
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Series:
    """Something measured along a run, such as latency, for a plot.

    Attributes:
        title: What it is, with its unit.
        times: Seconds from the beginning.
        values: A value for each time; nan breaks the line.
        marks: Times of single events, such as dropped frames.
        marks_title: What those are.
    """

    title: str
    times: Sequence[float]
    values: Sequence[float]
    marks: Sequence[float] = ()
    marks_title: str = ""


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
        environment = Environment(
            loader=PackageLoader("upsnet_ros.evaluation.report", "."),
            autoescape=True,
            undefined=StrictUndefined,
            trim_blocks=True,
            lstrip_blocks=True,
        )
        template = environment.get_template("page.html")
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
    }


def _uri(data: bytes | None, kind: str) -> str | None:
    if data is None:
        return None
    return f"data:image/{kind};base64,{base64.b64encode(data).decode()}"
