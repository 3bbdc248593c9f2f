from __future__ import annotations

from pathlib import Path

import pytest
from result_bag import write_result_bag

from upsnet_ros.bag_evaluation.scoring import BagTask, evaluate_bag
from upsnet_ros.evaluation.metrics import Metrics
from upsnet_ros.evaluation.run import PartialResult

METRICS = Metrics(boundary=True)


@pytest.fixture(scope="session")
def bags(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    folder = tmp_path_factory.mktemp("bags")
    return [write_result_bag(folder / f"street{street}", street) for street in range(4)]


@pytest.fixture(scope="session")
def tasks(bags: list[Path]) -> list[BagTask]:
    return [BagTask(bag=bag, metrics=METRICS, prefix=str(bag)) for bag in bags]


@pytest.fixture(scope="session")
def expected(tasks: list[BagTask]) -> PartialResult:
    """What evaluating the bags one after the other in this process gives."""
    return PartialResult.merged(evaluate_bag(task) for task in tasks)
