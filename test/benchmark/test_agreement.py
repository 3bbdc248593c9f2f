"""Shares of pixels on which two answers agree, by label, by segment, and by class."""

from __future__ import annotations

import numpy as np
import pytest

from upsnet_ros.benchmark.race import Agreement, AgreementFigures

ROAD, SKY, CAR = 7, 23, 26000


def test_labels_that_are_equal_agree_in_everything() -> None:
    labels = np.array([[ROAD, 0], [CAR + 1, CAR + 2]], np.int32)
    assert Agreement.of(labels, labels) == Agreement(100, 100, 100)


def test_numbers_of_instances_are_names() -> None:
    one = np.array([[ROAD, CAR + 1, CAR + 2, CAR + 2]], np.int32)
    other = np.array([[ROAD, CAR + 2, CAR + 1, CAR + 1]], np.int32)
    assert Agreement.of(one, other) == Agreement(25, 100, 100)


def test_an_instance_is_paired_once_with_the_one_it_shares_most_with() -> None:
    one = np.array([[CAR + 1] * 5], np.int32)
    split = np.array([[CAR + 1] * 2 + [CAR + 2] * 3], np.int32)
    assert Agreement.of(one, split) == Agreement(40, 60, 100)


def test_another_class_or_none_is_no_agreement() -> None:
    one = np.array([[ROAD, SKY, CAR + 1, CAR + 1]], np.int32)
    other = np.array([[SKY, 0, CAR + 1, 24001]], np.int32)
    assert Agreement.of(one, other) == Agreement(25, 25, 25)


def test_summary_is_by_share() -> None:
    figures = AgreementFigures.of(
        [Agreement(90, 99, 100), Agreement(80, 100, 100), Agreement(85, 95, 96)]
    )
    assert (figures.pictures, figures.median) == (3, Agreement(85, 99, 100))
    assert figures.minimum == Agreement(80, 95, 96)


def test_pictures_of_two_sizes_are_no_pair() -> None:
    with pytest.raises(ValueError, match="broadcast"):
        Agreement.of(np.zeros((2, 3), np.int32), np.zeros((2, 4), np.int32))
