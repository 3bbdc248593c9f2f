from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

import pytest
from dds_fixtures import domain, probe, run, start

if TYPE_CHECKING:
    from node_bench import Bench

__all__ = ["bench", "domain", "probe", "run", "start"]


@pytest.fixture
def bench(domain: int) -> Iterator[Callable[..., Bench]]:
    """Makes nodes, each with a camera and a listener beside it; see `node_bench.Bench`."""
    from node_bench import Bench  # and ROS, which other tests here do without

    benches = []

    def make(*arguments: Any, **options: Any) -> Bench:
        benches.append(Bench(domain, *arguments, **options))
        return benches[-1]

    yield make
    for one in benches:
        one.close()
