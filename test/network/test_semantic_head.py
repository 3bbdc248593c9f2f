from __future__ import annotations

import pytest
import torch

from upsnet_ros.inference.model import draw_weights_
from upsnet_ros.network.semantic_head import SemanticHead


@pytest.mark.parametrize("num_layers", [2, 3])
def test_scoring_before_upsampling_is_scoring_the_features(num_layers: int) -> None:
    head = SemanticHead(16, channels=8, num_layers=num_layers, num_classes=5)
    draw_weights_(head, seed=0)
    pyramid = [torch.randn(1, 16, 32 // 2**i, 64 // 2**i) for i in range(5)]
    with torch.inference_mode():
        features = head.features(pyramid)
        assert features.shape == (1, 32, 32, 64)
        torch.testing.assert_close(head(pyramid), head.score(features), rtol=1e-4, atol=1e-4)
