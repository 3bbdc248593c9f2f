from __future__ import annotations

import time

import pytest
import torch

from upsnet_ros.inference.pipeline import StageTimer, stage_of


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


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_time_is_that_of_the_devices_stream() -> None:
    """Whatever GPU is the thread's own: the last one's is measured, from the first one's thread."""
    device = torch.device("cuda", torch.cuda.device_count() - 1)
    x = torch.ones(2048, 2048, device=device)
    x @ x  # loads the library
    timer = StageTimer(device)
    with timer("a"):
        for _ in range(20):
            x @ x
    with timer("b"):
        pass
    spans = timer.milliseconds()
    assert spans["a"] > 0.1 > spans["b"]  # 340 GFLOP
