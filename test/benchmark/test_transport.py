"""benchmarks/transport.py, and the relation between the two profiles that holds on any machine."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("rclpy")

SCRIPT = Path(__file__).resolve().parents[2] / "benchmarks" / "transport.py"


@pytest.mark.dds
def test_our_profile_delivers_camera_images_that_the_default_one_loses():
    # How many, on a machine that does nothing else, is for the benchmark to say: all but none.
    # Few a second, so that ours fit into shared memory though the subscriber waits for the
    # processor; each image alone is too large for the default one.
    command = [sys.executable, str(SCRIPT), "measure", "--json"]
    command += ["--rate", "6", "--seconds", "5", "--depth", "30"]
    result = subprocess.run(command, capture_output=True, text=True, timeout=250)
    assert result.returncode == 0, result.stderr
    runs = {one["profile"]: one for one in json.loads(result.stdout)}
    assert {one["sent"] for one in runs.values()} == {30}
    assert runs["ours"]["received"] > 1.5 * runs["default"]["received"], runs
    assert runs["ours"]["received"] >= 15, runs
