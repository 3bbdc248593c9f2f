"""In which thread functions are warmed up and captured, and what it takes along; without a GPU."""

from __future__ import annotations

import gc
import threading
import weakref
from collections.abc import Iterator
from concurrent.futures import Future
from contextlib import contextmanager, nullcontext
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

from upsnet_ros.inference import cuda_graph
from upsnet_ros.inference.assemble import Assembly
from upsnet_ros.inference.cuda_graph import CudaRecorder, GraphCache, cudnn_plans
from upsnet_ros.ops import dispatch

CUDNN = torch.backends.cudnn


def assembly(labels: Tensor) -> Assembly:
    finite = torch.tensor([True])
    return Assembly(labels, labels > 0, labels[:0], labels[:0], finite, None, None, None, None)


class Stream:
    """Or an event."""

    device = torch.device("cuda", 0)
    device_index = 0

    def __init__(self, *_: Any, **__: Any) -> None:
        pass

    def wait_stream(self, other: object) -> None:
        pass

    def wait_event(self, other: object) -> None:
        pass

    def record(self, stream: object) -> None:
        pass

    def synchronize(self) -> None:
        pass


class Function:
    """Computes, and notes where and under which switches it was called."""

    def __init__(self) -> None:
        self.threads: list[threading.Thread] = []
        self.switches: list[tuple[bool, int | None]] = []
        self.modes: list[tuple[bool, bool]] = []

    def __call__(self, x: Tensor) -> list[Assembly]:
        self.threads.append(threading.current_thread())
        self.switches.append((CUDNN.benchmark, CUDNN.benchmark_limit))
        self.modes.append((torch.is_inference_mode_enabled(), dispatch._by_reference.get()))
        return [assembly(x * 2)]


@pytest.fixture(autouse=True)
def no_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """Streams and captures that do nothing: a capture is a call."""

    @contextmanager
    def capture(graph: object, **_: object) -> Iterator[None]:
        yield

    for name in ("Stream", "Event"):
        monkeypatch.setattr(torch.cuda, name, Stream)
    monkeypatch.setattr(
        torch.cuda, "CUDAGraph", lambda: SimpleNamespace(replay=lambda: None, reset=lambda: None)
    )
    monkeypatch.setattr(torch.cuda, "graph_pool_handle", lambda: (0, 1))
    monkeypatch.setattr(torch.cuda, "stream", lambda _: nullcontext())
    monkeypatch.setattr(torch.cuda, "current_stream", lambda *_: Stream())
    monkeypatch.setattr(torch._C, "_cuda_clearCublasWorkspaces", lambda: None, raising=False)
    monkeypatch.setattr(cuda_graph, "capture_into", capture)
    monkeypatch.setattr(cuda_graph, "_THREADS", {})
    monkeypatch.setattr(CUDNN, "benchmark", False)
    monkeypatch.setattr(CUDNN, "benchmark_limit", 10)


def cache(index: int = 0) -> GraphCache:
    device = torch.device("cuda", index)
    return GraphCache(device, recorder=CudaRecorder(device))


def run_in_a_thread(function: Any) -> None:
    thread = threading.Thread(target=function)
    thread.start()
    thread.join()


def test_all_graphs_of_a_device_are_captured_in_one_thread_that_outlives_the_callers() -> None:
    function, x = Function(), torch.tensor([1])
    for shape in (1, 2, 3):
        run_in_a_thread(lambda shape=shape: cache().run("a", function, (x.expand(shape),)))
    (thread,) = set(function.threads)
    assert thread.name == "upsnet_capture_0" and thread.is_alive() and thread.daemon
    assert len(function.threads) == 3 * 3  # two warm-ups and a capture


def test_the_callers_modes_hold_there() -> None:
    function, x = Function(), torch.tensor([1])
    with dispatch.references_only():
        cache().run("a", function, (x,))
    cache().run("b", function, (x,))
    assert function.modes == [(True, True)] * 3 + [(True, False)] * 3


@pytest.mark.parametrize(
    ("plans", "expected"), [("1", (True, 1)), ("7", (True, 7)), ("0", (False, 10))]
)
def test_as_many_plans_are_timed_as_the_environment_says(
    plans: str, expected: tuple[bool, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """0 is none of them, while torch's limit of 0 is all."""
    monkeypatch.setenv("UPSNET_CUDNN_PLANS", plans)
    function = Function()
    cache().run("a", function, (torch.tensor([1]),))
    assert function.switches[:2] == [expected] * 2
    assert (CUDNN.benchmark, CUDNN.benchmark_limit) == (False, 10)


@pytest.mark.parametrize("text", ["-1", "many", ""])
def test_an_impossible_number_of_plans_is_named(text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("UPSNET_CUDNN_PLANS", text)
    with pytest.raises(ValueError, match="UPSNET_CUDNN_PLANS"):
        cudnn_plans()


def test_what_the_function_raises_is_the_callers_and_the_thread_goes_on() -> None:
    class Held:
        pass

    def failing(x: Tensor) -> list[Assembly]:
        raise ArithmeticError("of the function")

    graphs, held = cache(), Held()
    gone = weakref.ref(held)
    failing.held = held  # type: ignore[attr-defined]
    with pytest.raises(ArithmeticError, match="of the function"):
        graphs.run("a", failing, (torch.tensor([1]),))
    del held, failing
    gc.collect()
    assert gone() is None  # the thread holds nothing of a call that is over
    graphs.run("a", Function(), (torch.tensor([1]),))
    assert len(graphs) == 1


def test_a_capture_whose_caller_was_interrupted_is_released(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Else its pool would be taken for one with a graph in it."""
    entered, interrupted, released = (threading.Event() for _ in range(3))

    class Interrupted(Future[Any]):
        def result(self, timeout: float | None = None) -> Any:
            if interrupted.is_set():
                return super().result(timeout)
            assert entered.wait(60)
            raise KeyboardInterrupt

    def slow(x: Tensor) -> list[Assembly]:
        entered.set()
        assert interrupted.wait(60)
        return [assembly(x)]

    def noting(graph: Any) -> None:
        release(graph)
        released.set()

    release = cuda_graph._CudaGraph.release
    monkeypatch.setattr(cuda_graph, "Future", Interrupted)
    monkeypatch.setattr(cuda_graph._CudaGraph, "release", noting)
    recorder = CudaRecorder(torch.device("cuda", 0))
    graphs = GraphCache(torch.device("cuda", 0), recorder=recorder)
    with pytest.raises(KeyboardInterrupt):
        graphs.run("a", slow, (torch.tensor([1]),))
    interrupted.set()
    assert released.wait(60)
    assert recorder._pool is not None and recorder._pool.graphs == 0
    graphs.run("a", Function(), (torch.tensor([1]),))
    assert len(graphs) == 1 and recorder._pool.graphs == 1
