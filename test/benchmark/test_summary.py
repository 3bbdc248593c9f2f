"""Percentiles, and ratios of things measured in turn."""

from __future__ import annotations

import pytest

from upsnet_ros.benchmark.measure import PairedRatio, Summary, short


def test_summary() -> None:
    summary = Summary.of([float(value) for value in range(101)])
    assert (summary.p0, summary.p50, summary.p99, summary.p100) == (0, 50, 99, 100)
    assert Summary.of([3.0]) == Summary(3, 3, 3, 3)


def test_a_load_that_slows_both_of_a_pair_moves_no_ratio() -> None:
    theirs = [100.0, 1000.0, 100.0, 300.0]
    ratio = PairedRatio.of([1.5 * value for value in theirs], theirs)
    assert (ratio.median, ratio.p10, ratio.p90, ratio.pairs) == (1.5, 1.5, 1.5, 4)


def test_pairs_must_match() -> None:
    with pytest.raises(ValueError, match="2 values with 1"):
        PairedRatio.of([1.0, 2.0], [1.0])


def test_short_figures() -> None:
    assert [short(v) for v in (0.01234, 7.0, 12.34, 999.7, 14160.4)] == [
        "0.0123",
        "7",
        "12.3",
        "1000",
        "14160",
    ]
