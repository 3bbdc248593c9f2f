"""The check of nodes that a test file leaves running sees its own, and no other run's."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager

import nodes_left
import pytest

pytest.importorskip("rclpy")

NODE = "import rclpy, sys; rclpy.init(); print(flush=True); sys.stdin.read()"


@contextmanager
def node(**environment: str) -> Iterator[str]:
    """Run a process with DDS loaded; yields its id."""
    with subprocess.Popen(
        [sys.executable, "-c", NODE],
        env=os.environ | environment,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout is not None
        process.stdout.readline()
        yield str(process.pid)
        assert process.stdin is not None
        process.stdin.close()


def test_own_and_other_nodes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(nodes_left, "SECONDS", 0.0)
    with node() as own, node(**{nodes_left.MARK: "1"}) as other:
        found = [line.split()[0] for line in nodes_left.nodes_left()]
    assert own in found
    assert other not in found
