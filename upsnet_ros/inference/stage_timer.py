"""Milliseconds by stage of one frame, on the clock of the device that does the work."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager

import torch


class StageTimer:
    """Collects the time spent in named stages; a stage entered twice adds up.

    On CUDA it records events and only `milliseconds` waits for them, so measuring does not make
    the stages wait for each other.
    """

    def __init__(self, device: torch.device) -> None:
        self._cuda = device.type == "cuda"
        self._spans: list[tuple[str, float]] = []
        self._events: list[tuple[str, torch.cuda.Event, torch.cuda.Event]] = []

    @contextmanager
    def __call__(self, name: str) -> Iterator[None]:
        """Measure the body as stage `name`."""
        if self._cuda:
            start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
            start.record()
            yield
            end.record()
            self._events.append((name, start, end))
        else:
            begin = time.perf_counter()
            yield
            self._spans.append((name, 1e3 * (time.perf_counter() - begin)))

    def milliseconds(self) -> dict[str, float]:
        """Return the time of each stage, in the order they first ended."""
        if self._events:
            torch.cuda.synchronize()
        spans = self._spans + [(name, a.elapsed_time(b)) for name, a, b in self._events]
        totals: dict[str, float] = {}
        for name, span in spans:
            totals[name] = totals.get(name, 0.0) + span
        return totals
