"""Functions that are captured the first time and replayed from then on."""

from __future__ import annotations

import logging
import threading
from collections import OrderedDict
from collections.abc import Callable, Hashable
from typing import Protocol

import torch
from torch import Tensor

from upsnet_ros.inference.assemble import Assembly
from upsnet_ros.kernels import dispatch

__all__ = ["CaptureError", "Function", "GraphCache", "Recorder", "Recording"]

_LOG = logging.getLogger(__name__)

Function = Callable[..., list[Assembly]]


class CaptureError(RuntimeError):
    """A function ran, but could not be captured; the message says why."""


class Recording(Protocol):
    """A function as it was captured."""

    def replay(self, inputs: tuple[Tensor, ...]) -> list[Assembly]:
        """Return what the function makes of these inputs, in memory that is the caller's."""
        ...

    def release(self) -> None:
        """Let go of its memory; it is not replayed any more."""
        ...


class Recorder(Protocol):
    """What captures functions on a device; `cuda_graph.CudaRecorder` is one."""

    def record(self, function: Function, inputs: tuple[Tensor, ...]) -> Recording:
        """Run a function of such inputs until it is warm, then capture it.

        Raises:
            CaptureError: It ran, but cannot be captured.
        """
        ...

    def give_back(self) -> None:
        """Return to the device what released recordings held."""
        ...


class GraphCache:
    """Runs functions of tensors: on CUDA as graphs, elsewhere as they are.

    A function is captured with the first inputs of its key and of their shapes, which takes as long
    as compiling, choosing algorithms and a few runs do. A replay then takes one launch, and copies
    of inputs and outputs: neither waits for the device. What has not been used for longest is given
    up where `limit` is reached, and captured anew when it comes again.

    A function that cannot be captured runs as it is; a warning says why, as does
    `upsnet_ros.kernels.failures` under the name ``graph``. What a function raises while it is
    warmed up is raised, and it is tried again the next time.

    It may be used by any thread, on any stream.

    Args:
        device: Where the inputs are.
        limit: Number of graphs kept.
        recorder: What captures; by default CUDA graphs on a CUDA device, and nothing elsewhere.

    Raises:
        ValueError: `limit` is less than 1.
    """

    def __init__(
        self, device: torch.device, *, limit: int = 8, recorder: Recorder | None = None
    ) -> None:
        if limit < 1:
            raise ValueError(f"limit of a graph cache is {limit}, but must be at least 1")
        if recorder is None and device.type == "cuda":
            from upsnet_ros.inference.cuda_graph import CudaRecorder

            recorder = CudaRecorder(device)
        self._recorder = recorder
        self._limit = limit
        self._recordings: OrderedDict[Hashable, Recording] = OrderedDict()  # the latest used last
        self._given_up: set[Hashable] = set()
        self._failed: set[Hashable] = set()
        self._lock = threading.Lock()

    def __len__(self) -> int:
        """Return the number of graphs kept."""
        return len(self._recordings)

    @torch.inference_mode()
    def run(self, key: Hashable, function: Function, inputs: tuple[Tensor, ...]) -> list[Assembly]:
        """Return ``function(*inputs)``, without a wait for the device where it was captured before.

        Args:
            key: Equal keys mean functions that compute the same of the same inputs.
            function: Launches work that depends on the inputs and on what does not change until
                the graph is given up, which keeps the function alive. It is called a few times
                before it is captured, so it measures and counts nothing.
            inputs: On the device; what may change from call to call has to be among them.
        """
        if self._recorder is None:
            return function(*inputs)
        key = (key, *((x.shape, x.dtype) for x in inputs))
        with self._lock:
            recording = self._recordings.get(key)
            if recording is None and key not in self._failed:
                recording = self._record(self._recorder, key, function, inputs)
            if recording is not None:
                self._recordings.move_to_end(key)
                return recording.replay(inputs)
        return function(*inputs)

    def clear(self) -> None:
        """Give up all graphs and their memory; the cache is as new."""
        with self._lock:
            while self._recordings:
                self._give_up_oldest()
            self._given_up.clear()
            self._failed.clear()
            if self._recorder is not None:
                self._recorder.give_back()

    def _record(
        self, recorder: Recorder, key: Hashable, function: Function, inputs: tuple[Tensor, ...]
    ) -> Recording | None:
        while len(self._recordings) >= self._limit:
            self._give_up_oldest()
        if key in self._given_up:
            _LOG.warning(
                "more than %d kinds of computations take turns (sizes of images, batches, outputs):"
                " a graph is captured anew, which takes long",
                self._limit,
            )
            self._given_up.clear()  # said once a round is often enough
        try:
            recording = recorder.record(function, inputs)
        except CaptureError as error:
            self._failed.add(key)
            dispatch.note_failure("graph", str(error))
            _LOG.warning("no CUDA graph, what it would hold is launched each time: %s", error)
            return None
        self._recordings[key] = recording
        return recording

    def _give_up_oldest(self) -> None:
        key, recording = self._recordings.popitem(last=False)
        self._given_up.add(key)
        recording.release()
