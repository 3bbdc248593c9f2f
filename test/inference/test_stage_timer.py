from __future__ import annotations

import time

import torch

from upsnet_ros.inference.stage_timer import StageTimer, stage_of


def test_a_stage_entered_twice_adds_up() -> None:
    timer = StageTimer(torch.device("cpu"))
    for name in ("a", "b", "a"):
        with timer(name):
            time.sleep(0.002)
    spans = timer.milliseconds()
    assert list(spans) == ["a", "b"]
    assert spans["a"] >= 4 and spans["b"] >= 2


def test_one_stage_by_several_timers() -> None:
    timers = [StageTimer(torch.device("cpu")) for _ in range(2)]
    with stage_of(timers[0], None, timers[1])("a"):
        pass
    with stage_of(None)("b"):
        pass
    for timer in timers:
        assert list(timer.milliseconds()) == ["a"]
