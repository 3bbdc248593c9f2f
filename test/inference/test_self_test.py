"""A GPU's kernels are tested in child processes, which here fail in every way they can."""

from __future__ import annotations

import json
import logging
import os
import subprocess
import sys
import threading
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from upsnet_ros.errors import SettingsError
from upsnet_ros.inference import predictor as predictor_module
from upsnet_ros.inference import self_test, self_test_steps
from upsnet_ros.inference.predictor import Predictor
from upsnet_ros.inference.self_test import Limits, Request, Verdict, run, usable_device
from upsnet_ros.ops import dispatch

SUPPORT = Path(__file__).parents[1] / "support"
REQUEST = Request(device="cpu", variant="cityscapes-r18", precision="fp32", size=(64, 96))
#: Steps that hang are killed after so many seconds.
SHORT = Limits(compiling=10.0, testing=3.0)


class Plan:
    """What the children are to do, and what they were asked."""

    def __init__(self, folder: Path, patch: pytest.MonkeyPatch) -> None:
        self._log = folder / "children"
        self._patch = patch

    def set(self, *faults: tuple[str, str]) -> None:
        self._log.unlink(missing_ok=True)
        self._patch.setenv("FAULTS", json.dumps(faults))

    def run(self, *faults: tuple[str, str], **options: Any) -> Verdict:
        self.set(*faults)
        return run(REQUEST, module="faulty_steps", limits=SHORT, **options)

    @property
    def children(self) -> list[list[str]]:
        """What each child was to leave out."""
        if not self._log.exists():
            return []
        return [json.loads(line)["off"] for line in self._log.read_text().splitlines()]


@pytest.fixture
def plan(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Plan:
    monkeypatch.setenv("PYTHONPATH", f"{SUPPORT}{os.pathsep}{os.environ.get('PYTHONPATH', '')}")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("CHILDREN", str(tmp_path / "children"))
    monkeypatch.setattr(dispatch, "_failures", {})
    monkeypatch.setattr(dispatch, "_enabled", True)
    return Plan(tmp_path, monkeypatch)


def verdicts() -> list[Path]:
    folder = self_test.cache_folder()
    assert folder is not None
    return list(folder.glob("*.json"))


def test_what_passes_is_tested_once(plan: Plan) -> None:
    first = plan.run(("device", "passes"), ("nms", "passes"))
    assert first == Verdict(passed=("device", "nms"))
    again = plan.run(("device", "passes"), ("nms", "raises"))
    assert plan.children == [] and again.passed == first.passed and again.cached
    assert plan.run(("device", "passes"), ("nms", "raises"), fresh=True).failed


@pytest.mark.parametrize(
    ("fault", "fragment"),
    [
        ("raises", "illegal memory access"),
        ("hangs", "too long"),
        ("hangs_deaf", "too long"),
        ("segfaults", "SIGSEGV"),
        ("aborts", "SIGABRT"),
        ("exits", "exit code 7: driver: giving up"),
    ],
)
def test_the_guilty_step_is_left_out_and_the_others_are_tested(
    fault: str, fragment: str, plan: Plan
) -> None:
    verdict = plan.run(("device", "passes"), ("camera", "passes"), ("nms", fault), ("z", "passes"))
    assert verdict.passed == ("device", "camera", "z") and list(verdict.failed) == ["nms"]
    assert fragment in verdict.failed["nms"] and "\n" not in verdict.failed["nms"]
    assert not verdict.unusable and not verdict.inconclusive
    assert plan.children == ([[]] if fault == "raises" else [[], ["nms"]])
    assert plan.run().cached


def test_several_kernels_may_fail_each_in_its_way(plan: Plan) -> None:
    faults = ("segfaults", "raises", "aborts", "exits", "passes")
    verdict = plan.run(*((str(n), fault) for n, fault in enumerate(faults)))
    assert verdict.passed == ("4",) and list(verdict.failed) == ["0", "1", "2", "3"]


@pytest.mark.parametrize(
    ("fault", "turned_off"),
    [
        ("runs_out_of_memory", False),
        ("is_busy", False),
        ("lacks_memory", False),
        ("hangs_while_compiling", True),
        ("is_killed", True),
        ("is_terminated", True),
        ("outside", False),
    ],
)
def test_what_others_may_have_caused_is_never_kept(
    fault: str, turned_off: bool, plan: Plan, caplog: pytest.LogCaptureFixture
) -> None:
    verdict = plan.run(("device", "passes"), ("nms", fault), ("z", "passes"))
    assert verdict.inconclusive and list(verdict.failed) == (["nms"] if turned_off else [])
    assert ("z" in verdict.passed) == turned_off, "the others are tested where that can be"
    assert not verdicts() and "to be repeated" in caplog.text
    assert not plan.run(("device", "passes"), ("nms", "passes")).failed


def test_limits_for_compiling_and_testing_differ(plan: Plan) -> None:
    limits = replace(SHORT, compiling=3600.0)  # longer than a test may take
    plan.set(("nms", "hangs"))
    assert run(REQUEST, module="faulty_steps", limits=limits).failed


def test_a_verdict_holds_for_what_was_tested_alone(
    plan: Plan, monkeypatch: pytest.MonkeyPatch
) -> None:
    def key(**changes: Any) -> str:
        request = self_test.replace(REQUEST, **changes)
        return json.dumps(self_test._key(request, "faulty_steps", SHORT), sort_keys=True)

    keys = {key(), key(variant="coco-r50"), key(precision="bf16"), key(size=(64, 64)), key(scale=9)}
    keys.add(key(merge="heuristic"))
    monkeypatch.setenv("UPSNET_KERNELS", "-nms")
    keys.add(key())
    monkeypatch.setattr(self_test, "_version", lambda package: f"other {package}")
    keys.add(key())
    assert len(keys) == 8
    found = json.loads(key())
    assert {"uuid", "driver", "torch", "triton", "cudnn", "sources"} <= set(found)


def test_the_gpu_is_known_by_nvidia_smi(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tool = tmp_path / "nvidia-smi"
    tool.write_text("#!/bin/sh\necho 'NVIDIA H200, GPU-1, 580.1'\n")
    tool.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    request = self_test.replace(REQUEST, device="cuda:0")
    assert self_test._identity(request, "none", SHORT) == {"uuid": "GPU-1", "driver": "580.1"}
    tool.write_text("#!/bin/sh\necho 'NVIDIA-SMI has failed'; exit 9\n")
    assert self_test.gpus() == []


@pytest.mark.parametrize("content", [b"", b"\xff", b"[]", b"{}", b'{"passed": 3}', b"[" * 9999])
def test_a_broken_verdict_is_none(content: bytes, plan: Plan) -> None:
    plan.run(("nms", "passes"))
    (file,) = verdicts()
    file.write_bytes(content)
    assert plan.run(("nms", "passes")) == Verdict(passed=("nms",))
    assert json.loads(file.read_bytes())["passed"] == ["nms"]


def test_a_folder_that_cannot_be_written_is_tolerated(
    plan: Plan, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    said: list[str] = []
    verdict = plan.run(("nms", "passes"), progress=said.append)
    assert verdict.passed == ("nms",) and any("cannot be kept" in line for line in said)
    folder = tmp_path / "cache" / "upsnet_ros" / "self_test"
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    plan.run(("nms", "passes"))
    (file,) = folder.glob("*.json")
    file.unlink()
    file.mkdir()  # not even root can write that
    assert plan.run(("nms", "passes")).passed == ("nms",)


def test_two_processes_test_once(plan: Plan) -> None:
    plan.set(("device", "passes"), ("nms", "hangs"), ("z", "passes"))
    found: list[Verdict] = []

    def one() -> None:
        found.append(run(REQUEST, module="faulty_steps", limits=SHORT))

    threads = [threading.Thread(target=one) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(plan.children) == 2, "one that failed, and one that went on"
    assert {one.failed["nms"] for one in found} and len([one for one in found if one.cached]) == 2


def test_a_child_ends_with_the_process_that_tests(plan: Plan, tmp_path: Path) -> None:
    plan.set(("nms", "hangs_while_compiling"))
    code = (
        "import sys; from upsnet_ros.inference.self_test import *;"
        "run(Request(device='cpu', variant='', precision='fp32'), module='faulty_steps')"
    )
    process = subprocess.Popen([sys.executable, "-c", code])
    while not plan.children:
        time.sleep(0.02)
    import psutil

    (child,) = psutil.Process(process.pid).children()
    process.kill()
    process.wait()
    child.wait(120)


CUDA = torch.device("cuda", 0)


def choose(plan: Plan, wanted: str, *faults: tuple[str, str]) -> tuple[torch.device, bool]:
    plan.set(*faults)
    return usable_device(CUDA, wanted=wanted, request=REQUEST, module="faulty_steps")


@pytest.mark.parametrize("wanted", ["auto", "cuda", "cuda:0"])
def test_what_fails_is_turned_off_in_one_line(
    wanted: str, plan: Plan, caplog: pytest.LogCaptureFixture
) -> None:
    pytest.importorskip("triton")
    faults = (("device", "passes"), ("nms", "raises"), ("graph", "segfaults"), ("z", "passes"))
    for _ in range(2):  # the second time from the cache
        caplog.clear()
        assert choose(plan, wanted, *faults) == (CUDA, False)
        (record,) = (one for one in caplog.records if one.levelno >= logging.WARNING)
        assert record.getMessage().startswith("nms, graph failed the self-test (nms: CUDA error")
        assert set(dispatch.failures()) == {"nms", "graph"}
        assert not dispatch.runs("nms", CUDA) and dispatch.runs("z", CUDA)


def test_all_kernels_may_fail_together(plan: Plan) -> None:
    faults = (("graph", "aborts"), ("kernels", "raises"), ("frame", "passes"))
    assert choose(plan, "cuda", *faults) == (CUDA, False)
    assert not dispatch.runs("nms", CUDA)


@pytest.mark.parametrize("step", self_test.UNUSABLE)
@pytest.mark.parametrize("fault", ["raises", "segfaults"])
def test_a_gpu_that_cannot_be_used(
    step: str, fault: str, plan: Plan, caplog: pytest.LogCaptureFixture
) -> None:
    device, _ = choose(plan, "auto", (step, fault))
    assert device == torch.device("cpu") and "gpu" in dispatch.failures()
    (record,) = (one for one in caplog.records if one.levelno >= logging.WARNING)
    assert record.levelname == "ERROR" and "running on the CPU" in record.getMessage()
    with pytest.raises(SettingsError, match="failed the self-test") as caught:
        choose(plan, "cuda", (step, fault))
    assert "\n" not in str(caught.value)


def test_without_a_result_the_gpu_is_used(plan: Plan) -> None:
    assert choose(plan, "auto", ("device", "is_busy")) == (CUDA, True)
    assert dispatch.failures() == {}


@pytest.mark.skipif(
    os.environ.get("TRITON_INTERPRET") != "1",
    reason="needs TRITON_INTERPRET=1, which is set where there is no GPU",
)
@pytest.mark.parametrize(
    ("fault", "fragment"),
    [("nan", "% of the values"),
     pytest.param("flip", "% of the values", marks=pytest.mark.long),
     pytest.param("raises", "PTX assembly", marks=pytest.mark.long),
     pytest.param("segfaults", "SIGSEGV", marks=pytest.mark.long)],
)  # fmt: skip
def test_the_real_steps_find_a_kernel_that_goes_wrong(
    fault: str, fragment: str, plan: Plan, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of a frame's kernels, some of which the interpreter takes too long for."""
    pytest.importorskip("triton")
    monkeypatch.setenv("FAULT", fault)
    slow = ("nms", "fpn_roi_align", "hidden_masks", "panoptic", "segments", "deform_conv", "camera")
    request = self_test.replace(REQUEST, size=(32, 32), scale=32, off=(*slow, "decode", "merge"))
    verdict = run(request, module="faulty_kernel")
    assert list(verdict.failed) == ["sum_levels"] and fragment in verdict.failed["sum_levels"]
    assert verdict.passed == ("device", "relu_pool", "operators", "graph")
    assert not verdict.inconclusive


def frame(precision: str, damage: Any = None) -> Any:
    """Segment the picture of the self-test with random weights, on a CPU."""
    request = self_test.replace(REQUEST, precision=precision, size=(128, 256), scale=128)
    predictor = self_test_steps._predictor(request, graphs=False)
    if damage is not None:
        predictor.network.fcn_head.fcn_subnet.register_forward_hook(damage)
    return self_test_steps._frame(predictor, request)


def test_the_merge_that_is_wanted_is_tested() -> None:
    """For the other one has other kernels."""
    request = self_test.replace(REQUEST, merge="heuristic")
    assert self_test_steps._predictor(request, graphs=False).merge == "heuristic"
    assert Request.from_json(request.to_json()) == request
    assert request.doctor().endswith("--merge heuristic") and "merge" not in REQUEST.doctor()


def test_a_frame_may_differ_by_rounding_and_not_by_a_fault() -> None:
    expected = frame("fp32")
    self_test_steps._compare_frames(frame("bf16"), expected)

    def moved(_module: object, _inputs: object, output: torch.Tensor) -> torch.Tensor:
        return output.roll(3, dims=-1)

    def swapped(_module: object, _inputs: object, output: torch.Tensor) -> torch.Tensor:
        return output.flip(1)

    wrong = [frame("fp32", damage) for damage in (moved, swapped)]
    wrong.append(replace(expected, max_logit=torch.full_like(expected.max_logit, torch.nan)))
    for result in wrong:
        with pytest.raises(self_test_steps._MismatchError, match="of a frame's classes"):
            self_test_steps._compare_frames(result, expected)


class _TestedError(Exception):
    pass


class _LoadedError(Exception):
    pass


@pytest.mark.parametrize(
    ("setting", "options", "expected"),
    [
        ("1", {}, _TestedError),
        ("0", {}, _LoadedError),
        ("off", {}, _LoadedError),
        ("1", {"self_test": False}, _LoadedError),
        ("1", {"plain": True}, _LoadedError),  # has no kernels
        ("1", {"device": "cpu", "precision": "fp32"}, _LoadedError),
    ],
)
def test_whether_a_predictor_asks_for_the_test(
    setting: str,
    options: dict[str, Any],
    expected: type[Exception],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def tested(*_: Any, **__: Any) -> None:
        raise _TestedError

    def loaded(*_: Any, **__: Any) -> None:
        raise _LoadedError

    monkeypatch.setenv("UPSNET_SELF_TEST", setting)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    monkeypatch.setattr(predictor_module, "usable_device", tested)
    # What comes next, before anything is put onto the GPU.
    monkeypatch.setattr(predictor_module, "fold_batch_norm_", loaded)
    with pytest.raises(expected):
        Predictor(**{"device": "cuda", "precision": "fp16", **options})


@pytest.mark.skipif(torch.cuda.is_available(), reason="needs a machine without a GPU")
def test_a_predictor_takes_the_cpu_where_the_gpu_fails(
    plan: Plan, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """This process believes in a GPU; the child finds that it does not work."""
    tool = tmp_path / "nvidia-smi"
    tool.write_text("#!/bin/sh\necho 'NVIDIA RTX 4000, GPU-1, 470.1'\n")
    tool.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setenv("UPSNET_SELF_TEST", "1")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    predictor = Predictor(precision="auto", scale=32, expected_size=(32, 48))
    assert predictor.device.type == "cpu" and predictor.precision != "fp16"
    assert (
        "upsnet doctor --variant cityscapes-r18 --precision fp16 --size height=32,width=48"
        in caplog.text
    )
    assert predictor(np.zeros((32, 48, 3), np.uint8)).labels.shape == (32, 48)
    assert not torch.cuda.is_initialized(), "nothing but the child may use the GPU"
    with pytest.raises(SettingsError, match="failed the self-test on 20"):  # as was kept
        Predictor(device="cuda", precision="auto", scale=32, expected_size=(32, 48))
