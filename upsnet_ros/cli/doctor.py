"""`upsnet doctor`: check the installation, and whether the node could run."""

from __future__ import annotations

import importlib
import importlib.util
import json as json_module
import os
import platform
import subprocess
import sys
from collections.abc import Callable
from importlib import metadata
from pathlib import Path
from typing import Annotated, Any

import typer

from upsnet_ros import __version__
from upsnet_ros.cli.commands import EXTRAS, fail, how_to_install
from upsnet_ros.cli.options import parse_height_width
from upsnet_ros.cli.terminal import console
from upsnet_ros.errors import first_line, printable
from upsnet_ros.inference import self_test
from upsnet_ros.processes.child_processes import child_command
from upsnet_ros.shipped_files import shipped_path

#: Modules that the node needs, by their common names.
_NEEDED = {
    "torch": "torch",
    "torchvision": "torchvision",
    "numpy": "numpy",
    "opencv": "cv2",
    "safetensors": "safetensors",
    "scipy": "scipy",
}
_ROS = ("rclpy", "sensor_msgs", "std_msgs", "std_srvs", "diagnostic_msgs", "lifecycle_msgs")
#: As the predictor has them, which needs torch.
_MERGES = ("auto", "upsnet", "heuristic")
#: Modules of the node, whose import finds whatever the lists above do not name.
_NODE = ("upsnet_ros.node.node", "upsnet_ros.inference.predictor")


class _Findings:
    """What was found, and the problems."""

    def __init__(self) -> None:
        self.found: dict[str, Any] = {}
        self.problems: list[dict[str, Any]] = []

    def problem(self, what: str, advice: str, *, fatal: bool) -> None:
        """Add a problem; with a fatal one the node cannot run."""
        line = {"what": printable(what), "advice": advice, "fatal": fatal}
        if line not in self.problems:
            self.problems.append(line)

    def load(self, module: str, *, fatal: bool = True) -> Any:
        """Return an imported module; None after adding a problem if it cannot be imported."""
        try:
            return importlib.import_module(module)
        except ModuleNotFoundError as error:
            name = str(error.name)
            advice = how_to_install(name, command="doctor") or "reinstall upsnet_ros"
            self.problem(f"{name} is not installed", advice, fatal=fatal)
        except Exception as error:  # noqa: BLE001 - a broken library may raise anything
            reason = first_line(error)
            advice = "reinstall it in a matching version, see requirements/"
            self.problem(f"{module} cannot be imported: {reason}", advice, fatal=fatal)
        return None


def doctor(
    *,
    json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
    test: Annotated[
        bool, typer.Option("--self-test/--no-self-test", help="Test the kernels on the GPU.")
    ] = True,
    device: Annotated[str, typer.Option(help="GPU to test: cuda:N.")] = "cuda:0",
    variant: Annotated[str, typer.Option(help="Network for the test.")] = "cityscapes-r18",
    precision: Annotated[str, typer.Option(help="fp32, fp16 or bf16.")] = "fp16",
    size: Annotated[
        str | None,
        typer.Option(metavar="HxW", help="Height x width of images. Default: the network's."),
    ] = None,
    scale: Annotated[
        int | None, typer.Option(metavar="PX", help="As in `upsnet node`. Default: the network's.")
    ] = None,
    merge: Annotated[str, typer.Option(help=f"{', '.join(_MERGES)}.")] = "auto",
) -> None:
    """Show what is installed and what is missing, and test the GPU.

    Add the output to bug reports. The exit code is 1 if the node could not run.
    """
    if not device.startswith("cuda"):
        fail(f"--device {device!r} is not a GPU, such as cuda:0")
    if merge not in _MERGES:
        fail(f"--merge {merge!r} is none of {', '.join(_MERGES)}")
    request = self_test.Request(
        device=device,
        variant=variant,
        precision=precision,
        size=None if size is None else parse_height_width(size, once_width_first=True),
        scale=scale,
        merge=merge,
    )
    findings = _Findings()
    steps: tuple[Callable[[_Findings], None], ...] = (_python, _ros, _weights, _node)
    for step in steps:
        step(findings)
    _gpu(findings, request if test else None)
    runs = not any(problem["fatal"] for problem in findings.problems)
    report = {"node_can_run": runs, **findings.found, "problems": findings.problems}
    if json:
        typer.echo(json_module.dumps(report, indent=2))
    else:
        _print(report)
    raise typer.Exit(0 if runs else 1)


def _python(findings: _Findings) -> None:
    found = findings.found
    found["upsnet_ros"] = f"{__version__} in {Path(__file__).parents[1]}"
    found["python"] = f"{platform.python_version()} ({sys.executable})"
    found["system"] = platform.platform()
    config = shipped_path("config/nav2")
    found["files"] = None if config is None else str(config.parents[1])
    if config is None:
        advice = "build the package with colcon, or run `make setup` or `pip install`"
        findings.problem("config/ and launch/ are not installed", advice, fatal=False)
    versions: dict[str, str | None] = {}
    for name, module in _NEEDED.items():
        loaded = findings.load(module)
        versions[name] = None if loaded is None else _version(module, loaded)
    versions["triton"] = _version("triton")
    found["packages"] = versions
    # Without importing them, which can take seconds.
    absent = [name for name in EXTRAS if importlib.util.find_spec(name) is None]
    found["extras_without"] = {
        extra: [name for name in absent if extra in EXTRAS[name]]
        for extra in sorted({extra for names in EXTRAS.values() for extra in names})
    }


def _ros(findings: _Findings) -> None:
    from upsnet_ros.processes.transport import TRANSPORT_VARIABLES, transport_environment

    ros: dict[str, Any] = {
        "distribution": os.environ.get("ROS_DISTRO"),
        "rclpy": None,
        "domain": os.environ.get("ROS_DOMAIN_ID", "0"),
        "rmw": os.environ.get("RMW_IMPLEMENTATION"),
    }
    if _rclpy_starts(findings):
        modules = {name: findings.load(name) for name in _ROS}
        if modules["rclpy"]:
            ros["rclpy"] = _version("rclpy") or _version("ros-rclpy") or "unknown"
            ros["rmw"] = modules["rclpy"].get_rmw_implementation_identifier()
    chosen = [name for name in TRANSPORT_VARIABLES if os.environ.get(name)]
    try:
        profile = transport_environment(os.environ)
        ros["transport"] = next(iter(profile.values()), f"chosen by {', '.join(chosen)}")
    except FileNotFoundError as error:
        ros["transport"] = None
        what, _, advice = str(error).partition(": ")
        findings.problem(f"the transport profile is missing: {what}", advice, fatal=True)
    ros["messages"] = findings.load("upsnet_ros.msg") is not None
    ros["vision_msgs"] = importlib.util.find_spec("vision_msgs") is not None
    findings.found["ros"] = ros


def _rclpy_starts(findings: _Findings) -> bool:
    """Return whether rclpy can be imported; without a middleware, the import ends the process."""
    try:
        there = importlib.util.find_spec("rclpy") is not None
    except ImportError:
        there = False
    if not there:
        return True
    command = child_command("rclpy.utilities")
    done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True)
    if done.returncode == 0:
        return True
    said = [line for line in done.stderr.splitlines() if line.strip()]
    chosen = os.environ.get("RMW_IMPLEMENTATION")
    advice = f"install {chosen}, or unset RMW_IMPLEMENTATION" if chosen else "reinstall ROS 2"
    reason = (
        said[-1].rpartition("]: ")[2].split(", at /")[0] if said else f"exit code {done.returncode}"
    )
    findings.problem(f"rclpy cannot be imported: {reason}", advice, fatal=True)
    return False


def _weights(findings: _Findings) -> None:
    from upsnet_ros import weights

    bundled = {
        file.stem: file for file in sorted(Path(weights.__file__).parent.glob("*.safetensors"))
    }
    if weights.SHIPPED_VARIANT not in bundled:
        findings.problem(
            f"the bundled weights of {weights.SHIPPED_VARIANT} are missing",
            "reinstall upsnet_ros, or set the parameter weights to a file",
            fatal=True,
        )
    for name, file in list(bundled.items()):
        try:
            from safetensors import safe_open

            with safe_open(file, framework="numpy"):
                pass
        except ImportError:
            break  # reported already
        except Exception as error:  # noqa: BLE001 - safetensors raises errors of its own
            del bundled[name]
            findings.problem(
                f"{file} cannot be read: {error}", "fetch it again (git lfs, git pull)", fatal=True
            )
    folder = weights.cache_folder()
    cached = sorted(file.name for file in folder.glob("*.safetensors")) if folder else []
    findings.found["weights"] = {
        "bundled": list(bundled),
        "cache_folder": str(folder) if folder else None,
        "cached": cached,
    }


def _node(findings: _Findings) -> None:
    """Import the node itself if its known dependencies are there."""
    if not any(problem["fatal"] for problem in findings.problems):
        for module in _NODE:
            findings.load(module)


def _gpu(findings: _Findings, request: self_test.Request | None) -> None:
    found = findings.found
    known = self_test.gpus()
    found["gpus"] = known
    found["cuda"], found["self_test"] = None, None
    if found["packages"]["torch"] is None:
        return
    import torch

    found["cuda"] = torch.version.cuda
    if not torch.cuda.is_available():
        if known and torch.version.cuda is None:
            advice = "install a build with CUDA: https://pytorch.org/get-started"
            findings.problem(
                "this torch has no CUDA; the node runs on the CPU", advice, fatal=False
            )
        elif known:
            advice = f"update the driver to one for CUDA {torch.version.cuda}"
            what = f"torch cannot use the GPU (driver {known[0]['driver_version']})"
            findings.problem(f"{what}; the node runs on the CPU", advice, fatal=False)
        return
    if found["packages"]["triton"] is None:
        advice = f"run `pip install triton` in the version that torch {torch.__version__} asks for"
        findings.problem("Triton is not installed: the GPU runs no kernels", advice, fatal=False)
    if request is None:
        return
    verdict = self_test.run(request, fresh=True, progress=lambda line: typer.echo(line, err=True))
    found["self_test"] = {
        "passed": list(verdict.passed),
        "failed": dict(verdict.failed),
        "inconclusive": verdict.inconclusive,
    }
    if verdict.unusable:
        advice = "report it; until then the node runs on the CPU, or with device:=cpu"
        findings.problem(f"the GPU cannot be used: {verdict.unusable}", advice, fatal=False)
    elif verdict.failed:
        advice = "report it; slower reference operators run instead"
        findings.problem(verdict.summary(), advice, fatal=False)
    if verdict.inconclusive:
        advice = "free the GPU and repeat `upsnet doctor`"
        findings.problem(f"self-test without result: {verdict.inconclusive}", advice, fatal=False)


def _version(package: str, module: object = None) -> str | None:
    own = getattr(module, "__version__", None)
    if own:
        return str(own)
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None if module is None else "unknown"


def _print(report: dict[str, Any]) -> None:
    ros, weights = report["ros"], report["weights"]
    gpus = [f"{one['name']}, driver {one['driver_version']}" for one in report["gpus"]]
    test = report["self_test"]
    without = {extra: names for extra, names in report["extras_without"].items() if names}
    complete = [extra for extra in report["extras_without"] if extra not in without]
    lacking = [f"without {', '.join(names)}: {extra}" for extra, names in without.items()]
    rows = {
        "upsnet_ros": report["upsnet_ros"],
        "files": f"config, launch: {report['files'] or '-'}",
        "Python": f"{report['python']} on {report['system']}",
        "packages": ", ".join(f"{name} {v or '-'}" for name, v in report["packages"].items()),
        "extras": "; ".join([", ".join(complete), *lacking]).strip("; "),
        "ROS": f"{ros['distribution'] or 'no distribution'}, rclpy {ros['rclpy'] or '-'},"
        f" {ros['rmw'] or 'no middleware'}, domain {ros['domain']}",
        "transport": ros["transport"] or "-",
        "messages": f"upsnet_ros: {_yes(ros['messages'])},"
        f" vision_msgs: {_vision(ros['vision_msgs'])}",
        "GPU": f"{'; '.join(gpus) or 'none'}; torch for CUDA {report['cuda'] or '-'}",
        "self-test": "not run" if test is None else _tested(test),
        "weights": f"bundled: {', '.join(weights['bundled']) or '-'};"
        f" {weights['cache_folder']}: {', '.join(weights['cached']) or '-'}",
        "node": "can run" if report["node_can_run"] else "cannot run",
    }
    out = console(soft_wrap=True)
    for name, text in rows.items():
        out.print(f"{name:<11}{printable(text)}")
    for problem in report["problems"]:
        kind = "error" if problem["fatal"] else "note"
        out.print(f"{kind}: {problem['what']}: {problem['advice']}")


def _vision(there: bool) -> str:
    # No wheel carries it.
    return "yes" if there else "no (for detections: apt install ros-$ROS_DISTRO-vision-msgs)"


def _yes(there: bool) -> str:
    return "yes" if there else "no"


def _tested(test: dict[str, Any]) -> str:
    failed = [f"{name} FAILED ({reason})" for name, reason in test["failed"].items()]
    return "; ".join([f"{', '.join(test['passed']) or 'nothing'} passed", *failed])
