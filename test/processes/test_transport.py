"""Which transports and which ROS domain a process gets."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from upsnet_ros import shipped_files
from upsnet_ros.processes import transport


@pytest.fixture
def install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A ROS prefix with the profile, and an environment that says nothing yet."""
    profile = tmp_path / "share/upsnet_ros/config/fastdds_shm.xml"
    profile.parent.mkdir(parents=True)
    profile.write_text("<dds/>")
    monkeypatch.setattr(shipped_files, "__file__", "/no/package/shipped_files.py")
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
    monkeypatch.setattr(shipped_files, "__file__", "/no/package/shipped_files.py")
    monkeypatch.setattr("sys.prefix", str(tmp_path))
    with pytest.raises(FileNotFoundError, match="run `make setup`"):
        transport.shared_memory_profile()


@pytest.fixture
def no_claims(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[socket.socket]]:
    """Domains that a test takes are free again after it."""
    claims: list[socket.socket] = []
    monkeypatch.setattr(transport, "_claims", claims)
    yield claims
    for claim in claims:
        claim.close()


def test_a_domain_in_use_is_not_taken(no_claims: list[socket.socket]) -> None:
    first = transport.free_domain()
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as participant:
        participant.bind(("", 7410 + 250 * first))  # before another process may take it
        no_claims.pop().close()
        assert transport.free_domain() != first


# Says its domain, and keeps it until its input ends.
ASK = """
import os, sys
os.getpid = lambda: 42  # else each would begin with a number of its own
from upsnet_ros.processes.transport import free_domain
print(free_domain(), free_domain(), flush=True)
sys.stdin.read()
"""


@pytest.mark.skipif(sys.platform != "linux", reason="claims need abstract sockets")
def test_processes_that_ask_at_once_get_domains_of_their_own(
    no_claims: list[socket.socket],
) -> None:
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    processes = [subprocess.Popen([sys.executable, "-c", ASK], **pipes) for _ in range(3)]
    try:
        said = [process.stdout.readline() for process in processes]
    finally:
        for process in processes:
            process.communicate()
    domains = [int(domain) for line in said for domain in line.split()]
    assert len(domains) == len(set(domains)) == 6
    no_claims += [claim for domain in domains if (claim := transport._claim(domain))]
    assert no_claims, "they still have their domains, though they have ended"


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
