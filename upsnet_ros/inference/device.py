"""Where the network runs."""

from __future__ import annotations

import torch


def resolve_device(device: str) -> torch.device:
    """Return the device of that name; ``auto`` is the GPU where there is one.

    A GPU without a number is this thread's. It gets its number, since to other threads the same
    name may mean another one.

    Raises:
        ValueError: No such device here.
    """
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        resolved = torch.device(device)
    except RuntimeError:
        raise ValueError(f"unknown device {device!r}; use auto, cpu, cuda or cuda:N") from None
    if resolved.type == "cuda" and (resolved.index or 0) >= torch.cuda.device_count():
        raise ValueError(
            f"device {device!r} is not here: torch sees {torch.cuda.device_count()} GPUs; use cpu"
        )
    if resolved.type not in ("cpu", "cuda"):
        raise ValueError(f"device {device!r} is not supported; use auto, cpu, cuda or cuda:N")
    if resolved.type == "cuda" and resolved.index is None:
        return torch.device("cuda", torch.cuda.current_device())
    return resolved
