"""Handing bags to workers, until each bag was judged or has failed for good."""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from upsnet_ros.bags.judging import BagTask
from upsnet_ros.cluster.errors import ClusterError
from upsnet_ros.cluster.pool import Broken, Pool, Report
from upsnet_ros.cluster.worker import Greeting

__all__ = ["ATTEMPTS", "Failed", "Finished", "Outcome", "Retried", "spread"]

#: Workers that a bag may break before it is given up.
ATTEMPTS = 2
#: Workers that may break one after the other before any was ready to work.
_STARTS = 3


@dataclass(frozen=True, slots=True)
class Finished:
    """A bag was judged; its encoded result."""

    task: BagTask
    data: bytes


@dataclass(frozen=True, slots=True)
class Retried:
    """A bag's worker broke; another one takes it."""

    task: BagTask
    reason: str


@dataclass(frozen=True, slots=True)
class Failed:
    """A bag cannot be judged, or has broken too many workers."""

    task: BagTask
    reason: str


Outcome = Finished | Retried | Failed


def spread(tasks: Sequence[BagTask], pool: Pool) -> Iterator[Outcome]:
    """Have each bag judged by one of the pool's workers.

    Yields:
        What comes of the bags, as it comes: for each one `Finished` or `Failed`, and before that
        perhaps `Retried`.

    Raises:
        ClusterError: A worker cannot work, or none is ever ready.
    """
    return _Spread(tasks, pool).run()


class _Spread:
    def __init__(self, tasks: Sequence[BagTask], pool: Pool) -> None:
        self._pool = pool
        self._open = len(tasks)
        self._waiting = deque(tasks)
        self._busy: dict[int, BagTask] = {}
        self._idle: list[int] = []
        self._starting: set[int] = set()
        self._broken: Counter[BagTask] = Counter()
        self._false_starts = 0

    def run(self) -> Iterator[Outcome]:
        while self._open:
            self._assign()
            for report in self._pool.wait():
                outcome = self._heed(report)
                if outcome is None:
                    continue
                if not isinstance(outcome, Retried):
                    self._open -= 1
                yield outcome

    def _assign(self) -> None:
        while self._waiting and self._idle:
            worker = self._idle.pop()
            self._busy[worker] = self._waiting.popleft()
            self._pool.submit(worker, self._busy[worker])
        missing = min(len(self._waiting), self._pool.size - len(self._busy)) - len(self._starting)
        self._starting.update(self._pool.start() for _ in range(missing))

    def _heed(self, report: Report) -> Outcome | None:
        worker, news = report.worker, report.news
        if isinstance(news, Broken):
            self._pool.discard(worker)
            return self._replace(worker, news.reason)
        self._idle.append(worker)
        if isinstance(news, Greeting):
            if news.problem:
                raise ClusterError(news.problem)
            self._starting.remove(worker)
            self._false_starts = 0
            return None
        task = self._busy.pop(worker)
        return Failed(task, news.problem) if news.problem else Finished(task, news.data)

    def _replace(self, worker: int, reason: str) -> Outcome | None:
        """The next `_assign` starts another worker, if there is something to do for it."""
        if worker in self._starting:
            self._starting.remove(worker)
            self._false_starts += 1
            if self._false_starts == _STARTS:
                raise ClusterError(f"{_STARTS} workers broke before they were ready: {reason}")
            return None
        task = self._busy.pop(worker, None)
        if task is None:  # it was idle
            self._idle.remove(worker)
            return None
        self._broken[task] += 1
        if self._broken[task] == ATTEMPTS:
            return Failed(task, f"{reason}, {ATTEMPTS} times")
        self._waiting.append(task)
        return Retried(task, reason)
