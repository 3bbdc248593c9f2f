"""What a node made of a stream of images: the figures that ros2_benchmark reports."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any

import numpy as np

__all__ = ["SentFrame", "conclude", "load_figures"]


@dataclass(frozen=True, slots=True)
class SentFrame:
    """A frame that was published, and when its answer was whole.

    Attributes:
        due_ns: When it was to be published.
        sent_ns: When it was.
        received_ns: When the last part of its answer was received; None where it never was.
    """

    due_ns: int
    sent_ns: int
    received_ns: int | None


def load_figures(frames: Sequence[SentFrame]) -> dict[str, Any]:
    """Figures of one run.

    ``latency_ms`` is from a frame's publishing to the last part of its answer, ``jitter_ms`` the
    absolute difference between one interval of answers and the next, as NVIDIA's ros2_benchmark
    defines both. Its frame rates count a frame more than there are intervals; these do not.

    Args:
        frames: In the order in which they were sent.

    Returns:
        ``sent``, ``missed``, ``missed_share``, ``sent_rate_hz``, ``answered_rate_hz``,
        ``latency_ms`` (mean, min, p50, p99, max, first, last), ``jitter_ms`` (mean, min, max, std),
        and ``late_ms``, by how much the publisher itself was late at most. None stands for what so
        few frames do not tell.
    """
    answered = [frame for frame in frames if frame.received_ns is not None]
    latencies = [(frame.received_ns - frame.sent_ns) / 1e6 for frame in answered]  # type: ignore[operator]
    received = sorted(frame.received_ns for frame in answered if frame.received_ns is not None)
    missed = len(frames) - len(answered)
    return {
        "sent": len(frames),
        "missed": missed,
        "missed_share": _rounded(missed / len(frames)) if frames else None,
        "sent_rate_hz": _rate([frame.sent_ns for frame in frames]),
        "answered_rate_hz": _rate(received),
        "latency_ms": _latency(latencies),
        "jitter_ms": _jitter(received),
        "late_ms": _rounded(
            max((frame.sent_ns - frame.due_ns for frame in frames), default=0) / 1e6
        ),
    }


def conclude(runs: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Runs under equal conditions in one: the median of every figure.

    Figures that a run does not have are left to the others; of texts the first is taken.
    """
    concluded: dict[str, Any] = {}
    for name, first in runs[0].items():
        values = [run[name] for run in runs if run[name] is not None]
        if not values:
            concluded[name] = None
        elif isinstance(values[0], dict):
            concluded[name] = conclude(values)
        elif isinstance(first, str):
            concluded[name] = first
        else:
            concluded[name] = _rounded(median(values))
    return concluded


def _rate(times_ns: Sequence[int]) -> float | None:
    if len(times_ns) < 2 or times_ns[-1] == times_ns[0]:
        return None
    return _rounded((len(times_ns) - 1) / ((times_ns[-1] - times_ns[0]) / 1e9))


def _latency(values: Sequence[float]) -> dict[str, float] | None:
    if not values:
        return None
    p50, p99 = np.percentile(values, (50, 99))
    figures = {
        "mean": float(np.mean(values)),
        "min": min(values),
        "p50": float(p50),
        "p99": float(p99),
        "max": max(values),
        "first": values[0],
        "last": values[-1],
    }
    return {name: _rounded(value) for name, value in figures.items()}


def _jitter(received_ns: Sequence[int]) -> dict[str, float] | None:
    if len(received_ns) < 3:
        return None
    jitter = np.abs(np.diff(np.asarray(received_ns, np.int64), n=2)) / 1e6
    figures = {"mean": jitter.mean(), "min": jitter.min(), "max": jitter.max(), "std": jitter.std()}
    return {name: _rounded(float(value)) for name, value in figures.items()}


def _rounded(value: float) -> float:
    return round(value, 4)
