from __future__ import annotations

import numpy as np

from upsnet_ros.evaluation.unknown import unknown_scores
from upsnet_ros.inference.frame import PanopticFrame

NOTHING = {
    "labels": np.zeros((1, 4), np.int32),
    "unknown": np.zeros((1, 4), bool),
    "instances": (),
    "stuff": (),
}


def test_only_what_was_asked_for() -> None:
    assert unknown_scores(PanopticFrame(**NOTHING)) == {}


def test_all_grow_with_the_likelihood_of_unknown() -> None:
    frame = PanopticFrame(
        **NOTHING,
        unknown_score=np.array([[0, 1, 200, 255]], np.uint8),
        confidence=np.array([[255, 200, 100, 13]], np.uint8),
        max_logit=np.array([[99.0, 23.9, 0.0, -99.0]], np.float32),
    )
    scores = unknown_scores(frame)
    assert list(scores) == ["unknown_channel", "max_softmax", "max_logit"]
    for name, score in scores.items():
        assert score.dtype == np.uint8, name
        assert (np.diff(score.astype(int)) > 0).all(), name
    assert scores["max_logit"].tolist() == [[0, 1, 191, 255]]
