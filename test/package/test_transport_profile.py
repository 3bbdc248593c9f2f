"""config/fastdds_shm.xml is accepted by the Fast DDS that is installed, and used."""

import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

pytest.importorskip("rclpy")

from dds_fixtures import dds_environment, own_words

from upsnet_ros.processes.transport import TRANSPORT_VARIABLES

ROOT = Path(__file__).resolve().parents[2]
PROFILE, NODE = ROOT / "config" / "fastdds_shm.xml", ROOT / "scripts" / "upsnet_node"
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
        **dds_environment(),
        "FASTDDS_DEFAULT_PROFILES_FILE": str(profile),
        "FASTRTPS_DEFAULT_PROFILES_FILE": str(profile),
    }
    command = [sys.executable, "-c", PARTICIPANT]
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=240)


@pytest.mark.dds
def test_profile_is_accepted_and_makes_the_segment():
    result = run(PROFILE)
    assert result.returncode == 0, result.stderr
    assert "XMLPARSER" not in result.stdout + result.stderr
    sizes = [int(line) for line in result.stdout.splitlines() if line.isdecimal()]
    assert max(sizes) >= SEGMENT_BYTES


@pytest.mark.dds
def test_fast_dds_reports_a_bad_profile(tmp_path):
    # What the test above relies on: that Fast DDS reads the file at all, and is loud about errors.
    bad = tmp_path / "bad.xml"
    bad.write_text(PROFILE.read_text().replace("segment_size>", "segmentsize>"))
    result = run(bad)
    assert "XMLPARSER" in result.stdout + result.stderr
    assert "XMLPARSER" not in own_words(result.stdout + result.stderr)


def segments(pid: int) -> list[int]:
    """Bytes of the shared memory segments that a process has mapped."""
    found = re.findall(
        r"^([0-9a-f]+)-([0-9a-f]+) .*/dev/shm/fast", Path(f"/proc/{pid}/maps").read_text(), re.M
    )
    return [int(end, 16) - int(begin, 16) for begin, end in found]


@pytest.mark.dds
@pytest.mark.parametrize("transports", ["", "SHM"])
def test_the_node_alone_uses_the_profile_unless_the_user_chose(transports, tmp_path):
    # As `ros2 run upsnet_ros upsnet_node` does, without our launch file or command.
    environment = {
        key: value for key, value in os.environ.items() if key not in TRANSPORT_VARIABLES
    }
    environment |= dds_environment()
    if transports:
        environment["FASTDDS_BUILTIN_TRANSPORTS"] = transports
    command = [sys.executable, str(NODE), "--ros-args", "-p", "autostart:=false"]
    with (tmp_path / "log").open("wb") as log:
        node = subprocess.Popen(command, env=environment, stdout=log, stderr=log)
    try:
        end = time.monotonic() + 120
        while not (sizes := segments(node.pid)):
            assert node.poll() is None, (tmp_path / "log").read_text()
            assert time.monotonic() < end, "no shared memory after 120 s"
            time.sleep(0.1)
        assert (max(sizes) >= SEGMENT_BYTES) == (not transports)
    finally:
        node.send_signal(signal.SIGINT)
        assert node.wait(120) == 0, (tmp_path / "log").read_text()
