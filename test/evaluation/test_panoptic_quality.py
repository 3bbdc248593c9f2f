from __future__ import annotations

import numpy as np
import pytest
from cityscapesscripts.evaluation import evalPanopticSemanticLabeling
from hypothesis import given
from hypothesis import strategies as st
from official_panoptic import official_panoptic_quality

from upsnet_ros.errors import EvaluationError
from upsnet_ros.evaluation.maps import Overlaps, PanopticMap, Segments
from upsnet_ros.evaluation.panoptic_quality import PanopticCounts, match, panoptic_quality


def _map(pixels, ids, classes, **columns) -> PanopticMap:
    return PanopticMap(
        pixels=np.array(pixels), segments=Segments.from_arrays(ids, classes, **columns)
    )


def test_equals_cityscapesscripts_frame_by_frame(
    random_pairs, write_pairs, categories, tmp_path
) -> None:
    pairs = list(random_pairs(2400, 1))
    files = write_pairs(tmp_path, pairs)
    total = PanopticCounts.zero(len(categories))
    for pair, truth, prediction in zip(pairs, files.truth, files.prediction, strict=True):
        theirs = evalPanopticSemanticLabeling.pq_compute_single_core(
            0, [(truth, prediction)], files.gt_dir, files.pred_dir, files.names
        )
        ours = PanopticCounts.from_overlaps(
            Overlaps.from_maps(pair.truth, pair.prediction), categories
        )
        for place, info in enumerate(categories.classes):
            expected = theirs[info.id]
            counts = (ours.tp[place], ours.fp[place], ours.fn[place])
            assert counts == (expected.tp, expected.fp, expected.fn), (pair.name, info.name)
            assert ours.ious[place] == pytest.approx(expected.iou, abs=1e-9), pair.name
        total = total + ours
    assert min(total.tp.sum(), total.fp.sum(), total.fn.sum()) > 1000  # nothing was trivial


def test_equals_cityscapesscripts_on_a_whole_set(
    random_pairs, write_pairs, categories, tmp_path
) -> None:
    pairs = list(random_pairs(240, 2))
    files = write_pairs(tmp_path, pairs)
    theirs = official_panoptic_quality(
        files.gt_json,
        files.gt_dir,
        files.pred_json,
        files.pred_dir,
        results=tmp_path / "result.json",
    )
    total = PanopticCounts.zero(len(categories))
    for pair in pairs:
        total = total + PanopticCounts.from_overlaps(
            Overlaps.from_maps(pair.truth, pair.prediction), categories
        )
    ours = total.quality(categories)
    for name, values in (("All", ours.all), ("Things", ours.things), ("Stuff", ours.stuff)):
        expected = [theirs[name][key] for key in ("pq", "sq", "rq")]
        np.testing.assert_allclose(values, expected, atol=1e-9)
    for place, info in enumerate(categories.classes):
        expected = [theirs["per_class"][info.id][key] for key in ("pq", "sq", "rq")]
        np.testing.assert_allclose(ours.classes[place], expected, atol=1e-9)


def test_predicted_void_forgives_nothing(categories) -> None:
    truth = _map([[26001] * 10], [26001], [26])
    silent = _map([[0] * 10], [], [])
    wrong = _map([[7] * 10], [7], [7])
    assert panoptic_quality(truth, silent, categories).all[0] == 0
    assert PanopticCounts.from_overlaps(Overlaps.from_maps(truth, silent), categories).fn.sum() == 1
    # Void may be cut from the prediction's side of the union only where the truth is void.
    part = _map([[26001] * 6 + [0] * 4], [26001], [26])
    assert panoptic_quality(truth, part, categories).all[0] == pytest.approx(0.6)
    assert PanopticCounts.from_overlaps(Overlaps.from_maps(truth, wrong), categories).fp.sum() == 1


def test_sums_are_the_same_in_any_order(random_pairs, categories) -> None:
    counts = [
        PanopticCounts.from_overlaps(Overlaps.from_maps(pair.truth, pair.prediction), categories)
        for pair in random_pairs(400, 3)
    ]
    zero = PanopticCounts.zero(len(categories))
    forwards = sum(counts, zero)
    halves = sum(counts[::-2], zero) + sum(counts[-2::-2], zero)
    assert forwards.iou_sums == halves.iou_sums
    assert forwards.ious.sum() > 100


def test_classes_that_do_not_occur_are_left_out_of_means(categories) -> None:
    side = _map([[26001, 7]], [26001, 7], [26, 7])
    quality = panoptic_quality(side, side, categories)
    assert np.array_equal(quality.all, [1, 1, 1])
    assert np.isnan(quality.classes).all(axis=1).sum() == len(categories) - 2


def test_nothing_to_judge_is_nan(categories) -> None:
    void = _map(np.zeros((3, 4), int), [], [])
    empty = _map(np.zeros((0, 4), int), [], [])
    assert np.isnan(panoptic_quality(void, void, categories).all).all()
    assert np.isnan(panoptic_quality(empty, empty, categories).all).all()


@pytest.mark.parametrize(
    ("prediction", "message"),
    [
        (_map([[1, 2]], [1], [26]), "segment 2 is in the prediction's pixels, but not in its list"),
        (_map([[1, 1]], [1, 3], [26, 26]), "segment 3 is in the prediction's list"),
        (_map([[1], [1]], [1], [26]), "the truth has 2x1 pixels, the prediction 1x2"),
        (_map([[1, 1]], [1], [99]), "unknown categories: 99"),
    ],
)
def test_bad_predictions_are_named(prediction, message, categories) -> None:
    truth = _map([[1, 1]], [1], [26])
    with pytest.raises(EvaluationError, match=message):
        PanopticCounts.from_overlaps(Overlaps.from_maps(truth, prediction), categories)


def test_bad_tables_are_named() -> None:
    with pytest.raises(EvaluationError, match="segment id 0"):
        Segments.from_arrays([0, 1], [26, 26])
    with pytest.raises(EvaluationError, match=r"segment id 5 .*twice"):
        Segments.from_arrays([5, 4, 5], [26, 26, 7])


@given(st.data())
def test_no_segment_is_matched_twice(data) -> None:
    shape = (data.draw(st.integers(1, 6)), data.draw(st.integers(1, 6)))
    sides = []
    for _ in range(2):
        values = data.draw(
            st.lists(st.integers(0, 3), min_size=shape[0] * shape[1], max_size=shape[0] * shape[1])
        )
        pixels = np.array(values).reshape(shape)
        ids = np.unique(pixels[pixels > 0])
        sides.append(
            PanopticMap(pixels=pixels, segments=Segments.from_arrays(ids, [26] * len(ids)))
        )
    overlaps = Overlaps.from_maps(*sides)
    matching = match(overlaps)
    rows, columns = matching.rows.tolist(), matching.columns.tolist()
    assert len(set(rows)) == len(rows)
    assert len(set(columns)) == len(columns)
    assert sorted(rows + matching.false_negatives.tolist()) == list(range(len(overlaps.truth)))
    assert not set(columns) & set(matching.false_positives.tolist())
