from __future__ import annotations

import torch
from torchvision.ops import roi_align

from upsnet_ros.network.instance_head import pool_rois, pyramid_levels


def test_levels_follow_size() -> None:
    side = torch.tensor([10.0, 111.0, 113.0, 223.0, 225.0, 449.0, 5000.0])
    boxes = torch.stack((torch.zeros(7), torch.zeros(7), side - 1, side - 1), dim=1)
    assert pyramid_levels(boxes).tolist() == [0, 0, 1, 1, 2, 3, 3]


def test_order_of_boxes_is_kept_over_levels() -> None:
    torch.manual_seed(0)
    pyramid = [torch.randn(1, 8, 128 // 2**i, 128 // 2**i) for i in range(4)]
    boxes = torch.tensor(
        [[0.0, 0.0, 500.0, 500.0], [4.0, 4.0, 20.0, 20.0], [8.0, 0.0, 180.0, 90.0]]
    )
    pooled = pool_rois(pyramid, boxes, output_size=7)
    for i, level in enumerate(pyramid_levels(boxes).tolist()):
        want = roi_align(pyramid[level], [boxes[i : i + 1]], 7, 1 / 2 ** (level + 2), 2, False)
        torch.testing.assert_close(pooled[i], want[0])


def test_no_boxes() -> None:
    pyramid = [torch.randn(1, 8, 16, 16) for _ in range(4)]
    assert pool_rois(pyramid, torch.empty(0, 4), output_size=7).shape == (0, 8, 7, 7)
