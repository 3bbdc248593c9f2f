"""One run of `upsnet demo` and one of `upsnet replay`, which several tests look at.

Both take seconds of CPU, so all test files of a session share them, also those of other processes
of `pytest -n`. They run in a working folder with modules that tell when something imports them.
"""

from __future__ import annotations

import fcntl
import json
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import drive_bag
import pytest

#: Of the standard library, of others, and of this package, whatever a child imports early or late.
NAMES = ("cv2", "numpy", "torch", "typer", "rclpy", "selectors", "pickle", "signal", "runpy",
         "multiprocessing", "upsnet_ros", "sitecustomize", "usercustomize")  # fmt: skip
#: Options of a node that answers fast.
NODE = ("--allow-random-weights", "--variant", "cityscapes-r18", "--scale", "64", "--device", "cpu")
#: What the installed script `upsnet` is.
MAIN = "from upsnet_ros.cli import main\nif __name__ == '__main__':\n    main()\n"
SECONDS = 240


class CommandRun(NamedTuple):
    """A command that has ended.

    Attributes:
        folder: Its working folder; what it wrote is in ``out``.
        code: Its exit code.
        stdout: What it printed.
        stderr: What it printed there.
        imported: Files of the working folder that it or a process of it imported, one a line.
    """

    folder: Path
    code: int
    stdout: str
    stderr: str
    imported: str

    @property
    def out(self) -> Path:
        """Its output folder."""
        return self.folder / "out"


def write_modules(folder: Path, told: Path) -> None:
    """Fill a working folder with modules that write to the file ``told`` when they run."""
    folder.mkdir()
    for name in NAMES:
        (folder / f"{name}.py").write_text(
            f"open({str(told)!r}, 'a').write(__file__ + '\\n')\nraise ImportError({name!r})\n"
        )


@pytest.fixture(scope="session")
def demo_run(tmp_path_factory: pytest.TempPathFactory) -> CommandRun:
    """``upsnet demo`` of three frames of the synthetic street. Do not write to its folders."""
    return _once(tmp_path_factory, "demo", ["--frames", "3", "--scale", "64"])


@pytest.fixture(scope="session")
def replay_run(tmp_path_factory: pytest.TempPathFactory) -> CommandRun:
    """``upsnet replay`` of the last four of five images. Do not write to its folders."""
    options = ["drive", "--start", "0.1", "--evaluate", *NODE]
    return _once(tmp_path_factory, "replay", options)


def _once(factory: pytest.TempPathFactory, command: str, options: Sequence[str]) -> CommandRun:
    temporary = factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        temporary = temporary.parent  # that of all workers
    base = temporary / f"command_{command}"
    base.mkdir(exist_ok=True)
    told, ended = base / "told", base / "ended.json"
    with (base / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not ended.exists():
            write_modules(base / "data", told)
            if command == "replay":
                drive_bag.write_drive(base / "data/drive", 5)
            (base / "script.py").write_text(MAIN)
            out = str(base / "data/out")  # its processes are known by it
            done = subprocess.run(
                [sys.executable, str(base / "script.py"), command, *options, "--out", out],
                cwd=base / "data",
                env=os.environ | {"OMP_NUM_THREADS": "1", "COLUMNS": "200"},
                capture_output=True,
                text=True,
                timeout=SECONDS,
            )
            ended.write_text(json.dumps([done.returncode, done.stdout, done.stderr]))
    code, stdout, stderr = json.loads(ended.read_text())
    imported = told.read_text() if told.exists() else ""
    return CommandRun(base / "data", code, stdout, stderr, imported)
