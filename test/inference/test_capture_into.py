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


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[tuple[Any, ...]]:
    """For what the allocator was asked; each capture ends well but by the names of some graphs."""
    calls: list[tuple[Any, ...]] = []
    underway = [POOL]

    @contextmanager
    def graph(name: str, *, capture_error_mode: str, **_: Any) -> Iterator[None]:
        assert capture_error_mode == "thread_local"
        if name == "not begun":
            raise RuntimeError("operation would make the legacy stream depend on a capture")
        try:
            yield
        finally:
            if name == "broken":
                raise RuntimeError("operation failed due to a previous error during capture")
            underway.remove(POOL)

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
        "not begun", pool=POOL, stream=STREAM
    ):  # fmt: skip
        pass
    assert asked == []


def test_a_capture_that_ended_is_left_alone(asked: list[tuple[Any, ...]]) -> None:
    with capture_into("a", pool=POOL, stream=STREAM):
        pass
    assert asked == []
