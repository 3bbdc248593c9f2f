"""The search for the highest rate that works."""

from __future__ import annotations

import pytest

from upsnet_ros.benchmark.node import highest_rate


@pytest.mark.parametrize("truth", [0.07, 1.0, 9.9, 33.0, 180.0])
@pytest.mark.parametrize("guess", [1.0, 20.0, 500.0])
def test_it_comes_close_from_any_guess(truth: float, guess: float) -> None:
    tried: list[float] = []

    def works(rate: float) -> bool:
        tried.append(rate)
        return rate <= truth

    found = highest_rate(works, guess=guess, ratio=1.05)
    assert found is not None
    assert truth / 1.05 <= found <= truth
    assert len(tried) == len(set(tried)) <= 24


def test_it_stops_at_the_limit() -> None:
    assert highest_rate(lambda _: True, guess=3.0, limit=60.0) == 60.0
    assert highest_rate(lambda _: True, guess=100.0, limit=60.0) == 60.0


def test_where_nothing_works_there_is_no_rate() -> None:
    assert highest_rate(lambda _: False, guess=3.0) is None
