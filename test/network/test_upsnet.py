from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager

import torch

from upsnet_ros.network import UPSNet, get_variant
from upsnet_ros.network.random_weights import draw_weights_
from upsnet_ros.network.upsnet import STAGES


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


def test_needs_neither_ros_nor_opencv() -> None:
    code = (
        "import sys; import upsnet_ros.network; "
        "bad = {'cv2', 'rclpy', 'upsnet_ros.inference'} & set(sys.modules); "
        "sys.exit(str(bad) if bad else 0)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=120)
