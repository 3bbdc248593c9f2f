"""What a process holds on to."""

from __future__ import annotations

import contextlib
import gc
import os
import re
import statistics
from collections.abc import Iterable
from pathlib import Path

import psutil

from upsnet_ros.node.memory import free_memory

MIB = 1 << 20


class Holdings:
    """Memory and file descriptors of a process, sampled during a test.

    Args:
        pid: Of the process; this one by default.
    """

    def __init__(self, pid: int | None = None) -> None:
        self._own = pid is None
        self._process = psutil.Process(pid)
        self._memory: list[int] = []
        self._descriptors: list[int] = []
        self._threads: list[int] = []
        if self._own:
            gc.collect()
            gc.freeze()  # what is here already, torch above all, need not be searched every time

    def sample(self) -> None:
        """Adds what is held now."""
        if self._own:
            gc.collect()
            free_memory()
        self._memory.append(self._process.memory_info().rss)
        self._descriptors.append(self._process.num_fds())
        self._threads.append(self._process.num_threads())

    def assert_bounded(self, *, growth: int = 32 * MIB) -> None:
        """Compares the last quarter of the samples with the second: the first is the warm-up.

        Args:
            growth: Bytes by which memory may have grown.
        """
        assert len(self._memory) >= 4
        for name, samples, allowed in (
            ("bytes", self._memory, growth),
            ("file descriptors", self._descriptors, 2),
            ("threads", self._threads, 2),
        ):
            quarter = len(samples) // 4
            early = statistics.median(samples[quarter : 2 * quarter])
            late = statistics.median(samples[-quarter:])
            assert late - early <= allowed, f"{name} grew from {early} to {late}: {samples}"


def shared_memory(pid: int) -> set[Path]:
    """The files of shared memory that Fast DDS has mapped in a process."""
    # Not psutil: it asks how much of each mapping is in use, which takes seconds for large ones.
    try:
        maps = Path(f"/proc/{pid}/maps").read_text()
    except OSError:  # it has ended, or is another user's
        return set()
    return {Path(path) for path in re.findall(r"/dev/shm/fastrtps_\w+$", maps, re.M)}


def is_of_one_domain(file: Path) -> bool:
    """Whether a file of shared memory is no port for which processes of all domains queue up."""
    number = file.name.partition("port")[2]
    return not number or int(number) >= 7400  # where DDS's own ports begin


def make_old(files: Iterable[Path]) -> None:
    """Let segments be from a time for which nobody takes them for those of a starting process."""
    for file in files:
        with contextlib.suppress(FileNotFoundError):
            os.utime(file.with_name(f"{file.name}_el"), (0, 0))


def abandoned(files: Iterable[Path]) -> set[Path]:
    """Those files of shared memory that are there, though no living process holds them."""
    mapped = set()
    for pid in psutil.pids():
        mapped |= shared_memory(pid)
    return {file for file in files if file.exists()} - mapped
