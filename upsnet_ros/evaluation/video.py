"""Video panoptic quality: PQ of tubes, the segments of a window of frames joined by their ids.

A window of size k spans k frames of the camera beyond its first, of which those with labels count:
with every fifth frame labelled (Cityscapes-VPS) sizes 0, 5, 10 and 15 join one to four.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from upsnet_ros.evaluation.categories import Categories
from upsnet_ros.evaluation.overlaps import Overlaps
from upsnet_ros.evaluation.panoptic_quality import PanopticCounts

WINDOWS = (0, 5, 10, 15)


def tube_counts(
    numbers: Sequence[int], frames: Sequence[Overlaps], size: int, categories: Categories
) -> PanopticCounts:
    """Count the tubes of every window of a sequence.

    Args:
        numbers: The frames' numbers along the sequence, rising.
        frames: The frames' overlaps; ids persist along the sequence.
        size: The window's size; a sequence that is shorter has no window.
        categories: The classes.

    Raises:
        EvaluationError: A segment changes its class, so that ids cannot persist.
    """
    counts = PanopticCounts.zero(len(categories))
    for start, end in _windows(numbers, size):
        joined = Overlaps.joined(frames[start:end])
        counts = counts + PanopticCounts.of(joined, categories)
    return counts


def _windows(numbers: Sequence[int], size: int) -> Iterator[tuple[int, int]]:
    """First and past-the-last frame of each window that fits into the sequence."""
    end = 0
    for start, number in enumerate(numbers):
        if number + size > numbers[-1]:
            return
        while end < len(numbers) and numbers[end] <= number + size:
            end += 1
        yield start, end
