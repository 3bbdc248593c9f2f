"""Bags on real processes, some of which are killed."""

from __future__ import annotations

import json
import os
import signal
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import replace
from functools import partial
from pathlib import Path

import psutil
import pytest
from blocked_bag import BlockedBag

from upsnet_ros.bag_evaluation.scoring import BagTask, evaluate_bag
from upsnet_ros.bag_evaluation.tasks import ModelSettings, State
from upsnet_ros.bag_evaluation.workers import (
    Failed,
    Finished,
    Found,
    Retried,
    evaluate_locally,
    gather,
)
from upsnet_ros.errors import CheckpointError, ClusterError, EvaluationError
from upsnet_ros.evaluation.report import to_json
from upsnet_ros.evaluation.run import PartialResult


def figures(part: PartialResult) -> str:
    return json.dumps(to_json(part.result()))


def local(processes: int = 2, model: ModelSettings | None = None):
    return partial(evaluate_locally, processes=processes, model=model)


def workers() -> list[psutil.Process]:
    """Children of the process that all of them are forked from."""
    descendants = psutil.Process().children(recursive=True)
    return [process for process in descendants if process.ppid() != os.getpid()]


def kill_reader(bag: BlockedBag, *, mend: bool) -> int:
    with bag.reader() as pid:
        if mend:
            bag.mend()
        reader = psutil.Process(pid)
        os.kill(pid, signal.SIGKILL)
        # Until it has closed the bag, it would be taken for the next reader.
        with suppress(psutil.NoSuchProcess):
            while reader.status() != psutil.STATUS_ZOMBIE:
                time.sleep(0.02)
    return pid


def test_one_that_is_killed_changes_no_digit(tasks, expected, tmp_path: Path):
    state, heard = State(tmp_path / "state", None), []
    blocked = BlockedBag(tasks[0].bag, tmp_path / "street0")
    some = [replace(tasks[0], bag=blocked.path), *tasks[1:]]
    with ThreadPoolExecutor(1) as hand:
        killed = hand.submit(kill_reader, blocked, mend=True)
        part = gather(some, state=state, evaluate_all=local(), watch=heard.append)
    assert not psutil.pid_exists(killed.result())
    assert figures(part) == figures(expected)
    assert [type(one) for one in heard if one.task == some[0]] == [Retried, Finished]
    assert "its worker ended with code -9" in next(o.reason for o in heard if type(o) is Retried)
    assert sum(type(one) is Finished for one in heard) == len(tasks)
    assert workers() == []

    # Of all bags, the mended one alone is not what it was when it was asked for.
    heard.clear()
    assert figures(gather(some, state=state, evaluate_all=local(), watch=heard.append)) == figures(
        expected
    )
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
            gather(some, state=state, evaluate_all=local(1), watch=heard.append)
    assert len(set(killed.result())) == 2
    message = str(failure.value)
    assert message.startswith("2 of 3 bags cannot be evaluated: ")
    assert f"{blocked.path}: its worker ended with code -9, 2 times" in message
    assert f"there is no bag {tmp_path / 'none'}" in message
    assert sum(type(one) is Failed for one in heard) == 2

    blocked.mend()
    heard.clear()
    lenient = [replace(task, allow_missing=True) for task in some]
    part = gather(
        lenient, state=state, evaluate_all=local(1), allow_missing=True, watch=heard.append
    )
    assert heard[0] == Found(lenient[0])
    whole = PartialResult.merged(evaluate_bag(task) for task in lenient[:2])
    assert figures(part) == figures(whole)
    assert part.notes == (*whole.notes, f"left out: there is no bag {tmp_path / 'none'}")


def test_a_model_in_every_process(bags, tmp_path: Path):
    model = ModelSettings(
        variant="cityscapes-r18", allow_random_weights=True, device="cpu", scale=64
    )
    tasks = [BagTask(bag=bag, prefix=str(bag), limit=1) for bag in bags[:2]]
    part = gather(tasks, state=State(tmp_path, model), evaluate_all=local(2, model))
    predictor = model.predictor()
    assert figures(part) == figures(PartialResult.merged(evaluate_bag(t, predictor) for t in tasks))


def test_a_model_that_cannot_be_loaded_ends_it(tasks, tmp_path: Path):
    missing, damaged = (ModelSettings(weights=tmp_path / name) for name in ("none.pth", "bad.pth"))
    with pytest.raises(CheckpointError, match=r"none\.pth"):
        gather(tasks, state=State(tmp_path, missing), evaluate_all=local(1, missing))
    (tmp_path / "bad.pth").write_bytes(b"no weights")
    with pytest.raises(ClusterError, match=r"bad\.pth"):
        gather(tasks, state=State(tmp_path, damaged), evaluate_all=local(1, damaged))
    with pytest.raises(EvaluationError, match="use auto, cpu or cuda"):
        ModelSettings(device="cuda:1")
