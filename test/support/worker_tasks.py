"""Tasks for processes: each says what to do."""

from __future__ import annotations

import importlib
import os
import signal
import time
from collections.abc import Callable
from pathlib import Path

import cv2

from upsnet_ros.errors import DatasetError

#: The process that imported this module.
PID = os.getpid()


class OddError(Exception):
    """An error that cannot be pickled."""

    def __init__(self, one: int, other: int) -> None:
        super().__init__(f"{one}, {other}")


def make(folder: Path | None = None) -> Callable[[str], object]:
    """Does what a task says."""

    def do(task: str) -> object:
        what, _, value = task.partition(" ")
        if what == "once":  # the first process that takes it ends
            try:
                (folder / value).touch(exist_ok=False)
            except FileExistsError:
                return value
            os.kill(os.getpid(), signal.SIGKILL)
        if what == "kill":
            os.kill(os.getpid(), signal.SIGKILL)
        if what == "foreseen":
            raise DatasetError(value)
        if what == "raise":
            raise KeyError(value)
        if what == "odd":
            raise OddError(1, 2)
        if what == "importer":  # of a module, if not this process
            module = importlib.import_module(value)
            return module.PID if os.getpid() != module.PID else None
        if what == "pid":
            return os.getpid()
        if what == "threads":
            return cv2.getNumThreads(), signal.getsignal(signal.SIGINT) == signal.SIG_IGN
        if what == "sleep":
            time.sleep(float(value))
        return value

    return do


def call(maker: Callable[[], Callable[[str], object]]) -> Callable[[str], object]:
    return maker()


def make_nothing() -> Callable[[str], object]:
    raise DatasetError("no such file")


def make_and_end() -> Callable[[str], object]:
    os._exit(7)


class InterruptedImages:
    """A dataset whose worker gets SIGINT, as from a terminal, while it reads an image."""

    def __getitem__(self, index: int) -> DatasetError:
        os.kill(os.getpid(), signal.SIGINT)
        return DatasetError(f"image {index} was read")


class EndlessImages:
    """A dataset whose worker writes its number to a file and never ends by itself."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def __getitem__(self, index: int) -> DatasetError:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        new = self._path.with_suffix(".new")
        new.write_text(str(os.getpid()))
        new.rename(self._path)
        while True:
            time.sleep(60)
