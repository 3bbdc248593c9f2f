"""Distributed training: joins the processes started by torchrun, and reduces over them."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta

import torch
import torch.distributed as dist
from torch import Tensor

#: Timeout of collectives: the other processes wait while the first one evaluates.
_TIMEOUT = timedelta(hours=4)


@dataclass(frozen=True, slots=True)
class World:
    """The processes of a run.

    Attributes:
        rank: Rank of this process.
        processes: Number of processes.
        device: Device of this process.
        has_own_gpus: Whether there are several processes, each with its own GPU. On a CPU, or with
            a shared GPU, they use gloo, and batch norms are not synchronised.
    """

    rank: int
    processes: int
    device: torch.device
    has_own_gpus: bool = False

    @property
    def is_first(self) -> bool:
        """Whether this is the first process, which writes the files."""
        return self.rank == 0

    def mean(self, values: Tensor) -> Tensor:
        """Return the mean of a tensor over all processes (collective)."""
        if self.processes > 1:
            values = values.clone()
            dist.all_reduce(values)
            values /= self.processes
        return values

    def of_first(self, value: float) -> float:
        """Return the value of the first process (collective)."""
        if self.processes == 1:
            return value
        sent = torch.tensor(value, dtype=torch.float64, device=self.device)
        dist.broadcast(sent, 0)
        return float(sent)

    def wait(self) -> None:
        """Wait for all processes (barrier)."""
        if self.processes > 1:
            dist.barrier()


def place_processes(
    device: torch.device, *, local_rank: int, local_processes: int, gpus: int
) -> tuple[torch.device, bool]:
    """Return the device of one of several processes, and whether each process has its own GPU.

    Processes of one machine are assigned GPUs round-robin. If there are fewer GPUs than processes,
    they share GPUs, which NCCL does not support; this helps if the host limits training.

    Args:
        device: The requested device.
        local_rank: Rank of the process on this machine.
        local_processes: Number of processes on this machine.
        gpus: Number of GPUs of this machine.
    """
    if device.type != "cuda":
        return device, False
    return torch.device("cuda", local_rank % gpus), local_processes <= gpus


@contextmanager
def world_of_environment(device: str) -> Iterator[World]:
    """Context of the processes started by torchrun, or of a single process.

    Args:
        device: ``cpu``, ``cuda`` or ``cuda:N``; with several processes on one machine, each uses
            the GPU of its local rank modulo the number of GPUs.
    """
    processes = int(os.environ.get("WORLD_SIZE", "1"))
    chosen = torch.device(device)
    if processes == 1:
        yield World(0, 1, chosen)
        return
    chosen, own_gpus = place_processes(
        chosen,
        local_rank=int(os.environ["LOCAL_RANK"]),
        local_processes=int(os.environ["LOCAL_WORLD_SIZE"]),
        gpus=torch.cuda.device_count(),
    )
    if chosen.type == "cuda":
        torch.cuda.set_device(chosen)
    dist.init_process_group("nccl" if own_gpus else "gloo", timeout=_TIMEOUT)
    try:
        yield World(dist.get_rank(), dist.get_world_size(), chosen, own_gpus)
    finally:
        dist.destroy_process_group()
