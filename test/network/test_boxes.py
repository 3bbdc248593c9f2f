from __future__ import annotations

from typing import Any

import numpy as np
import torch

from upsnet_ros.ops.boxes import (
    BOX_HEAD_WEIGHTS,
    RPN_WEIGHTS,
    clip_boxes,
    decode_boxes,
    encode_boxes,
    nms,
)


def test_decode_as_the_original(unit_ops: Any) -> None:
    boxes = torch.from_numpy(unit_ops["dec_boxes"])[:, None]
    deltas = torch.from_numpy(unit_ops["dec_deltas"]).view(len(boxes), -1, 4)
    for weights, name in ((BOX_HEAD_WEIGHTS, "dec_rcnn"), (RPN_WEIGHTS, "dec_rpn")):
        decoded = decode_boxes(boxes, deltas, weights).flatten(1)
        np.testing.assert_allclose(decoded, unit_ops[name], rtol=1e-5, atol=1e-3)


def test_encode_inverts_decode() -> None:
    torch.manual_seed(0)
    boxes = torch.rand(50, 4) * 100
    boxes[:, 2:] += boxes[:, :2]
    deltas = torch.randn(50, 4)
    decoded = decode_boxes(boxes, deltas, BOX_HEAD_WEIGHTS)
    torch.testing.assert_close(
        encode_boxes(boxes, decoded, BOX_HEAD_WEIGHTS), deltas, rtol=0, atol=2e-3
    )


def test_growth_is_limited() -> None:
    box = torch.tensor([[0.0, 0.0, 15.0, 15.0]])
    decoded = decode_boxes(box, torch.tensor([[0.0, 0.0, 50.0, 0.0]]), RPN_WEIGHTS)
    width = decoded[0, 2] - decoded[0, 0] + 1
    torch.testing.assert_close(width, torch.tensor(1000.0), rtol=1e-4, atol=0)


def test_clip_keeps_the_last_pixel() -> None:
    clipped = clip_boxes(torch.tensor([[-3.0, 5.0, 700.0, 700.0]]), (480, 640))
    assert clipped.tolist() == [[0, 5, 639, 479]]


def test_nms_as_the_original(unit_ops: Any) -> None:
    given = torch.from_numpy(unit_ops["nms_in"])
    assert nms(given[:, :4], given[:, 4], 0.5).tolist() == unit_ops["nms_keep"].tolist()


def test_nms_threshold_must_be_exceeded() -> None:
    # Inclusive corners: 10x10 and its left half overlap by exactly 0.5.
    boxes = torch.tensor([[0.0, 0.0, 9.0, 9.0], [0.0, 0.0, 4.0, 9.0]])
    scores = torch.tensor([0.9, 0.8])
    assert nms(boxes, scores, 0.5).tolist() == [0, 1]
    assert nms(boxes, scores, 0.49).tolist() == [0]


def test_nms_groups_do_not_suppress_each_other() -> None:
    boxes = torch.tensor([[0.0, 0.0, 9.0, 9.0]]).repeat(4, 1)
    scores = torch.tensor([0.6, 0.9, 0.7, 0.8])
    assert nms(boxes, scores, 0.5, groups=torch.tensor([1, 1, 2, 2])).tolist() == [1, 3]
