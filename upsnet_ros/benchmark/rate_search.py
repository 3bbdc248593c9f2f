"""The highest rate that still works, found by trying."""

from __future__ import annotations

import math
from collections.abc import Callable

__all__ = ["highest_rate"]

_STRIDE = 1.5
_MOST_TRIALS = 24


def highest_rate(
    works: Callable[[float], bool], *, guess: float, ratio: float = 1.05, limit: float = 1000.0
) -> float | None:
    """Try rates until one that works and one that does not lie close together.

    Whether a rate works is a matter of chance near the limit, so that the answer is as good as one
    trial of it; whoever wants more tries it again.

    Args:
        works: Tries a rate.
        guess: Where to begin.
        ratio: How close: the rate that did not work divided by the one that did.
        limit: Nothing above is tried.

    Returns:
        The highest rate that worked; None where none did, however low.
    """
    good: float | None = None
    bad: float | None = None
    rate = min(guess, limit)
    for _ in range(_MOST_TRIALS):
        if works(rate):
            good = rate
        else:
            bad = rate
        if good == limit or (good and bad and bad / good <= ratio):
            break
        if good is None:
            rate /= _STRIDE
        elif bad is None:
            rate = min(rate * _STRIDE, limit)
        else:
            rate = math.sqrt(good * bad)
    return good
