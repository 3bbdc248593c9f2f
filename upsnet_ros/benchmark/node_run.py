"""Measure the running node as NVIDIA's ros2_benchmark does: the highest rate, then fixed ones."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import torch

from upsnet_ros.benchmark.frames import frames
from upsnet_ros.benchmark.load_figures import conclude, load_figures
from upsnet_ros.benchmark.machine import describe_machine
from upsnet_ros.benchmark.process_use import ProcessUse
from upsnet_ros.benchmark.rate_search import highest_rate

if TYPE_CHECKING:
    from upsnet_ros.benchmark.load_node import LoadNode  # and rclpy

__all__ = ["NodeBenchSettings", "run_node"]

#: A rate works where fewer frames are missed.
ACCEPTED_LOSS = 0.05

# Frames one by one at the beginning: to warm up, and to learn how long one takes.
_WARM_UP, _ALONE = 2, 5
# How close the search comes, and by how much the rate is lowered where a second look disagrees.
_RATIO = 1.05
_MOST_STEPS_DOWN = 10


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeBenchSettings:
    """What to measure.

    Attributes:
        height: Rows of the frames.
        width: Columns of the frames.
        image: Picture to send, resized; None draws driving scenes.
        rates: Fixed rates to measure after the search, Hz.
        limit: Highest rate to try, Hz.
        duration: Seconds of every run.
        least_frames: Frames of every run; slow nodes make it longer.
        repeats: Runs of every rate that is reported; of each figure the median is.
        timeout: Seconds to wait for the node, and for a frame's answer.

    Raises:
        ValueError: For a value that cannot be meant.
    """

    height: int
    width: int
    image: str | None = None
    rates: tuple[float, ...] = (10.0, 30.0, 60.0)
    limit: float = 200.0
    duration: float = 5.0
    least_frames: int = 20
    repeats: int = 3
    timeout: float = 120.0

    def __post_init__(self) -> None:
        for name in ("height", "width", "limit", "duration", "least_frames", "repeats", "timeout"):
            if not getattr(self, name) > 0:
                raise ValueError(f"{name} must be above 0, not {getattr(self, name)}")
        for rate in self.rates:
            if not 0 < rate <= 1000:
                raise ValueError(f"a rate must be above 0 and at most 1000 Hz, not {rate:g}")


def run_node(
    settings: NodeBenchSettings,
    *,
    pid: int,
    device: torch.device,
    alive: Callable[[], None],
    progress: Callable[[str], None] = lambda _: None,
) -> dict[str, Any]:
    """Measure the node ``/panoptic/upsnet`` of this ROS domain, alone with it there.

    Args:
        settings: What to measure.
        pid: Of the node's process.
        device: Where the node computes.
        alive: Called now and then; raises where the node has ended.
        progress: Called with what is done next.

    Returns:
        A report fit for JSON; docs/replay.md describes its keys.

    Raises:
        LoadError: If the node does not answer.
        ValueError: If the picture cannot be read.
    """
    from upsnet_ros.benchmark.load_node import load_node

    machine = describe_machine(device)
    images = frames(settings.image, height=settings.height, width=settings.width)
    with load_node(images, alive=alive, timeout=settings.timeout) as load:
        progress("waiting for the node")
        load.wait_for_node()
        measure = _Measure(load, settings, pid=pid, device=device)
        progress("one frame at a time")
        alone = measure.alone()
        guess = 1000 / alone["latency_ms"]["mean"]
        tried: list[dict[str, Any]] = []

        def works(rate: float) -> bool:
            progress(f"searching the highest rate: {rate:.3g} Hz")
            figures = measure.at(rate)
            share = figures["missed_share"]
            tried.append({"rate_hz": rate, "sent": figures["sent"], "missed": figures["missed"]})
            return bool(share < ACCEPTED_LOSS)

        best = highest_rate(works, guess=guess, ratio=_RATIO, limit=settings.limit)
        maximum = None
        for step in range(_MOST_STEPS_DOWN if best else 0):
            rate = (best or 0.0) / _RATIO**step
            progress(f"highest rate again: {rate:.3g} Hz")
            maximum = {"rate_hz": rate, **measure.repeatedly(rate)}
            if maximum["missed_share"] < ACCEPTED_LOSS:
                break
        fixed = []
        for rate in settings.rates:
            progress(f"{rate:g} Hz")
            fixed.append({"rate_hz": rate, **measure.repeatedly(rate)})
        ros = load.describe()
    return {
        "settings": asdict(settings),
        "machine": {**machine, "ros": ros},
        "one_by_one": alone,
        "search": tried,
        "maximum": maximum,
        "fixed": fixed,
        "load_average_after": [round(load, 2) for load in os.getloadavg()],
    }


class _Measure:
    """Runs at one rate, with what the node's process uses meanwhile."""

    def __init__(
        self, load: LoadNode, settings: NodeBenchSettings, *, pid: int, device: torch.device
    ) -> None:
        self._load, self._settings = load, settings
        self._pid, self._device = pid, device
        self._settle = settings.timeout

    def alone(self) -> dict[str, Any]:
        """One frame at a time; tells how long to wait for the last answer of later runs."""
        self._load.one_by_one(_WARM_UP)
        with ProcessUse(self._pid, self._device) as use:
            figures = load_figures(self._load.one_by_one(_ALONE))
            figures["use"] = use.figures()
        # One frame may be computed while another waits.
        self._settle = 1.0 + 5 * figures["latency_ms"]["max"] / 1000
        return figures

    def at(self, rate: float) -> dict[str, Any]:
        count = max(round(self._settings.duration * rate), self._settings.least_frames)
        with ProcessUse(self._pid, self._device) as use:
            sent = self._load.at_rate(rate, count=count, settle=self._settle)
            figures = load_figures(sent)
            figures["use"] = use.figures()
        return figures

    def repeatedly(self, rate: float) -> dict[str, Any]:
        runs = [self.at(rate) for _ in range(self._settings.repeats)]
        return {**conclude(runs), "runs": runs}
