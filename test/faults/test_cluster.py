"""A Ray cluster that a command starts is there for nobody else."""

from __future__ import annotations

import contextlib
import importlib.util
import os
from pathlib import Path

import psutil
import pytest
from faults import fault

from upsnet_ros.bag_evaluation.scoring import BagTask
from upsnet_ros.bag_evaluation.workers import Failed


@pytest.mark.timeout(900)  # a cluster is several processes, which start slowly beside others
@pytest.mark.skipif(importlib.util.find_spec("ray") is None, reason="Ray is not installed")
@fault(
    tried="Reaching the Ray cluster that `upsnet evaluate bags --cluster ray` starts over the"
    " network",
    often="all its sockets",
    happens="Every process of it listens on the loopback address only, and asks for a token",
)
def test_a_cluster_of_our_own_listens_on_this_machine_only(tmp_path: Path):
    from upsnet_ros.bag_evaluation.workers import evaluate_on_ray

    outcomes = evaluate_on_ray(
        [BagTask(bag=tmp_path / name) for name in "ab"], workers=1, model=None
    )
    first = next(outcomes)
    assert isinstance(first, Failed)
    assert "there is no bag" in first.reason
    assert os.environ["RAY_AUTH_MODE"] == "token"
    listening = set()
    for process in psutil.Process().children(recursive=True):
        with contextlib.suppress(psutil.NoSuchProcess):  # it has just ended
            connections = process.net_connections("inet")
            listening |= {one.laddr.ip for one in connections if one.status == psutil.CONN_LISTEN}
    assert listening
    assert listening <= {"127.0.0.1", "::ffff:127.0.0.1", "::1"}
    assert len(list(outcomes)) == 1
