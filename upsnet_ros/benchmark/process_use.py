"""How much of the machine a process uses."""

from __future__ import annotations

import threading
import time
from types import TracebackType
from typing import Any

import psutil
import torch

__all__ = ["ProcessUse"]

_PERIOD_SECONDS = 0.1


class ProcessUse:
    """Watches a process, and the GPU if one is used, inside a ``with``.

    Args:
        pid: Of the process.
        device: Where it computes.
    """

    def __init__(self, pid: int, device: torch.device) -> None:
        self._process = psutil.Process(pid)
        self._device = device
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="upsnet_use", daemon=True)
        self._gpu: list[tuple[int, int]] = []
        self._gpu_failure = ""
        self._memory = 0

    def __enter__(self) -> ProcessUse:
        psutil.cpu_percent()  # begins its interval
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
        """Since the ``with`` began.

        Returns:
            ``cpu_percent`` of one core, which many threads exceed; ``machine_cpu_percent`` of all
            cores and processes; ``memory_mib``, the most that was resident. On CUDA ``gpu_percent``
            (mean, max) and ``gpu_memory_mib`` of the whole GPU, or ``gpu`` with the reason why it
            cannot be told.
        """
        begun, seconds = self._begin
        passed = time.monotonic() - begun
        figures: dict[str, Any] = {
            "cpu_percent": round(100 * (self._seconds() - seconds) / passed, 1),
            "machine_cpu_percent": psutil.cpu_percent(),
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
        """Processor time that the process has used."""
        times = self._process.cpu_times()
        return float(times.user + times.system)

    def _watch(self) -> None:
        while True:
            try:
                self._memory = max(self._memory, self._process.memory_info().rss)
            except psutil.NoSuchProcess:
                return
            if self._device.type == "cuda" and not self._gpu_failure:
                self._look_at_gpu()
            if self._over.wait(_PERIOD_SECONDS):
                return

    def _look_at_gpu(self) -> None:
        try:
            from pynvml import NVMLError
        except ImportError:
            self._gpu_failure = "not told: nvidia-ml-py is not installed"
            return
        try:
            # torch knows which of NVML's GPUs is which of CUDA's.
            use = torch.cuda.utilization(self._device), torch.cuda.device_memory_used(self._device)
        except (NVMLError, RuntimeError) as error:  # a part of a GPU (MIG) does not tell
            self._gpu_failure = f"not told: {error}"
        else:
            self._gpu.append(use)
