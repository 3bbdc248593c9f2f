"""CUDA graphs: captured on the first call, replayed afterwards, in one memory pool per device."""

from __future__ import annotations

import contextvars
import logging
import os
import threading
from collections import OrderedDict
from collections.abc import Callable, Hashable, Iterator
from concurrent.futures import Future
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from functools import partial
from queue import SimpleQueue
from typing import Any, Protocol, TypeVar

import torch
from torch import Tensor

from upsnet_ros.errors import CaptureError, SettingsError, first_line
from upsnet_ros.inference.assemble import Assembly
from upsnet_ros.ops import dispatch

_T = TypeVar("_T")

#: Number of plans that cuDNN builds and times for each kind of convolution during a warm-up; with 0
#: it uses the one it recommends, without timing.
PLANS_ENVIRONMENT = "UPSNET_CUDNN_PLANS"
_DEFAULT_PLANS = 4

#: The first run compiles kernels, chooses algorithms and fills tables; the second is a normal one.
_WARM_UPS = 2

#: torch allows one capture at a time in a process.
_CAPTURING = threading.Lock()


def cudnn_plans() -> int:
    """Return the number of plans that `PLANS_ENVIRONMENT` asks for.

    Raises:
        SettingsError: It is not a number from 0.
    """
    text = os.environ.get(PLANS_ENVIRONMENT, str(_DEFAULT_PLANS))
    try:
        plans = int(text)
    except ValueError:
        plans = -1
    if plans < 0:
        raise SettingsError(f"{PLANS_ENVIRONMENT} is {text!r}, but must be a whole number from 0")
    return plans


class _Thread:
    """A thread that calls functions, one after the other, until the process ends."""

    def __init__(self, name: str) -> None:
        self._calls: SimpleQueue[tuple[Future[Any], Callable[[], Any]]]
        self._calls = SimpleQueue()
        threading.Thread(target=self._run, name=name, daemon=True).start()

    def call(self, function: Callable[[], _T]) -> _T:
        """Call the function in the thread, in the caller's context; wait and return its result."""
        future: Future[_T] = Future()
        try:
            self._calls.put((future, partial(contextvars.copy_context().run, function)))
            return future.result()
        finally:
            # If the caller was interrupted, nobody uses the result.
            if not future.cancel() and not future.done():
                future.add_done_callback(_release)
            del future  # an error's traceback holds this frame

    def _run(self) -> None:
        while True:
            self._call(*self._calls.get())

    @staticmethod
    def _call(future: Future[Any], function: Callable[[], Any]) -> None:
        if not future.set_running_or_notify_cancel():
            return
        try:
            result = function()
        except BaseException as error:  # noqa: BLE001 - the caller raises it
            future.set_exception(error)
            del future  # as above
        else:
            future.set_result(result)


def _release(future: Future[Any]) -> None:
    if future.exception() is None and isinstance(graph := future.result(), _CudaGraph):
        graph.release()


_THREADS: dict[int, _Thread] = {}
_STARTING = threading.Lock()


def capture_thread(device: torch.device) -> _Thread:
    """Return the thread in which all graphs of a device are warmed up and captured."""
    with _STARTING:
        index = device.index or 0
        if index not in _THREADS:
            _THREADS[index] = _Thread(f"upsnet_capture_{index}")
        return _THREADS[index]


@dataclass(slots=True)
class _Pool:
    """Memory that graphs share.

    Attributes:
        graphs: Number of live graphs captured into it. When it becomes 0, torch frees the memory
            and rejects the handle.
    """

    handle: Any = field(default_factory=torch.cuda.graph_pool_handle)
    graphs: int = 0


class CudaRecorder:
    """Captures functions as CUDA graphs and replays them; see `Recorder`.

    The graphs share memory and may be replayed in any order. torch allows this for graphs that
    never run concurrently and do not depend on each other (pytorch/pytorch#166975):

    - No two run concurrently. Each replay waits, on the device, for the event that follows the
      previous one, on any stream. The lock of `GraphCache` serialises host threads.
    - Nothing in the pool outlives a replay: outputs are copied before that event. Inputs are
      outside the pool, and so are tables that a function keeps, since the warm-up allocates them.
    - All are captured on one stream. The allocator reuses freed memory on the same stream only, so
      the pool grows to the size that the largest graph needs, not to the sum.
    - No graph uses an address that is freed with another graph. cuBLAS keeps a workspace for each
      stream, which torch frees with any graph of the stream (pytorch/pytorch#193402); so each
      capture starts and ends without one, and allocates its own in the pool.

    The stream is used for nothing else: other launches on it would be captured, and their memory
    could not be freed during it (pytorch/pytorch#193982). Other threads may allocate, copy and
    launch during a capture, but not capture, nor synchronise the whole device.

    All graphs of a device are warmed up and captured in one thread, which lives as long as the
    process. torch keeps cuDNN's plans per thread: if the thread ended, compiled code that graphs
    still run would be freed, and another thread would time the same convolutions again.

    After a failed capture, the pool is not used for further graphs. Memory of the failed capture
    may stay allocated until the process ends.

    Args:
        device: A CUDA device.
        plans: Number of plans that cuDNN times for each kind of convolution; by default
            `cudnn_plans`.
    """

    def __init__(self, device: torch.device, *, plans: int | None = None) -> None:
        self._plans = cudnn_plans() if plans is None else plans
        # Its priority differs from that of pipelines' streams: torch has 32 streams of each
        # priority and reuses them, and a reused stream would share memory and capture with another
        # user.
        self._stream = torch.cuda.Stream(device, priority=-1)
        self._replayed = torch.cuda.Event()
        self._pool: _Pool | None = None

    def record(self, function: Function, inputs: tuple[Tensor, ...]) -> _CudaGraph:
        """See `Recorder`."""
        caller = torch.cuda.current_stream(self._stream.device)
        thread = capture_thread(self._stream.device)
        return thread.call(lambda: self._record(function, inputs, caller))

    @torch.inference_mode()
    def _record(
        self, function: Function, inputs: tuple[Tensor, ...], caller: torch.cuda.Stream
    ) -> _CudaGraph:
        stream = self._stream
        with _CAPTURING:
            stream.wait_stream(caller)
            # The last replay of a released graph may still use its memory.
            stream.wait_event(self._replayed)
            try:
                # Also restores the caller's stream, which torch does not if a capture fails.
                with torch.cuda.stream(stream):
                    held = tuple(x.clone() for x in inputs)
                    warm_up(function, held, plans=self._plans)
                    return self._capture(function, held)
            finally:
                caller.wait_stream(stream)

    def free(self) -> None:
        """See `Recorder`."""
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
                    reason = first_line(error)  # ending the capture raises a vaguer error
                    raise
        except Exception as error:
            self._pool = None
            raise CaptureError(reason or first_line(error)) from error
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
    """A captured function; see `Recording`.

    Args:
        graph: The graph.
        device: The device.
        function: The captured function; it keeps the tensors that the graph reads.
        inputs: Tensors from which the graph reads its inputs.
        outputs: Tensors to which the graph writes its outputs.
        pool: The memory pool of the graph.
        after: Event that is recorded after each replay of a graph in the pool.
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

    def replay(self, inputs: tuple[Tensor, ...], select: Select) -> list[Assembly]:
        """See `Recording`; everything is launched on the current stream."""
        stream = torch.cuda.current_stream(self._device)
        stream.wait_event(self._after)
        try:
            for held, x in zip(self._inputs, inputs, strict=True):
                held.copy_(x, non_blocking=True)
            self._graph.replay()
            return [select(output).map(Tensor.clone) for output in self._outputs]
        finally:
            self._after.record(stream)

    def release(self) -> None:
        """See `Recording`; waits for a replay that is running."""
        # The replay reads tables of the function, whose memory may belong to other streams and
        # could be reused there as soon as it is released.
        self._after.synchronize()
        self._function, self._inputs, self._outputs = None, (), []
        self._graph.reset()
        self._pool.graphs -= 1


@contextmanager
def capture_into(
    graph: torch.cuda.CUDAGraph, *, pool: Any, stream: torch.cuda.Stream
) -> Iterator[None]:
    """Capture the launches of the block; other threads may continue to work.

    Before pytorch/pytorch#180395 (which torch 2.11 lacks), the allocator treated a broken capture
    as still running until the process ended: it freed nothing and refused further captures. So did
    the device's generator, which then could not generate random numbers.

    Args:
        graph: Graph to capture into.
        pool: Handle of the memory pool.
        stream: Stream on which the block runs.
    """
    started = False
    try:
        with torch.cuda.graph(graph, pool=pool, stream=stream, capture_error_mode="thread_local"):
            started = True
            yield
    except Exception:
        if started:  # else later versions of torch do this, and fail if it was done
            with suppress(RuntimeError):  # raised if the allocator knows that the capture is over
                torch._C._cuda_endAllocateToPool(stream.device_index, pool)
        # Also if the capture did not start: the generator is notified before the device.
        with suppress(RuntimeError):  # the capture's error is raised instead
            _renew_generator(stream.device_index)
        raise


def _renew_generator(device_index: int) -> None:
    """Give the generator a copy of its state, same seed and offset, that is not capturing."""
    generator = torch.cuda.default_generators[device_index]
    generator.graphsafe_set_state(generator.clone_state())


def warm_up(function: Callable[..., object], inputs: tuple[Tensor, ...], *, plans: int) -> None:
    """Run a function twice, letting cuDNN time its plans; see `cudnn_plans`.

    The chosen plans are kept per thread, so the capture, in the same thread, uses them. The
    settings are global and therefore restored.
    """
    cudnn = torch.backends.cudnn
    before = cudnn.benchmark, cudnn.benchmark_limit
    cudnn.benchmark = plans > 0
    if plans:  # 0 would mean all plans
        cudnn.benchmark_limit = plans
    try:
        for _ in range(_WARM_UPS):
            function(*inputs)
    finally:
        cudnn.benchmark, cudnn.benchmark_limit = before


_LOG = logging.getLogger(__name__)

Function = Callable[..., list[Assembly]]
#: Selects the needed tensors of each result of a function.
Select = Callable[[Assembly], Assembly]


def everything(assembly: Assembly) -> Assembly:
    """Select all tensors: a `Select`."""
    return assembly


class Recording(Protocol):
    """A captured function."""

    def replay(self, inputs: tuple[Tensor, ...], select: Select) -> list[Assembly]:
        """Run the function and return the selected tensors, copied for the caller."""
        ...

    def release(self) -> None:
        """Release its memory; it must not be replayed afterwards."""
        ...


class Recorder(Protocol):
    """Captures functions on a device; `CudaRecorder` is one."""

    def record(self, function: Function, inputs: tuple[Tensor, ...]) -> Recording:
        """Run a function with such inputs as a warm-up, then capture it.

        Raises:
            CaptureError: It ran, but cannot be captured.
        """
        ...

    def free(self) -> None:
        """Return the memory of released recordings to the device."""
        ...


class GraphCache:
    """Runs functions of tensors: on CUDA as graphs, elsewhere directly.

    A function is captured with the first inputs of its key and shapes, which takes as long as
    compiling, choosing algorithms and a few runs. A replay then takes one launch and copies of
    inputs and outputs, and does not wait for the device. If `limit` is reached, the least recently
    used graph is released, and captured again when it is needed.

    A function that cannot be captured is called directly; a warning says why, and so does
    `upsnet_ros.ops.failures` under the name ``graph``. Errors of a function during its warm-up are
    raised, and the next call tries again.

    It may be used by any thread, on any stream.

    Args:
        device: Device of the inputs.
        limit: Maximum number of graphs.
        recorder: Captures functions; by default CUDA graphs on a CUDA device, none elsewhere.

    Raises:
        ValueError: `limit` is less than 1.
    """

    def __init__(
        self, device: torch.device, *, limit: int = 8, recorder: Recorder | None = None
    ) -> None:
        if limit < 1:
            raise ValueError(f"limit of a graph cache is {limit}, but must be at least 1")
        if recorder is None and device.type == "cuda":
            recorder = CudaRecorder(device)
        self._recorder = recorder
        self._limit = limit
        self._recordings: OrderedDict[Hashable, Recording] = OrderedDict()  # latest used last
        self._released: set[Hashable] = set()
        self._failed: set[Hashable] = set()
        self._lock = threading.Lock()

    def __len__(self) -> int:
        """Return the number of graphs kept."""
        return len(self._recordings)

    @torch.inference_mode()
    def run(
        self,
        key: Hashable,
        function: Function,
        inputs: tuple[Tensor, ...],
        select: Select = everything,
    ) -> list[Assembly]:
        """Return ``function(*inputs)``, without waiting for the device if it was captured before.

        Args:
            key: Functions with equal keys compute the same results from the same inputs.
            function: Launches work that depends only on the inputs and on state that does not
                change until the graph is released; the graph keeps the function alive. It is called
                several times for a capture, so it must not measure or count.
            inputs: Tensors on the device; everything that changes between calls is among them.
            select: Selects the needed tensors of each assembly. It may differ between calls,
                because it is not part of the graph; other tensors are not copied.
        """
        if self._recorder is None:
            return [select(assembly) for assembly in function(*inputs)]
        key = (key, *((x.shape, x.dtype) for x in inputs))
        with self._lock:
            recording = self._recordings.get(key)
            if recording is None and key not in self._failed:
                recording = self._record(self._recorder, key, function, inputs)
            if recording is not None:
                self._recordings.move_to_end(key)
                return recording.replay(inputs, select)
        return [select(assembly) for assembly in function(*inputs)]

    def clear(self) -> None:
        """Release all graphs and their memory."""
        with self._lock:
            while self._recordings:
                self._release_oldest()
            self._released.clear()
            self._failed.clear()
            if self._recorder is not None:
                self._recorder.free()

    def _record(
        self, recorder: Recorder, key: Hashable, function: Function, inputs: tuple[Tensor, ...]
    ) -> Recording | None:
        while len(self._recordings) >= self._limit:
            self._release_oldest()
        if key in self._released:
            _LOG.warning(
                "more than %d kinds of computations take turns (sizes of images, batches, outputs):"
                " a graph is captured again, which takes long",
                self._limit,
            )
            self._released.clear()  # one warning per round is enough
        try:
            recording = recorder.record(function, inputs)
        except CaptureError as error:
            self._failed.add(key)
            dispatch.note_failure("graph", str(error))
            _LOG.warning("no CUDA graph, its kernels are launched one by one: %s", error)
            return None
        self._recordings[key] = recording
        return recording

    def _release_oldest(self) -> None:
        key, recording = self._recordings.popitem(last=False)
        self._released.add(key)
        recording.release()
