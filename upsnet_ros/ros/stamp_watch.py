"""What the stamps of a camera's frames tell: that some are missing, that time runs backwards."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass

__all__ = ["StampNews", "StampWatch"]

#: So many steps between stamps are remembered, and so many are needed to know the camera's period.
_STEPS, _FEWEST = 100, 10
# Frames that got lost make steps longer, never shorter, so that short ones tell the period; not the
# shortest, which jitter shortens.
_PERIOD_QUANTILE = 0.1
# A longer step is a camera that paused.
_PAUSE_PERIODS = 20


@dataclass(frozen=True, slots=True, kw_only=True)
class StampNews:
    """What one more stamp says.

    Attributes:
        lost: Frames that are missing before it.
        backwards: Whether it is earlier than the one before it, as where a bag begins anew.
    """

    lost: int = 0
    backwards: bool = False


class StampWatch:
    """Takes in the stamps of one camera, in nanoseconds and in the order in which they arrive."""

    def __init__(self) -> None:
        self._last: int | None = None
        self._steps: deque[tuple[int, int]] = deque(maxlen=_STEPS)  # nanoseconds, frames lost

    def add(self, stamp_ns: int, *, idle: bool) -> StampNews:
        """Takes in the next stamp.

        Args:
            stamp_ns: The frame's; 0, which stands for none, is passed over.
            idle: Whether nothing was computed as the frame came; while something is, frames may
                get lost because the machine has no time for them, which says nothing new.
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
        lost = round(step / period) - 1 if period else 0
        if lost >= _PAUSE_PERIODS:
            return StampNews()
        lost = lost if idle else 0
        self._steps.append((step, lost))
        return StampNews(lost=lost)

    def forget(self) -> None:
        """Begins anew, as where nobody listened for a while."""
        self._last = None
        self._steps.clear()

    @property
    def lost_share(self) -> float:
        """Which part of the last frames is missing, 0 to 1."""
        lost = sum(one for _, one in self._steps)
        return lost / (len(self._steps) + lost) if lost else 0.0

    def _period_ns(self) -> int:
        if len(self._steps) < _FEWEST:
            return 0
        # Not numpy's quantile, which takes ten times as long for so few.
        return sorted(step for step, _ in self._steps)[int(_PERIOD_QUANTILE * len(self._steps))]
