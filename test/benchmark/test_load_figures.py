"""The figures of a run, of timestamps that are known."""

from __future__ import annotations

import pytest

from upsnet_ros.benchmark.node import SentFrame, conclude, load_figures

MS = 1_000_000


def frame(sent: float, received: float | None, *, due: float | None = None) -> SentFrame:
    """Times in milliseconds."""
    return SentFrame(
        round((sent if due is None else due) * MS),
        round(sent * MS),
        None if received is None else round(received * MS),
    )


def test_a_run_with_a_missed_frame() -> None:
    figures = load_figures(
        [frame(0, 40), frame(100, 150), frame(200, None), frame(303, 333, due=300), frame(400, 480)]
    )
    assert (figures["sent"], figures["missed"], figures["missed_share"]) == (5, 1, 0.2)
    assert figures["sent_rate_hz"] == 10.0
    assert figures["answered_rate_hz"] == pytest.approx(3 / 0.44, abs=1e-4)
    latency = figures["latency_ms"]
    assert (latency["mean"], latency["min"], latency["max"]) == (50.0, 30.0, 80.0)
    assert (latency["p50"], latency["first"], latency["last"]) == (45.0, 40.0, 80.0)
    # Intervals of 110, 183 and 147 ms differ by 73 and 36.
    assert figures["jitter_ms"] == {"mean": 54.5, "min": 36.0, "max": 73.0, "std": 18.5}
    assert figures["late_ms"] == 3.0


def test_few_frames_tell_little() -> None:
    nothing = load_figures([frame(0, None)])
    assert (nothing["missed"], nothing["missed_share"]) == (1, 1.0)
    for name in ("latency_ms", "jitter_ms", "sent_rate_hz", "answered_rate_hz"):
        assert nothing[name] is None
    one = load_figures([frame(0, 10), frame(10, 30)])
    assert one["answered_rate_hz"] == 50.0
    assert one["jitter_ms"] is None


def test_runs_are_concluded_by_medians() -> None:
    runs = [
        {"sent": 5, "latency_ms": {"mean": 10.0}, "jitter_ms": None, "gpu": "not told"},
        {"sent": 5, "latency_ms": {"mean": 90.0}, "jitter_ms": {"std": 2.0}, "gpu": "not told"},
        {"sent": 6, "latency_ms": {"mean": 20.0}, "jitter_ms": {"std": 3.0}, "gpu": "not told"},
    ]
    assert conclude(runs) == {
        "sent": 5,
        "latency_ms": {"mean": 20.0},
        "jitter_ms": {"std": 2.5},
        "gpu": "not told",
    }
    assert conclude([{"jitter_ms": None}]) == {"jitter_ms": None}
