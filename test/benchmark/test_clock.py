"""Clocks, and what runs from a graph."""

from __future__ import annotations

import pytest
import torch

from upsnet_ros.benchmark.measure import captured, device_ms
from upsnet_ros.benchmark.stages import MemoryMeter

CPU = torch.device("cpu")
needs_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")


def test_calls_that_warm_up_do_not_count() -> None:
    calls: list[int] = []
    times = device_ms(lambda: calls.append(1), CPU, warmup=2, iterations=3)
    assert (len(calls), len(times)) == (5, 3)
    assert all(time >= 0 for time in times)


def test_a_cpu_has_neither_graphs_nor_memory_of_its_own() -> None:
    calls: list[int] = []
    with captured(lambda: calls.append(1), CPU) as function:
        function()
    assert calls == [1]
    assert MemoryMeter(CPU).read() is None


@pytest.mark.gpu
@needs_gpu
def test_a_graph_is_timed_by_the_device() -> None:
    device = torch.device("cuda")
    x = torch.zeros(1 << 20, device=device)
    with captured(lambda: x.add_(1), device) as function:
        x.zero_()
        times = device_ms(function, device, warmup=1, iterations=4)
        assert int(x.max()) == 5, "capturing adds nothing, each replay one"
    assert all(time > 0 for time in times)


@pytest.mark.gpu
@needs_gpu
def test_memory_beyond_the_weights() -> None:
    device = torch.device("cuda")
    weights = torch.zeros(8 << 20, device=device)
    meter = MemoryMeter(device)
    frame = torch.zeros(32 << 20, dtype=torch.uint8, device=device)
    del frame
    figures = meter.read()
    assert figures is not None
    assert figures.weights_mib >= weights.nbytes / 2**20
    assert 32 <= figures.tensors_peak_mib <= figures.reserved_peak_mib
    assert figures.reserved_mib < 32, "what is not in use was returned to the driver"
