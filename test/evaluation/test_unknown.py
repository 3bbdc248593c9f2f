from __future__ import annotations

import numpy as np
import pytest

from upsnet_ros.errors import EvaluationError
from upsnet_ros.evaluation.unknown import (
    UnknownCounts,
    average_precision,
    best_within,
    false_positive_rate,
)


def _counts(truth, known, mask, **scores) -> UnknownCounts:
    arrays = (np.array(array, bool) for array in (truth, known, mask))
    truth, known, mask = arrays
    return UnknownCounts.from_masks(
        truth=truth,
        known=known,
        mask=mask,
        scores={name: np.array(score, np.uint8) for name, score in scores.items()},
    )


def test_other_void_counts_for_neither_side() -> None:
    #         unknown obj.  known         void that is no unknown object
    truth = [[1, 1, 1, 1, 0, 0, 0, 0, 0, 0]]
    known = [[0, 0, 0, 0, 1, 1, 1, 1, 0, 0]]
    mask = [[1, 1, 1, 0, 1, 0, 0, 0, 1, 1]]
    counts = _counts(truth, known, mask)
    assert counts.recall == 0.75
    assert counts.known_pixels_lost == 0.25
    assert counts.precision == 0.75


def test_regions_are_found_when_half_covered() -> None:
    truth = [[1, 1, 0, 1, 1, 0, 1, 1], [0, 0, 0, 0, 0, 0, 0, 0]]
    mask = [[1, 0, 0, 1, 1, 0, 0, 0], [1, 1, 1, 1, 1, 1, 1, 1]]
    counts = _counts(truth, np.zeros((2, 8)), mask)
    assert (counts.regions, counts.regions_found) == (3, 2)
    assert counts.region_recall == pytest.approx(2 / 3)


def test_nothing_to_judge_is_nan() -> None:
    counts = _counts(np.zeros((2, 2)), np.zeros((2, 2)), np.zeros((2, 2)), s=np.zeros((2, 2)))
    assert np.isnan(
        [counts.recall, counts.region_recall, counts.known_pixels_lost, counts.precision]
    ).all()
    assert np.isnan(
        [average_precision(counts.scores["s"]), false_positive_rate(counts.scores["s"])]
    ).all()


def _ranked(scores: np.ndarray, positive: np.ndarray) -> tuple[float, float]:
    """AP and FPR at 95 % recall by their definitions, threshold by threshold."""
    area, last, rates = 0.0, 0.0, []
    for threshold in sorted(set(scores.tolist()), reverse=True):
        above = scores >= threshold
        recall = (above & positive).sum() / positive.sum()
        area += (recall - last) * (above & positive).sum() / above.sum()
        last = recall
        if recall >= 0.95:
            rates.append((above & ~positive).sum() / (~positive).sum())
    return area, rates[0]


def test_scores_are_judged_at_every_threshold() -> None:
    rng = np.random.default_rng(0)
    positive = rng.random((40, 50)) < 0.1
    score = np.clip(rng.normal(100 + 60 * positive, 40), 0, 255).astype(np.uint8)
    parts = [
        _counts(positive[rows], ~positive[rows], score[rows] > 127, s=score[rows])
        for rows in (slice(0, 15), slice(15, 40))
    ]
    table = sum(parts, UnknownCounts()).scores["s"]
    area, rate = _ranked(score.reshape(-1), positive.reshape(-1))
    assert average_precision(table) == pytest.approx(area, abs=1e-12)
    assert false_positive_rate(table) == pytest.approx(rate, abs=1e-12)
    recall, threshold = best_within(table, 0.1)
    above = score > 255 * threshold
    assert recall == (above & positive).sum() / positive.sum()
    assert (above & ~positive).sum() <= 0.1 * (~positive).sum()
    lower = score >= score[above].min() - 1
    assert (lower & ~positive).sum() > 0.1 * (~positive).sum()


def test_a_perfect_score() -> None:
    counts = _counts([[1, 0]], [[0, 1]], [[1, 0]], s=[[200, 10]])
    assert average_precision(counts.scores["s"]) == 1
    assert false_positive_rate(counts.scores["s"]) == 0


def test_sizes_must_agree() -> None:
    with pytest.raises(EvaluationError, match=r"truth is \(1, 2\), but mask is \(1, 3\)"):
        _counts([[1, 0]], [[0, 1]], [[1, 0, 0]])
