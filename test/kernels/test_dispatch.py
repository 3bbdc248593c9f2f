from __future__ import annotations

import logging
import os
import subprocess
import sys
from typing import Any

import pytest
import torch

from upsnet_ros import kernels
from upsnet_ros.kernels import dispatch, nms

CUDA = torch.device("cuda")


@pytest.fixture(autouse=True)
def fresh(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dispatch, "_failures", {})
    monkeypatch.setattr(dispatch, "_enabled", True)


def choose(device: torch.device = CUDA) -> str:
    return dispatch.run("op", device, kernel=lambda: "kernel", twin=lambda: "twin")


def test_kernels_run_on_cuda_alone_and_unless_turned_off() -> None:
    pytest.importorskip("triton")
    assert choose() == "kernel"
    assert choose(torch.device("cpu")) == "twin"
    kernels.set_enabled(False)
    assert choose() == "twin"


def test_twins_can_be_had_for_a_while() -> None:
    pytest.importorskip("triton")
    with dispatch.twins_only():
        assert choose() == "twin"
    assert choose() == "kernel"


def test_kernels_can_be_turned_off_by_name() -> None:
    pytest.importorskip("triton")
    code = (
        "import torch; from upsnet_ros.kernels import dispatch; cuda = torch.device('cuda');"
        "print([dispatch.run(name, cuda, kernel=lambda: 1, twin=lambda: 0)"
        " for name in ('nms', 'conv_relu 64 -> 64', 'camera')])"
    )
    environment = os.environ | {dispatch.ENVIRONMENT: "-nms, -conv_relu"}
    result = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True
    )
    assert result.stdout.strip() == "[0, 0, 1]"


def test_without_triton_the_twin_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dispatch, "_triton_installed", lambda: False)
    assert choose() == "twin"


def test_a_kernel_that_fails_is_named_once_and_not_tried_again(
    caplog: pytest.LogCaptureFixture,
) -> None:
    errors = pytest.importorskip("triton.runtime.errors")
    calls = []

    def broken() -> str:
        calls.append(1)
        raise errors.OutOfResources(300000, 232448, "shared memory")

    with caplog.at_level(logging.WARNING):
        for _ in range(3):
            assert dispatch.run("op", CUDA, kernel=broken, twin=lambda: "twin") == "twin"
    assert len(calls) == 1
    assert [record.levelname for record in caplog.records] == ["WARNING"]
    assert "kernel op failed" in caplog.text and "shared memory" in caplog.text
    assert list(kernels.failures()) == ["op"]
    assert dispatch.run("other", CUDA, kernel=lambda: "kernel", twin=lambda: "twin") == "kernel"


@pytest.mark.parametrize("error", [torch.OutOfMemoryError("no memory"), ValueError("bad shape")])
def test_errors_that_the_twin_would_have_too_are_raised(error: Exception) -> None:
    pytest.importorskip("triton")

    def kernel() -> str:
        raise error

    with pytest.raises(type(error), match=str(error)):
        dispatch.run("op", CUDA, kernel=kernel, twin=lambda: "twin")
    assert kernels.failures() == {}


def test_interpreted_runs_kernels_on_cpu_tensors(monkeypatch: pytest.MonkeyPatch) -> None:
    """The kernel itself, by the function that callers use, and its errors as they are."""
    triton_form = pytest.importorskip("upsnet_ros.kernels.nms_triton")
    if os.environ.get("TRITON_INTERPRET") != "1":
        with pytest.raises(RuntimeError, match="set TRITON_INTERPRET=1"), dispatch.interpreted():
            pass
        pytest.skip("Triton compiles in this process")
    launched = []
    launch = triton_form.batched_nms

    def seen(*args: Any, **options: Any) -> nms.Kept:
        launched.append(args)
        return launch(*args, **options)

    monkeypatch.setattr(triton_form, "batched_nms", seen)
    boxes = torch.tensor([[[0.0, 0.0, 9.0, 9.0], [1.0, 0.0, 9.0, 9.0], [40.0, 0.0, 49.0, 9.0]]])
    numbers = torch.tensor([3], dtype=torch.int32)
    expected = nms.batched_nms(boxes, numbers, 0.5, limit=2)
    assert not launched and expected.place.tolist() == [[0, 2]]
    with dispatch.interpreted():
        result = nms.batched_nms(boxes, numbers, 0.5, limit=2)
        with pytest.raises(ZeroDivisionError):
            dispatch.run("op", boxes.device, kernel=lambda: str(1 / 0), twin=lambda: "twin")
    assert len(launched) == 1 and torch.equal(result.place, expected.place)
    assert choose(boxes.device) == "twin" and not dispatch.is_interpreted()


def test_import_needs_no_triton_and_the_environment_turns_kernels_off() -> None:
    code = (
        "import sys; sys.modules['triton'] = None\n"
        "from upsnet_ros.kernels import dispatch, deform_conv, panoptic, segments\n"
        "assert dispatch._enabled is False"
    )
    environment = {"UPSNET_KERNELS": "off", "PYTHONPATH": ":".join(filter(None, sys.path))}
    subprocess.run([sys.executable, "-c", code], check=True, env=environment, timeout=120)
