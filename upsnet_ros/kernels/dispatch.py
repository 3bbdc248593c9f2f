"""Which form of an operator runs: its Triton kernel on CUDA, its twin everywhere else."""

from __future__ import annotations

import importlib.util
import logging
import os
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from contextvars import ContextVar
from functools import cache
from typing import TypeVar

import torch

T = TypeVar("T")

#: Set to 0, no, off or false, this environment variable turns kernels off; set to names with a
#: minus before each (``-nms,-conv_relu``), those whose names begin with one of them.
ENVIRONMENT = "UPSNET_KERNELS"

_LOG = logging.getLogger(__name__)
_failures: dict[str, str] = {}
_setting = os.environ.get(ENVIRONMENT, "1").strip().lower()
_enabled = _setting not in ("0", "no", "off", "false")
_unwanted = tuple(name.strip()[1:] for name in _setting.split(",") if name.strip().startswith("-"))
_interpreted = False
_by_twins = ContextVar("by_twins", default=False)


def set_enabled(enabled: bool) -> None:
    """Turn kernels on or off for this process; at first `ENVIRONMENT` decides."""
    global _enabled
    _enabled = enabled


def failures() -> dict[str, str]:
    """Return the kernels that failed in this process, by name, and why; their twins run instead.

    Under ``graph`` it says why a computation runs without a CUDA graph.
    """
    return dict(_failures)


def note_failure(name: str, reason: str) -> None:
    """List something in `failures`, besides kernels that fail in `run`."""
    _failures[name] = reason


@contextmanager
def interpreted() -> Iterator[None]:
    """Let kernels run on CPU tensors, in Triton's interpreter, so that tests see them all at work.

    No twin covers up for a kernel that fails there: its error is raised.

    Raises:
        RuntimeError: Where Triton was imported without TRITON_INTERPRET=1, or is not installed.
    """
    global _interpreted
    if not _triton_installed():
        raise RuntimeError("Triton is not installed: pip install triton")
    import triton

    if not triton.knobs.runtime.interpret:
        raise RuntimeError("set TRITON_INTERPRET=1 before Triton is imported")
    before, _interpreted = _interpreted, True
    try:
        yield
    finally:
        _interpreted = before


@contextmanager
def twins_only() -> Iterator[None]:
    """Let no kernel run in this thread, to compare with."""
    token = _by_twins.set(True)
    try:
        yield
    finally:
        _by_twins.reset(token)


def is_interpreted() -> bool:
    """Whether kernels run on CPU tensors: inside of `interpreted`."""
    return _interpreted


def run(name: str, device: torch.device, *, kernel: Callable[[], T], twin: Callable[[], T]) -> T:
    """Run the kernel where it can be run, and the twin otherwise.

    A kernel that Triton cannot compile or launch is not tried again in this process: a warning
    names it, and `failures` lists it. Errors of its arguments and a lack of memory are raised.

    Args:
        name: Of the operator, for the warning.
        device: Where its tensors are.
        kernel: Launches the kernel; may import Triton.
        twin: Returns the same in plain torch.
    """
    if _interpreted and device.type == "cpu":
        return kernel()
    if device.type != "cuda" or not _is_wanted(name) or not _triton_installed():
        return twin()
    from triton.errors import TritonError

    # Triton builds its launcher with the system's C compiler, and the kernel with ptxas.
    toolchain = (TritonError, RuntimeError, ImportError, OSError, subprocess.SubprocessError)
    # Triton launches on the current device, wherever the tensors are.
    place = nullcontext() if device.index is None else torch.cuda.device(device)
    try:
        with place:
            return kernel()
    except torch.OutOfMemoryError:
        raise
    except toolchain as error:
        if torch.cuda.is_available() and torch.cuda.is_current_stream_capturing():
            raise  # nothing can replace it in a capture that is broken
        reason = str(error).strip() or type(error).__name__
        note_failure(name, reason)
        _LOG.warning("kernel %s failed, its plain form runs instead: %s", name, reason)
    return twin()


def _is_wanted(name: str) -> bool:
    wanted = _enabled and not _by_twins.get() and not name.startswith(_unwanted)
    return wanted and name not in _failures


@cache
def _triton_installed() -> bool:
    return importlib.util.find_spec("triton") is not None
