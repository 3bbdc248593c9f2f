"""Which frames a page shows: the worst ones, and some from all along the way."""

from __future__ import annotations

import heapq
import math
from itertools import count

from upsnet_ros.evaluation.snapshot import Snapshot


class Shelf:
    """Keeps the pictures of a bounded number of frames, however many come.

    Half of the places are for the frames of the lowest quality, half for evenly spread ones.

    Args:
        places: How many frames are kept at most.
    """

    def __init__(self, places: int) -> None:
        self._worst_places = places // 2
        self._spread_places = places - self._worst_places
        self._worst: list[tuple[float, int, Snapshot]] = []
        self._spread: list[tuple[int, Snapshot]] = []
        self._stride = 1
        self._numbers = count()

    def put(self, snapshot: Snapshot, quality: float) -> None:
        """Offer a frame; one of undefined quality (nan) is never among the worst."""
        number = next(self._numbers)
        if self._worst_places and not math.isnan(quality):
            item = (-quality, -number, snapshot)  # the heap's top is the best of the worst
            if len(self._worst) < self._worst_places:
                heapq.heappush(self._worst, item)
            else:
                heapq.heappushpop(self._worst, item)
        if number % self._stride == 0:
            self._spread.append((number, snapshot))
            if len(self._spread) > self._spread_places:
                self._stride *= 2
                self._spread = [entry for entry in self._spread if entry[0] % self._stride == 0]

    def snapshots(self) -> list[Snapshot]:
        """The kept frames, in the order they came."""
        kept = {-number: snapshot for _, number, snapshot in self._worst} | dict(self._spread)
        return [kept[number] for number in sorted(kept)]
