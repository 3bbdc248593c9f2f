"""Metrics of labelled points, compared with a loop over the points."""

from __future__ import annotations

import math

import numpy as np
import pytest

from upsnet_ros.datasets.taxonomy import CITYSCAPES
from upsnet_ros.errors import EvaluationError
from upsnet_ros.evaluation.maps import Categories
from upsnet_ros.evaluation.points import PointCounts, PointLabels

CLASSES = Categories.from_taxonomy(CITYSCAPES)
ROAD, CAR = 7, 26


def labels(class_ids: list[int], unknown: list[int]) -> PointLabels:
    return PointLabels(class_ids=np.array(class_ids), unknown=np.array(unknown, bool))


def count(truth: PointLabels, answer: PointLabels, distances: list[float]) -> PointCounts:
    return PointCounts.from_labels(truth, answer, distances=np.array(distances), categories=CLASSES)


def test_by_hand() -> None:
    counts = count(
        # right, wrong, missing, unknown found, unknown missed, void, known called unknown
        labels([ROAD, ROAD, CAR, 0, 0, 0, CAR], [0, 0, 0, 1, 1, 0, 0]),
        labels([ROAD, CAR, 0, 0, ROAD, ROAD, 0], [0, 0, 0, 1, 0, 0, 1]),
        [5.0, 10.0, 15.0, 9.9, 40.0, 3.0, 100.0],
    )
    # Road: 1 of 2; car: none of 2 true and 1 predicted. The prediction on unknown and void points
    # is not a class's.
    assert counts.mean_iou == pytest.approx((1 / 2 + 0 / 3) / 2)
    assert counts.unknown.tolist() == [[1, 0, 0, 1], [1, 0, 0, 0]]
    assert counts.known.tolist() == [[1, 2, 0, 1], [0, 0, 0, 1]]
    assert counts.unknown_recall == 0.5
    assert counts.points == 6
    assert counts.coverage == pytest.approx(5 / 6)
    rows = counts.by_distance()
    assert [(row["from"], row["to"]) for row in rows] == [
        (0.0, 10.0),
        (10.0, 20.0),
        (20.0, 40.0),
        (40.0, None),
    ]
    assert [row["unknown_points"] for row in rows] == [1, 0, 0, 1]
    assert rows[0]["unknown_recall"] == 1.0
    assert math.isnan(rows[1]["unknown_recall"])
    assert rows[3]["known_points_lost"] == 1.0


def test_random_points_as_a_loop_counts_them() -> None:
    rng = np.random.default_rng(3)
    size = 2000
    ids = [0, ROAD, CAR, 24]
    unknown = rng.random((2, size)) < 0.1
    chosen = np.where(unknown, 0, rng.choice(ids, (2, size)))
    distances = rng.uniform(0, 80, size)
    counts = count(
        labels(chosen[0].tolist(), unknown[0].tolist()),
        labels(chosen[1].tolist(), unknown[1].tolist()),
        distances.tolist(),
    )
    ious = []
    for one in ids[1:]:
        both = either = 0
        for t, p, known in zip(chosen[0], chosen[1], (chosen[0] != 0), strict=True):
            both += bool(t == one and p == one)
            either += bool(known and (t == one or p == one))
        ious.append(both / either)
    assert counts.mean_iou == pytest.approx(np.mean(ious))
    near = distances < 10
    assert counts.unknown[:, 0].tolist() == [
        (unknown[0] & near).sum(),
        (unknown[0] & unknown[1] & near).sum(),
    ]


def test_counts_of_parts_add_up_to_those_of_the_whole() -> None:
    rng = np.random.default_rng(4)
    ids, unknown = rng.choice([0, ROAD, CAR], (2, 90)), rng.random((2, 90)) < 0.2
    distances = rng.uniform(0, 60, 90)

    def part(chosen: slice) -> PointCounts:
        return count(
            labels(ids[0, chosen].tolist(), unknown[0, chosen].tolist()),
            labels(ids[1, chosen].tolist(), unknown[1, chosen].tolist()),
            distances[chosen].tolist(),
        )

    whole = part(slice(None))
    added = part(slice(60, 90)) + PointCounts.zero(len(CLASSES)) + part(slice(0, 60))
    for name in ("classes", "unknown", "known"):
        assert np.array_equal(getattr(whole, name), getattr(added, name))
    assert whole.labelled == added.labelled


def test_no_points_have_no_metrics() -> None:
    counts = PointCounts.zero(len(CLASSES))
    assert math.isnan(counts.mean_iou)
    assert math.isnan(counts.unknown_recall)
    assert math.isnan(counts.coverage)


def test_other_points_and_ids_of_no_class_are_errors() -> None:
    one = labels([ROAD], [0])
    with pytest.raises(EvaluationError, match="2 labelled points"):
        count(one, labels([ROAD, CAR], [0, 0]), [1.0])
    with pytest.raises(EvaluationError):
        count(one, labels([99], [0]), [1.0])
