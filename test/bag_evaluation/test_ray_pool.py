"""Bags on actors of a Ray cluster that lasts for one test, one of which is killed."""

from __future__ import annotations

import importlib.util
import json
import os
import signal
import socket
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
from blocked_bag import BlockedBag, has_ended

from upsnet_ros.bag_evaluation.scoring import BagTask, evaluate_bag
from upsnet_ros.bag_evaluation.tasks import State, encode
from upsnet_ros.bag_evaluation.workers import Finished, Found, gather
from upsnet_ros.errors import ClusterError
from upsnet_ros.evaluation.report import to_json
from upsnet_ros.evaluation.run import PartialResult

if importlib.util.find_spec("ray") is None:  # not imported: it has to be told of tokens before
    pytest.skip("the extra `cluster` is not installed", allow_module_level=True)


def connected() -> bool:
    return sys.modules["ray"].is_initialized()


TASKS = [BagTask(bag=Path("none"))]


def figures(part: PartialResult) -> str:
    return json.dumps(to_json(part.result()))


@pytest.mark.timeout(900)  # a cluster is several processes, which start slowly beside others
def test_one_that_is_killed_changes_no_digit(tasks, expected, tmp_path: Path, capfd):
    from upsnet_ros.bag_evaluation.workers import evaluate_on_ray

    state, heard = State(tmp_path / "state", None), []
    blocked = BlockedBag(tasks[0].bag, tmp_path / "street0")
    some = [replace(tasks[0], bag=blocked.path), *tasks[1:]]
    assert state.load(some[-1]) is None
    state.store(some[-1], encode(evaluate_bag(some[-1])))  # in an earlier run

    def kill_reader() -> int:
        with blocked.reader() as pid:
            blocked.mend()
            os.kill(pid, signal.SIGKILL)
        return pid

    with ThreadPoolExecutor(1) as hand:
        killed = hand.submit(kill_reader)
        evaluate_all = partial(evaluate_on_ray, workers=2, model=None)
        part = gather(some, state=state, evaluate_all=evaluate_all, watch=heard.append)
    assert has_ended(killed.result())
    assert figures(part) == figures(expected)
    assert [type(one) for one in heard if one.task == some[0]] == [Finished], "tried again by Ray"
    assert [one.task for one in heard if type(one) is Found] == some[-1:]
    assert {one.task for one in heard if type(one) is Finished} == set(some[:-1])
    assert not connected()
    assert capfd.readouterr().out == ""

    def none(tasks: list[BagTask]) -> Iterator[Finished]:
        raise AssertionError("nothing is left to evaluate")

    assert figures(gather(some[1:], state=state, evaluate_all=none)) == figures(
        PartialResult.merged(evaluate_bag(task) for task in some[1:])
    )


@pytest.mark.parametrize("address", ["127.0.0.1:{port}", "127.0.0.1:ray"])
def test_nobody_is_there(address: str):
    from upsnet_ros.bag_evaluation.workers import evaluate_on_ray

    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))  # so that nobody else listens there
        where = address.format(port=closed.getsockname()[1])
        with pytest.raises(ClusterError, match=f"no Ray cluster at {where}: "):
            list(evaluate_on_ray(TASKS, workers=None, model=None, address=where))
    assert not connected()
