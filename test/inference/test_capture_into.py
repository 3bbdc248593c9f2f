"""What is done about a capture that broke, with a stand-in for torch's, which needs a GPU."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from upsnet_ros.inference.cuda_graph import capture_into

POOL, STREAM = (0, 7), SimpleNamespace(device_index=1)


class Generator:
    """Of a device: torch tells it of a capture as it begins, and as it ends well."""

    def __init__(self, seed: int, capturing: bool = False) -> None:
        self.seed, self.capturing = seed, capturing

    def clone_state(self) -> Generator:
        return Generator(self.seed)

    def graphsafe_set_state(self, other: Generator) -> None:
        self.seed, self.capturing = other.seed, other.capturing


@pytest.fixture(autouse=True)
def generators(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[Generator]]:
    made = [Generator(3), Generator(4)]
    monkeypatch.setattr(torch.cuda, "default_generators", made)
    yield made
    # Whatever became of the capture, random numbers can be drawn and are those of the seed.
    assert [(one.seed, one.capturing) for one in made] == [(3, False), (4, False)]


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch, generators: list[Generator]) -> list[tuple[Any, ...]]:
    """For what the allocator was asked; each capture ends well but by the names of some graphs."""
    calls: list[tuple[Any, ...]] = []
    underway = [POOL]

    @contextmanager
    def graph(name: str, *, capture_error_mode: str, **_: Any) -> Iterator[None]:
        assert capture_error_mode == "thread_local"
        generators[STREAM.device_index].capturing = True
        if name == "not started":
            raise RuntimeError("operation would make the legacy stream depend on a capture")
        try:
            yield
        finally:
            if name == "broken":
                raise RuntimeError("operation failed due to a previous error during capture")
            underway.remove(POOL)
            generators[STREAM.device_index].capturing = False

    def end(device: int, pool: tuple[int, int]) -> None:
        calls.append((device, pool))
        if pool not in underway:
            raise RuntimeError("not currently recording to mempool_id")
        underway.remove(pool)

    monkeypatch.setattr(torch.cuda, "graph", graph)
    monkeypatch.setattr(torch._C, "_cuda_endAllocateToPool", end, raising=False)
    return calls


def test_the_allocator_is_told_of_a_broken_capture(asked: list[tuple[Any, ...]]) -> None:
    with pytest.raises(RuntimeError, match="previous error"), capture_into(
        "broken", pool=POOL, stream=STREAM
    ):  # fmt: skip
        pass
    assert asked == [(1, POOL)]


def test_an_error_of_the_block_is_raised_though_the_capture_was_ended(
    asked: list[tuple[Any, ...]],
) -> None:
    with pytest.raises(ZeroDivisionError), capture_into("a", pool=POOL, stream=STREAM):
        str(1 / 0)
    assert asked == [(1, POOL)]


def test_a_capture_that_did_not_begin_is_torchs_own_matter(asked: list[tuple[Any, ...]]) -> None:
    with pytest.raises(RuntimeError, match="legacy"), capture_into(
        "not started", pool=POOL, stream=STREAM
    ):  # fmt: skip
        pass
    assert asked == []


def test_a_capture_that_ended_is_left_alone(asked: list[tuple[Any, ...]]) -> None:
    with capture_into("a", pool=POOL, stream=STREAM):
        pass
    assert asked == []
