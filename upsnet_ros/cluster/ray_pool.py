"""Workers that are actors on a Ray cluster."""

from __future__ import annotations

import logging
import os
import socket
import sys
from contextlib import ExitStack, redirect_stdout
from itertools import count
from types import TracebackType
from typing import Any

import ray
from ray.exceptions import RayError, RayTaskError

from upsnet_ros.bags.judging import BagTask
from upsnet_ros.cluster.errors import ClusterError
from upsnet_ros.cluster.identity import code_digest
from upsnet_ros.cluster.model import ModelSettings
from upsnet_ros.cluster.pool import Broken, Report
from upsnet_ros.cluster.worker import Worker

__all__ = ["RayPool"]

#: Of a cluster of our own: results are the only objects, and are fetched at once.
_STORE_BYTES = 256 << 20
#: For a machine to answer that it is there.
_KNOCK_S = 10


class RayPool:
    """See `upsnet_ros.cluster.pool.Pool`; use it in a ``with``, which ends the actors.

    An actor has one CPU, and one GPU where a model runs that may use it and the cluster has any.

    Args:
        size: Number of actors at most; None: as many as the cluster has room for.
        model: What they run; None: the bags hold outputs.
        address: Of a cluster that runs, such as ``head:6379``, or ``auto`` for that of this
            machine; None: one on this machine, for this pool alone.

    Raises:
        ClusterError: The cluster cannot be reached or started, or has no room for an actor.
    """

    def __init__(
        self, *, size: int | None, model: ModelSettings | None, address: str | None = None
    ) -> None:
        self._model = model
        self._code = None if address is None else code_digest()
        self._numbers = count()
        self._actors: dict[int, Any] = {}
        self._pending: dict[Any, int] = {}
        self._stack = ExitStack()
        # What Ray says beside the point would mix with the figures.
        self._stack.enter_context(redirect_stdout(sys.stderr))
        self._stack.callback(ray.shutdown)
        try:
            _connect(address, size)
            resources = ray.cluster_resources()
            self._needs = _needs(model, resources)
            room = min(
                int(resources.get(name, 0) // amount) for name, amount in self._needs.items()
            )
            if not room:
                raise ClusterError(f"the cluster has no room for a worker: it has {resources}")
            self.size = room if size is None else size
        except BaseException:
            self._stack.close()
            raise

    def __enter__(self) -> RayPool:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        for worker in list(self._actors):
            self.discard(worker)
        self._stack.close()

    def start(self) -> int:
        """See `Pool.start`."""
        number = next(self._numbers)
        # Restarts and retries are `spread`'s, which counts them by bag.
        kind = ray.remote(Worker).options(
            num_cpus=self._needs["CPU"], num_gpus=self._needs.get("GPU", 0), max_restarts=0
        )
        actor: Any = kind.remote()
        self._actors[number] = actor
        self._pending[actor.start.remote(self._model, self._code)] = number
        return number

    def submit(self, worker: int, task: BagTask) -> None:
        """See `Pool.submit`."""
        self._pending[self._actors[worker].judge.remote(task)] = worker

    def discard(self, worker: int) -> None:
        """See `Pool.discard`."""
        self._pending = {ref: other for ref, other in self._pending.items() if other != worker}
        ray.kill(self._actors.pop(worker))

    def wait(self) -> list[Report]:
        """See `Pool.wait`."""
        done, _ = ray.wait(list(self._pending))
        return [self._report(ref) for ref in done]

    def _report(self, ref: Any) -> Report:
        worker = self._pending.pop(ref)
        try:
            return Report(worker, ray.get(ref))
        except RayTaskError as error:
            return Report(worker, Broken(f"{type(error.cause).__name__}: {error.cause}"))
        except RayError as error:
            line = str(error).partition("\n")[0]
            return Report(worker, Broken(f"its worker was lost ({line})"))


def _connect(address: str | None, size: int | None) -> None:
    options: dict[str, Any] = {"address": address}
    if address is None:
        # Ray sends statistics of its use home unless it is told not to.
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
        options = {
            "address": "local",
            "num_cpus": size,
            "object_store_memory": _STORE_BYTES,
            "include_dashboard": False,
        }
    try:
        _knock(address)
        ray.init(log_to_driver=False, logging_level=logging.ERROR, **options)
    except (OSError, RuntimeError, ValueError) as error:
        where = "on this machine" if address is None else f"at {address}"
        raise ClusterError(f"no Ray cluster {where}: {error}") from error


def _knock(address: str | None) -> None:
    """Find out at once whether anybody listens there; Ray itself takes minutes to give up.

    Raises:
        OSError: Nobody does.
        ValueError: The port is no number.
    """
    host, colon, port = (address or "").rpartition(":")
    if colon and "//" not in host:
        socket.create_connection((host, int(port)), _KNOCK_S).close()


def _needs(model: ModelSettings | None, resources: dict[str, float]) -> dict[str, int]:
    """What an actor takes of the cluster."""
    on_gpu = model is not None and model.device != "cpu" and resources.get("GPU", 0) >= 1
    return {"CPU": 1, "GPU": 1} if on_gpu else {"CPU": 1}
