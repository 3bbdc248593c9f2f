"""Processes that end with the one they work for, though that one is killed."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from upsnet_ros.processes.child_processes import end_with_parent

SECONDS = 60

POOL = """
import multiprocessing, os, sys, time
from concurrent.futures import ProcessPoolExecutor
from upsnet_ros.processes.child_processes import end_with_parent

def number(_):
    time.sleep(0.1)  # so that the other worker gets some too
    return os.getpid()

if __name__ == "__main__":
    context = multiprocessing.get_context(sys.argv[1])
    with ProcessPoolExecutor(2, context, initializer=end_with_parent) as pool:
        print(*set(pool.map(number, range(4))), flush=True)
        time.sleep(1e6)
"""


@pytest.mark.parametrize("method", ["spawn", "forkserver"])
def test_the_workers_of_an_executor_end_with_its_process(tmp_path: Path, method: str) -> None:
    script = tmp_path / "pool.py"
    script.write_text(POOL)
    command = [sys.executable, str(script), method]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as parent:
        assert parent.stdout is not None
        workers = [psutil.Process(int(pid)) for pid in parent.stdout.readline().split()]
        assert workers
        parent.kill()
    assert not psutil.wait_procs(workers, timeout=SECONDS)[1]


def test_who_is_no_worker_is_told() -> None:
    with pytest.raises(RuntimeError, match="not a worker of multiprocessing"):
        end_with_parent()


# Tells of SIGTERM, and continues forever. The signal may come while the first line is printed.
WATCHING = """
import os, signal, sys, time
from upsnet_ros.processes import child_processes as children
children.SECONDS_TO_END = float(sys.argv[1])
signal.signal(signal.SIGTERM, lambda *_: os.write(1, b"asked\\n") and sys.argv[2:] and sys.exit(7))
children.end_with_pipe(0)
print("ready", flush=True)
time.sleep(1e6)
"""


@pytest.mark.parametrize(
    ("arguments", "code"), [(["600", "obey"], 7), (["0"], -signal.SIGKILL)], ids=["ends", "refuses"]
)
def test_a_closed_pipe_asks_first_and_kills_later(arguments: list[str], code: int) -> None:
    read, write = os.pipe()
    with subprocess.Popen(
        [sys.executable, "-c", WATCHING, *arguments], stdin=read, stdout=subprocess.PIPE, text=True
    ) as process:
        os.close(read)
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        os.write(write, b"what is written means nothing")
        assert process.poll() is None
        os.close(write)
        assert process.wait(SECONDS) == code
        assert process.stdout.read() in ("asked\n", "")


RUNS = """
import sys
from upsnet_ros.processes.child_processes import run_upsnet
print("ready", flush=True)
sys.exit(run_upsnet(*sys.argv[1:]))
"""


def test_a_command_that_is_run_ends_with_the_process_that_runs_it(tmp_path: Path) -> None:
    scenes = ["scenes", "--out", str(tmp_path), "--length", "100000", "--workers", "1"]
    with subprocess.Popen([sys.executable, "-c", RUNS, *scenes]) as parent:
        while not any(tmp_path.rglob("*.png")):
            assert parent.poll() is None
            time.sleep(0.02)
        children = psutil.Process(parent.pid).children()
        assert children
        parent.kill()
    assert not psutil.wait_procs(children, timeout=SECONDS)[1]


@pytest.mark.parametrize("arguments", [["--help"], ["no_such_command"]])
def test_the_exit_code_of_a_command_is_handed_on(arguments: list[str]) -> None:
    code = subprocess.run([sys.executable, "-c", RUNS, *arguments], capture_output=True).returncode
    assert code == (0 if arguments == ["--help"] else 2)
