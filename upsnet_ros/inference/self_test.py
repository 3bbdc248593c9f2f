"""Tests a GPU in a child process before this process uses it.

A kernel with a fault on the device (an address out of bounds, a hang) ends every process that
launches it, and nothing in that process can prevent it. So a child runs each kernel and a whole
frame first: see `self_test_steps`. What fails there is turned off here. The result is kept in the
user's cache folder, so the test runs once for each GPU, driver, version and size of image.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import logging
import os
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, field, replace
from datetime import datetime, timezone
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

from upsnet_ros.errors import OutputError, SettingsError, printable
from upsnet_ros.output_files import user_cache, write_whole
from upsnet_ros.processes.child_processes import ChildEnd, listen_to_child

if TYPE_CHECKING:
    import torch

#: Set to 0, no, off or false, this environment variable turns the test off.
ENVIRONMENT = "UPSNET_SELF_TEST"
#: Steps other than kernels: a product on the device; a frame by the reference implementations; as a
#: CUDA graph; by kernels without a graph; and by neither. Of the last three one has to pass.
DEVICE, OPERATORS, GRAPH, KERNELS, FRAME = "device", "operators", "graph", "kernels", "frame"
#: A GPU that fails one of these steps cannot be used.
UNUSABLE = (DEVICE, OPERATORS, FRAME)

#: Where the steps are; the child runs this module.
_STEPS = "upsnet_ros.inference.self_test_steps"
_MOST_CHILDREN = 40
#: Longest reason of a failure, characters.
_LONGEST = 300

_LOG = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """What is tested.

    Attributes:
        device: ``cuda:N``, or ``cpu`` for kernels in Triton's interpreter.
        variant: Name of the network.
        precision: ``fp32``, ``fp16`` or ``bf16``.
        size: Height and width of the images, pixels; None for the network's own.
        scale: Short side at which the network runs, pixels; None for the variant's own.
        merge: How the heads' results become one: ``auto``, ``upsnet`` or ``heuristic``.
        off: Steps that failed before; they are left out, and their kernels are not used.
    """

    device: str
    variant: str
    precision: str
    size: tuple[int, int] | None = None
    scale: int | None = None
    merge: str = "auto"
    off: tuple[str, ...] = ()

    @classmethod
    def from_json(cls, text: str) -> Request:
        """Read what `to_json` wrote."""
        values = json.loads(text)
        values["off"] = tuple(values["off"])
        values["size"] = values["size"] and tuple(values["size"])
        return cls(**values)

    def doctor(self) -> str:
        """Return the command that repeats the test."""
        words = ["upsnet doctor"]
        words += [f"--device {self.device}"] if self.device != "cuda:0" else []
        words += [f"--variant {self.variant}", f"--precision {self.precision}"]
        words += ["--size height={},width={}".format(*self.size)] if self.size else []
        words += [f"--scale {self.scale}"] if self.scale else []
        words += [f"--merge {self.merge}"] if self.merge != "auto" else []
        return " ".join(words)

    def to_json(self) -> str:
        """Write the request for a child."""
        return json.dumps(asdict(self))


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """How long a child may take, seconds.

    Attributes:
        compiling: From the start of a step until all is compiled and launched.
        testing: From then on until the result has been compared.
    """

    compiling: float = 300.0
    testing: float = 60.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """What a self-test found.

    Attributes:
        passed: Names of the steps that passed, in order.
        failed: Names of the steps that failed, and why.
        inconclusive: Why the test is to be repeated the next time; empty where it is not.
        cached: When the test ran, where that was before; else empty.
    """

    passed: tuple[str, ...] = ()
    failed: Mapping[str, str] = field(default_factory=dict)
    inconclusive: str = ""
    cached: str = ""

    @property
    def unusable(self) -> str:
        """Why the GPU cannot be used; empty where it can."""
        return next((self.failed[name] for name in UNUSABLE if name in self.failed), "")

    def summary(self) -> str:
        """Return what failed, on one line; empty where nothing did."""
        if not self.failed:
            return ""
        names, first = list(self.failed), next(iter(self.failed))
        return f"{', '.join(names)} failed the self-test ({first}: {self.failed[first]})"


def usable_device(
    device: torch.device, *, wanted: str, request: Request, module: str = _STEPS
) -> tuple[torch.device, bool]:
    """Test a GPU, turn off what fails, and return the device to use.

    Args:
        device: The GPU.
        wanted: The device as the user named it.
        request: What to test.
        module: Of the steps.

    Returns:
        The GPU, or the CPU where it cannot be used and ``wanted`` is ``auto``; and whether CUDA
        graphs passed.

    Raises:
        SettingsError: The GPU cannot be used, and the user asked for it.
    """
    import torch

    from upsnet_ros.ops import dispatch

    verdict = run(request, module=module)
    when = f" on {verdict.cached}" if verdict.cached else ""
    again = f"`{request.doctor()}` repeats the test"
    if verdict.unusable:
        what = f"{device} failed the self-test{when}: {verdict.unusable}"
        if wanted != "auto":
            raise SettingsError(f"{what}; use device cpu ({again})")
        dispatch.note_failure("gpu", f"self-test: {verdict.unusable}")
        _LOG.error("%s; running on the CPU instead (%s)", what, again)
        return torch.device("cpu"), False
    if verdict.failed:
        _LOG.warning("%s%s; plain operators run instead (%s)", verdict.summary(), when, again)
    for name, reason in verdict.failed.items():
        dispatch.note_failure(name, f"self-test: {reason}")
    if KERNELS in verdict.failed:
        dispatch.set_enabled(False)
    return device, GRAPH not in verdict.failed


def run(
    request: Request,
    *,
    module: str = _STEPS,
    limits: Limits = Limits(),
    fresh: bool = False,
    progress: Callable[[str], None] = _LOG.info,
) -> Verdict:
    """Return the cached verdict of a self-test, or run it.

    Args:
        request: What to test.
        module: Of the steps.
        limits: Of each step.
        fresh: Whether to run it even where there is a verdict.
        progress: Called with a line for each step.
    """
    key = _key(request, module, limits)
    if key is None:
        return _test(request, module, limits, progress)
    name = hashlib.sha256(json.dumps(key, sort_keys=True).encode()).hexdigest()[:32]
    with _locked(name, progress) as path:
        found = None if fresh or path is None else _read(path, key)
        if found is not None:
            return found
        verdict = _test(request, module, limits, progress)
        if path is not None and not verdict.inconclusive:
            _write(path, key, verdict)
        return verdict


def cache_folder() -> Path | None:
    """Return the folder of verdicts, in ``$XDG_CACHE_HOME``; None for a user without a home."""
    return user_cache("self_test")


def gpus() -> list[dict[str, str]]:
    """Return name, uuid and driver of each GPU by ``nvidia-smi``; empty where that is missing.

    No CUDA context is made.
    """
    fields = ("name", "uuid", "driver_version")
    command = ["nvidia-smi", f"--query-gpu={','.join(fields)}", "--format=csv,noheader"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=20, check=True)
    except (OSError, subprocess.SubprocessError):
        return []
    rows = [[cell.strip() for cell in line.split(",")] for line in done.stdout.splitlines()]
    return [dict(zip(fields, row, strict=True)) for row in rows if len(row) == len(fields)]


def _key(request: Request, module: str, limits: Limits) -> dict[str, Any] | None:
    """Everything that a verdict depends on; None where the GPU cannot be identified."""
    from upsnet_ros import ops as kernels

    identity = _identity(request, module, limits)
    if identity is None:
        return None
    sources = hashlib.sha256()
    for folder in (Path(kernels.__file__).parent, Path(__file__).parent):
        for file in sorted(folder.rglob("*.py")):
            sources.update(file.read_bytes())
    return {
        **identity,
        **{name: _version(name) for name in ("torch", "triton")},
        "cudnn": _cudnn_version(),
        "sources": sources.hexdigest(),
        "module": module,
        "request": json.loads(request.to_json()),
        # Which kernels and which of their forms run.
        "switches": {k: v for k, v in sorted(os.environ.items()) if k.startswith("UPSNET_")},
    }


def _identity(request: Request, module: str, limits: Limits) -> dict[str, str] | None:
    """UUID and driver of the GPU, without a CUDA context in this process."""
    if request.device == "cpu":
        return {"uuid": "cpu", "driver": ""}
    known = gpus()
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if len(known) == 1 and visible in (None, "0"):
        return {"uuid": known[0]["uuid"], "driver": known[0]["driver_version"]}
    # With several GPUs CUDA numbers them in an order of its own, and parts of one (MIG) have other
    # names: only CUDA knows.
    told: dict[str, Any] = {}
    _attempt(replace(request, off=("*",)), module, limits, told.update)
    if "uuid" not in told:
        return None
    loaded = Path("/proc/driver/nvidia/version")
    driver = known[0]["driver_version"] if known else ""
    if not driver and loaded.is_file():
        driver = loaded.read_text().partition("\n")[0]
    return {"uuid": str(told["uuid"]), "driver": driver}


def _cudnn_version() -> int | None:
    """Version of cuDNN; `torch.backends.cudnn.version` would initialise CUDA in this process."""
    import torch

    library: Any = getattr(torch._C, "_cudnn", None)  # a build without CUDA has none
    if library is None:
        return None
    version: int = library.getVersionInt()
    return version


def _version(package: str) -> str:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return ""


@contextlib.contextmanager
def _locked(name: str, progress: Callable[[str], None]) -> Iterator[Path | None]:
    """Yield the file of a verdict while no other process tests the same; None without a cache."""
    folder = cache_folder()
    with contextlib.ExitStack() as stack:
        try:
            if folder is None:
                raise FileNotFoundError("no home folder")
            folder.mkdir(parents=True, exist_ok=True)
            lock = stack.enter_context((folder / f"{name}.lock").open("w"))
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                progress("self-test: another process runs it; waiting for the result")
                fcntl.flock(lock, fcntl.LOCK_EX)
        except OSError as error:
            progress(f"self-test: the result cannot be kept in {folder}: {error}")
            yield None
            return
        yield folder / f"{name}.json"


def _read(path: Path, key: Mapping[str, Any]) -> Verdict | None:
    """The verdict in a file; None where there is none that can be read."""
    try:
        content = json.loads(path.read_bytes())
        passed, failed = content["passed"], content["failed"]
        texts = [*passed, *failed, *failed.values(), content["tested"]]
        if content["key"] != key or not all(isinstance(text, str) for text in texts):
            return None
    except (OSError, ValueError, LookupError, TypeError, AttributeError, RecursionError):
        return None
    return Verdict(passed=tuple(passed), failed=failed, cached=content["tested"])


def _write(path: Path, key: Mapping[str, Any], verdict: Verdict) -> None:
    now = datetime.now(timezone.utc).strftime("%Y-%m-%d %H:%M UTC")
    content = {"passed": verdict.passed, "failed": verdict.failed, "tested": now, "key": key}
    try:
        write_whole(path, json.dumps(content, indent=1).encode())
    except OutputError as error:
        _LOG.info("self-test: the result cannot be kept: %s", error)


def _test(
    request: Request, module: str, limits: Limits, progress: Callable[[str], None]
) -> Verdict:
    """Run children until one comes to its end, each without what failed before."""
    progress(
        f"self-test: testing the kernels on {request.device} once for this GPU, driver and image"
        " size; this takes up to some minutes"
    )
    start = time.monotonic()
    failed: dict[str, str] = {}
    passed: list[str] = []
    doubts: list[str] = []
    for _ in range(_MOST_CHILDREN):
        attempt = _Attempt(progress)
        ended = _attempt(
            replace(request, off=(*request.off, *failed)), module, limits, attempt.hear
        )
        failed |= attempt.failed
        passed = attempt.passed
        if ended.stopped:
            doubts.append(ended.reason)
            break
        if attempt.inconclusive:
            doubts.append(attempt.inconclusive)
            break
        if attempt.done or any(name in failed for name in UNUSABLE):
            break
        if attempt.step and not attempt.over:
            failed[attempt.step] = ended.reason
            progress(f"self-test: {attempt.step} failed: {ended.reason}")
            if ended.by_others or (ended.timed_out and attempt.phase == "compile"):
                doubts.append(f"{attempt.step}: {ended.reason}")
        elif not attempt.failed:
            doubts.append(f"it could not run: {ended.reason}")
            break
    else:
        doubts.append(f"{_MOST_CHILDREN} processes did not come to its end")
    verdict = Verdict(
        passed=tuple(name for name in dict.fromkeys(passed) if name not in failed),
        failed=failed,
        inconclusive="; ".join(doubts),
    )
    if verdict.inconclusive:
        _LOG.warning("self-test without result, to be repeated: %s", verdict.inconclusive)
    progress(f"self-test: ended after {time.monotonic() - start:.0f} s")
    return verdict


class _Attempt:
    """What one child reported."""

    def __init__(self, progress: Callable[[str], None]) -> None:
        self._progress = progress
        self.step, self.phase, self.over, self.done = "", "", True, False
        self.passed: list[str] = []
        self.failed: dict[str, str] = {}
        self.inconclusive = ""

    def hear(self, line: Mapping[str, Any]) -> None:
        """Take one line of a child."""
        phase = str(line.get("phase", ""))
        if phase in ("compile", "test"):
            self.step, self.phase, self.over = str(line["step"]), phase, False
            return
        self.over = True
        reason = printable(str(line.get("reason", "")))[:_LONGEST]
        if phase == "passed":
            if self.step not in self.passed:
                self._progress(f"self-test: {self.step} passed")
            self.passed.append(self.step)
        elif phase == "failed":
            self.failed[self.step] = reason
            self._progress(f"self-test: {self.step} failed: {reason}")
        elif phase == "inconclusive":
            self.inconclusive = f"{self.step}: {reason}"
        self.done = self.done or phase == "done"


def _attempt(
    request: Request, module: str, limits: Limits, hear: Callable[[Mapping[str, Any]], None]
) -> ChildEnd:
    """Run one child, and pass on what it reports."""

    def heard(line: bytes) -> float:
        try:
            report = json.loads(line)
        except ValueError:
            return limits.compiling  # a process whose memory is corrupt may write anything
        hear(report)
        return limits.testing if report.get("phase") == "test" else limits.compiling

    return listen_to_child(
        module, request.to_json(), hear=heard, first=limits.compiling, closing=limits.testing
    )
