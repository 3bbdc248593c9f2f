"""Bags on actors of a Ray cluster that lasts for one test, one of which is killed."""

from __future__ import annotations

import json
import os
import signal
import socket
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import psutil
import pytest
from blocked_bag import BlockedBag

from upsnet_ros.bags.judging import judge_bag
from upsnet_ros.cluster.errors import ClusterError
from upsnet_ros.cluster.gather import Found, gather
from upsnet_ros.cluster.results import encode
from upsnet_ros.cluster.spread import Finished, Retried
from upsnet_ros.cluster.state import State
from upsnet_ros.evaluation.figures import to_json
from upsnet_ros.evaluation.partial import PartialResult

ray = pytest.importorskip("ray", reason="the extra `cluster` is not installed")


def figures(part: PartialResult) -> str:
    return json.dumps(to_json(part.result()))


def test_one_that_is_killed_changes_no_digit(tasks, expected, tmp_path: Path, capfd):
    from upsnet_ros.cluster.ray_pool import RayPool

    state, heard = State(tmp_path / "state", None), []
    blocked = BlockedBag(tasks[0].bag, tmp_path / "street0")
    some = [replace(tasks[0], bag=blocked.path), *tasks[1:]]
    assert state.load(some[-1]) is None
    state.store(some[-1], encode(judge_bag(some[-1])))  # in an earlier run

    def kill_reader() -> int:
        with blocked.reader() as pid:
            blocked.mend()
            os.kill(pid, signal.SIGKILL)
        return pid

    with ThreadPoolExecutor(1) as hand:
        killed = hand.submit(kill_reader)
        part = gather(
            some, state=state, pool=lambda: RayPool(size=2, model=None), watch=heard.append
        )
    assert not psutil.pid_exists(killed.result())
    assert figures(part) == figures(expected)
    assert [type(one) for one in heard if one.task == some[0]] == [Retried, Finished]
    assert [one.task for one in heard if type(one) is Found] == some[-1:]
    assert {one.task for one in heard if type(one) is Finished} == set(some[:-1])
    assert not ray.is_initialized()
    assert capfd.readouterr().out == ""

    def none() -> RayPool:
        raise AssertionError("nothing is left to judge")

    assert figures(gather(some[1:], state=state, pool=none)) == figures(
        PartialResult.merged(judge_bag(task) for task in some[1:])
    )


@pytest.mark.parametrize("address", ["127.0.0.1:{port}", "127.0.0.1:ray"])
def test_nobody_is_there(address: str):
    from upsnet_ros.cluster.ray_pool import RayPool

    with socket.create_server(("127.0.0.1", 0)) as server:
        free = server.getsockname()[1]
    where = address.format(port=free)
    with pytest.raises(ClusterError, match=f"no Ray cluster at {where}: "):
        RayPool(size=None, model=None, address=where)
    assert not ray.is_initialized()
