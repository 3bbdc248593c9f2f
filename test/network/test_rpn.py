from __future__ import annotations

import torch

from upsnet_ros.network.rpn import select_proposals


def _outputs(logit: float = -5.0) -> list[tuple[torch.Tensor, torch.Tensor]]:
    return [
        (torch.full((1, 3, size, size), logit), torch.zeros(1, 12, size, size)) for size in (8, 4)
    ]


def test_best_anchor_comes_first_where_it_stands() -> None:
    outputs = _outputs()
    outputs[1][0][0, 1, 2, 3] = 4.0  # square anchor of stride 8 at row 2, column 3
    boxes, scores = select_proposals(outputs, (4, 8), size=(64, 64), top_n=10, nms_threshold=0.7)
    assert boxes[0].tolist() == [0.0, 0.0, 59.0, 51.0]  # (-28, -28, 35, 35) shifted, clipped
    assert scores[0] == torch.tensor(4.0).sigmoid()
    assert (scores.diff() <= 0).all()
    assert len(boxes) <= 10


def test_levels_do_not_suppress_each_other() -> None:
    """Suppression is per level, as in the original: equal boxes of two levels both stay."""
    logits = [torch.full((1, 3, 1, 1), -9.0) for _ in range(2)]
    for level in logits:
        level[0, 1] = 3.0
    outputs = [(level, torch.zeros(1, 12, 1, 1)) for level in logits]
    boxes, _ = select_proposals(outputs, (64, 64), size=(64, 64), top_n=5, nms_threshold=0.3)
    assert torch.equal(boxes[0], boxes[1])
