"""The figures of an evaluation as plain numbers, for JSON files and logs."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import numpy.typing as npt

from upsnet_ros.evaluation.evaluation import EvaluationResult
from upsnet_ros.evaluation.measures import FrameMeasures
from upsnet_ros.evaluation.panoptic_quality import PanopticQuality
from upsnet_ros.evaluation.semantic import class_ious, mean_iou
from upsnet_ros.evaluation.unknown import (
    LOST_LIMIT,
    UnknownCounts,
    average_precision,
    best_within,
    false_positive_rate,
)


def headline(result: EvaluationResult) -> dict[str, float]:
    """PQ, SQ, RQ and their kin as fractions, those that were measured and are defined."""
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
    return {name: value for name, value in figures.items() if not math.isnan(value)}


def to_json(result: EvaluationResult) -> dict[str, Any]:
    """Everything, with None for figures that are not defined."""
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
    return _without_nan(report)


def _panoptic(quality: PanopticQuality) -> dict[str, float]:
    """Means over all classes, then over things and over stuff."""
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


def _score(table: npt.NDArray[np.int64]) -> dict[str, float]:
    recall, threshold = best_within(table)
    return {
        "AP": average_precision(table),
        "FPR_at_95_recall": false_positive_rate(table),
        f"recall_at_{100 * LOST_LIMIT:.0f}_percent_lost": recall,
        "threshold": threshold,
    }


def _without_nan(value: Any) -> Any:
    """Replace nan, which JSON lacks, by None, however deep."""
    if isinstance(value, dict):
        return {key: _without_nan(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_without_nan(item) for item in value]
    return None if isinstance(value, float) and math.isnan(value) else value
