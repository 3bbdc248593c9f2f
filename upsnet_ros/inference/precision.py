"""In what arithmetic the network runs."""

from __future__ import annotations

import re
from pathlib import Path

import torch

__all__ = ["PRECISIONS", "resolve_precision"]

PRECISIONS = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}

# Of CPUs that multiply bfloat16: x86 with either extension, ARM by one name.
_MULTIPLY_BF16 = {"avx512_bf16", "amx_bf16", "bf16"}


def resolve_precision(precision: str, device: torch.device) -> str:
    """Return the precision of that name; ``auto`` is half of it where the device multiplies it.

    That is fp16 on CUDA, whose mantissa is three bits longer than bf16's, and bf16 on CPUs with
    AVX512-BF16, AMX or ARM's kin; fp32 on others.

    Raises:
        ValueError: There is no such precision, or the device cannot do it.
    """
    if precision == "auto":
        if device.type == "cuda":
            return "fp16"
        return "bf16" if _cpu_flags() & _MULTIPLY_BF16 else "fp32"
    if precision not in PRECISIONS:
        raise ValueError(f"unknown precision {precision!r}; use auto, {', '.join(PRECISIONS)}")
    if precision == "fp16" and device.type != "cuda":
        raise ValueError("precision fp16 needs a CUDA device; a CPU has fp32 and bf16")
    return precision


def _cpu_flags() -> frozenset[str]:
    """What the processor can do beside its basics, as Linux names it; empty elsewhere."""
    cpuinfo = Path("/proc/cpuinfo")
    # "flags" on x86, "Features" on ARM.
    flags = re.search(
        r"^(?:flags|Features)\s*:\s*(.+)$",
        cpuinfo.read_text() if cpuinfo.exists() else "",
        re.MULTILINE,
    )
    return frozenset(flags[1].split()) if flags else frozenset()
