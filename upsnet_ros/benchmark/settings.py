"""What `upsnet bench` is to measure; imports nothing heavy, so that mistakes are told at once."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from upsnet_ros.errors import SettingsError

#: Parts of `upsnet bench goals`, in the order in which they are measured.
PARTS = ("race", "cameras", "head", "agreement", "stages")


@dataclass(frozen=True, slots=True, kw_only=True)
class BenchSettings:
    """What to measure of a frame.

    Attributes:
        variant: Name of the network variant, or ``auto`` for that of the weights.
        height: Height of the frames and of the network input, pixels.
        width: Width of the frames and of the network input, pixels.
        device: As in `Predictor`.
        precision: As in `Predictor`.
        threads: Number of CPU threads of torch and OpenCV; None keeps the defaults.
        iterations: Number of measured frames.
        warmup: Number of frames before the measured ones.
        weights: Weights file; None uses random weights.
        image: Image file to segment, resized; None uses synthetic driving scenes.

    Raises:
        SettingsError: If the size is too small.
    """

    variant: str
    height: int
    width: int
    device: str
    precision: str
    threads: int | None
    iterations: int
    warmup: int
    weights: str | None
    image: str | None

    def __post_init__(self) -> None:
        if min(self.height, self.width) < 32:
            raise SettingsError(f"size {self.height}x{self.width} is too small: at least 32x32")


@dataclass(frozen=True, slots=True)
class Metric:
    """A row of the report.

    Attributes:
        what: What is measured.
        part: The part of the benchmark that measures it.
    """

    what: str
    part: str


#: Rows of the report by key, in order. A file of goals refers to them by these keys.
METRICS = {
    "lone_frame": Metric("single frame, host image in to host labels out, p50", "race"),
    "graph": Metric("the graph alone, camera bytes to labels on the GPU, p50", "stages"),
    "plain": Metric("speed-up over the reference implementation in eager fp32", "race"),
    "maskrcnn": Metric(
        "speed-up over torchvision's Mask R-CNN, half precision, channels-last", "race"
    ),
    "head": Metric("panoptic head and post-processing, 100 instances, 1024x2048", "head"),
    "cameras": Metric("frames/s of several cameras, batched, relative to one", "cameras"),
    "agreement": Metric(
        "pixels labelled as by fp32 eager, minimum over the parity cases", "agreement"
    ),
    "trained": Metric(
        "pixels labelled as by fp32 eager, bundled weights, synthetic scenes", "agreement"
    ),
    "quality": Metric("PQ on synthetic scenes relative to fp32 eager, points", "agreement"),
    "memory": Metric("GPU memory beyond the weights, batch 1, after warm-up", "race"),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Goal:
    """What a metric should reach, and under which conditions that can be said.

    Attributes:
        metric: Key in `METRICS`.
        text: The goal in words.
        limit: Number that decides.
        at_least: Whether more is better; otherwise less is.
        strict: Whether the limit itself is not enough.
        on_gpu: Whether it holds only for a GPU in half precision.
        variant: The network it holds for; None for any.
        size: Height and width of the frames it holds for; None for any.
        chips: Parts of GPU names it was set for; on another GPU the report says so.
    """

    metric: str
    text: str
    limit: float
    at_least: bool = False
    strict: bool = False
    on_gpu: bool = False
    variant: str | None = None
    size: tuple[int, int] | None = None
    chips: tuple[str, ...] = ()

    def reached(self, value: float) -> bool:
        """Whether a value is good enough."""
        if value == self.limit:
            return not self.strict
        return value > self.limit if self.at_least else value < self.limit


def read_goals(path: Path) -> tuple[Goal, ...]:
    """Read a JSON list of goals, each an object with the fields of `Goal`.

    Raises:
        OSError: The file cannot be read.
        SettingsError: It is not such a list; the message names the entry.
    """
    try:
        entries = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise SettingsError(f"{path} is not JSON: {error}") from None
    if not isinstance(entries, list):
        raise SettingsError(f"{path} is not a list of goals")
    goals = tuple(_goal_of(entry, f"{path}: goal {i}") for i, entry in enumerate(entries, start=1))
    keys = [goal.metric for goal in goals]
    twice = sorted({key for key in keys if keys.count(key) > 1})
    if twice:
        raise SettingsError(f"{path}: more than one goal for {', '.join(twice)}")
    return goals


_TYPES: dict[str, type | tuple[type, ...]] = {
    "metric": str,
    "text": str,
    "limit": (int, float),
    "at_least": bool,
    "strict": bool,
    "on_gpu": bool,
    "variant": str,
    "size": list,
    "chips": list,
}


def _goal_of(entry: Any, where: str) -> Goal:
    if not isinstance(entry, dict):
        raise SettingsError(f"{where} is not an object")
    for name, value in entry.items():
        if name not in _TYPES:
            raise SettingsError(f"{where}: unknown field {name!r}; use {', '.join(_TYPES)}")
        if not isinstance(value, _TYPES[name]) or (name == "limit" and isinstance(value, bool)):
            raise SettingsError(f"{where}: {name} is {value!r}")
    lacking = [name for name in ("metric", "text", "limit") if name not in entry]
    if lacking:
        raise SettingsError(f"{where} has no {', '.join(lacking)}")
    if entry["metric"] not in METRICS:
        raise SettingsError(
            f"{where}: unknown metric {entry['metric']!r}; use {', '.join(METRICS)}"
        )
    size = entry.get("size")
    if size is not None and [type(side) for side in size] != [int, int]:
        raise SettingsError(f"{where}: size is {size!r}, but must be [height, width]")
    lists = {name: tuple(entry[name]) for name in ("size", "chips") if name in entry}
    return Goal(**{**entry, **lists})


@dataclass(frozen=True, slots=True, kw_only=True)
class CompareSettings:
    """What to measure of the fast path beside other ways, and what it should reach.

    Attributes:
        cameras: Number of cameras that share a network.
        scenes: Number of synthetic scenes on which the results of the fast path are compared with
            those of fp32, pixel by pixel and by PQ.
        parity: Folder in the layout of test/parity, whose cases are compared; None for none.
        parts: What to measure, from `PARTS`.
        goals: What the results are compared with; without a goal they are only reported.

    Raises:
        SettingsError: If a value is not possible.
    """

    cameras: int = 4
    scenes: int = 12
    parity: str | None = None
    parts: tuple[str, ...] = PARTS
    goals: tuple[Goal, ...] = ()

    def __post_init__(self) -> None:
        unknown = [part for part in self.parts if part not in PARTS]
        if unknown or not self.parts:
            raise SettingsError(f"no part {', '.join(unknown)!r}; use some of {', '.join(PARTS)}")
        for name, least in (("cameras", 2), ("scenes", 1)):
            if getattr(self, name) < least:
                raise SettingsError(
                    f"{name} is {getattr(self, name)}, but must be at least {least}"
                )


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeBenchSettings:
    """What to measure of the running node.

    Attributes:
        height: Rows of the frames.
        width: Columns of the frames.
        image: Image file to send, resized; None uses synthetic driving scenes.
        rates: Fixed rates to measure after the search, Hz.
        limit: Highest rate to try, Hz.
        duration: Duration of each run, seconds.
        least_frames: Minimum number of frames of each run, which makes runs at low rates longer.
        repeats: Number of runs at each reported rate; the medians are reported.
        timeout: Seconds to wait for the node, and for the results of a frame.

    Raises:
        SettingsError: If a value is out of range.
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
                raise SettingsError(f"{name} must be above 0, not {getattr(self, name)}")
        for rate in self.rates:
            if not 0 < rate <= 1000:
                raise SettingsError(f"a rate must be above 0 and at most 1000 Hz, not {rate:g}")
