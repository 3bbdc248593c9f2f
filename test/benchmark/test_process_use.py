"""What a process uses, seen from another one."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Iterator

import pytest
import torch

from upsnet_ros.benchmark.measure import ProcessUse

CPU = torch.device("cpu")


@pytest.fixture
def start() -> Iterator:
    started = []

    def start(code: str) -> int:
        started.append(subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE))
        assert started[-1].stdout.readline() == b"begun\n"
        return started[-1].pid

    yield start
    for process in started:
        process.kill()
        process.wait()
        process.stdout.close()


def figures_of(pid: int) -> dict:
    with ProcessUse(pid, CPU) as use:
        time.sleep(0.5)
        return use.figures()


def test_a_busy_process_uses_more_than_one_that_sleeps(start) -> None:
    busy = figures_of(start("print('begun', flush=True)\nwhile True: pass"))
    idle = figures_of(start("print('begun', flush=True)\nimport time; time.sleep(1e6)"))
    assert idle["cpu_percent"] <= 5 < busy["cpu_percent"]
    assert 0 <= busy["machine_cpu_percent"] <= 100
    assert "gpu_percent" not in busy


def test_memory_is_what_is_resident(start) -> None:
    big = figures_of(
        start("held = b'x' * (64 << 20)\nprint('begun', flush=True)\nimport time; time.sleep(1e6)")
    )
    assert big["memory_mib"] > 64


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_the_gpu_is_told_or_the_reason_why_not(start) -> None:
    pid = start("print('begun', flush=True)\nimport time; time.sleep(1e6)")
    with ProcessUse(pid, torch.device("cuda")) as use:
        time.sleep(0.5)
        figures = use.figures()
    assert ("gpu_percent" in figures) != ("gpu" in figures)
