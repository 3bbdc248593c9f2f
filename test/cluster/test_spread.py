"""Bags and workers in orders that real machines take only now and then."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from pathlib import Path

import pytest

from upsnet_ros.bags.judging import BagTask
from upsnet_ros.cluster.errors import ClusterError
from upsnet_ros.cluster.pool import Broken, Report
from upsnet_ros.cluster.spread import Failed, Finished, Retried, spread
from upsnet_ros.cluster.worker import Greeting, Verdict

READY = Greeting(host="here", pid=1)
DONE = Verdict(data=b"done")
LOST = Broken("lost")

TASKS = [BagTask(bag=Path(name)) for name in "abc"]
A, B, C = TASKS


class ScriptedPool:
    """Tells news in the order of a script: (worker, news)."""

    def __init__(self, size: int, script: Sequence[tuple[int, object]]) -> None:
        self.size = size
        self.script = deque(script)
        self.started = 0
        self.discarded: list[int] = []
        self.given: list[tuple[int, BagTask]] = []

    def start(self) -> int:
        self.started += 1
        return self.started - 1

    def submit(self, worker: int, task: BagTask) -> None:
        self.given.append((worker, task))

    def discard(self, worker: int) -> None:
        self.discarded.append(worker)

    def wait(self) -> list[Report]:
        worker, news = self.script.popleft()
        assert worker < self.started
        return [Report(worker, news)]


def test_each_worker_takes_the_next_bag():
    pool = ScriptedPool(2, [(1, READY), (1, DONE), (0, READY), (1, DONE), (0, DONE)])
    assert list(spread(TASKS, pool)) == [Finished(task, b"done") for task in (A, B, C)]
    assert pool.given == [(1, A), (1, B), (0, C)]
    assert pool.started == 2


def test_no_more_workers_than_bags():
    pool = ScriptedPool(8, [(0, READY), (0, DONE)])
    assert list(spread([A], pool)) == [Finished(A, b"done")]
    assert pool.started == 1
    assert list(spread([], ScriptedPool(8, []))) == []


def test_another_worker_takes_the_bag_of_a_lost_one():
    pool = ScriptedPool(1, [(0, READY), (0, LOST), (1, READY), (1, DONE), (1, DONE)])
    outcomes = list(spread([A, B], pool))
    assert outcomes == [Retried(A, "lost"), Finished(B, b"done"), Finished(A, b"done")]
    assert pool.discarded == [0]
    assert pool.started == 2


def test_a_bag_that_breaks_two_workers_is_given_up():
    pool = ScriptedPool(1, [(0, READY), (0, LOST), (1, READY), (1, DONE), (1, LOST)])
    outcomes = list(spread([A, B], pool))
    assert outcomes[-1] == Failed(A, "lost, 2 times")
    assert pool.started == 2  # none for nothing


def test_a_bag_at_fault_is_not_tried_again():
    pool = ScriptedPool(1, [(0, READY), (0, Verdict(problem="no truth")), (0, DONE)])
    assert list(spread([A, B], pool)) == [Failed(A, "no truth"), Finished(B, b"done")]


def test_idle_workers_may_be_lost_and_take_what_others_drop():
    script = [(0, READY), (1, READY), (2, READY), (2, DONE), (1, DONE)]
    lost_while_idle = ScriptedPool(3, [*script, (2, LOST), (0, LOST), (1, DONE)])
    assert list(spread(TASKS, lost_while_idle))[2:] == [Retried(A, "lost"), Finished(A, b"done")]
    assert lost_while_idle.discarded == [2, 0]
    assert lost_while_idle.started == 3


def test_workers_that_break_at_once_end_it():
    pool = ScriptedPool(2, [(0, LOST), (1, LOST), (2, LOST)])
    with pytest.raises(ClusterError, match="3 workers broke before they were ready: lost"):
        list(spread(TASKS, pool))
    recovers = [(0, LOST), (1, LOST), (2, READY), (2, DONE), (3, LOST), (2, DONE), (2, DONE)]
    assert len(list(spread(TASKS, ScriptedPool(2, recovers)))) == 3


def test_a_worker_that_cannot_work_ends_it():
    pool = ScriptedPool(1, [(0, Greeting(host="h", pid=1, problem="h: no such file w.pth"))])
    with pytest.raises(ClusterError, match=r"no such file w\.pth"):
        list(spread(TASKS, pool))
