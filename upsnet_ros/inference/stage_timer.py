"""Milliseconds by stage of one frame, on the clock of the device that does the work."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import torch

from upsnet_ros.network.upsnet import Stage


class StageTimer:
    """Collects the time spent in named stages; a stage entered twice adds up.

    On CUDA it records events, on the streams on which the stages run, and only `milliseconds` waits
    for them, so measuring does not make the stages wait for each other.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._spans: list[tuple[str, float]] = []
        self._events: list[tuple[str, torch.cuda.Event, torch.cuda.Event]] = []

    @contextmanager
    def __call__(self, name: str) -> Iterator[None]:
        """Measure the body as stage `name`."""
        if self._device.type == "cuda":
            start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
            stream = torch.cuda.current_stream(self._device)  # the thread's device may be another
            start.record(stream)
            yield
            end.record(stream)
            self._events.append((name, start, end))
        else:
            begin = time.perf_counter()
            yield
            self._spans.append((name, 1e3 * (time.perf_counter() - begin)))

    def milliseconds(self) -> dict[str, float]:
        """Return the time of each stage, in the order they first ended."""
        for _, _, end in self._events:
            end.synchronize()  # not the whole device, which may have more frames in work
        spans = self._spans + [(name, a.elapsed_time(b)) for name, a, b in self._events]
        totals: dict[str, float] = {}
        for name, span in spans:
            totals[name] = totals.get(name, 0.0) + span
        return totals


def stage_of(*timers: StageTimer | None) -> Stage:
    """Return what measures a stage by all of these timers; None measures nothing."""
    running = [timer for timer in timers if timer is not None]

    @contextmanager
    def stage(name: str) -> Iterator[None]:
        with ExitStack() as stack:
            for timer in running:
                stack.enter_context(timer(name))
            yield

    return stage
