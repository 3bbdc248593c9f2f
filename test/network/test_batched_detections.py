from __future__ import annotations

import pytest
import torch
from torch import Tensor

from upsnet_ros.network.batched_operators import KernelOperators, Operators
from upsnet_ros.network.batched_selection import (
    ROOM_FOR_EQUALS,
    DetectionLists,
    ProposalLists,
    select_detections,
)
from upsnet_ros.network.instance_head import panoptic_detections

SIZE = (100, 200)
OPERATORS = pytest.mark.parametrize("operators", [Operators(), KernelOperators()])


def select(
    proposals: ProposalLists,
    logits: Tensor,
    deltas: Tensor,
    *,
    limit: int,
    threshold: float,
    operators: Operators,
) -> DetectionLists:
    return select_detections(
        proposals,
        logits,
        deltas,
        size=SIZE,
        score_threshold=torch.tensor([threshold]),
        nms_threshold=0.5,
        limit=limit,
        operators=operators,
    )


@OPERATORS
@pytest.mark.parametrize("threshold", [0.6, 0.2, 0.99999])  # many classes a box, and none
@pytest.mark.parametrize("limit", [100, 7])
def test_lists_hold_what_the_plain_way_selects(
    operators: Operators, threshold: float, limit: int
) -> None:
    generator = torch.Generator().manual_seed(1)
    batch, length, classes = 2, 60, 5
    corner = torch.rand(batch, length, 2, generator=generator) * torch.tensor([150.0, 60.0])
    extent = 10 + torch.rand(batch, length, 2, generator=generator) * 40
    numbers = torch.tensor([60, 41], dtype=torch.int32)
    boxes = torch.cat((corner, corner + extent), dim=2)
    boxes[1, 41:] = 0
    logits = torch.randn(batch * length, classes, generator=generator) * 2
    deltas = torch.randn(batch * length, 4 * classes, generator=generator)
    lists = select(
        ProposalLists(boxes, numbers),
        logits,
        deltas,
        limit=limit,
        threshold=threshold,
        operators=operators,
    )
    assert lists.scores.shape == (2, limit + ROOM_FOR_EQUALS)
    for image, number in enumerate(numbers.tolist()):
        rows = slice(image * length, image * length + number)
        expected = panoptic_detections(
            boxes[image, :number],
            logits[rows],
            deltas[rows],
            size=SIZE,
            score_threshold=threshold,
            nms_threshold=0.5,
            limit=limit,
        )
        found = int(lists.counts[image])
        if threshold > 0.9:
            assert found == 0 and expected.classes.tolist() == [0]
        else:
            assert found == len(expected) > 3
            torch.testing.assert_close(lists.boxes[image, :found], expected.boxes)
            torch.testing.assert_close(lists.scores[image, :found], expected.scores)
            assert torch.equal(lists.classes[image, :found], expected.classes)
        for padding in (lists.boxes, lists.scores, lists.classes):
            assert not padding[image, found:].any()


@OPERATORS
@pytest.mark.parametrize("equals", [3, 40])
def test_limit_keeps_equals_of_the_last_one_as_far_as_there_is_room(
    operators: Operators, equals: int
) -> None:
    corner = torch.tensor([[20.0 * (i % 10), 20.0 * (i // 10)] for i in range(41)])
    boxes = torch.cat((corner, corner + 9), dim=1)
    others = 40 - equals
    probabilities = torch.tensor([[0.1, 0.9]] + [[0.2, 0.8]] * equals + [[0.9, 0.1]] * others)
    lists = select(
        ProposalLists(boxes[None], torch.tensor([41], dtype=torch.int32)),
        probabilities.log(),
        torch.zeros(41, 8),
        limit=2,
        threshold=0.6,
        operators=operators,
    )
    assert lists.counts.tolist() == [min(1 + equals, 2 + ROOM_FOR_EQUALS)]
