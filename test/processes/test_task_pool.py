"""Tasks on real processes, some of which end before they should."""

from __future__ import annotations

import os
import subprocess
import sys
from functools import partial
from pathlib import Path

import psutil
import pytest
import worker_tasks
from worker_tasks import make, make_and_end, make_nothing

from upsnet_ros.errors import DatasetError, ProcessError
from upsnet_ros.processes.task_pool import Done, Failed, in_order, spread


def test_results_come_in_the_order_of_the_tasks():
    tasks = ["sleep 0.3", *(f"value {number}" for number in range(20))]
    expected = [task.split()[1] for task in tasks]
    assert list(in_order(make, tasks, processes=3)) == expected
    assert list(in_order(make, tasks[1:], processes=1)) == expected[1:]
    assert list(in_order(make, [], processes=3)) == []


def test_processes_are_few_quiet_and_used_again():
    outcomes = list(in_order(make, ["pid"] * 12, processes=2))
    assert os.getpid() not in outcomes
    assert 1 <= len(set(outcomes)) <= 2
    assert list(in_order(make, ["threads"] * 2, processes=2)) == [(1, True)] * 2
    assert in_order(make, ["pid"], processes=1).__next__() == os.getpid()
    assert len(set(in_order(make, ["pid"], processes=8))) == 1


IMPORTERS = """
import os
from functools import partial
from worker_arguments import Folder
from worker_tasks import call, make
from upsnet_ros.processes.task_pool import in_order

if __name__ == "__main__":
    tasks = ["importer worker_tasks", "importer worker_arguments"]
    print(os.getpid(), *in_order(partial(call, partial(make, Folder("/"))), tasks, processes=2))
"""


def test_processes_import_nothing_that_their_server_has_imported(tmp_path: Path):
    """The modules of the function and of its arguments, also of nested ones."""
    script = tmp_path / "script.py"
    script.write_text(IMPORTERS)
    # Not all versions of Python hand sys.path to the server; it reads PYTHONPATH itself.
    places = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    command = [sys.executable, str(script)]
    done = subprocess.run(command, env=places, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    main, *importers = done.stdout.split()
    assert len(importers) == 2
    assert set(importers).isdisjoint({main, "None"})
    assert len(set(importers)) == 1


def test_another_process_takes_the_task_of_a_killed_one(tmp_path: Path):
    tasks = ["value a", "once b", "value c"]
    outcomes = list(spread(partial(make, tmp_path), tasks, processes=1, attempts=2))
    assert [type(one) for one in outcomes] == [Done, Failed, Done, Done]
    lost = outcomes[1]
    assert (lost.index, lost.again) == (1, True)
    assert "ended with code -9" in str(lost.error)
    assert isinstance(lost.error, ProcessError)
    assert sorted(one.result for one in outcomes if isinstance(one, Done)) == ["a", "b", "c"]


@pytest.mark.parametrize("fatal", ["kill", "raise x", "odd"])
def test_a_task_that_breaks_two_processes_is_given_up(fatal):
    outcomes = list(spread(make, [fatal, "value a"], processes=1, attempts=2))
    assert [(one.index, getattr(one, "again", None)) for one in outcomes] == [
        (0, True),
        (1, None),
        (0, False),
    ]


def test_a_foreseen_error_is_not_tried_again():
    failed, done = spread(make, ["foreseen it", "value a"], processes=1, attempts=2)
    assert isinstance(failed, Failed) and not failed.again
    assert isinstance(failed.error, DatasetError) and str(failed.error) == "it"
    assert done == Done(1, "a")


@pytest.mark.parametrize("processes", [1, 2])
def test_the_error_of_the_first_task_is_raised(processes):
    tasks = ["sleep 0.3", "raise first", "raise second", *["value a"] * 5]
    results = in_order(make, tasks, processes=processes)
    assert next(results) == "0.3"
    with pytest.raises(KeyError, match="first") as error:
        next(results)
    if processes > 1:
        assert "in do" in str(error.value.__cause__), "where it was raised"


def test_an_error_that_cannot_be_sent_is_told():
    with pytest.raises(RuntimeError, match="OddError: 1, 2"):
        list(in_order(make, ["odd", "value a"], processes=2))


def test_processes_that_cannot_work_end_it():
    with pytest.raises(DatasetError, match="no such file"):
        list(in_order(make_nothing, ["value a"] * 3, processes=2))
    with pytest.raises(ProcessError, match="its worker ended with code 7"):
        list(in_order(make_and_end, ["value a"] * 3, processes=2))


def test_no_process_is_left(tmp_path: Path):
    before = {one.pid for one in psutil.Process().children(recursive=True)}
    results = in_order(make, ["pid", *["sleep 100"] * 3], processes=2)
    pid = next(results)
    results.close()
    assert not psutil.pid_exists(pid)
    left = {one.pid for one in psutil.Process().children(recursive=True)} - before
    assert len(left) <= 1 + 1  # the server that processes are forked from, and its tracker


SCRIPT = """
import sys, time
sys.path.insert(0, sys.argv[1])
from worker_tasks import make
from upsnet_ros.processes.task_pool import in_order

if __name__ == "__main__":
    for result in in_order(make, ["pid", "sleep 1000", "sleep 1000"], processes=2):
        print(result, flush=True)
"""


def test_they_end_with_a_parent_that_is_killed(tmp_path: Path):
    script = tmp_path / "script.py"
    script.write_text(SCRIPT)
    command = [sys.executable, str(script), str(Path(worker_tasks.__file__).parent)]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as parent:
        assert parent.stdout is not None
        worker = psutil.Process(int(parent.stdout.readline()))
        parent.kill()
    assert not psutil.wait_procs([worker], timeout=60)[1]
