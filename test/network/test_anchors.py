from __future__ import annotations

from typing import Any

import pytest
import torch

from upsnet_ros.network.rpn import base_anchors, grid_anchors
from upsnet_ros.network.semantic_head import STRIDES as FPN_STRIDES


@pytest.mark.parametrize("stride", FPN_STRIDES)
def test_base_anchors_are_the_original_ones(unit_ops: Any, stride: int) -> None:
    assert base_anchors(stride).tolist() == unit_ops[f"anchors_{stride}"].tolist()


def test_grid_runs_over_anchors_then_columns_then_rows() -> None:
    anchors = grid_anchors(2, 3, stride=8, device="cpu").view(2, 3, 3, 4)
    shift = torch.tensor([16.0, 8.0, 16.0, 8.0])
    assert torch.equal(anchors[1, 2], base_anchors(8) + shift)
