from __future__ import annotations

import torch

from upsnet_ros.network.instance_head import (
    MASK_POOL,
    MaskHead,
    instance_detections,
    panoptic_detections,
    pool_rois,
)

LIMITS = {"size": (100, 100), "nms_threshold": 0.5}


def _logits(*probabilities: tuple[float, ...]) -> torch.Tensor:
    return torch.tensor(probabilities).log()


def test_nothing_above_the_threshold() -> None:
    found = panoptic_detections(
        torch.tensor([[0.0, 0.0, 9.0, 9.0]]),
        _logits((0.5, 0.3, 0.2)),
        torch.zeros(1, 12),
        score_threshold=0.6,
        limit=100,
        **LIMITS,
    )
    assert (found.classes.tolist(), found.scores.tolist()) == ([0], [1.0])
    assert found.boxes.tolist() == [[0, 0, 0, 0]]


def test_panoptic_suppression_goes_across_classes_and_plain_one_does_not() -> None:
    proposals = torch.tensor([[0.0, 0.0, 19.0, 19.0], [1.0, 0.0, 19.0, 19.0]])
    logits = _logits((0.1, 0.2, 0.7), (0.1, 0.8, 0.1))
    deltas = torch.zeros(2, 12)
    found = panoptic_detections(proposals, logits, deltas, score_threshold=0.6, limit=100, **LIMITS)
    assert found.classes.tolist() == [1]
    plain = instance_detections(
        proposals, logits, deltas, score_threshold=0.05, limit=100, **LIMITS
    )
    assert plain.classes.tolist() == [1, 2]


def test_each_class_has_its_own_deltas() -> None:
    deltas = torch.zeros(1, 3, 4)
    deltas[0, 2, 0] = 5.0  # half a width to the right, for class 2 only
    found = panoptic_detections(
        torch.tensor([[0.0, 0.0, 19.0, 19.0]]),
        _logits((0.1, 0.1, 0.8)),
        deltas.flatten(1),
        score_threshold=0.6,
        limit=100,
        **LIMITS,
    )
    assert found.boxes.round().tolist() == [[10, 0, 29, 19]]


def test_limit_keeps_equals_of_the_last_one() -> None:
    proposals = torch.tensor([[20.0 * i, 0.0, 20.0 * i + 9, 9.0] for i in range(4)])
    logits = _logits((0.1, 0.9), (0.2, 0.8), (0.2, 0.8), (0.3, 0.7))
    found = panoptic_detections(
        proposals, logits, torch.zeros(4, 8), score_threshold=0.6, limit=2, **LIMITS
    )
    assert len(found) == 3


def test_own_class_masks_are_the_channels_of_the_full_score() -> None:
    torch.manual_seed(0)
    head = MaskHead(8, num_classes=4)
    pyramid = [torch.randn(1, 8, 32 // 2**i, 32 // 2**i) for i in range(4)]
    boxes = torch.tensor([[0.0, 0.0, 60.0, 60.0], [10.0, 5.0, 40.0, 90.0]])
    with torch.inference_mode():
        pooled = pool_rois(pyramid, boxes, output_size=MASK_POOL)
        full = head.mask_score(head.features(pooled))
        own = head(pyramid, boxes, torch.tensor([3, 1]))
    torch.testing.assert_close(own, torch.stack((full[0, 3], full[1, 1])))
