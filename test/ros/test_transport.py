"""Which transports and which ROS domain a process gets."""

from __future__ import annotations

import os
import socket
from pathlib import Path

import pytest

from upsnet_ros.ros import transport


@pytest.fixture
def install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A ROS prefix with the profile, and an environment that says nothing yet."""
    profile = tmp_path / "share/upsnet_ros/config/fastdds_shm.xml"
    profile.parent.mkdir(parents=True)
    profile.write_text("<dds/>")
    monkeypatch.setenv("AMENT_PREFIX_PATH", f"/nowhere{os.pathsep}{tmp_path}")
    for name in (*transport.PROFILE_VARIABLES, "FASTDDS_BUILTIN_TRANSPORTS"):
        monkeypatch.setenv(name, "")  # not delenv: that would not take back what is set later
    return profile


def test_the_profile_is_found_and_set(install: Path) -> None:
    transport.use_shared_memory_profile()
    assert [os.environ[name] for name in transport.PROFILE_VARIABLES] == [str(install)] * 2


@pytest.mark.parametrize("name", ["FASTRTPS_DEFAULT_PROFILES_FILE", "FASTDDS_BUILTIN_TRANSPORTS"])
def test_what_the_user_chose_stays(
    install: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.setenv(name, "mine")
    transport.use_shared_memory_profile()
    assert os.environ[name] == "mine"
    assert os.environ["FASTDDS_DEFAULT_PROFILES_FILE"] == ""


def test_another_process_is_given_what_this_one_would_take(install: Path) -> None:
    expected = dict.fromkeys(transport.PROFILE_VARIABLES, str(install))
    assert transport.transport_environment({"FASTDDS_BUILTIN_TRANSPORTS": ""}) == expected
    assert transport.transport_environment({"FASTDDS_BUILTIN_TRANSPORTS": "LARGE_DATA"}) == {}


def test_a_missing_profile_says_what_to_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("AMENT_PREFIX_PATH", raising=False)
    monkeypatch.setattr("sys.prefix", str(tmp_path))
    with pytest.raises(FileNotFoundError, match="run `make setup`"):
        transport.shared_memory_profile()


def test_a_domain_in_use_is_not_taken() -> None:
    first = transport.free_domain()
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as participant:
        participant.bind(("", 7410 + 250 * first))
        assert transport.free_domain() != first


@pytest.mark.parametrize(
    ("distro", "variable"),
    [("humble", "ROS_LOCALHOST_ONLY"), ("jazzy", "ROS_AUTOMATIC_DISCOVERY_RANGE")],
)
def test_private_processes_stay_on_this_machine(
    monkeypatch: pytest.MonkeyPatch, distro: str, variable: str
) -> None:
    monkeypatch.setenv("ROS_DISTRO", distro)
    environment = transport.private_environment()
    assert environment.keys() == {"ROS_DOMAIN_ID", variable}
    assert 1 <= int(environment["ROS_DOMAIN_ID"]) <= 100
