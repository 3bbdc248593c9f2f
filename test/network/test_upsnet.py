from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import pytest
import torch

from upsnet_ros.inference.model import draw_weights_
from upsnet_ros.network.upsnet import STAGES, UPSNet
from upsnet_ros.network.variants import VARIANTS, get_variant


def test_stages_are_announced_in_order() -> None:
    network = UPSNet(get_variant("cityscapes-r18"))
    draw_weights_(network, seed=0)
    entered = []

    @contextmanager
    def stage(name: str) -> Iterator[None]:
        entered.append(name)
        yield

    with torch.inference_mode():
        result = network(torch.randn(1, 3, 64, 96) * 50, (60, 90), stage=stage)
    assert tuple(entered) == STAGES
    assert result.maps.panoptic.shape == result.maps.semantic.shape == (60, 90)


@pytest.mark.parametrize("name", VARIANTS)
def test_without_random_weights_it_has_the_same_tensors(name: str) -> None:
    before = torch.get_rng_state()
    found = UPSNet.uninitialised(VARIANTS[name])
    assert torch.equal(torch.get_rng_state(), before), "no random number was taken"
    with torch.device("meta"):
        expected = UPSNet(VARIANTS[name])
    assert found.training == expected.training

    def kinds(network: UPSNet) -> dict[str, tuple[torch.Size, torch.dtype]]:
        return {key: (x.shape, x.dtype) for key, x in network.state_dict().items()}

    assert kinds(found) == kinds(expected)
