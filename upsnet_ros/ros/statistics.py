"""What the node counts and times: one `CameraStatistics` for each camera, one `StageTimes` in all.

Frames arrive in the executor's thread and are answered in the worker's, so both kinds lock.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from enum import Enum

import numpy as np

from upsnet_ros.ros.stamp_watch import StampNews, StampWatch

__all__ = ["CameraCounts", "CameraReport", "CameraState", "CameraStatistics", "StageTimes"]

#: Rates are taken over so many frames at most, and over frames no older than so many seconds.
_RATE_FRAMES, _RATE_SECONDS = 100, 5.0
_LATENCY_FRAMES = 300
#: A camera that loses a larger part of its frames is reported; drivers leave out one now and then.
_BAD_LOSS = 0.02


class CameraState(Enum):
    """What a camera is doing, by its last frame."""

    WAITING = "waiting"  # no frame yet
    ACTIVE = "active"
    STALE = "stale"  # frames came once
    REJECTED = "rejected"  # the last frame was malformed
    FAILED = "failed"  # the last frame's inference raised
    DISABLED = "disabled"  # nobody listens, as was wished


@dataclass(frozen=True, slots=True, kw_only=True)
class CameraCounts:
    """Numbers of a camera's frames since the node's start, and why the last bad ones were bad."""

    received: int = 0
    answered: int = 0
    dropped: int = 0
    skipped: int = 0
    rejected: int = 0
    failed: int = 0
    zero_stamps: int = 0
    backward_stamps: int = 0
    lost: int = 0
    last_rejection: str = ""
    last_failure: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class CameraReport:
    """A camera at one moment.

    Attributes:
        state: By the last frame and its age.
        counts: Of frames.
        age: Seconds since the last frame; None before the first.
        arrival_rate: Frames per second by the node's clock.
        stamp_rate: Frames per second by the stamps in the headers.
        delay_ms: Age of the last frame's stamp when it arrived; None before the first.
        latency_ms: From arrival to the last output published: 50th and 99th percentile.
        lost_share: Which part of the last frames never came, by the stamps of those that did.
    """

    state: CameraState
    counts: CameraCounts
    age: float | None
    arrival_rate: float
    stamp_rate: float
    delay_ms: float | None
    latency_ms: tuple[float, float] | None
    lost_share: float

    @property
    def loses_frames(self) -> bool:
        """Whether that is so much that somebody should see to it."""
        return self.lost_share > _BAD_LOSS


class CameraStatistics:
    """Counts one camera's frames."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._counts = CameraCounts()
        self._arrivals: deque[tuple[float, int]] = deque(maxlen=_RATE_FRAMES)
        self._latencies: deque[float] = deque(maxlen=_LATENCY_FRAMES)
        self._delay_ms: float | None = None
        self._stamps = StampWatch()
        self._last = CameraState.WAITING

    def received(self, *, now: float, stamp_ns: int, delay_ms: float, idle: bool) -> StampNews:
        """A frame came, good or bad.

        Args:
            now: Monotonic seconds.
            stamp_ns: Of the frame.
            delay_ms: The stamp's age.
            idle: Whether nothing was computed as it came.

        Returns:
            What its stamp says of the frames before it.
        """
        with self._lock:
            news = self._stamps.add(stamp_ns, idle=idle)
            if news.backwards:
                self._arrivals.clear()  # no rate holds over such a step
            self._arrivals.append((now, stamp_ns))
            self._delay_ms = delay_ms
            self._add(
                received=1,
                zero_stamps=int(stamp_ns == 0),
                backward_stamps=int(news.backwards),
                lost=news.lost,
            )
            if self._last is CameraState.WAITING:
                self._last = CameraState.ACTIVE
            return news

    def unreadable(self, reason: str, *, now: float) -> None:
        """A message came of which not even the stamp can be read."""
        with self._lock:
            stamp_ns = self._arrivals[-1][1] if self._arrivals else 0
            self._arrivals.append((now, stamp_ns))
            self._add(received=1)
        self.rejected(reason)

    def skipped(self) -> None:
        """A good frame came sooner than the rate that was wished for lets it."""
        with self._lock:
            self._last = CameraState.ACTIVE
            self._add(skipped=1)

    def dropped(self, frames: int = 1) -> None:
        """Frames were overtaken by newer ones, or waited when the node was deactivated."""
        with self._lock:
            self._add(dropped=frames)

    def rejected(self, reason: str) -> None:
        """The last frame was malformed."""
        with self._lock:
            self._last = CameraState.REJECTED
            self._add(rejected=1)
            self._counts = replace(self._counts, last_rejection=reason)

    def failed(self, reason: str) -> None:
        """A frame's inference raised."""
        with self._lock:
            self._last = CameraState.FAILED
            self._add(failed=1)
            self._counts = replace(self._counts, last_failure=reason)

    def answered(self, *, latency_ms: float) -> None:
        """A frame's outputs were published."""
        with self._lock:
            self._last = CameraState.ACTIVE
            self._latencies.append(latency_ms)
            self._add(answered=1)

    def forget_frames(self) -> None:
        """Begins anew with no frame seen, as at activation; the counts go on."""
        with self._lock:
            self._arrivals.clear()
            self._latencies.clear()
            self._stamps.forget()
            self._delay_ms = None
            self._last = CameraState.WAITING

    def report(self, *, now: float, stale_after: float) -> CameraReport:
        """The camera at monotonic second ``now``; stale without a frame for ``stale_after``."""
        with self._lock:
            age = now - self._arrivals[-1][0] if self._arrivals else None
            recent = [(at, stamp) for at, stamp in self._arrivals if now - at <= _RATE_SECONDS]
            return CameraReport(
                state=CameraState.STALE if age is not None and age > stale_after else self._last,
                counts=self._counts,
                age=age,
                arrival_rate=_rate([at for at, _ in recent]),
                stamp_rate=_rate([stamp / 1e9 for _, stamp in recent]),
                delay_ms=self._delay_ms,
                latency_ms=_percentiles(self._latencies),
                lost_share=self._stamps.lost_share,
            )

    @property
    def loses_frames(self) -> bool:
        """Whether so many of the last frames never came that somebody should see to it."""
        with self._lock:
            return self._stamps.lost_share > _BAD_LOSS

    def _add(self, **frames: int) -> None:
        counts = {name: getattr(self._counts, name) + more for name, more in frames.items()}
        self._counts = replace(self._counts, **counts)


@dataclass(slots=True)
class StageTimes:
    """Milliseconds of the last frames by stage, of all cameras together."""

    _lock: threading.Lock = field(default_factory=threading.Lock)
    _times: dict[str, deque[float]] = field(default_factory=dict)

    def add(self, milliseconds: Mapping[str, float]) -> None:
        """Takes in one frame's times."""
        with self._lock:
            for stage, time in milliseconds.items():
                self._times.setdefault(stage, deque(maxlen=_LATENCY_FRAMES)).append(time)

    def clear(self) -> None:
        """Forgets all times, as when another network is loaded."""
        with self._lock:
            self._times.clear()

    def percentiles(self) -> dict[str, tuple[float, float]]:
        """The 50th and 99th percentile by stage, in the order in which the stages came first."""
        with self._lock:
            found = {stage: _percentiles(times) for stage, times in self._times.items()}
        return {stage: pair for stage, pair in found.items() if pair is not None}


def _rate(times: list[float]) -> float:
    span = times[-1] - times[0] if len(times) > 1 else 0.0
    return (len(times) - 1) / span if span > 0 else 0.0


def _percentiles(values: deque[float]) -> tuple[float, float] | None:
    if not values:
        return None
    median, high = np.percentile(np.asarray(values), (50, 99))
    return float(median), float(high)
