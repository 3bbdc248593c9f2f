from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from contextlib import closing, suppress
from pathlib import Path

import psutil
import pytest
from worker_tasks import EndlessImages, InterruptedImages

from upsnet_ros.errors import DatasetError, SettingsError
from upsnet_ros.training.loading import index_at, load_steps, positions_of_steps, seed_at


def test_every_image_once_an_epoch() -> None:
    order = [index_at(position, seed=5, count=7) for position in range(21)]
    for epoch in range(3):
        assert sorted(order[epoch * 7 : epoch * 7 + 7]) == list(range(7))
    assert order[:7] != order[7:14]
    assert order == [index_at(position, seed=5, count=7) for position in range(21)]
    assert order != [index_at(position, seed=6, count=7) for position in range(21)]


def test_seeds_differ() -> None:
    seeds = {seed_at(position, seed=seed) for position in range(100) for seed in range(3)}
    assert len(seeds) == 300
    assert all(0 <= seed < 2**63 for seed in seeds)


def test_processes_share_each_step() -> None:

    def steps(rank: int, processes: int) -> list[list[int]]:
        ranges = positions_of_steps(range(3, 6), batch_size=4, rank=rank, processes=processes)
        return [list(positions) for positions in ranges]

    whole = steps(0, 1)
    assert whole == [[12, 13, 14, 15], [16, 17, 18, 19], [20, 21, 22, 23]]
    parts = [steps(rank, 2) for rank in range(2)]
    assert [a + b for a, b in zip(*parts, strict=True)] == whole
    assert Counter(map(len, parts[0])) == {2: 3}
    with pytest.raises(SettingsError, match=r"batch_size 5 .*2 processes"):
        positions_of_steps(range(1), batch_size=5, rank=0, processes=2)


def test_ctrl_c_does_not_reach_workers() -> None:
    """The parent ends them: a worker that is interrupted would print a traceback."""
    batches = load_steps(
        InterruptedImages(),
        positions_of_steps(range(1), batch_size=1, rank=0, processes=1),
        images_per_pass=1,
        workers=1,
        pin_memory=False,
    )
    with closing(batches), pytest.raises(DatasetError, match="image 0 was read"):
        next(batches)


def test_ctrl_c_kills_workers_that_have_not_started(tmp_path: Path) -> None:
    """Torch would wait for each, and ask by a signal that a worker may not answer."""
    path = tmp_path / "worker"
    batches = load_steps(
        EndlessImages(path),
        positions_of_steps(range(1), batch_size=1, rank=0, processes=1),
        images_per_pass=1,
        workers=1,
        pin_memory=False,
    )

    def interrupt() -> None:
        while not path.exists() and not over.wait(0.01):
            pass
        if path.exists():
            os.kill(os.getpid(), signal.SIGINT)

    over = threading.Event()
    before = signal.getsignal(signal.SIGINT)
    thread = threading.Thread(target=interrupt)
    thread.start()
    try:
        signal.signal(signal.SIGINT, signal.default_int_handler)
        with closing(batches), pytest.raises(KeyboardInterrupt):
            next(batches)
        with pytest.raises(ProcessLookupError):
            os.kill(int(path.read_text()), 0)
    finally:
        signal.signal(signal.SIGINT, before)
        over.set()
        thread.join()
        with suppress(ProcessLookupError, FileNotFoundError):
            os.kill(int(path.read_text()), signal.SIGKILL)


WORKER = """
import threading
import torch
from upsnet_ros.training.loading import _break_off_at_exit

_break_off_at_exit()
busy = threading.Event()

def share():
    while True:
        torch.zeros(1000).share_memory_()
        busy.set()

threading.Thread(target=share, daemon=True).start()
busy.wait()
"""


def test_a_worker_ends_while_its_thread_is_inside_torch() -> None:
    """Without care: terminate called without an active exception, in most of such ends."""
    done = subprocess.run([sys.executable, "-c", WORKER], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")


# The worker's image comes after its parent was killed, and is larger than what a pipe holds.
KILLED = """
import os, sys, time
from pathlib import Path
from upsnet_ros.errors import DatasetError
from upsnet_ros.training.loading import load_steps, positions_of_steps

class Images:
    def __getitem__(self, position):
        parent = os.getppid()
        Path(sys.argv[1]).write_text(f"{os.getpid()}.")
        while os.getppid() == parent:
            time.sleep(0.01)
        return DatasetError("x" * 10_000_000)

if __name__ == "__main__":
    steps = positions_of_steps(range(1), batch_size=1, rank=0, processes=1)
    next(load_steps(Images(), steps, images_per_pass=1, workers=1, pin_memory=False))
"""


def test_a_worker_ends_with_a_process_that_is_killed(tmp_path: Path) -> None:
    (tmp_path / "load.py").write_text(KILLED)
    told = tmp_path / "worker"
    with subprocess.Popen([sys.executable, str(tmp_path / "load.py"), str(told)]) as parent:
        while not (told.exists() and told.read_text().endswith(".")):
            assert parent.poll() is None
            time.sleep(0.01)
        worker = psutil.Process(int(told.read_text()[:-1]))
        parent.kill()
    try:
        assert not psutil.wait_procs([worker], timeout=120)[1]
    finally:
        with suppress(psutil.NoSuchProcess):
            worker.kill()
