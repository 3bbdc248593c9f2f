"""Timing on the host or the device, statistics of timings, and the machine of a benchmark."""

from __future__ import annotations

import os
import platform
import re
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from types import TracebackType
from typing import Any, TypeVar

import numpy as np
import torch

from upsnet_ros.inference.cuda_graph import capture_into, capture_thread, cudnn_plans, warm_up

_T = TypeVar("_T")


def timed(function: Callable[[], _T]) -> tuple[float, _T]:
    """Call a function; return its duration by the host's clock in milliseconds, and its result."""
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
    """Return the device time of each call of a function, milliseconds.

    On CUDA, two events bracket each call and the host only waits for the last one. On a CPU, the
    host's clock is used.

    Args:
        function: Launches work on the current stream.
        device: Device on which it runs.
        warmup: Number of calls before the measured ones.
        iterations: Number of measured calls.
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
    function: Callable[[], object], device: torch.device
) -> Iterator[Callable[[], object]]:
    """Context that yields a replay of the function's CUDA graph; on a CPU, the function itself.

    This is how the predictor runs by default. Without a graph, kernel launches would dominate the
    timing. The function is warmed up and captured in the predictor's capture thread, with its cuDNN
    plans.

    Args:
        function: Has fixed shapes and does not synchronise with the device.
        device: Device on which it runs.

    Raises:
        RuntimeError: If the function cannot be captured.
    """
    if device.type != "cuda":
        yield function
        return
    graph, caller = torch.cuda.CUDAGraph(), torch.cuda.current_stream(device)

    def capture() -> object:
        side = torch.cuda.Stream(device)
        side.wait_stream(caller)
        with torch.inference_mode(), torch.cuda.stream(side):
            warm_up(function, (), plans=cudnn_plans())
            with capture_into(graph, pool=torch.cuda.graph_pool_handle(), stream=side):
                outputs = function()
        caller.wait_stream(side)
        return outputs

    outputs = capture_thread(device).call(capture)
    yield graph.replay
    torch.cuda.synchronize(device)
    del outputs  # the graph writes into them


def short(value: float) -> str:
    """Format a number with three significant digits and without exponent."""
    return f"{value:.3g}" if abs(value) < 999.5 else f"{value:.0f}"


@dataclass(frozen=True, slots=True)
class Summary:
    """Percentiles of measurements, in their unit; ``p0`` and ``p100`` are minimum and maximum."""

    p0: float
    p50: float
    p99: float
    p100: float

    @classmethod
    def of(cls, values: Sequence[float]) -> Summary:
        """Summarise at least one value."""
        return cls(*(round(float(v), 4) for v in np.percentile(values, (0, 50, 99, 100))))


@dataclass(frozen=True, slots=True)
class PairedRatio:
    """Ratio of two durations that were measured alternately, in pairs.

    The median of the ratios of pairs is robust against varying load, which slows down both of a
    pair; the ratio of the two medians is not.

    Attributes:
        median: Median of the ratios.
        p10: 10th percentile of the ratios.
        p90: 90th percentile of the ratios.
        pairs: Number of pairs.
    """

    median: float
    p10: float
    p90: float
    pairs: int

    @classmethod
    def of(cls, numerators: Sequence[float], denominators: Sequence[float]) -> PairedRatio:
        """Compare value by value.

        Raises:
            ValueError: If the numbers of values differ.
        """
        if len(numerators) != len(denominators):
            raise ValueError(
                f"cannot pair {len(numerators)} values with {len(denominators)} values"
            )
        ratios = np.asarray(numerators, float) / np.asarray(denominators, float)
        low, middle, high = (round(float(v), 4) for v in np.percentile(ratios, (10, 50, 90)))
        return cls(median=middle, p10=low, p90=high, pairs=len(ratios))


_PACKAGES = ("upsnet_ros", "torch", "torchvision", "numpy", "opencv-python-headless")


def describe_machine(device: torch.device) -> dict[str, Any]:
    """Return processor, GPU, memory, load and versions, JSON-ready."""
    description: dict[str, Any] = {
        "cpu": _cpu_name(),
        "cores": len(os.sched_getaffinity(0)),
        "memory_gib": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30, 1),
        "load_average": [round(load, 2) for load in os.getloadavg()],
        "system": platform.platform(),
        "python": platform.python_version(),
        "versions": {name: _version(name) for name in _PACKAGES},
    }
    if device.type == "cuda":
        description["gpu"] = torch.cuda.get_device_name(device)
        description["cuda"] = torch.version.cuda
    return description


def _cpu_name() -> str:
    """Return the CPU model from /proc/cpuinfo, or what `platform` knows."""
    model = re.search(r"^model name\s*:\s*(.+)$", _cpuinfo(), re.MULTILINE)
    return model[1] if model else platform.processor() or platform.machine()


def _cpuinfo() -> str:
    cpuinfo = Path("/proc/cpuinfo")
    return cpuinfo.read_text() if cpuinfo.exists() else ""


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


_PERIOD_SECONDS = 0.1


class ProcessUse:
    """Samples the resource use of a process inside a ``with`` block, including the GPU if used.

    Args:
        pid: Id of the process.
        device: Device of the process.
    """

    def __init__(self, pid: int, device: torch.device) -> None:
        import psutil  # which the stages, and machines with little installed, do without

        self._psutil = psutil
        self._process = psutil.Process(pid)
        self._device = device
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="upsnet_use", daemon=True)
        self._gpu: list[tuple[int, int]] = []
        self._gpu_failure = ""
        self._memory = 0

    def __enter__(self) -> ProcessUse:
        self._psutil.cpu_percent()  # starts its measuring interval
        self._begin = time.monotonic(), self._seconds()
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._over.set()
        self._thread.join()

    def figures(self) -> dict[str, Any]:
        """Return the use since the start of the ``with`` block.

        Returns:
            ``cpu_percent`` of one core (may exceed 100); ``machine_cpu_percent`` of all cores and
            processes; ``memory_mib``, the peak resident memory. On CUDA ``gpu_percent`` (mean, max)
            and ``gpu_memory_mib`` of the whole GPU, or ``gpu`` with the reason why they are not
            available.
        """
        start, seconds = self._begin
        elapsed = time.monotonic() - start
        figures: dict[str, Any] = {
            "cpu_percent": round(100 * (self._seconds() - seconds) / elapsed, 1),
            "machine_cpu_percent": self._psutil.cpu_percent(),
            "memory_mib": round(self._memory / 2**20, 1),
        }
        if self._gpu:
            busy = [share for share, _ in self._gpu]
            figures["gpu_percent"] = {"mean": round(sum(busy) / len(busy), 1), "max": max(busy)}
            figures["gpu_memory_mib"] = round(max(used for _, used in self._gpu) / 2**20, 1)
        elif self._gpu_failure:
            figures["gpu"] = self._gpu_failure
        return figures

    def _seconds(self) -> float:
        """Return the CPU time that the process has used, seconds."""
        times = self._process.cpu_times()
        return float(times.user + times.system)

    def _watch(self) -> None:
        while True:
            try:
                self._memory = max(self._memory, self._process.memory_info().rss)
            except self._psutil.NoSuchProcess:
                return
            if self._device.type == "cuda" and not self._gpu_failure:
                self._sample_gpu()
            if self._over.wait(_PERIOD_SECONDS):
                return

    def _sample_gpu(self) -> None:
        try:
            from pynvml import NVMLError
        except ImportError:
            self._gpu_failure = "not available: nvidia-ml-py is not installed"
            return
        try:
            # torch maps CUDA devices to NVML devices.
            use = torch.cuda.utilization(self._device), torch.cuda.device_memory_used(self._device)
        except (NVMLError, RuntimeError) as error:  # not supported by MIG instances
            self._gpu_failure = f"not available: {error}"
        else:
            self._gpu.append(use)
