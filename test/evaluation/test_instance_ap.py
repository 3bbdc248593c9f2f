from __future__ import annotations

import numpy as np
import pytest
from pycocotools import mask as coco_mask

from upsnet_ros.errors import EvaluationError
from upsnet_ros.evaluation.instance_ap import Instances, average_precision
from upsnet_ros.evaluation.maps import PanopticMap, Segments

pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")


def _scored(side: PanopticMap, scores) -> PanopticMap:
    segments = Segments.from_arrays(side.segments.ids, side.segments.classes, scores=scores)
    return PanopticMap(pixels=side.pixels, segments=segments)


def test_run_lengths_are_those_of_the_masks(random_pairs, categories) -> None:
    seen = 0
    for pair in random_pairs(60, 5):
        with pytest.raises(EvaluationError, match="no scores"):
            Instances.from_maps(pair.truth, pair.prediction, categories)
        scores = np.full(len(pair.prediction.segments), 0.5)
        cut = Instances.from_maps(pair.truth, _scored(pair.prediction, scores), categories)
        things = {
            number: class_id
            for number, class_id, crowd in zip(
                *(pair.truth.segments.ids, pair.truth.segments.classes, pair.truth.segments.crowd),
                strict=True,
            )
            if categories.is_thing[categories.indices(np.array([class_id]))[0]]
            and (pair.truth.pixels == number).any()
        }
        assert len(cut.truth) == len(things)
        for item, number in zip(cut.truth, things, strict=True):
            mask = coco_mask.decode(item["segmentation"])
            np.testing.assert_array_equal(mask, pair.truth.pixels == number)
            assert item["area"] == mask.sum()
            seen += 1
    assert seen > 100


def test_ap_by_hand(categories) -> None:
    truth = PanopticMap(
        pixels=np.array([[1] * 10 + [0] * 5 + [2] * 10]),
        segments=Segments.from_arrays([1, 2], [26, 26]),
    )
    same = _scored(truth, [0.9, 0.8])
    ap, ap50, by_class = average_precision(
        [Instances.from_maps(truth, same, categories)], categories
    )
    assert (ap, ap50, by_class[26]) == (1, 1, 1)
    assert np.isnan(by_class[24])

    # One of two cars found with IoU 0.7: right at thresholds 0.5 to 0.7, half of the recall.
    part = PanopticMap(
        pixels=np.array([[5] * 7 + [0] * 18]),
        segments=Segments.from_arrays([5], [26], scores=[0.9]),
    )
    ap, ap50, _ = average_precision([Instances.from_maps(truth, part, categories)], categories)
    half = 51 / 101  # of the recalls 0, 0.01, ... 1 those up to 0.5
    assert ap50 == pytest.approx(half)
    assert ap == pytest.approx(0.5 * half)


def test_crowds_excuse_detections(categories) -> None:
    pixels = np.array([[1] * 10 + [2] * 20])
    truth = PanopticMap(
        pixels=pixels, segments=Segments.from_arrays([1, 2], [24, 24], crowd=[False, True])
    )
    guess = np.where(pixels == 2, np.arange(30)[None] // 5 + 10, 1)
    ids = np.unique(guess)
    prediction = PanopticMap(
        pixels=guess, segments=Segments.from_arrays(ids, [24] * len(ids), scores=[0.5] * len(ids))
    )
    ap, _, _ = average_precision([Instances.from_maps(truth, prediction, categories)], categories)
    assert ap == pytest.approx(1)


def test_no_truth_is_nan(categories) -> None:
    empty = PanopticMap(
        pixels=np.zeros((2, 3), int), segments=Segments.from_arrays([], [], scores=[])
    )
    ap, ap50, by_class = average_precision(
        [Instances.from_maps(empty, empty, categories)], categories
    )
    assert np.isnan([ap, ap50, *by_class.values()]).all()
