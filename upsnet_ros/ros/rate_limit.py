"""So many frames a second, and no more."""

from __future__ import annotations

__all__ = ["RateLimit"]

# Frames come a little too early and a little too late; without this a camera of 30 Hz that is asked
# for 15 would lose two frames of three wherever the second came a moment too early.
_TOLERANCE = 0.2


class RateLimit:
    """Says of each frame whether to take it.

    Args:
        rate: Frames per second at most, in the mean; 0 takes all. May be set anew at any time.
    """

    def __init__(self, rate: float) -> None:
        self.rate = rate
        self._due: float | None = None

    def take(self, now: float) -> bool:
        """Whether to take the frame that comes at this monotonic second."""
        if self.rate <= 0:
            return True
        period = 1 / self.rate
        due = now if self._due is None else self._due
        # A pause is not made up for; and what is due later was due at a rate of a while ago.
        if not -period <= due - now <= (1 + _TOLERANCE) * period:
            due = now
        if now < due - _TOLERANCE * period:
            return False
        self._due = due + period  # not from now, so that what came a little late is made up for
        return True
