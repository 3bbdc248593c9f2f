"""Judging many frames: one after the other, or spread over processes."""

from __future__ import annotations

import multiprocessing
import signal
from collections.abc import Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from typing import Protocol

import cv2

from upsnet_ros.evaluation.categories import Categories
from upsnet_ros.evaluation.measures import EvaluationFrame, FrameMeasures, Metrics, measure
from upsnet_ros.evaluation.snapshot import Snapshot, take_snapshot
from upsnet_ros.orphans import end_with_parent

# Few enough that the bar moves and the last process does not lag far behind.
_FRAMES_A_TASK = 4


class FrameSource(Protocol):
    """Frames by number, and what to judge them by; processes get copies of it."""

    categories: Categories

    def __len__(self) -> int:
        """Number of frames."""

    def __getitem__(self, index: int) -> EvaluationFrame:
        """Read frame number ``index``."""


@dataclass(frozen=True, slots=True)
class Judged:
    """What is kept of a frame.

    Attributes:
        measures: What figures are made of.
        quality: The frame's own PQ; nan where there is nothing to judge.
        snapshot: Small pictures, where they were asked for.
    """

    measures: FrameMeasures
    quality: float
    snapshot: Snapshot | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Judge:
    """Judges frames as told once.

    Attributes:
        metrics: What to measure.
        snapshots: Whether to keep small pictures.
    """

    metrics: Metrics
    snapshots: bool = False

    def judge(self, frame: EvaluationFrame, categories: Categories) -> Judged:
        """Measure one frame.

        Raises:
            EvaluationError: As `measure`.
        """
        measures = measure(frame, categories, self.metrics)
        quality = float(measures.panoptic.quality(categories).all[0])
        snapshot = take_snapshot(frame, categories) if self.snapshots else None
        return Judged(measures, quality, snapshot)

    def stream(self, frames: Iterable[EvaluationFrame], categories: Categories) -> Iterator[Judged]:
        """Measure frames as they come, in this process."""
        return (self.judge(frame, categories) for frame in frames)

    def spread(self, source: FrameSource, processes: int) -> Iterator[Judged]:
        """Read and measure the frames of a source in processes, in order.

        Raises:
            EvaluationError: As `measure` and the source; the processes end.
        """
        if processes == 1:
            frames = (source[index] for index in range(len(source)))
            yield from self.stream(frames, source.categories)
            return
        # Fresh processes: a fork would copy the locks of threads that run here.
        context = multiprocessing.get_context("spawn")
        executor = ProcessPoolExecutor(
            min(processes, len(source)), context, initializer=_begin, initargs=(self, source)
        )
        try:
            yield from executor.map(_judge, range(len(source)), chunksize=_FRAMES_A_TASK)
        finally:
            executor.shutdown(cancel_futures=True)


_work: tuple[Judge, FrameSource]


def _begin(judge: Judge, source: FrameSource) -> None:
    global _work
    end_with_parent()
    _work = (judge, source)
    cv2.setNumThreads(1)  # the processes are the parallelism
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C ends the parent, which ends these


def _judge(index: int) -> Judged:
    judge, source = _work
    return judge.judge(source[index], source.categories)
