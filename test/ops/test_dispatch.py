from __future__ import annotations

import logging
import os
import subprocess
import sys
from typing import Any

import pytest
import torch

from upsnet_ros import ops as kernels
from upsnet_ros.network.batched_operators import KERNELS, missing
from upsnet_ros.ops import boxes as nms
from upsnet_ros.ops import dispatch

CUDA = torch.device("cuda")


@pytest.fixture(autouse=True)
def fresh(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dispatch, "_failures", {})
    monkeypatch.setattr(dispatch, "_enabled", True)


def choose(device: torch.device = CUDA) -> str:
    return dispatch.run("op", device, kernel=lambda: "kernel", reference=lambda: "reference")


def test_kernels_run_on_cuda_alone_and_unless_turned_off() -> None:
    pytest.importorskip("triton")
    assert choose() == "kernel"
    assert choose(torch.device("cpu")) == "reference"
    kernels.set_enabled(False)
    assert choose() == "reference"


def test_twins_can_be_had_for_a_while() -> None:
    pytest.importorskip("triton")
    with dispatch.references_only():
        assert choose() == "reference"
    assert choose() == "kernel"


def test_kernels_can_be_turned_off_by_name() -> None:
    pytest.importorskip("triton")
    code = (
        "import torch; from upsnet_ros.ops import dispatch; cuda = torch.device('cuda');"
        "print([dispatch.run(name, cuda, kernel=lambda: 1, reference=lambda: 0)"
        " for name in ('nms', 'conv_relu 64 -> 64', 'camera')])"
    )
    environment = os.environ | {dispatch.ENVIRONMENT: "-nms, -conv_relu"}
    result = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True
    )
    assert result.stdout.strip() == "[0, 0, 1]"


def test_without_triton_the_twin_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    assert missing(CUDA) == ()
    monkeypatch.setattr(dispatch, "_triton_installed", lambda: False)
    assert choose() == "reference"
    assert missing(CUDA) == KERNELS


@pytest.mark.parametrize("name", KERNELS)
def test_a_kernel_that_does_not_run_is_known_to_be_missing(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Turned off, failed, or all turned off; on a CPU none is missed."""
    pytest.importorskip("triton")
    assert missing(CUDA) == ()
    with monkeypatch.context() as patch:
        patch.setattr(dispatch, "_unwanted", (name, "conv_relu"))
        assert missing(CUDA) == (name,)
    kernels.set_enabled(False)
    assert missing(CUDA) == KERNELS and missing(torch.device("cpu")) == ()
    kernels.set_enabled(True)
    dispatch.note_failure(name, "no compiler")
    assert missing(CUDA) == (name,)


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
            assert (
                dispatch.run("op", CUDA, kernel=broken, reference=lambda: "reference")
                == "reference"
            )
    assert len(calls) == 1
    assert [record.levelname for record in caplog.records] == ["WARNING"]
    assert "kernel op failed" in caplog.text and "shared memory" in caplog.text
    assert list(kernels.failures()) == ["op"]
    assert (
        dispatch.run("other", CUDA, kernel=lambda: "kernel", reference=lambda: "reference")
        == "kernel"
    )


@pytest.mark.parametrize("error", [torch.OutOfMemoryError("no memory"), ValueError("bad shape")])
def test_errors_that_the_twin_would_have_too_are_raised(error: Exception) -> None:
    pytest.importorskip("triton")

    def kernel() -> str:
        raise error

    with pytest.raises(type(error), match=str(error)):
        dispatch.run("op", CUDA, kernel=kernel, reference=lambda: "reference")
    assert kernels.failures() == {}


def test_interpreted_runs_kernels_on_cpu_tensors(monkeypatch: pytest.MonkeyPatch) -> None:
    """The kernel itself, by the function that callers use, and its errors as they are."""
    triton_form = pytest.importorskip("upsnet_ros.ops.triton.boxes")
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
    assert not launched and expected.indices.tolist() == [[0, 2]]
    with dispatch.interpreted():
        result = nms.batched_nms(boxes, numbers, 0.5, limit=2)
        with pytest.raises(ZeroDivisionError):
            dispatch.run(
                "op", boxes.device, kernel=lambda: str(1 / 0), reference=lambda: "reference"
            )
    assert len(launched) == 1 and torch.equal(result.indices, expected.indices)
    assert choose(boxes.device) == "reference" and not dispatch.is_interpreted()


@pytest.mark.parametrize(
    ("setting", "expected"),
    [(None, None), ("", None), ("0", False), (" Off ", False), ("1", True), ("yes", True)],
)
def test_a_switch_of_the_environment(
    setting: str | None, expected: bool | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("UPSNET_X", raising=False)
    if setting is not None:
        monkeypatch.setenv("UPSNET_X", setting)
    for default in (True, False):
        got = dispatch.switched_on("UPSNET_X", default=default)
        assert got is (default if expected is None else expected)


def test_import_needs_no_triton_and_the_environment_turns_kernels_off() -> None:
    code = (
        "import sys; sys.modules['triton'] = None\n"
        "from upsnet_ros.ops import dispatch, deform_conv, panoptic, segments\n"
        "assert dispatch._enabled is False"
    )
    environment = {"UPSNET_KERNELS": "off", "PYTHONPATH": ":".join(filter(None, sys.path))}
    subprocess.run([sys.executable, "-c", code], check=True, env=environment, timeout=120)
