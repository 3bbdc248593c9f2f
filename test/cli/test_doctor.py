"""`upsnet doctor` finds each thing that is missing, and works without it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from typer.testing import CliRunner

from upsnet_ros import shipped_files, weights
from upsnet_ros.cli.commands import app
from upsnet_ros.cli.doctor import _vision

RUNNER = Path(__file__).parents[1] / "support" / "bare_environment.py"
NEEDED = ("torch", "torchvision", "numpy", "cv2", "safetensors", "scipy")
ROS = ("rclpy", "sensor_msgs", "diagnostic_msgs", "upsnet_ros.msg")


def doctor(*options: str) -> tuple[int, dict[str, Any]]:
    done = CliRunner().invoke(app, ["doctor", "--json", *options])
    assert done.stdout, (done.exception, done.stderr)
    return done.exit_code, json.loads(done.stdout)


def errors(report: dict[str, Any]) -> list[str]:
    return [f"{one['what']}: {one['advice']}" for one in report["problems"] if one["fatal"]]


@pytest.fixture(autouse=True)
def own_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.delenv("UPSNET_WEIGHTS", raising=False)


def test_here_the_node_can_run_and_all_fits_one_screen(monkeypatch: pytest.MonkeyPatch) -> None:
    code, report = doctor()
    assert (code, report["node_can_run"], errors(report)) == (0, True, [])
    assert report["packages"]["torch"] == torch.__version__
    assert report["ros"]["rmw"].startswith("rmw_") and report["ros"]["messages"]
    assert report["weights"]["bundled"] == ["cityscapes-r18"]
    monkeypatch.setenv("COLUMNS", "80")
    done = CliRunner().invoke(app, ["doctor"])
    lines = done.stdout.splitlines()
    assert done.exit_code == 0 and len(lines) <= 24
    for word in ("torch", "rmw_", "fastdds_shm.xml", "cityscapes-r18", "can run"):
        assert word in done.stdout


@pytest.mark.parametrize("module", [*NEEDED, *ROS])
def test_a_module_that_the_node_needs(module: str, monkeypatch: pytest.MonkeyPatch) -> None:
    # None in sys.modules makes Python say that there is no such module.
    monkeypatch.setitem(sys.modules, module, None)
    code, report = doctor()
    assert code == 1 and not report["node_can_run"]
    (told,) = (line for line in errors(report) if line.startswith(f"{module} is not installed"))
    assert any(way in told for way in ("setup.bash", "pip install", "colcon"))


@pytest.mark.parametrize("module", NEEDED)
def test_a_module_that_is_broken(
    module: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    broken = tmp_path / f"{module}.py"
    broken.write_text("raise OSError('libcudart.so.13: cannot open shared object file\\nmore')")
    monkeypatch.syspath_prepend(tmp_path)
    for name in [one for one in sys.modules if one == module]:
        monkeypatch.delitem(sys.modules, name)
    code, report = doctor()
    assert code == 1
    assert any(f"{module} cannot be imported: libcudart" in line for line in errors(report))


@pytest.mark.parametrize("module", ["rosbags", "tensorboard", "ray", "jinja2", "vision_msgs"])
def test_what_only_some_commands_need_is_told_and_no_error(
    module: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, module, None)
    code, report = doctor()
    without = [name for names in report["extras_without"].values() for name in names]
    assert code == 0 and (module in without or not report["ros"]["vision_msgs"])


def test_nothing_but_rich_and_typer() -> None:
    done = bare("rich,typer")
    assert done.returncode == 1, done.stderr
    report = json.loads(done.stdout)
    missing = {line.split()[0] for line in errors(report)}
    assert missing >= {*NEEDED, "rclpy"} and report["self_test"] is None


def test_no_ros() -> None:
    done = bare("torch,torchvision,numpy,opencv-python-headless,safetensors,scipy,rich,typer")
    report = json.loads(done.stdout)
    assert done.returncode == 1 and report["packages"]["torch"]
    assert any("rclpy is not installed: source ROS 2" in line for line in errors(report))
    assert not any(name in line.split() for name in NEEDED for line in errors(report))


def bare(packages: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(RUNNER), packages, "doctor", "--json"]
    return subprocess.run(command, capture_output=True, text=True, timeout=120)


@pytest.mark.parametrize("content", [None, b"", b"version https://git-lfs.github.com/spec/v1\n"])
def test_bundled_weights_that_are_missing_or_broken(
    content: bytes | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(weights, "__file__", str(tmp_path / "__init__.py"))
    if content is not None:
        (tmp_path / "cityscapes-r18.safetensors").write_bytes(content)
    code, report = doctor()
    assert code == 1 and "cityscapes-r18" in errors(report)[0]
    assert report["weights"]["bundled"] == []


def test_weights_in_the_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "cache" / "upsnet_ros" / "weights"
    folder.mkdir(parents=True)
    (folder / "coco-r50.safetensors").write_bytes(b"")
    assert doctor()[1]["weights"]["cached"] == ["coco-r50.safetensors"]
    monkeypatch.setenv("UPSNET_WEIGHTS", str(tmp_path))
    assert doctor()[1]["weights"]["cache_folder"] == str(tmp_path)


def test_the_transport_profile(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FASTDDS_BUILTIN_TRANSPORTS", "UDPv4")
    assert "FASTDDS_BUILTIN_TRANSPORTS" in doctor()[1]["ros"]["transport"]
    monkeypatch.delenv("FASTDDS_BUILTIN_TRANSPORTS")
    assert doctor()[1]["files"] == str(Path(shipped_files.__file__).parents[1])
    monkeypatch.setenv("AMENT_PREFIX_PATH", str(tmp_path))
    monkeypatch.setattr(sys, "prefix", str(tmp_path))
    monkeypatch.setattr(shipped_files, "__file__", "/no/package/shipped_files.py")
    code, report = doctor()
    assert report["files"] is None
    assert code == 1 and "transport profile is missing" in errors(report)[0]


def test_a_middleware_that_is_not_there() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "upsnet_ros.cli", "doctor", "--json"],
        env=os.environ | {"RMW_IMPLEMENTATION": "rmw_nowhere_cpp"},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 1
    assert any("rmw_nowhere_cpp" in line for line in errors(json.loads(done.stdout)))


@pytest.fixture
def gpu(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine with a GPU, by what its driver's tool says."""
    tool = tmp_path / "bin" / "nvidia-smi"
    tool.parent.mkdir()
    tool.write_text("#!/bin/sh\necho 'NVIDIA RTX 4000, GPU-1, 470.1'\n")
    tool.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tool.parent}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)


@pytest.mark.parametrize(("cuda", "advice"), [(None, "build with CUDA"), ("13.0", "the driver")])
def test_a_gpu_that_torch_does_not_see(
    cuda: str | None, advice: str, gpu: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.version, "cuda", cuda)
    code, report = doctor()
    (problem,) = report["problems"]
    assert code == 0 and advice in problem["advice"] and not problem["fatal"]
    assert report["gpus"][0]["driver_version"] == "470.1"


@pytest.mark.skipif(torch.cuda.is_available(), reason="needs a machine without a GPU")
def test_a_gpu_that_fails_the_self_test(gpu: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """The child finds none, whatever this process believes."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    code, report = doctor("--size", "48x64")
    assert code == 0 and list(report["self_test"]["failed"]) == ["device"]
    assert any("the GPU cannot be used" in one["what"] for one in report["problems"])
    assert doctor("--no-self-test")[1]["self_test"] is None


@pytest.mark.parametrize(
    ("option", "value", "fragment"),
    [("--size", "wide", "HEIGHTxWIDTH"), ("--size", "0x9", "HEIGHTxWIDTH"),
     ("--size", "1920x1080", "write 1080x1920"),
     ("--device", "cpu", "is not a GPU")],
)  # fmt: skip
def test_values_that_make_no_sense(option: str, value: str, fragment: str) -> None:
    done = CliRunner().invoke(app, ["doctor", option, value])
    assert done.exit_code == 1 and fragment in done.stderr


@pytest.mark.parametrize(("there", "text"), [(True, "yes"), (False, "ros-$ROS_DISTRO-vision-msgs")])
def test_how_to_get_vision_msgs(there, text):
    assert text in _vision(there)
