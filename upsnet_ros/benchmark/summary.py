"""Many timings of one thing in few numbers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np


def short(value: float) -> str:
    """Write a figure with three digits that count, and no exponent."""
    return f"{value:.3g}" if abs(value) < 999.5 else f"{value:.0f}"


@dataclass(frozen=True, slots=True)
class Summary:
    """Percentiles of measurements, in their unit; ``p0`` and ``p100`` are the extremes."""

    p0: float
    p50: float
    p99: float
    p100: float

    @classmethod
    def of(cls, values: Sequence[float]) -> Summary:
        """Summarise at least one value."""
        return cls(*(round(float(v), 4) for v in np.percentile(values, (0, 50, 99, 100))))


@dataclass(frozen=True, slots=True)
class PairedRatio:
    """Ratio of two things that were measured in turn, pair by pair.

    The median of the pairs' ratios is not moved by a load that comes and goes, since it slows
    both of a pair; the ratio of two medians would be.

    Attributes:
        median: Of the pairs' ratios.
        p10: Of the pairs' ratios.
        p90: Of the pairs' ratios.
        pairs: How many there were.
    """

    median: float
    p10: float
    p90: float
    pairs: int

    @classmethod
    def of(cls, numerators: Sequence[float], denominators: Sequence[float]) -> PairedRatio:
        """Compare value by value.

        Raises:
            ValueError: Where the two are not equally many.
        """
        if len(numerators) != len(denominators):
            raise ValueError(f"{len(numerators)} and {len(denominators)} values make no pairs")
        ratios = np.asarray(numerators, float) / np.asarray(denominators, float)
        low, middle, high = (round(float(v), 4) for v in np.percentile(ratios, (10, 50, 90)))
        return cls(median=middle, p10=low, p90=high, pairs=len(ratios))
