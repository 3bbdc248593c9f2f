"""What a process uses, seen from another one."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Iterator

import psutil
import pytest
import torch

from upsnet_ros.benchmark.measure import ProcessUse

CPU = torch.device("cpu")


@pytest.fixture
def start() -> Iterator:
    started = []

    def start(code: str) -> int:
        started.append(subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE))
        assert started[-1].stdout.readline() == b"ready\n"
        return started[-1].pid

    yield start
    for process in started:
        process.kill()
        process.wait()
        process.stdout.close()


def clocks(pid: int) -> tuple[float, float]:
    """Seconds of the clock, and those that a process has computed."""
    times = psutil.Process(pid).cpu_times()
    return time.monotonic(), times.user + times.system


def test_a_busy_process_uses_more_than_one_that_sleeps(start) -> None:
    pid = start("print('ready', flush=True)\nwhile True: pass")
    sleeper = start("print('ready', flush=True)\nimport time; time.sleep(1e6)")
    first = clocks(pid)
    with ProcessUse(pid, CPU) as use, ProcessUse(sleeper, CPU) as use_of_sleeper:
        begin = clocks(pid)
        while clocks(pid)[1] < begin[1] + 0.5:  # however long a busy machine takes
            time.sleep(0.01)
        end = clocks(pid)
        busy, idle = use.figures(), use_of_sleeper.figures()
        last = clocks(pid)
    least = 100 * (end[1] - begin[1]) / (last[0] - first[0])
    most = 100 * (last[1] - first[1]) / (end[0] - begin[0])
    assert least - 0.1 <= busy["cpu_percent"] <= most + 0.1
    assert idle["cpu_percent"] < busy["cpu_percent"] / 4
    assert 0 <= busy["machine_cpu_percent"] <= 100
    assert "gpu_percent" not in busy


def test_memory_is_what_is_resident(start) -> None:
    pid = start(
        "held = b'x' * (64 << 20)\nprint('ready', flush=True)\nimport time; time.sleep(1e6)"
    )
    with ProcessUse(pid, CPU) as use:
        while not (figures := use.figures())["memory_mib"]:  # a thread looks at it
            time.sleep(0.01)
    assert figures["memory_mib"] > 64


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_the_gpu_is_told_or_the_reason_why_not(start) -> None:
    pid = start("print('ready', flush=True)\nimport time; time.sleep(1e6)")
    with ProcessUse(pid, torch.device("cuda")) as use:
        time.sleep(0.5)
        figures = use.figures()
    assert ("gpu_percent" in figures) != ("gpu" in figures)
