from __future__ import annotations

import time

import torch

from upsnet_ros.inference.stage_timer import StageTimer


def test_a_stage_entered_twice_adds_up() -> None:
    timer = StageTimer(torch.device("cpu"))
    for name in ("a", "b", "a"):
        with timer(name):
            time.sleep(0.002)
    spans = timer.milliseconds()
    assert list(spans) == ["a", "b"]
    assert spans["a"] >= 4 and spans["b"] >= 2
