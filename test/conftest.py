from __future__ import annotations

import contextlib
import gc
import os
import signal
from collections.abc import Generator, Iterator

import pytest

# Before any test module imports torch: it decides how torch's threads wait.
import upsnet_ros  # noqa: F401

# cuDNN times one plan for each kind of convolution: which is fastest is no matter in a test.
os.environ.setdefault("UPSNET_CUDNN_PLANS", "1")
# Kernels are compared with their references by tests of their own.
os.environ.setdefault("UPSNET_SELF_TEST", "0")

# One of several processes of `pytest -n`: each, and what it starts, computes on one core.
if "PYTEST_XDIST_WORKER" in os.environ:
    os.environ.setdefault("OMP_NUM_THREADS", "1")

# A shell's background jobs ignore SIGINT, and so would the processes whose end by it is tested.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

import torch

# Without a GPU, kernels run in Triton's interpreter. Triton has to know when it is imported, which
# torchvision does.
if not torch.cuda.is_available():
    os.environ.setdefault("TRITON_INTERPRET", "1")

from nodes_left import mark_descendants, nodes_left

mark_descendants()

with contextlib.suppress(ModuleNotFoundError):  # the tests of a GPU need no more than pytest
    from hypothesis import HealthCheck, settings

    # How long an example takes says how busy the machine is, and each run tries the same ones.
    settings.register_profile(
        "tests", deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow]
    )
    settings.load_profile("tests")


@pytest.hookimpl(wrapper=True)
def pytest_collection() -> Generator[None, object, object]:
    """Collects no garbage while test modules are imported, nor later among what they imported.

    Searching it took a quarter of the time of their import, and then 0.4 s each time.
    """
    gc.disable()
    result = yield
    gc.collect()
    gc.freeze()
    gc.enable()
    return result


@pytest.hookimpl(tryfirst=True)  # before the fixtures of the test, and of its module
def pytest_runtest_setup() -> None:
    """Lets each test draw the same random numbers, whichever tests its process has run before."""
    torch.manual_seed(0)


@pytest.fixture(scope="module", autouse=True)
def nodes_end_with_their_file() -> Iterator[None]:
    """Fails a test file that leaves a ROS node running, which later files would see."""
    yield
    assert nodes_left() == []


@pytest.fixture(autouse=True)
def environment_after_the_test() -> Iterator[None]:
    """Takes back what a command that ran in this process set, such as a ROS domain of its own."""
    before = dict(os.environ)
    yield
    for name in os.environ.keys() - before.keys() - {"PYTEST_CURRENT_TEST"}:
        if not name.startswith("RAY_"):  # Ray reads its token once a process
            del os.environ[name]
    os.environ.update(before)
