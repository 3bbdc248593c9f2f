"""Which functions are captured, replayed and given up; captured by tracing, where no GPU is."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from dataclasses import fields, replace

import pytest
import torch
from torch import Tensor
from torch.fx.experimental.proxy_tensor import make_fx

from upsnet_ros import ops as kernels
from upsnet_ros.errors import CaptureError
from upsnet_ros.inference.assemble import Assembly
from upsnet_ros.inference.cuda_graph import Function, GraphCache, Select, everything
from upsnet_ros.ops import dispatch

CPU = torch.device("cpu")
NAMES = [field.name for field in fields(Assembly)]


def assembly(labels: Tensor) -> Assembly:
    table, details = torch.zeros(1, 7, dtype=torch.int32), torch.zeros(1, 5)
    finite = torch.ones(1, dtype=torch.bool)
    return Assembly(labels, labels > 3, table, details, finite, None, None, None, None)


class Doubling:
    """Doubles its input; counts its calls."""

    calls = 0

    def __call__(self, x: Tensor) -> list[Assembly]:
        self.calls += 1
        return [assembly(x * 2)]


def waiting(x: Tensor) -> list[Assembly]:
    """Has a shape that depends on values."""
    return [assembly(x[: int(x.max())])]


class Trace:
    """A function as a list of operators on tensors, as a graph of CUDA has it."""

    def __init__(self, function: Function, inputs: tuple[Tensor, ...]) -> None:
        (example,) = function(*inputs)  # warm-up
        self._there = [getattr(example, name) is not None for name in NAMES]
        self.released = False

        def flat(*inputs: Tensor) -> list[Tensor]:
            (result,) = function(*inputs)
            return [x for name in NAMES if (x := getattr(result, name)) is not None]

        try:
            self._run = make_fx(flat, tracing_mode="fake")(*inputs)
        except RuntimeError as error:
            raise CaptureError(str(error).splitlines()[0]) from error

    def replay(self, inputs: tuple[Tensor, ...], select: Select) -> list[Assembly]:
        assert not self.released
        outputs = iter(self._run(*inputs))
        return [select(Assembly(*(next(outputs) if there else None for there in self._there)))]

    def release(self) -> None:
        self.released = True


class Tracer:
    def __init__(self) -> None:
        self.traces: list[Trace] = []
        self.gave_back = False

    def record(self, function: Function, inputs: tuple[Tensor, ...]) -> Trace:
        self.traces.append(Trace(function, inputs))
        return self.traces[-1]

    def free(self) -> None:
        assert all(trace.released for trace in self.traces)
        self.gave_back = True


@pytest.fixture
def tracer() -> Tracer:
    return Tracer()


@pytest.fixture
def cache(tracer: Tracer) -> GraphCache:
    return GraphCache(CPU, limit=2, recorder=tracer)


@pytest.fixture(autouse=True)
def no_failures(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(dispatch, "_failures", {})
    yield


def warnings(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.message for record in caplog.records if record.levelname == "WARNING"]


def labels_of(cache: GraphCache, key: str, function: Function, *inputs: Tensor) -> list[int]:
    (result,) = cache.run(key, function, inputs)
    return result.labels.tolist()


def test_on_a_cpu_functions_run_as_they_are() -> None:
    cache, function = GraphCache(CPU), Doubling()
    for calls in (1, 2):
        assert labels_of(cache, "a", function, torch.tensor([calls])) == [2 * calls]
        assert function.calls == calls
    assert len(cache) == 0
    cache.clear()


def test_what_was_captured_is_replayed_with_new_inputs(cache: GraphCache) -> None:
    function = Doubling()
    assert labels_of(cache, "a", function, torch.tensor([1, 2])) == [2, 4]
    calls = function.calls
    (first,) = cache.run("a", function, (torch.tensor([3, 4]),))
    (second,) = cache.run("a", function, (torch.tensor([5, 6]),))
    assert function.calls == calls
    assert first.labels.tolist() == [6, 8] and first.unknown.tolist() == [True, True]
    assert second.labels.tolist() == [10, 12] and second.semantic is None


def test_what_is_taken_may_differ_from_call_to_call(cache: GraphCache, tracer: Tracer) -> None:
    def without_unknown(one: Assembly) -> Assembly:
        return replace(one, unknown=one.unknown[:0])

    x = torch.tensor([1, 2])
    for key, function in (("a", Doubling()), ("b", waiting)):
        for select, expected in ((without_unknown, 0), (everything, 2), (without_unknown, 0)):
            (result,) = cache.run(key, function, (x,), select)
            assert len(result.unknown) == expected
    assert len(cache) == 1  # the other one cannot be captured
    (result,) = GraphCache(CPU).run("a", Doubling(), (x,), without_unknown)
    assert len(result.unknown) == 0


def test_the_least_recently_used_is_given_up_and_captured_anew(
    cache: GraphCache, tracer: Tracer, caplog: pytest.LogCaptureFixture
) -> None:
    function, x = Doubling(), torch.tensor([1])
    for key in "abac":
        assert labels_of(cache, key, function, x) == [2]
    a, b, c = tracer.traces
    assert (a.released, b.released, c.released) == (False, True, False)
    assert not warnings(caplog)
    assert labels_of(cache, "b", function, x) == [2]
    assert a.released and not c.released and len(tracer.traces) == 4 and len(cache) == 2
    (warning,) = warnings(caplog)
    assert "more than 2 kinds of computations" in warning


def test_inputs_of_another_shape_or_type_are_another_graph(
    cache: GraphCache, tracer: Tracer
) -> None:
    function = Doubling()
    assert labels_of(cache, "a", function, torch.tensor([1])) == [2]
    assert labels_of(cache, "a", function, torch.tensor([1, 2])) == [2, 4]
    assert labels_of(cache, "a", function, torch.tensor([1], dtype=torch.int32)) == [2]
    assert len(tracer.traces) == 3


def test_what_cannot_be_captured_runs_as_it_is_and_is_named_once(
    cache: GraphCache, caplog: pytest.LogCaptureFixture
) -> None:
    x = torch.tensor([1, 2, 3])
    for _ in range(2):
        assert labels_of(cache, "a", waiting, x) == [1, 2, 3]
    assert labels_of(cache, "a", waiting, torch.tensor([1, 1, 1])) == [1]
    (warning,) = warnings(caplog)
    reason = kernels.failures()["graph"]
    assert warning.startswith("no CUDA graph") and reason and reason in warning
    assert labels_of(cache, "b", Doubling(), x) == [2, 4, 6]  # others are captured
    assert len(cache) == 1


def test_what_the_function_raises_is_raised_and_it_is_tried_again(
    cache: GraphCache, caplog: pytest.LogCaptureFixture
) -> None:
    fail = True

    def function(x: Tensor) -> list[Assembly]:
        if fail:
            raise ArithmeticError("of the function")
        return [assembly(x)]

    with pytest.raises(ArithmeticError, match="of the function"):
        labels_of(cache, "a", function, torch.tensor([1]))
    fail = False
    assert labels_of(cache, "a", function, torch.tensor([1])) == [1]
    assert len(cache) == 1 and not warnings(caplog) and kernels.failures() == {}


def test_clearing_releases_everything(cache: GraphCache, tracer: Tracer) -> None:
    x = torch.tensor([1, 2, 3])
    labels_of(cache, "a", Doubling(), x)
    labels_of(cache, "b", waiting, x)
    cache.clear()
    assert tracer.gave_back and len(cache) == 0
    assert labels_of(cache, "a", Doubling(), x) == [2, 4, 6]
    assert len(tracer.traces) == 2


def test_threads_take_turns(cache: GraphCache, tracer: Tracer) -> None:
    function = Doubling()
    results: dict[int, list[int]] = {}

    def use(number: int) -> None:
        for _ in range(5):
            results[number] = labels_of(cache, "a", function, torch.tensor([number]))

    threads = [threading.Thread(target=use, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert results == {number: [2 * number] for number in range(4)}
    assert len(tracer.traces) == 1


def test_an_impossible_limit() -> None:
    with pytest.raises(ValueError, match="at least 1"):
        GraphCache(CPU, limit=0)
