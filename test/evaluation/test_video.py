from __future__ import annotations

import numpy as np
import pytest

from upsnet_ros.errors import EvaluationError
from upsnet_ros.evaluation.maps import Overlaps, PanopticMap, Segments
from upsnet_ros.evaluation.panoptic_quality import PanopticCounts, tube_counts

CLASSES = {1: 7, 2: 26, 3: 26, 4: 24, 5: 26}


def _map(pixels: np.ndarray) -> PanopticMap:
    ids = np.unique(pixels[pixels > 0])
    classes = [CLASSES[number] for number in ids.tolist()]
    return PanopticMap(pixels=pixels, segments=Segments.from_arrays(ids, classes, crowd=ids == 5))


def _videos(rng: np.random.Generator, length: int) -> list[np.ndarray]:
    truth = rng.integers(0, 6, (4, 5)).repeat(3, axis=0).repeat(3, axis=1)
    truths = [np.roll(truth, step, axis=1) for step in range(length)]
    return [truths, [np.where(rng.random(t.shape) < 0.85, t, 0) for t in truths]]


def _counts(truth: PanopticMap, prediction: PanopticMap, categories) -> PanopticCounts:
    return PanopticCounts.from_overlaps(Overlaps.from_maps(truth, prediction), categories)


@pytest.mark.parametrize("step", [1, 5])
def test_a_window_is_judged_as_its_frames_stacked(step, categories) -> None:
    rng = np.random.default_rng(step)
    truths, predictions = _videos(rng, 8)
    frames = [
        Overlaps.from_maps(_map(t), _map(p)) for t, p in zip(truths, predictions, strict=True)
    ]
    numbers = [step * n for n in range(8)]
    for size in (0, 5):
        joined = size // step + 1
        expected = PanopticCounts.zero(len(categories))
        for start in range(8 - joined + 1):
            part = slice(start, start + joined)
            sides = (_map(np.concatenate(side[part])) for side in (truths, predictions))
            expected = expected + _counts(*sides, categories)
        counts = tube_counts(numbers, frames, size, categories)
        assert counts.tp.sum() > 0
        for name in ("tp", "fp", "fn"):
            np.testing.assert_array_equal(getattr(counts, name), getattr(expected, name))
        assert counts.iou_sums == expected.iou_sums


def test_an_instance_that_changes_its_id_is_no_tube(categories) -> None:
    row = np.array([[2, 2, 2, 0]])
    steady, swapped = [_map(row), _map(row)], [_map(row), _map(np.where(row == 2, 3, 0))]
    frames = {
        name: [Overlaps.from_maps(_map(row), side) for side in video]
        for name, video in (("steady", steady), ("swapped", swapped))
    }
    window = {name: tube_counts([0, 5], video, 5, categories) for name, video in frames.items()}
    assert (window["steady"].tp.sum(), window["steady"].fn.sum()) == (1, 0)
    assert (window["swapped"].tp.sum(), window["swapped"].fn.sum()) == (0, 1)
    assert tube_counts([0, 5], frames["swapped"], 0, categories).tp.sum() == 2


def test_a_sequence_shorter_than_the_window_has_none(categories) -> None:
    frame = Overlaps.from_maps(_map(np.array([[2]])), _map(np.array([[2]])))
    counts = tube_counts([0, 4], [frame, frame], 5, categories)
    assert counts.tp.sum() + counts.fp.sum() + counts.fn.sum() == 0


def test_an_id_that_changes_its_class_is_refused(categories) -> None:
    first = Overlaps.from_maps(_map(np.array([[2]])), _map(np.array([[2]])))
    person = PanopticMap(pixels=np.array([[2]]), segments=Segments.from_arrays([2], [24]))
    second = Overlaps.from_maps(_map(np.array([[2]])), person)
    with pytest.raises(EvaluationError, match=r"segment 2 .*changes its class"):
        tube_counts([0, 5], [first, second], 5, categories)
