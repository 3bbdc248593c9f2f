"""Workers that are processes of this machine."""

from __future__ import annotations

import multiprocessing
import os
import signal
from itertools import count
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from types import TracebackType

import torch

from upsnet_ros.bags.judging import BagTask
from upsnet_ros.cluster.model import ModelSettings
from upsnet_ros.cluster.pool import Broken, Report
from upsnet_ros.cluster.worker import Worker

__all__ = ["ProcessPool"]


class ProcessPool:
    """See `upsnet_ros.cluster.pool.Pool`; use it in a ``with``, which ends the processes.

    Unlike an executor of the standard library it outlives a process that is killed.

    Args:
        size: Number of processes.
        model: What they run; None: the bags hold outputs.
    """

    def __init__(self, *, size: int, model: ModelSettings | None) -> None:
        self.size = size
        self._threads = max(1, (os.cpu_count() or 1) // size)
        self._model = model
        # Forks of a process without threads, whose locks a fork of this one would copy. It has
        # imported torch, so that a worker in another's place is there at once.
        self._context = multiprocessing.get_context("forkserver")
        self._context.set_forkserver_preload([Worker.__module__])
        self._numbers = count()
        self._workers: dict[int, tuple[BaseProcess, Connection]] = {}

    def __enter__(self) -> ProcessPool:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        for worker in list(self._workers):
            self.discard(worker)

    def start(self) -> int:
        """See `Pool.start`."""
        number = next(self._numbers)
        pipe, far_end = self._context.Pipe()
        process = self._context.Process(target=_serve, args=(far_end, self._threads), daemon=True)
        process.start()
        far_end.close()  # so that the pipe ends with the process
        self._workers[number] = process, pipe
        self._tell(number, self._model)
        return number

    def submit(self, worker: int, task: BagTask) -> None:
        """See `Pool.submit`."""
        self._tell(worker, task)

    def discard(self, worker: int) -> None:
        """See `Pool.discard`."""
        process, pipe = self._workers.pop(worker)
        process.kill()
        process.join()
        pipe.close()

    def wait(self) -> list[Report]:
        """See `Pool.wait`."""
        ready = wait([pipe for _, pipe in self._workers.values()])
        heard = [worker for worker, (_, pipe) in self._workers.items() if pipe in ready]
        return [self._report(worker) for worker in heard]

    def _tell(self, worker: int, message: object) -> None:
        try:
            self._workers[worker][1].send(message)
        except BrokenPipeError:
            return  # it is no more, which `wait` sees

    def _report(self, worker: int) -> Report:
        process, pipe = self._workers[worker]
        try:
            return Report(worker, pipe.recv())
        except (EOFError, OSError):  # between two answers, or in the middle of one
            process.join()
            return Report(worker, Broken(f"its worker ended with code {process.exitcode}"))


def _serve(pipe: Connection, threads: int) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C ends the parent, which ends these
    torch.set_num_threads(threads)
    worker = Worker()
    try:
        pipe.send(worker.start(pipe.recv()))
        while True:
            task = pipe.recv()
            try:
                answer: object = worker.judge(task)
            except Exception as error:  # noqa: BLE001 - whatever it is, it is told
                answer = Broken(f"{type(error).__name__}: {error}")
            pipe.send(answer)
    except EOFError:
        return  # the parent is no more
