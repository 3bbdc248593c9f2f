"""config/fastdds_shm.xml is accepted by the Fast DDS that is installed, and used."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("rclpy")

PROFILE = Path(__file__).resolve().parents[2] / "config" / "fastdds_shm.xml"
SEGMENT_BYTES = 128 * 2**20

# Prints the sizes of the shared memory segments that this process has mapped while its node lives.
PARTICIPANT = """
import re, rclpy
rclpy.init()
node = rclpy.create_node("transport_profile")
for line in open("/proc/self/maps"):
    found = re.match(r"([0-9a-f]+)-([0-9a-f]+) .*/dev/shm/fast", line)
    if found:
        print(int(found[2], 16) - int(found[1], 16))
node.destroy_node()
rclpy.shutdown()
"""


def run(profile: Path) -> subprocess.CompletedProcess:
    environment = {
        **os.environ,
        "RMW_IMPLEMENTATION": "rmw_fastrtps_cpp",
        "ROS_DOMAIN_ID": "91",
        "ROS_AUTOMATIC_DISCOVERY_RANGE": "LOCALHOST",
        "FASTDDS_DEFAULT_PROFILES_FILE": str(profile),
        "FASTRTPS_DEFAULT_PROFILES_FILE": str(profile),
    }
    command = [sys.executable, "-c", PARTICIPANT]
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60)


@pytest.mark.dds
def test_profile_is_accepted_and_makes_the_segment():
    result = run(PROFILE)
    assert result.returncode == 0, result.stderr
    assert "XMLPARSER" not in result.stdout + result.stderr
    assert max(map(int, result.stdout.split())) >= SEGMENT_BYTES


@pytest.mark.dds
def test_fast_dds_reports_a_bad_profile(tmp_path):
    # What the test above relies on: that Fast DDS reads the file at all, and is loud about errors.
    bad = tmp_path / "bad.xml"
    bad.write_text(PROFILE.read_text().replace("segment_size>", "segmentsize>"))
    result = run(bad)
    assert "XMLPARSER" in result.stdout + result.stderr
