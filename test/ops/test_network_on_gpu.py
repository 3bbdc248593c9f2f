"""A frame on a GPU, by kernels and by their reference implementations."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch

from upsnet_ros import ops as kernels
from upsnet_ros.inference.model import draw_weights_
from upsnet_ros.network.panoptic_head import HeadOptions
from upsnet_ros.network.upsnet import UPSNet
from upsnet_ros.network.variants import get_variant
from upsnet_ros.ops import dispatch

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]


@pytest.fixture(autouse=True)
def restored(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(dispatch, "_failures", {})
    yield
    kernels.set_enabled(True)


# Random weights amplify what is rounded: on a CPU, which rounds deform_conv's samples as the kernel
# does, it alone turns 0.9 % of the semantic map over in bfloat16.
@pytest.mark.parametrize(
    ("dtype", "least"),
    [(torch.float32, 0.99), (torch.float16, 0.99), (torch.bfloat16, 0.95)],
    ids=str,
)
def test_kernels_agree_with_their_twins(dtype: torch.dtype, least: float) -> None:
    pytest.importorskip("triton")
    network = UPSNet(get_variant("cityscapes-r18"))
    draw_weights_(network, seed=0)
    network = network.to("cuda", dtype, memory_format=torch.channels_last)
    generator = torch.Generator().manual_seed(1)
    image = torch.randn(1, 3, 256, 512, generator=generator) * 50
    image = image.to("cuda", dtype, memory_format=torch.channels_last)
    options = HeadOptions(unknown_score=True, confidence=True)
    maps = []
    for enabled in (True, False):
        kernels.set_enabled(enabled)
        with torch.inference_mode():
            maps.append(network(image, (256, 512), options=options).maps)
    assert kernels.failures() == {}
    assert (maps[0].semantic == maps[1].semantic).float().mean() > least
    assert (maps[0].panoptic == maps[1].panoptic).float().mean() > least - 0.02
