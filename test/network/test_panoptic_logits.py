from __future__ import annotations

from typing import Any

import cv2
import numpy as np
import pytest
import torch

from upsnet_ros.network.panoptic_logits import (
    are_finite,
    bilinear_weights,
    mask_bounds,
    mask_term,
    panoptic_logits,
    segment_bounds,
    segment_term,
)


def test_terms_as_the_original(unit_ops: Any) -> None:
    """The recorded ones are training's, on a quarter of the boxes."""
    boxes = torch.from_numpy(unit_ops["st_rois"])[:, 1:] / 4
    classes = torch.from_numpy(unit_ops["st_cls"])
    semantic = torch.from_numpy(unit_ops["st_seg"])[0]
    cut = segment_term(boxes, classes, semantic, 11)
    np.testing.assert_allclose(cut, unit_ops["st_inst"][0], atol=1e-6)
    masks = torch.from_numpy(unit_ops["mt_logit"])[:, 0]
    pasted = mask_term(boxes, masks, semantic.shape[1:])
    np.testing.assert_allclose(pasted, unit_ops["mt_out"][0], atol=1e-5)


def test_bounds_round_differently() -> None:
    boxes = torch.tensor([[1.9, 2.9, 10.5, 11.6], [3.0, 3.0, 3.2, 3.2]])
    masks, cuts = mask_bounds(boxes), segment_bounds(boxes)
    assert (masks.x1.tolist(), masks.x2.tolist()) == ([1, 3], [11, 4])
    assert (cuts.y1.tolist(), cuts.y2.tolist()) == ([2, 3], [13, 4])
    assert cuts.x2.tolist() == [11, 4]  # 10.5 rounds to even


def test_resizing_is_opencvs() -> None:
    rng = np.random.default_rng(0)
    logits = rng.normal(size=(28, 28)).astype(np.float32)
    for height, width in ((1, 1), (5, 90), (28, 28), (133, 40)):
        want = cv2.resize(logits, (width, height), interpolation=cv2.INTER_LINEAR)
        box = torch.tensor([[0.0, 0.0, width - 1.0, height - 1.0]])
        got = mask_term(box, torch.from_numpy(logits)[None], (height, width))[0]
        np.testing.assert_allclose(got, want, atol=5e-5)


def test_weights_sum_to_one_inside_and_zero_outside() -> None:
    weights = bilinear_weights(torch.tensor([3]), torch.tensor([9]), length=12, bins=28)[0]
    assert weights.sum(dim=1).round(decimals=5).tolist() == [0.0] * 3 + [1.0] * 6 + [0.0] * 3


def test_unknown_is_what_no_instance_explains() -> None:
    semantic = torch.zeros(3, 4, 4)
    semantic[2] = 5.0  # the one thing class is certain everywhere
    box = torch.tensor([[0.0, 0.0, 1.0, 3.0]])
    logits = panoptic_logits(semantic, box, torch.tensor([1]), torch.zeros(1, 4, 4), 2)
    assert logits.shape == (4, 4, 4)
    assert logits[-1, 0].tolist() == [0, 0, 5, 5]
    assert logits[2, 0].tolist() == [5, 5, 0, 0]


@pytest.mark.parametrize("value", [torch.nan, torch.inf, -torch.inf])
@pytest.mark.parametrize("spoiled", ["semantic", "mask", "unused mask"])
def test_which_images_have_finite_logits(value: float, spoiled: str) -> None:
    """Sums of what is large overflow, and are no reason to say that it is not finite."""
    semantic, masks = torch.full((3, 5, 4, 6), 3e38), torch.full((3, 2, 4, 4), -3e38)
    classes = torch.tensor([[1, 0], [4, 0], [2, 3]])
    tensor, place = {
        "semantic": (semantic, (1, 3, 2, 5)),
        "mask": (masks, (1, 0, 3, 1)),
        "unused mask": (masks, (1, 1, 3, 1)),
    }[spoiled]
    assert are_finite(semantic, masks, classes).tolist() == [True, True, True]
    tensor[place] = value
    found = are_finite(semantic, masks, classes).tolist()
    assert found == [True, spoiled == "unused mask", True]
