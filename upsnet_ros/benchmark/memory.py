"""What a frame takes of a GPU's memory beyond the weights."""

from __future__ import annotations

from dataclasses import dataclass

import torch

__all__ = ["MemoryFigures", "MemoryMeter"]

_MIB = 2**20


@dataclass(frozen=True, slots=True, kw_only=True)
class MemoryFigures:
    """MiB on the GPU.

    Attributes:
        weights_mib: What lay there before the first frame.
        allocated_mib: Most that tensors took beyond that.
        reserved_mib: By how much torch's pools grew, those of graphs among them.
        driver_mib: By how much all of the GPU's memory in use grew: pools, libraries' workspaces,
            code of kernels; what other processes took in that time counts too.
    """

    weights_mib: float
    allocated_mib: float
    reserved_mib: float
    driver_mib: float

    @property
    def beyond_mib(self) -> float:
        """What counts: the larger of what torch keeps and what the driver has given."""
        return max(self.reserved_mib, self.driver_mib)


class MemoryMeter:
    """Compares a GPU's memory with that of its making, when only weights should lie there.

    Args:
        device: On a CPU there is nothing to read.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        if device.type != "cuda":
            return
        torch.cuda.synchronize(device)
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats(device)
        self._allocated = torch.cuda.memory_allocated(device)
        self._reserved = torch.cuda.memory_reserved(device)
        self._free, _ = torch.cuda.mem_get_info(device)

    def read(self) -> MemoryFigures | None:
        """Return what was taken since, at most; None on a CPU."""
        if self._device.type != "cuda":
            return None
        torch.cuda.synchronize(self._device)
        free, _ = torch.cuda.mem_get_info(self._device)
        peak = torch.cuda.max_memory_allocated(self._device)
        reserved = torch.cuda.max_memory_reserved(self._device)
        return MemoryFigures(
            weights_mib=round(self._allocated / _MIB, 1),
            allocated_mib=round((peak - self._allocated) / _MIB, 1),
            reserved_mib=round((reserved - self._reserved) / _MIB, 1),
            driver_mib=round((self._free - free) / _MIB, 1),
        )
