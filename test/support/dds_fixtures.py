"""What tests over real DDS share: a domain of their own, processes that end, a listening node.

A folder's conftest.py imports the fixtures that its tests use.
"""

from __future__ import annotations

import faulthandler
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from upsnet_ros.processes.transport import private_environment

if TYPE_CHECKING:
    from node_bench import Bench

SECONDS = 240  # generous: the machine may be busy; no test waits that long where things work


@cache
def dds_environment() -> dict[str, str]:
    """Variables of this process and of all that it starts: a ROS domain of their own.

    Each folder's conftest.py imports `domain`, which makes it a fixture of that folder alone; files
    of several folders take turns in a process, and all must mean the same domain.
    """
    return {**private_environment(), "OMP_NUM_THREADS": "1"}


@pytest.fixture(scope="session")
def domain() -> Iterator[int]:
    """The ROS domain of this run, in the environment of this process and of all that it starts."""
    with pytest.MonkeyPatch.context() as patch:
        for name, value in dds_environment().items():
            patch.setenv(name, value)
        yield int(dds_environment()["ROS_DOMAIN_ID"])


@contextmanager
def bounded_teardown() -> Iterator[None]:
    """Where leaving DDS hangs, say so and end this process: no Python could, its lock is held."""
    faulthandler.dump_traceback_later(60, exit=True, file=sys.__stderr__)
    try:
        yield
    finally:
        faulthandler.cancel_dump_traceback_later()


#: A line of Fast DDS, which complains on stdout: in colours the time, and a category in brackets.
_OF_FAST_DDS = re.compile(
    r"^(?:\x1b\[[\d;]*m)*\d{4}-\d\d-\d\d [\d:.]+ (?:\x1b\[[\d;]*m)*\[.*\n?", re.MULTILINE
)


def own_words(output: str) -> str:
    """What a process wrote, without what Fast DDS did, of another process's end for one."""
    return _OF_FAST_DDS.sub("", output)


class Process:
    """A command, its output in a file."""

    def __init__(self, command: list[str], log: Path) -> None:
        self._log = log
        with log.open("wb") as out:
            self.popen = subprocess.Popen(command, stdout=out, stderr=subprocess.STDOUT)

    @property
    def output(self) -> str:
        return own_words(self._log.read_text(errors="replace"))

    def until_it_says(self, text: str) -> None:
        """Waits for a text in the output."""
        end = time.monotonic() + SECONDS
        while text not in self.output:
            assert self.popen.poll() is None, f"ended before {text!r}: {self.output}"
            assert time.monotonic() < end, f"waited {SECONDS} s for {text!r}: {self.output}"
            time.sleep(0.02)

    def wait(self) -> int:
        """Waits for the process to end by itself; its exit code."""
        return self.popen.wait(SECONDS)

    def signal(self, number: int) -> int:
        """Sends a signal and waits; the exit code."""
        self.popen.send_signal(number)
        return self.wait()

    def end(self) -> None:
        if self.popen.poll() is None:
            self.popen.send_signal(signal.SIGINT)
            try:
                self.popen.wait(20)
            except subprocess.TimeoutExpired:
                self.popen.kill()
                self.popen.wait()


class Probe:
    """A ROS node of the test, which is spun only while the test waits for something."""

    def __init__(self, domain: int) -> None:
        import rclpy
        from rclpy.executors import SingleThreadedExecutor
        from rclpy.node import Node

        self._context = rclpy.Context()
        rclpy.init(context=self._context, domain_id=domain)
        self.node = Node("probe", context=self._context)
        self._executor = SingleThreadedExecutor(context=self._context)
        self._executor.add_node(self.node)

    def collect(self, topic: str, message: type, qos: Any) -> list[Any]:
        """A list to which the topic's messages are added while the test waits."""
        messages: list[Any] = []
        self.node.create_subscription(message, topic, messages.append, qos)
        return messages

    def until(self, condition: Callable[[], Any], what: str, process: Process | None = None) -> Any:
        """Spins until the condition holds, and returns what it returned."""
        end = time.monotonic() + SECONDS
        while not (found := condition()):
            log = f"; the process wrote:\n{process.output}" if process else ""
            if process is not None and process.popen.poll() is not None:
                pytest.fail(f"the process ended before {what}{log}")
            if time.monotonic() > end:
                pytest.fail(f"waited {SECONDS} s for {what}{log}")
            self._executor.spin_once(timeout_sec=0.1)
        return found

    def call(self, service: type, name: str, request: Any) -> Any:
        """Calls a service and returns its response."""
        client = self.node.create_client(service, name)
        self.until(client.service_is_ready, f"the service {name}")
        future = client.call_async(request)
        self.until(future.done, f"an answer of {name}")
        self.node.destroy_client(client)
        return future.result()

    def close(self) -> None:
        with bounded_teardown():
            self._executor.shutdown()
            self.node.destroy_node()
            self._context.try_shutdown()


@pytest.fixture(scope="module")
def probe(domain: int) -> Iterator[Probe]:
    """A node of the test's own."""
    probe = Probe(domain)
    yield probe
    probe.close()


@pytest.fixture(scope="module")
def run(domain: int, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[..., Process]]:
    """Starts a command; whatever it started is ended after the module."""
    processes: list[Process] = []

    def run(*command: str) -> Process:
        processes.append(Process(list(command), tmp_path_factory.mktemp("process") / "log.txt"))
        return processes[-1]

    yield run
    for process in processes:
        process.end()


@pytest.fixture(scope="module")
def start(run: Callable[..., Process]) -> Callable[..., Process]:
    """Starts ``upsnet ARGUMENTS``, which is ended after the module."""
    return lambda *arguments: run(sys.executable, "-m", "upsnet_ros.cli", *arguments)


@pytest.fixture
def bench(domain: int) -> Iterator[Callable[..., Bench]]:
    """Makes nodes, each with a camera and a listener beside it; see `node_bench.Bench`."""
    from node_bench import Bench  # and ROS, which other tests here do without

    benches = []

    def make(*arguments: Any, **options: Any) -> Bench:
        benches.append(Bench(domain, *arguments, **options))
        return benches[-1]

    yield make
    for one in benches:
        one.close()
