"""Times by the clock that is meant: the host's, or the device's own."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TypeVar

import torch

from upsnet_ros.inference.cuda_graph import capture_into

__all__ = ["captured", "device_ms", "timed"]

_T = TypeVar("_T")


def timed(function: Callable[[], _T]) -> tuple[float, _T]:
    """Call a function; return the milliseconds until it returned by the host's clock, and that."""
    begin = time.perf_counter()
    result = function()
    return 1e3 * (time.perf_counter() - begin), result


def device_ms(
    function: Callable[[], object],
    device: torch.device,
    *,
    warmup: int,
    iterations: int,
    progress: Callable[[], None] = lambda: None,
) -> list[float]:
    """Return milliseconds that the device takes for what a function launches, call by call.

    On CUDA two events bracket each call, and the host waits for the last one only; on a CPU it is
    the host's clock.

    Args:
        function: Launches work on the current stream.
        device: Where it runs.
        warmup: Calls before those that count.
        iterations: Calls that count.
        progress: Called after each call.
    """
    if device.type != "cuda":
        times = []
        for _ in range(warmup + iterations):
            times.append(timed(function)[0])
            progress()
        return times[warmup:]
    pairs = []
    for _ in range(warmup + iterations):
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        start.record(torch.cuda.current_stream(device))
        function()
        end.record(torch.cuda.current_stream(device))
        pairs.append((start, end))
        progress()
    torch.cuda.synchronize(device)
    return [start.elapsed_time(end) for start, end in pairs[warmup:]]


@contextmanager
def captured(
    function: Callable[[], object], device: torch.device, *, warmup: int = 3
) -> Iterator[Callable[[], object]]:
    """Give what runs a function as the default path does: on CUDA from a graph, else itself.

    Outside of a graph the launches of small kernels would be what is timed.

    Args:
        function: Of fixed shapes, without a wait for the device.
        device: Where it runs.
        warmup: Calls before the capture, so that kernels are compiled and libraries loaded.

    Raises:
        RuntimeError: It cannot be captured.
    """
    if device.type != "cuda":
        yield function
        return
    side = torch.cuda.Stream(device)
    side.wait_stream(torch.cuda.current_stream(device))
    with torch.cuda.stream(side):
        for _ in range(warmup):
            function()
    torch.cuda.current_stream(device).wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with capture_into(graph, pool=torch.cuda.graph_pool_handle(), stream=side):
        outputs = function()
    yield graph.replay
    torch.cuda.synchronize(device)
    del outputs  # the graph writes into them
