"""Mask R-CNN beside UPSNet: the same pixels, as many boxes as it is told."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from upsnet_ros.benchmark.race import MaskRCNN


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_it_runs_on_the_size_and_segments_as_many_boxes_as_it_is_told(dtype: torch.dtype) -> None:
    before = torch.random.get_rng_state()
    rival = MaskRCNN(size=(64, 128), device=torch.device("cpu"), dtype=dtype)
    assert torch.equal(torch.random.get_rng_state(), before)
    seen = []
    rival.network.backbone.register_forward_pre_hook(lambda _, args: seen.append(args[0].shape))
    image = np.random.default_rng(0).integers(0, 256, (64, 128, 3), dtype=np.uint8)
    assert [rival(image, detections=count) for count in (5, 1)] == [5, 1]
    assert [tuple(shape) for shape in seen] == [(1, 3, 64, 128)] * 2
