from __future__ import annotations

from pathlib import Path

import pytest
from judged_bag import write_judged

from upsnet_ros.bags.judging import BagTask, judge_bag
from upsnet_ros.evaluation.measures import Metrics
from upsnet_ros.evaluation.partial import PartialResult

METRICS = Metrics(boundary=True)


@pytest.fixture(scope="session")
def bags(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    folder = tmp_path_factory.mktemp("bags")
    return [write_judged(folder / f"street{street}", street) for street in range(4)]


@pytest.fixture(scope="session")
def tasks(bags: list[Path]) -> list[BagTask]:
    return [BagTask(bag=bag, metrics=METRICS, prefix=str(bag)) for bag in bags]


@pytest.fixture(scope="session")
def expected(tasks: list[BagTask]) -> PartialResult:
    """What judging the bags one after the other in this process gives."""
    return PartialResult.merged(judge_bag(task) for task in tasks)
