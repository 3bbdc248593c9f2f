"""One process or several: what torchrun's environment says, and sums over all of them."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta

import torch
import torch.distributed as dist
from torch import Tensor

#: The others wait this long while the first process evaluates.
_PATIENCE = timedelta(hours=4)


@dataclass(frozen=True, slots=True)
class World:
    """The processes of a run.

    Attributes:
        rank: Number of this process.
        processes: How many there are.
        device: Where this process computes.
    """

    rank: int
    processes: int
    device: torch.device

    @property
    def is_first(self) -> bool:
        """Whether this is the process that writes files."""
        return self.rank == 0

    def mean(self, values: Tensor) -> Tensor:
        """Return the mean of a tensor over all processes, on all of them."""
        if self.processes > 1:
            values = values.clone()
            dist.all_reduce(values)
            values /= self.processes
        return values

    def any(self, flag: bool) -> bool:
        """Whether the flag is set in any process; all of them have to ask."""
        if self.processes == 1:
            return flag
        raised = torch.tensor(float(flag), device=self.device)
        dist.all_reduce(raised, dist.ReduceOp.MAX)
        return bool(raised)

    def wait(self) -> None:
        """Wait until all processes are here."""
        if self.processes > 1:
            dist.barrier()


@contextmanager
def world_of_environment(device: str) -> Iterator[World]:
    """Join the processes that torchrun started, or be alone.

    Args:
        device: ``cpu``, ``cuda`` or ``cuda:N``; with several processes on one machine each takes
            the GPU of its local rank.
    """
    processes = int(os.environ.get("WORLD_SIZE", "1"))
    chosen = torch.device(device)
    if processes == 1:
        yield World(0, 1, chosen)
        return
    if chosen.type == "cuda":
        chosen = torch.device("cuda", int(os.environ["LOCAL_RANK"]))
        torch.cuda.set_device(chosen)
    backend = "nccl" if chosen.type == "cuda" else "gloo"
    dist.init_process_group(backend, timeout=_PATIENCE)
    try:
        yield World(dist.get_rank(), dist.get_world_size(), chosen)
    finally:
        dist.destroy_process_group()
