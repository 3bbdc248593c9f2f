"""What happens when the memory of the GPU or of the system runs out, and how memory is freed."""

from __future__ import annotations

import ctypes
import gc
import sys
import traceback
from typing import TYPE_CHECKING

from upsnet_ros.errors import first_line

if TYPE_CHECKING:
    import torch


def free_memory() -> None:
    """Return unused memory to the system."""
    import torch

    if torch.cuda.is_initialized():
        torch.cuda.empty_cache()
    if sys.platform == "linux":
        # glibc keeps freed memory between blocks in use: about as much as the network needs.
        trim = getattr(ctypes.CDLL(None), "malloc_trim", None)  # musl has none
        if trim is not None:
            trim(0)


def ran_out_of_memory(error: Exception) -> bool:
    """Return whether the error says that memory ran out."""
    import torch

    return isinstance(error, (MemoryError, torch.OutOfMemoryError)) or (
        # torch has no type for a failed allocation on the CPU.
        isinstance(error, RuntimeError) and "can't allocate memory" in str(error)
    )


def release_frames(error: BaseException) -> None:
    """Release the objects, such as tensors, that an error's stack frames reference.

    The error then has no traceback.
    """
    link: BaseException | None = error
    while link is not None:
        traceback.clear_frames(link.__traceback__)
        link.__traceback__ = None  # a cleared frame still references its function's closure
        link = link.__cause__ or link.__context__
    gc.collect()  # a module that is called through hooks leaves a reference cycle


def read_gpu_memory(device: torch.device) -> dict[str, str]:
    """Return the GPU's memory use as keys and values for the diagnostics; empty for a CPU."""
    import torch

    if device.type != "cuda":
        return {}
    mib = 1 << 20
    try:
        free, total = torch.cuda.mem_get_info(device)
    except RuntimeError as error:  # the device has failed
        return {"gpu_error": first_line(error)}
    return {
        "gpu": torch.cuda.get_device_name(device),
        "gpu_memory_allocated_mib": str(torch.cuda.memory_allocated(device) // mib),
        "gpu_memory_reserved_mib": str(torch.cuda.memory_reserved(device) // mib),
        "gpu_memory_free_mib": str(free // mib),
        "gpu_memory_total_mib": str(total // mib),
    }
