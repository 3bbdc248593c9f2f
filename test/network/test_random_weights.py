from __future__ import annotations

import torch

from upsnet_ros.inference.model import draw_weights_
from upsnet_ros.network.upsnet import UPSNet
from upsnet_ros.network.variants import get_variant


def test_draws_repeat_and_fill_everything() -> None:
    networks = [UPSNet(get_variant("cityscapes-r18")) for _ in range(3)]
    for network, seed in zip(networks, (1, 1, 2), strict=True):
        for tensor in network.state_dict().values():
            if tensor.is_floating_point():
                tensor.fill_(float("nan"))
        draw_weights_(network, seed=seed)
    states = [n.state_dict() for n in networks]
    assert not any(t.isnan().any() for t in states[0].values() if t.is_floating_point())
    assert all(torch.equal(states[0][n], states[1][n]) for n in states[0])
    assert not torch.equal(states[0]["fpn.fpn_p2.weight"], states[2]["fpn.fpn_p2.weight"])
