"""Bags on real processes, some of which are killed."""

from __future__ import annotations

import json
import os
import signal
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import psutil
import pytest
from blocked_bag import BlockedBag

from upsnet_ros.bags.judging import BagTask, judge_bag
from upsnet_ros.cluster.errors import ClusterError
from upsnet_ros.cluster.gather import Found, gather
from upsnet_ros.cluster.model import ModelSettings
from upsnet_ros.cluster.process_pool import ProcessPool
from upsnet_ros.cluster.spread import Failed, Finished, Retried
from upsnet_ros.cluster.state import State
from upsnet_ros.evaluation.errors import EvaluationError
from upsnet_ros.evaluation.figures import to_json
from upsnet_ros.evaluation.partial import PartialResult


def figures(part: PartialResult) -> str:
    return json.dumps(to_json(part.result()))


def pool(size: int = 2, model: ModelSettings | None = None) -> ProcessPool:
    return ProcessPool(size=size, model=model)


def workers() -> list[psutil.Process]:
    """Children of the process that all of them are forked from."""
    descendants = psutil.Process().children(recursive=True)
    return [process for process in descendants if process.ppid() != os.getpid()]


def kill_reader(bag: BlockedBag, *, mend: bool) -> int:
    with bag.reader() as pid:
        if mend:
            bag.mend()
        os.kill(pid, signal.SIGKILL)
        # Until it has let go of the bag, it would be taken for the next reader.
        while psutil.pid_exists(pid) and psutil.Process(pid).status() != psutil.STATUS_ZOMBIE:
            time.sleep(0.02)
    return pid


def test_one_that_is_killed_changes_no_digit(tasks, expected, tmp_path: Path):
    state, heard = State(tmp_path / "state", None), []
    blocked = BlockedBag(tasks[0].bag, tmp_path / "street0")
    some = [replace(tasks[0], bag=blocked.path), *tasks[1:]]
    with ThreadPoolExecutor(1) as hand:
        killed = hand.submit(kill_reader, blocked, mend=True)
        part = gather(some, state=state, pool=pool, watch=heard.append)
    assert not psutil.pid_exists(killed.result())
    assert figures(part) == figures(expected)
    assert [type(one) for one in heard if one.task == some[0]] == [Retried, Finished]
    assert "its worker ended with code -9" in next(o.reason for o in heard if type(o) is Retried)
    assert sum(type(one) is Finished for one in heard) == len(tasks)
    assert workers() == []

    # Of all bags, the mended one alone is not what it was when it was asked for.
    heard.clear()
    assert figures(gather(some, state=state, pool=pool, watch=heard.append)) == figures(expected)
    assert [(type(one), one.task) for one in heard] == [
        *((Found, task) for task in some[1:]),
        (Finished, some[0]),
    ]


def test_a_bag_that_ends_two_workers_is_left_out_by_name(tasks, tmp_path: Path):
    state, heard = State(tmp_path / "state", None), []
    blocked = BlockedBag(tasks[0].bag, tmp_path / "deadly")
    some = [tasks[1], replace(tasks[0], bag=blocked.path), replace(tasks[2], bag=tmp_path / "none")]
    with ThreadPoolExecutor(1) as hand:
        killed = hand.submit(lambda: [kill_reader(blocked, mend=False) for _ in range(2)])
        with pytest.raises(EvaluationError) as failure:
            gather(some, state=state, pool=lambda: pool(1), watch=heard.append)
    assert len(set(killed.result())) == 2
    message = str(failure.value)
    assert message.startswith("2 of 3 bags cannot be judged: ")
    assert f"{blocked.path}: its worker ended with code -9, 2 times" in message
    assert f"there is no bag {tmp_path / 'none'}" in message
    assert sum(type(one) is Failed for one in heard) == 2

    blocked.mend()
    heard.clear()
    lenient = [replace(task, allow_missing=True) for task in some]
    part = gather(
        lenient, state=state, pool=lambda: pool(1), allow_missing=True, watch=heard.append
    )
    assert heard[0] == Found(lenient[0])
    whole = PartialResult.merged(judge_bag(task) for task in lenient[:2])
    assert figures(part) == figures(whole)
    assert part.notes == (*whole.notes, f"left out: there is no bag {tmp_path / 'none'}")


def test_a_model_in_every_process(bags, tmp_path: Path):
    model = ModelSettings(
        variant="cityscapes-r18", allow_random_weights=True, device="cpu", scale=64
    )
    tasks = [BagTask(bag=bag, prefix=str(bag), limit=1) for bag in bags[:2]]
    part = gather(tasks, state=State(tmp_path, model), pool=lambda: pool(2, model))
    predictor = model.predictor()
    assert figures(part) == figures(PartialResult.merged(judge_bag(t, predictor) for t in tasks))


def test_a_model_that_cannot_be_loaded_ends_it(tasks, tmp_path: Path):
    model = ModelSettings(weights=tmp_path / "none.pth")
    with pytest.raises(ClusterError, match=r"none\.pth"):
        gather(tasks, state=State(tmp_path, model), pool=lambda: pool(1, model))
    with pytest.raises(EvaluationError, match="use auto, cpu or cuda"):
        ModelSettings(device="cuda:1")
