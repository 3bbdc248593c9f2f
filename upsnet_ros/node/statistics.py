"""What the node counts and times: frames by outcome, stamps, rate limits, stage times.

Frames arrive in the executor's thread and are answered in the worker's, so both kinds lock.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from enum import Enum

import numpy as np

#: So many steps between stamps are remembered, and so many are needed to know the camera's period.
_STEPS, _FEWEST = 100, 10
# Frames that got lost make steps longer, never shorter, so that short ones tell the period; not the
# shortest, which jitter shortens.
_PERIOD_QUANTILE = 0.1
# A longer step is a camera that paused, or a video that is played again, maybe at another rate.
_PAUSE_PERIODS, _PAUSE_NS = 20, 1_000_000_000
# Steps of about one period that vary more are of no camera with a fixed rate: of frames that are
# sent after the result of the previous one, for example. They tell of no lost frames.
_REGULAR_SPREAD = 0.3


@dataclass(frozen=True, slots=True, kw_only=True)
class StampNews:
    """What a new stamp tells.

    Attributes:
        lost: Number of missing frames before it.
        backwards: Whether it is earlier than the previous one, e.g. after a restart of a bag.
    """

    lost: int = 0
    backwards: bool = False


class StampWatch:
    """Detects lost frames and jumps from the stamps of one camera, in order of arrival."""

    def __init__(self) -> None:
        self._last: int | None = None
        self._steps: deque[tuple[int, int]] = deque(maxlen=_STEPS)  # nanoseconds, frames lost

    def add(self, stamp_ns: int, *, idle: bool, busy_ns: int = 0) -> StampNews:
        """Add the next stamp.

        Args:
            stamp_ns: Stamp of the frame; 0 (no stamp) is ignored.
            idle: Whether nothing was being computed when the frame arrived. Otherwise frames may
                be lost because the machine is busy, which is not counted.
            busy_ns: Nanoseconds for which the node computed since the previous frame. If that is
                most of a period, the sender may have waited for the result.
        """
        last = self._last
        if stamp_ns == 0:
            return StampNews()
        self._last = stamp_ns
        if last is None or stamp_ns == last:
            return StampNews()
        if stamp_ns < last:
            self._steps.clear()
            return StampNews(backwards=True)
        step, period = stamp_ns - last, self._period_ns()
        if step > _PAUSE_NS:
            self._steps.clear()
            return StampNews()
        lost = round(step / period) - 1 if period else 0
        if lost >= _PAUSE_PERIODS:
            return StampNews()
        lost = lost if idle and 2 * busy_ns < period else 0
        self._steps.append((step, lost))
        return StampNews(lost=lost)

    def forget(self) -> None:
        """Reset, e.g. after the camera was not subscribed to for a while."""
        self._last = None
        self._steps.clear()

    @property
    def lost_share(self) -> float:
        """Share of the last frames that is missing, 0 to 1."""
        lost = sum(one for _, one in self._steps)
        return lost / (len(self._steps) + lost) if lost else 0.0

    def _period_ns(self) -> int:
        """Return the time between two frames of the camera; 0 if it is not known."""
        if len(self._steps) < _FEWEST:
            return 0
        # Not numpy's quantile, which takes ten times as long for so few.
        steps = sorted(step for step, _ in self._steps)
        period = steps[int(_PERIOD_QUANTILE * len(steps))]
        single = [step for step in steps if step < 1.5 * period]
        most = single[-1 - int(_PERIOD_QUANTILE * len(single))]
        least = single[int(_PERIOD_QUANTILE * len(single))]
        return period if most - least < _REGULAR_SPREAD * period else 0


# Frames arrive slightly early or late. Without a tolerance, a camera of 30 Hz limited to 15 would
# lose two of three frames whenever the second one arrives slightly early.
_TOLERANCE = 0.2


class RateLimit:
    """Decides for each frame whether to take it.

    Args:
        rate: Maximum mean number of frames per second; 0 for no limit. May be set at any time.
    """

    def __init__(self, rate: float) -> None:
        self.rate = rate
        self._due: float | None = None

    def take(self, now: float) -> bool:
        """Return whether to take the frame that arrives at this time, monotonic seconds."""
        if self.rate <= 0:
            return True
        period = 1 / self.rate
        due = now if self._due is None else self._due
        # A pause is not made up for; a later due time is from an earlier rate.
        if not -period <= due - now <= (1 + _TOLERANCE) * period:
            due = now
        if now < due - _TOLERANCE * period:
            return False
        self._due = due + period  # not from now, so that slightly late frames are made up for
        return True


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
        arrival_rate: Frames per second of the last seconds by the node's clock; 0 if stale.
        stamp_rate: The same by the stamps in the headers.
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
    """Counts one camera's frames; thread-safe."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._counts = CameraCounts()
        self._arrivals: deque[tuple[float, int]] = deque(maxlen=_RATE_FRAMES)
        self._latencies: deque[float] = deque(maxlen=_LATENCY_FRAMES)
        self._delay_ms: float | None = None
        self._stamps = StampWatch()
        self._busy_ms = 0.0  # spent on frames since the last one arrived
        self._last = CameraState.WAITING

    def received(self, *, now: float, stamp_ns: int, delay_ms: float, idle: bool) -> StampNews:
        """Count a frame that arrived, valid or not.

        Args:
            now: Monotonic seconds.
            stamp_ns: Stamp of the frame, ns.
            delay_ms: Age of the stamp.
            idle: Whether nothing was being computed when it arrived.

        Returns:
            What its stamp tells about the frames before it.
        """
        with self._lock:
            news = self._stamps.add(stamp_ns, idle=idle, busy_ns=round(1e6 * self._busy_ms))
            self._busy_ms = 0.0
            if news.backwards:
                self._arrivals.clear()  # rates are meaningless across such a step
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
        """Count a message whose header cannot be read."""
        with self._lock:
            stamp_ns = self._arrivals[-1][1] if self._arrivals else 0
            self._arrivals.append((now, stamp_ns))
            self._add(received=1)
        self.rejected(reason)

    def skipped(self) -> None:
        """Count a frame that was skipped because of ``max_rate``."""
        with self._lock:
            self._last = CameraState.ACTIVE
            self._add(skipped=1)

    def dropped(self, frames: int = 1) -> None:
        """Count frames that were replaced by newer ones or still queued at deactivation."""
        with self._lock:
            self._add(dropped=frames)

    def rejected(self, reason: str) -> None:
        """Count the last frame as malformed."""
        with self._lock:
            self._last = CameraState.REJECTED
            self._add(rejected=1)
            self._counts = replace(self._counts, last_rejection=reason)

    def failed(self, reason: str) -> None:
        """Count a frame whose inference raised."""
        with self._lock:
            self._last = CameraState.FAILED
            self._add(failed=1)
            self._counts = replace(self._counts, last_failure=reason)

    def answered(self, *, latency_ms: float) -> None:
        """Count a frame whose results were published."""
        with self._lock:
            self._last = CameraState.ACTIVE
            self._latencies.append(latency_ms)
            self._busy_ms = latency_ms
            self._add(answered=1)

    def forget_frames(self) -> None:
        """Forget all frames, e.g. at activation; the counts are kept."""
        with self._lock:
            self._arrivals.clear()
            self._latencies.clear()
            self._stamps.forget()
            self._delay_ms = None
            self._last = CameraState.WAITING

    def report(self, *, now: float, stale_after: float) -> CameraReport:
        """Return the state at ``now`` (monotonic s); stale after ``stale_after`` s of silence."""
        with self._lock:
            age = now - self._arrivals[-1][0] if self._arrivals else None
            stale = age is not None and age > stale_after
            arrival_rate, stamp_rate = (0.0, 0.0) if stale else _rates(self._arrivals, now)
            return CameraReport(
                state=CameraState.STALE if stale else self._last,
                counts=self._counts,
                age=age,
                arrival_rate=arrival_rate,
                stamp_rate=stamp_rate,
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


def _rates(arrivals: Iterable[tuple[float, int]], now: float) -> tuple[float, float]:
    """Return the frames per second of the last seconds, by arrival and by stamp.

    Args:
        arrivals: Arrival, monotonic seconds, and stamp, nanoseconds, of the last frames.
        now: Monotonic seconds.
    """
    frames = list(arrivals)
    recent = sum(now - at <= _RATE_SECONDS for at, _ in frames)
    window = frames[-recent - 1 :]  # with the frame before, so that a pause before a burst counts
    if not recent or len(window) < 2:
        return 0.0, 0.0
    (first, first_ns), (last, last_ns) = window[0], window[-1]
    intervals = len(window) - 1
    # Of a pause only the last seconds count, so that old frames do not slow a camera down for long.
    outside = now - _RATE_SECONDS - first if now - first > 2 * _RATE_SECONDS else 0.0
    # The silence since the last frame counts once it is longer than the time between two frames.
    quiet = now - last > 3 * (last - first) / intervals
    silence = now - last if quiet or outside else 0.0

    def rate(span: float) -> float:
        return intervals / (span - outside + silence) if span > outside else 0.0

    return rate(last - first), rate((last_ns - first_ns) / 1e9)


def _percentiles(values: deque[float]) -> tuple[float, float] | None:
    if not values:
        return None
    median, high = np.percentile(np.asarray(values), (50, 99))
    return float(median), float(high)
