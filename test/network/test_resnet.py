from __future__ import annotations

import pytest
import torch

from upsnet_ros.inference.model import draw_weights_
from upsnet_ros.network.resnet import BasicBlock, FrozenBatchNorm2d, ResNet, fold_batch_norm_
from upsnet_ros.network.variants import Variant, get_variant


def _tiny_dcn() -> Variant:
    return Variant(
        name="tiny",
        dataset="cityscapes",
        num_classes=9,
        num_seg_classes=19,
        depths=(1, 1, 1, 1),
        deformable_stages=frozenset({3, 4, 5}),
    )


@pytest.mark.parametrize("variant", [_tiny_dcn(), get_variant("cityscapes-r18")])
def test_folding_changes_nothing(variant: Variant) -> None:
    # In float64, where rounding cannot grow into something through displaced samples.
    backbone = ResNet(variant).double()
    draw_weights_(backbone, seed=3)
    image = torch.randn(1, 3, 64, 96, dtype=torch.float64) * 50
    with torch.inference_mode():
        before = backbone(image)
        fold_batch_norm_(backbone)
        after = backbone(image)
    assert not any(isinstance(m, FrozenBatchNorm2d) for m in backbone.modules())
    stages = (backbone.res2, backbone.res3, backbone.res4, backbone.res5)
    shortcuts = [stage.layers[0].downsample for stage in stages]
    assert all(shortcut is None or shortcut[0].bias is None for shortcut in shortcuts)
    for x, y, stride in zip(before, after, (4, 8, 16, 32), strict=True):
        assert x.shape[2:] == (64 // stride, 96 // stride)
        torch.testing.assert_close(x, y, rtol=1e-6, atol=1e-6)


def test_batch_norm_stays_frozen_in_training() -> None:
    backbone = ResNet(get_variant("cityscapes-r18"))
    backbone.train()
    before = backbone.conv1.bn1.running_mean.clone()
    backbone(torch.randn(2, 3, 32, 32))
    assert torch.equal(before, backbone.conv1.bn1.running_mean)
    assert not backbone.conv1.bn1.weight.requires_grad


@pytest.mark.parametrize("width", [1, 2])
def test_a_narrow_input_in_half_precision_reads_nothing_beyond_it(width: int) -> None:
    torch.manual_seed(0)
    block = BasicBlock(256, 512, stride=2).eval()
    x = torch.randn(1, 256, 8, width).to(torch.bfloat16)
    x = x.to(memory_format=torch.channels_last)
    with torch.inference_mode():
        want = block(x.float())
        block.to(torch.bfloat16)
        for number in (1000, 50_000, 300_000, 2_000_000) * 3:
            torch.full((number,), float("nan"))  # what lies in memory that is used again
            torch.testing.assert_close(block(x.clone()).float(), want, rtol=0.05, atol=0.05)
