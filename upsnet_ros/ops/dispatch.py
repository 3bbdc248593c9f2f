"""Selects the form of an operator: its Triton kernel on CUDA, its reference everywhere else."""

from __future__ import annotations

import importlib.util
import logging
import os
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from contextvars import ContextVar
from functools import cache
from typing import Any, TypeVar

import torch

T = TypeVar("T")
#: Runs an operator instead of `run`: takes its name, kernel and reference, returns the result.
Check = Callable[[str, Callable[[], Any], Callable[[], Any]], Any]

#: Set to 0, no, off or false, this environment variable turns kernels off; set to names with a
#: minus before each (``-nms,-conv_relu``), those whose names begin with one of them.
ENVIRONMENT = "UPSNET_KERNELS"

_OFF = ("0", "no", "off", "false")

_LOG = logging.getLogger(__name__)
_failures: dict[str, str] = {}
_setting = os.environ.get(ENVIRONMENT, "1").strip().lower()
_enabled = _setting not in _OFF
_unwanted = tuple(name.strip()[1:] for name in _setting.split(",") if name.strip().startswith("-"))
_interpreted = False
_by_reference = ContextVar("by_reference", default=False)
_check: ContextVar[Check | None] = ContextVar("check", default=None)


def switched_on(name: str, *, default: bool) -> bool:
    """Return whether the environment variable of that name turns something on, or off."""
    setting = os.environ.get(name, "").strip().lower()
    return setting not in _OFF if setting else default


def set_enabled(enabled: bool) -> None:
    """Turn kernels on or off for this process; at first `ENVIRONMENT` decides."""
    global _enabled
    _enabled = enabled


def failures() -> dict[str, str]:
    """Return why kernels failed in this process, by name; their references run instead.

    Under ``graph`` it says why a computation runs without a CUDA graph.
    """
    return dict(_failures)


def note_failure(name: str, reason: str) -> None:
    """List something in `failures`, besides kernels that fail in `run`."""
    _failures[name] = reason


@contextmanager
def interpreted() -> Iterator[None]:
    """Run kernels on CPU tensors in Triton's interpreter, for tests.

    The error of a kernel that fails is raised; no reference replaces it.

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
def references_only() -> Iterator[None]:
    """Run only references in this thread, for comparisons."""
    token = _by_reference.set(True)
    try:
        yield
    finally:
        _by_reference.reset(token)


@contextmanager
def checked(check: Check) -> Iterator[None]:
    """Let a function run every operator of this thread that would run its kernel."""
    token = _check.set(check)
    try:
        yield
    finally:
        _check.reset(token)


def is_interpreted() -> bool:
    """Return whether kernels run on CPU tensors, inside `interpreted`."""
    return _interpreted


def runs(name: str, device: torch.device) -> bool:
    """Return whether `run` would launch the kernel, as far as known before trying."""
    if _interpreted and device.type == "cpu":
        return name not in _failures
    return device.type == "cuda" and _is_wanted(name) and _triton_installed()


def run(
    name: str, device: torch.device, *, kernel: Callable[[], T], reference: Callable[[], T]
) -> T:
    """Run the kernel if possible, otherwise the reference.

    A kernel that Triton cannot compile or launch is not tried again in this process: a warning
    names it, and `failures` lists it. Errors of its arguments and a lack of memory are raised.

    Args:
        name: Name of the operator, for the warning.
        device: Device of its tensors.
        kernel: Launches the kernel; may import Triton.
        reference: Returns the same in plain torch.
    """
    # An exported program holds operators that other runtimes know.
    if torch.compiler.is_compiling() or not runs(name, device):
        return reference()
    check = _check.get()
    if check is not None:
        result: T = check(name, kernel, reference)
        return result
    if device.type == "cpu":  # interpreted
        return kernel()
    from triton.errors import TritonError

    # Triton builds its launcher with the system's C compiler, and the kernel with ptxas.
    toolchain = (TritonError, RuntimeError, ImportError, OSError, subprocess.SubprocessError)
    # Triton launches on the current device, wherever the tensors are.
    on_device = nullcontext() if device.index is None else torch.cuda.device(device)
    try:
        with on_device:
            return kernel()
    except torch.OutOfMemoryError:
        raise
    except toolchain as error:
        if torch.cuda.is_available() and torch.cuda.is_current_stream_capturing():
            raise  # nothing can replace it in a capture that is broken
        reason = str(error).strip() or type(error).__name__
        note_failure(name, reason)
        _LOG.warning("kernel %s failed, its plain form runs instead: %s", name, reason)
    return reference()


def _is_wanted(name: str) -> bool:
    wanted = _enabled and not _by_reference.get() and not name.startswith(_unwanted)
    return wanted and name not in _failures


@cache
def _triton_installed() -> bool:
    return importlib.util.find_spec("triton") is not None
