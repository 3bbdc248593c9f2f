"""CUDA graphs of functions, all of a device in one pool of memory."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from upsnet_ros.inference.assemble import Assembly
from upsnet_ros.inference.graphs import CaptureError, Function

__all__ = ["CudaRecorder", "capture_into"]

#: The first run compiles kernels, chooses algorithms and fills tables; another finds all in place.
_WARM_UPS = 2

#: torch allows one capture at a time in a process.
_CAPTURING = threading.Lock()


@dataclass(slots=True)
class _Pool:
    """Memory that graphs share.

    Attributes:
        graphs: How many live graphs were captured into it. Once it falls to none, torch lets the
            memory go and refuses the handle.
    """

    handle: Any = field(default_factory=torch.cuda.graph_pool_handle)
    graphs: int = 0


class CudaRecorder:
    """Captures functions as CUDA graphs and replays them, see `graphs.Recorder`.

    Why the graphs may share memory, and be replayed in any order (which torch allows for graphs
    that never run at once and need nothing of each other: pytorch/pytorch#166975):

    - No two run at once. Each replay waits, on the device, for the event after the one before, on
      whatever streams they are. Host threads take turns by the lock of the `graphs.GraphCache`.
    - Nothing in the pool outlives a replay: outputs are copied out before that event. Inputs lie
      outside of the pool, as do tables that a function keeps, since the warm-up makes them.
    - All are captured on one stream. The allocator gives freed memory to the same stream only, so
      that the pool grows to what the largest graph needs, rather than to their sum.
    - No graph has an address that goes with another one. cuBLAS keeps a workspace for each stream,
      which torch drops when any graph of the stream does (pytorch/pytorch#193402); so each capture
      begins and ends without one, and finds its own in the pool.

    The stream is nobody else's: what others launched on it would be captured, and memory that they
    use there could not be freed in that time (pytorch/pytorch#193982). Other threads may allocate,
    copy and launch while a graph is captured, but not capture, nor wait for the whole device.

    A pool in which a capture failed is left to the graphs it has. What the failed one took may stay
    taken until the process ends.

    Args:
        device: A CUDA device.
    """

    def __init__(self, device: torch.device) -> None:
        # Of another priority than the streams of pipelines, because torch has 32 of each and begins
        # again with the first: the thirty-third shares its memory and its capture with another.
        self._stream = torch.cuda.Stream(device, priority=-1)
        self._replayed = torch.cuda.Event()
        self._pool: _Pool | None = None

    def record(self, function: Function, inputs: tuple[Tensor, ...]) -> _CudaGraph:
        """See `graphs.Recorder`."""
        stream, caller = self._stream, torch.cuda.current_stream(self._stream.device)
        with _CAPTURING:
            stream.wait_stream(caller)
            # Memory of graphs that were given up may be in use by their last replay.
            stream.wait_event(self._replayed)
            try:
                # Also brings back the caller's stream, which torch forgets if a capture fails.
                with torch.cuda.stream(stream):
                    held = tuple(x.clone() for x in inputs)
                    _warm_up(function, held)
                    return self._capture(function, held)
            finally:
                caller.wait_stream(stream)

    def give_back(self) -> None:
        """See `graphs.Recorder`."""
        torch.cuda.empty_cache()

    def _capture(self, function: Function, inputs: tuple[Tensor, ...]) -> _CudaGraph:
        if self._pool is None or self._pool.graphs == 0:
            self._pool = _Pool()
        pool, graph = self._pool, torch.cuda.CUDAGraph()
        reason = ""
        torch._C._cuda_clearCublasWorkspaces()
        try:
            with capture_into(graph, pool=pool.handle, stream=self._stream):
                try:
                    outputs = function(*inputs)
                except Exception as error:
                    reason = _first_line(error)  # the end of a broken capture raises less
                    raise
        except Exception as error:
            self._pool = None
            raise CaptureError(reason or _first_line(error)) from error
        finally:
            torch._C._cuda_clearCublasWorkspaces()
        return _CudaGraph(
            graph,
            device=self._stream.device,
            function=function,
            inputs=inputs,
            outputs=outputs,
            pool=pool,
            after=self._replayed,
        )


class _CudaGraph:
    """A captured function: see `graphs.Recording`.

    Args:
        graph: The capture.
        device: Where it was captured.
        function: What was captured; it keeps the tensors that the graph reads.
        inputs: Where the graph reads its inputs.
        outputs: Where the graph leaves its outputs.
        pool: Where it was captured.
        after: Recorded after each replay of a graph in the pool.
    """

    def __init__(
        self,
        graph: torch.cuda.CUDAGraph,
        *,
        device: torch.device,
        function: Function,
        inputs: tuple[Tensor, ...],
        outputs: list[Assembly],
        pool: _Pool,
        after: torch.cuda.Event,
    ) -> None:
        self._graph, self._device = graph, device
        self._function: Function | None = function
        self._inputs, self._outputs = inputs, outputs
        self._pool = pool
        self._after = after
        pool.graphs += 1

    def replay(self, inputs: tuple[Tensor, ...]) -> list[Assembly]:
        """See `graphs.Recording`; all of it is launched on the current stream."""
        stream = torch.cuda.current_stream(self._device)
        stream.wait_event(self._after)
        try:
            for held, x in zip(self._inputs, inputs, strict=True):
                held.copy_(x, non_blocking=True)
            self._graph.replay()
            return [output.map(Tensor.clone) for output in self._outputs]
        finally:
            self._after.record(stream)

    def release(self) -> None:
        """See `graphs.Recording`; waits for a replay that is under way."""
        # It reads tables of the function, which may be of other streams than it runs on: let go,
        # they would be given to others there at once.
        self._after.synchronize()
        self._function, self._inputs, self._outputs = None, (), []
        self._graph.reset()
        self._pool.graphs -= 1


@contextmanager
def capture_into(
    graph: torch.cuda.CUDAGraph, *, pool: Any, stream: torch.cuda.Stream
) -> Iterator[None]:
    """Capture what is launched in the block; other threads may go on with their work.

    Up to pytorch/pytorch#180395 (torch 2.11 lacks it) the allocator took a capture that broke for
    one under way, until the process ended: it freed nothing and refused every further capture.

    Args:
        graph: Where to.
        pool: Handle of the memory to use.
        stream: On which the block runs.
    """
    begun = False
    try:
        with torch.cuda.graph(graph, pool=pool, stream=stream, capture_error_mode="thread_local"):
            begun = True
            yield
    except Exception:
        if begun:  # else later releases of torch see to it themselves, and may not find it done
            with suppress(RuntimeError):  # as it is where the allocator knows that it is over
                torch._C._cuda_endAllocateToPool(stream.device_index, pool)
        raise


def _warm_up(function: Function, inputs: tuple[Tensor, ...]) -> None:
    """Run a function, letting cuDNN time its algorithms.

    What it chose is kept for the thread, so the capture, in the same thread, takes the same. The
    switch is the process's, hence back as it was: other threads may time theirs meanwhile.
    """
    before = torch.backends.cudnn.benchmark
    torch.backends.cudnn.benchmark = True
    try:
        for _ in range(_WARM_UPS):
            function(*inputs)
    finally:
        torch.backends.cudnn.benchmark = before


def _first_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]
