"""Evaluates many bags with worker processes or a Ray cluster, skipping bags already evaluated.

On a cluster, Ray schedules the tasks and retries them.
"""

from __future__ import annotations

import logging
import os
import platform
import secrets
import socket
import sys
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, closing, redirect_stdout
from dataclasses import dataclass, replace
from functools import cache, partial
from typing import TYPE_CHECKING, Any

import cv2
import torch

from upsnet_ros.bag_evaluation.scoring import BagTask, evaluate_bag
from upsnet_ros.bag_evaluation.tasks import State, code_digest, decode, encode
from upsnet_ros.errors import ClusterError, EvaluationError, ProcessError, ResultError, listed
from upsnet_ros.evaluation.run import PartialResult
from upsnet_ros.processes.child_processes import protect_children
from upsnet_ros.processes.task_pool import Done, in_order, spread

if TYPE_CHECKING:
    from collections.abc import Generator

    from upsnet_ros.bag_evaluation.tasks import ModelSettings
    from upsnet_ros.inference.predictor import Predictor


def evaluate_bags(tasks: Sequence[BagTask], *, processes: int) -> Iterator[PartialResult]:
    """Evaluate the recorded outputs of bags in worker processes; yield results in order.

    Raises:
        EvaluationError: From `evaluate_bag`, for the first bag that cannot be evaluated.
        ProcessError: A worker process ended.
    """
    return in_order(_make_evaluate_bag, tasks, processes=processes)


def _make_evaluate_bag() -> Callable[[BagTask], PartialResult]:
    return evaluate_bag


#: A bag fails after this many of its workers have crashed.
ATTEMPTS = 2


@dataclass(frozen=True, slots=True)
class Found:
    """The result of the bag was stored by an earlier run."""

    task: BagTask


@dataclass(frozen=True, slots=True)
class Finished:
    """The bag was evaluated; `data` is the encoded result."""

    task: BagTask
    data: bytes


@dataclass(frozen=True, slots=True)
class Retried:
    """The bag's worker crashed and the bag is retried; not reported by Ray's own retries."""

    task: BagTask
    reason: str


@dataclass(frozen=True, slots=True)
class Failed:
    """The bag cannot be evaluated, or its workers crashed too often."""

    task: BagTask
    reason: str


Outcome = Finished | Retried | Failed


def gather(
    tasks: Sequence[BagTask],
    *,
    state: State,
    evaluate_all: Callable[[Sequence[BagTask]], Generator[Outcome, None, None]],
    allow_missing: bool = False,
    watch: Callable[[Found | Outcome], None] = lambda _: None,
) -> PartialResult:
    """Evaluate bags and merge their results in the order of the bags.

    The metrics equal those of a sequential evaluation in this process. Finished results are in
    `state` even if this function raises or is interrupted.

    Args:
        tasks: The bags.
        state: Where results are loaded from and stored.
        evaluate_all: Evaluates bags on workers and yields outcomes as they occur, for example
            `evaluate_locally`; not called if all results are stored already.
        allow_missing: Leave out bags that cannot be evaluated and add a note, instead of raising.
        watch: Called with each outcome.

    Raises:
        EvaluationError: Some bags cannot be evaluated; raised after all others are finished.
        ClusterError: Workers cannot be reached or used, or results cannot be stored.
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
        with closing(evaluate_all(missing)) as outcomes:
            for outcome in outcomes:
                if isinstance(outcome, Finished):
                    parts[outcome.task] = _kept(outcome, state)
                elif isinstance(outcome, Failed):
                    failed[outcome.task] = _named(outcome)
                watch(outcome)
    if failed and not allow_missing:
        raise EvaluationError(
            f"{len(failed)} of {len(tasks)} bags cannot be evaluated: {listed(failed.values())}"
            " (--allow-missing leaves them out)"
        )
    merged = PartialResult.merged(parts[task] for task in tasks if task in parts)
    notes = (f"left out: {failed[task]}" for task in tasks if task in failed)
    return replace(merged, notes=(*merged.notes, *notes))


def evaluate_locally(
    tasks: Sequence[BagTask], *, processes: int, model: ModelSettings | None
) -> Generator[Outcome, None, None]:
    """Evaluate bags in processes on this machine and yield the outcomes; see `gather`.

    Args:
        tasks: The bags.
        processes: Number of processes.
        model: The model to run on images; None: evaluate recorded outputs.

    Raises:
        ClusterError: A process cannot load the model.
    """
    make = partial(_make_evaluate, model, max(1, (os.cpu_count() or 1) // processes))
    for outcome in spread(make, tasks, processes=processes, attempts=ATTEMPTS):
        task = tasks[outcome.index]
        if isinstance(outcome, Done):
            yield Finished(task, outcome.result)
        elif isinstance(outcome.error, ClusterError):
            raise outcome.error
        elif outcome.again:
            yield Retried(task, _reason(outcome.error))
        elif isinstance(outcome.error, EvaluationError):
            yield Failed(task, str(outcome.error))
        else:
            yield Failed(task, f"{_reason(outcome.error)}, {ATTEMPTS} times")


def evaluate_encoded(task: BagTask, model: ModelSettings | None) -> bytes:
    """Evaluate one bag in this process and return the encoded result; the model is cached.

    Raises:
        ClusterError: The model cannot be loaded on this machine.
        EvaluationError: The bag cannot be evaluated.
    """
    return encode(evaluate_bag(task, None if model is None else _predictor(model)))


def _make_evaluate(model: ModelSettings | None, threads: int) -> Callable[[BagTask], bytes]:
    torch.set_num_threads(threads)
    return partial(evaluate_encoded, model=model)


@cache
def _predictor(model: ModelSettings) -> Predictor:
    try:
        return model.predictor()
    except EvaluationError as error:
        raise ClusterError(f"{platform.node()}: {error}") from error


def _reason(error: Exception) -> str:
    return str(error) if isinstance(error, ProcessError) else f"{type(error).__name__}: {error}"


def _kept(outcome: Finished, state: State) -> PartialResult:
    try:
        part = decode(outcome.data)
    except ResultError as error:
        raise ClusterError(
            f"{outcome.task.bag}: cannot decode the result of a worker ({error}): check that all"
            " machines have the same version of upsnet_ros"
        ) from error
    state.store(outcome.task, outcome.data)
    return part


def _named(outcome: Failed) -> str:
    bag = str(outcome.task.bag)
    return outcome.reason if bag in outcome.reason else f"{bag}: {outcome.reason}"


#: Object store of a local cluster; it only holds results, which are fetched immediately.
_STORE_BYTES = 256 << 20
#: Timeout in seconds for the check that the cluster's address is reachable.
_CONNECT_TIMEOUT_S = 10


def evaluate_on_ray(
    tasks: Sequence[BagTask],
    *,
    workers: int | None,
    model: ModelSettings | None,
    address: str | None = None,
) -> Generator[Finished | Failed, None, None]:
    """Evaluate bags on a Ray cluster and yield the outcomes; see `workers.gather`.

    A bag takes one CPU, and one GPU if a model runs that may use one and the cluster has any.

    Args:
        tasks: The bags.
        workers: Maximum number of concurrent bags; None: as many as the cluster can run.
        model: The model to run on images; None: evaluate recorded outputs.
        address: Address of a running cluster, such as ``head:6379``, or ``auto`` for the one on
            this machine; None: start a temporary cluster on this machine.

    Raises:
        ClusterError: The cluster cannot be reached or started, has no free CPU, or a worker runs
            other code or cannot load the model.
    """
    _secure(address)
    import ray

    with ExitStack() as stack:
        # Keep Ray's messages out of the metrics on stdout.
        stack.enter_context(redirect_stdout(sys.stderr))
        stack.callback(ray.shutdown)
        _connect(address, workers)
        work = ray.remote(
            num_cpus=1,
            num_gpus=_gpus(model, ray.cluster_resources()),
            max_calls=0,  # keep processes alive, so that the model is loaded once, also on a GPU
            max_retries=ATTEMPTS - 1,
            retry_exceptions=True,
        )(_evaluate)
        code = None if address is None else code_digest()
        waiting, pending = deque(tasks), dict[Any, BagTask]()
        while waiting or pending:
            while waiting and (workers is None or len(pending) < workers):
                task = waiting.popleft()
                pending[work.remote(task, model, code)] = task
            (done,), _ = ray.wait(list(pending))
            yield _outcome(pending.pop(done), done)


def _evaluate(task: BagTask, model: ModelSettings | None, code: str | None) -> bytes | str:
    """Evaluate one bag on a worker.

    Returns:
        The encoded result, or why the bag cannot be evaluated; a retry would not help then.
    """
    cv2.setNumThreads(1)  # workers already use all cores
    if code is not None and code != code_digest():
        raise ClusterError(
            f"the modules of upsnet_ros on {platform.node()} differ from those on this machine"
        )
    try:
        return evaluate_encoded(task, model)
    except ClusterError:
        raise
    except EvaluationError as error:
        return str(error)


def _outcome(task: BagTask, reference: Any) -> Finished | Failed:
    import ray
    from ray.exceptions import RayError, RayTaskError

    try:
        result = ray.get(reference)
    except RayTaskError as error:
        if isinstance(error.cause, ClusterError):
            raise error.cause from None
        return Failed(task, f"{type(error.cause).__name__}: {error.cause}, {ATTEMPTS} times")
    except RayError as error:
        line = str(error).partition("\n")[0]
        return Failed(task, f"its worker was lost ({line}), {ATTEMPTS} times")
    return Failed(task, result) if isinstance(result, str) else Finished(task, result)


def _secure(address: str | None) -> None:
    """Restrict a local cluster to this user; Ray reads these variables when it is imported."""
    # Ray reports usage statistics unless this is off.
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    if address is not None or "ray" in sys.modules:
        return
    # Otherwise Ray replaces the loopback address with the network address and listens there.
    os.environ["RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"] = "0"
    if "RAY_AUTH_MODE" not in os.environ:
        os.environ["RAY_AUTH_MODE"] = "token"
        os.environ.setdefault("RAY_AUTH_TOKEN", secrets.token_hex(32))


def _connect(address: str | None, workers: int | None) -> None:
    import ray

    options: dict[str, Any] = {"address": address}
    if address is None:
        options = {
            "address": "local",
            "num_cpus": workers,
            "object_store_memory": _STORE_BYTES,
            "include_dashboard": False,
            "_node_ip_address": "127.0.0.1",
        }
    if not (address or "").startswith("ray://"):  # a server that does not add the folder
        options["job_config"] = _job_config()
    protect_children()  # what Ray starts on this machine
    try:
        _check_reachable(address)
        ray.init(log_to_driver=False, logging_level=logging.ERROR, **options)
    except (OSError, RuntimeError, ValueError) as error:
        where = "on this machine" if address is None else f"at {address}"
        raise ClusterError(f"no Ray cluster {where}: {error}") from error


def _job_config() -> Any:
    """Return a job whose workers do not import modules from the working directory.

    Ray puts the folder of the script and the working directory first in ``sys.path`` of workers,
    unless the job ships a working directory. There is no option for it; a version of Ray that does
    not ask this method behaves as without it.
    """
    from ray.job_config import JobConfig

    class WithoutWorkingDirectory(JobConfig):
        def _runtime_env_has_working_dir(self) -> bool:
            return True

    return WithoutWorkingDirectory()


def _check_reachable(address: str | None) -> None:
    """Check that the address accepts connections; Ray itself takes minutes to time out."""
    host, colon, port = (address or "").rpartition(":")
    if colon and "//" not in host:
        socket.create_connection((host, int(port)), _CONNECT_TIMEOUT_S).close()


def _gpus(model: ModelSettings | None, resources: dict[str, float]) -> int:
    """Return the number of GPUs that one bag takes: 0 or 1."""
    if resources.get("CPU", 0) < 1:
        raise ClusterError(f"the cluster has no CPU for a worker: its resources are {resources}")
    return int(model is not None and model.device != "cpu" and resources.get("GPU", 0) >= 1)
