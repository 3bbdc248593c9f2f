"""Judging bags on workers, those that were judged before aside."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace

from upsnet_ros.bags.judging import BagTask
from upsnet_ros.cluster.errors import ClusterError
from upsnet_ros.cluster.pool import Pool
from upsnet_ros.cluster.results import ResultError, decode
from upsnet_ros.cluster.spread import Failed, Finished, Outcome, spread
from upsnet_ros.cluster.state import State
from upsnet_ros.evaluation.errors import EvaluationError
from upsnet_ros.evaluation.panoptic_files import listed
from upsnet_ros.evaluation.partial import PartialResult

__all__ = ["Found", "gather"]


@dataclass(frozen=True, slots=True)
class Found:
    """A bag that was judged in an earlier run."""

    task: BagTask


def gather(
    tasks: Sequence[BagTask],
    *,
    state: State,
    pool: Callable[[], AbstractContextManager[Pool]],
    allow_missing: bool = False,
    watch: Callable[[Found | Outcome], None] = lambda _: None,
) -> PartialResult:
    """Judge bags, and put their results together in the order of the bags.

    The figures are those of judging one bag after the other in this process. However this ends,
    `state` keeps what was judged.

    Args:
        tasks: The bags.
        state: Where results are, and go.
        pool: Makes workers; not called where nothing is left to judge.
        allow_missing: Whether to leave out bags that cannot be judged, and tell in the notes.
        watch: Told what comes of each bag.

    Raises:
        EvaluationError: Bags cannot be judged, which is told when all others were.
        ClusterError: There are no workers, they cannot work, or results cannot be kept.
    """
    parts: dict[BagTask, PartialResult] = {}
    for task in dict.fromkeys(tasks):
        part = state.load(task)
        if part is not None:
            parts[task] = part
            watch(Found(task))
    failed: dict[BagTask, str] = {}
    missing = [task for task in dict.fromkeys(tasks) if task not in parts]
    if missing:
        with pool() as workers:
            for outcome in spread(missing, workers):
                if isinstance(outcome, Finished):
                    parts[outcome.task] = _kept(outcome, state)
                elif isinstance(outcome, Failed):
                    failed[outcome.task] = _named(outcome)
                watch(outcome)
    if failed and not allow_missing:
        raise EvaluationError(
            f"{len(failed)} of {len(tasks)} bags cannot be judged: {listed(failed.values())}"
            " (--allow-missing goes on without them)"
        )
    merged = PartialResult.merged(parts[task] for task in tasks if task in parts)
    notes = (f"left out: {failed[task]}" for task in tasks if task in failed)
    return replace(merged, notes=(*merged.notes, *notes))


def _kept(outcome: Finished, state: State) -> PartialResult:
    try:
        part = decode(outcome.data)
    except ResultError as error:
        raise ClusterError(
            f"{outcome.task.bag}: a worker's answer is no result ({error}): is upsnet_ros the same"
            " on all machines?"
        ) from error
    state.store(outcome.task, outcome.data)
    return part


def _named(outcome: Failed) -> str:
    bag = str(outcome.task.bag)
    return outcome.reason if bag in outcome.reason else f"{bag}: {outcome.reason}"
