from __future__ import annotations

import pytest
import torch
from torch import Tensor

from upsnet_ros.network.batched_operators import KernelOperators, Operators
from upsnet_ros.network.batched_selection import Anchors, select_proposals
from upsnet_ros.network.rpn import select_proposals as plain_proposals

STRIDES = (4, 8, 16)
SIZE = (60, 90)
TOP_N = 40


def outputs_of(batch: int, *, spread: float) -> list[tuple[Tensor, Tensor]]:
    generator = torch.Generator().manual_seed(3)
    return [
        (
            torch.randn(batch, 3, 64 // stride, 96 // stride, generator=generator) * spread,
            torch.randn(batch, 12, 64 // stride, 96 // stride, generator=generator) / 3,
        )
        for stride in STRIDES
    ]


@pytest.mark.parametrize("operators", [Operators(), KernelOperators()])
@pytest.mark.parametrize("nms_threshold", [0.7, 0.05])  # of which the latter leaves few
def test_lists_hold_what_the_plain_way_selects(operators: Operators, nms_threshold: float) -> None:
    outputs = outputs_of(2, spread=2.0)
    sizes = [(64 // stride, 96 // stride) for stride in STRIDES]
    lists = select_proposals(
        outputs,
        Anchors.from_sizes(sizes, STRIDES, top_n=TOP_N, device="cpu"),
        size=SIZE,
        top_n=TOP_N,
        nms_threshold=nms_threshold,
        operators=operators,
    )
    assert lists.boxes.shape == (2, TOP_N, 4)
    for image in range(2):
        expected, _ = plain_proposals(
            [(logits[image, None], deltas[image, None]) for logits, deltas in outputs],
            STRIDES,
            size=SIZE,
            top_n=TOP_N,
            nms_threshold=nms_threshold,
        )
        number = int(lists.counts[image])
        assert number == len(expected)
        assert torch.equal(lists.boxes[image, :number], expected)
        assert not lists.boxes[image, number:].any()
    if nms_threshold == 0.05:
        assert (lists.counts < TOP_N).any()


def test_a_level_may_have_fewer_anchors_than_proposals_are_kept() -> None:
    sizes, strides = ((1, 2), (1, 1)), (64, 128)
    outputs = [(torch.zeros(1, 3, *size), torch.zeros(1, 12, *size)) for size in sizes]
    lists = select_proposals(
        outputs,
        Anchors.from_sizes(sizes, strides, top_n=100, device="cpu"),
        size=(64, 128),
        top_n=100,
        nms_threshold=1.0,
        operators=Operators(),
    )
    assert lists.counts.tolist() == [9]
    assert (lists.boxes[0, :9, 2:] > lists.boxes[0, :9, :2]).all()
