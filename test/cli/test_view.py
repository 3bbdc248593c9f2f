from __future__ import annotations

import socket
import subprocess
import sys

import pytest

pytestmark = pytest.mark.dds


def test_a_taken_port_is_named() -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = str(other.getsockname()[1])
        done = subprocess.run(
            [sys.executable, "-m", "upsnet_ros.cli", "view", "--port", port],
            capture_output=True,
            text=True,
            timeout=120,
        )
    assert done.returncode == 1
    assert done.stderr.startswith(f"error: port {port} of 127.0.0.1 is in use")
    assert "--port" in done.stderr and done.stderr.count("\n") == 1


def test_there_is_no_other_address() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "upsnet_ros.cli", "view", "--host", "0.0.0.0"],
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 2
    assert "No such option" in done.stderr
