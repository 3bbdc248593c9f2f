"""Who wins the race of the deformable convolution's forms, by times that are made up."""

from __future__ import annotations

from types import ModuleType
from typing import Any

import pytest
from benchmark_script import load

pytest.importorskip("triton")


@pytest.fixture(scope="module")
def script() -> ModuleType:
    return load("deform_forms")


def race(script: ModuleType, times: dict[int, float], errors: dict[int, float]) -> tuple[int, Any]:
    """Return the place of the winner, and what was noted; a form without a time fails."""
    rows: list[dict[str, object]] = []

    def measure(form: Any, level: tuple[int, int]) -> tuple[float, float]:
        place = script.FORMS.index(form)
        # The last form is slow on small levels.
        slow = 500 if place == len(script.FORMS) - 1 and level != script.LEVELS[0] else 0
        return times[place] + slow, errors.get(place, 0.0)

    best = script.winner(script.FORMS, measure, rows.append)
    return script.FORMS.index(best), rows


def test_the_least_sum_of_all_levels_wins(script: ModuleType) -> None:
    times = {place: 100.0 + place for place in range(len(script.FORMS))}
    assert race(script, times, {})[0] == 0
    assert race(script, times | {7: 50.0, len(script.FORMS) - 1: 40.0}, {})[0] == 7


def test_what_fails_or_is_wrong_does_not_win(script: ModuleType) -> None:
    times = {place: 100.0 + place for place in range(len(script.FORMS)) if place != 3}
    place, rows = race(script, times | {5: 10.0, 6: 20.0}, {5: 0.3, 6: float("nan")})
    assert place == 0
    assert sum("failed" in row for row in rows) == 1
    assert race(script, {}, {})[0] == 0
