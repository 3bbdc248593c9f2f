"""Judging many bags at once, on one machine."""

from __future__ import annotations

import multiprocessing
import signal
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor

import cv2

from upsnet_ros.bags.judging import BagTask, judge_bag
from upsnet_ros.evaluation.partial import PartialResult
from upsnet_ros.orphans import end_with_parent

__all__ = ["judge_bags"]


def judge_bags(tasks: Sequence[BagTask], *, processes: int) -> Iterator[PartialResult]:
    """Judge the outputs in bags, each in one of some processes; results in the bags' order.

    Raises:
        EvaluationError: As `judge_bag`, of the first bag that cannot be judged.
    """
    if processes == 1:
        yield from map(judge_bag, tasks)
        return
    # Fresh processes: a fork would copy the locks of threads that run here.
    context = multiprocessing.get_context("spawn")
    executor = ProcessPoolExecutor(
        min(processes, len(tasks)), context, initializer=_begin, initargs=()
    )
    try:
        yield from executor.map(judge_bag, tasks)
    finally:
        executor.shutdown(cancel_futures=True)


def _begin() -> None:
    end_with_parent()
    cv2.setNumThreads(1)  # the processes are the parallelism
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C ends the parent, which ends these
