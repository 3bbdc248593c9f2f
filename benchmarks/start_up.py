"""CPU time of `upsnet evaluate files` on small frames, relative to its libraries' imports.

    python benchmarks/start_up.py                             # one frame, one process
    python benchmarks/start_up.py --frames 64 --processes 4   # what further processes cost

Measures user and system time of fresh processes and of all that they start (Linux). Commands run
in turn, so that load affects all of them. Modules are compiled beforehand, as those of an installed
package are, also where PYTHONDONTWRITEBYTECODE is set.
"""

from __future__ import annotations

import ctypes
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Annotated

import cv2
import numpy as np
import typer

IMPORTS = "import numpy, cv2, typer"
#: The least that a typer command does, with options of the same kinds.
COMMAND = """
import numpy, cv2, typer
from pathlib import Path

def command(path: Path, number: int = typer.Option(1, min=1), flag: bool = False) -> None: ...

app = typer.Typer()
app.command()(command)
app(["path", "--number", "2"])
"""
_PR_SET_CHILD_SUBREAPER = 36


def write_frames(folder: Path, count: int) -> list[str]:
    """Write a panoptic JSON file and PNGs; return arguments that compare it with itself."""
    (folder / "truth").mkdir()
    pixels = np.full((8, 8, 3), (0, 0, 7), np.uint8)
    rows = []
    for index in range(count):
        name = f"a_000000_{index:06d}"
        assert cv2.imwrite(str(folder / f"truth/{name}.png"), pixels)
        segments = [{"id": 7, "category_id": 7, "iscrowd": 0}]
        rows.append({"image_id": name, "file_name": f"{name}.png", "segments_info": segments})
    classes = [{"id": 7, "name": "road", "isthing": 0, "color": [128, 64, 128]}]
    path = folder / "truth.json"
    path.write_text(json.dumps({"annotations": rows, "categories": classes}))
    return ["--gt-json", str(path), "--pred-json", str(path)]


def cpu_seconds(command: list[str]) -> float:
    """Run a command; return the CPU time of it and of every process that it leaves behind."""
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    used = 0.0
    while True:
        try:
            pid, status, usage = os.wait4(-1, 0)
        except ChildProcessError:
            return used
        used += usage.ru_utime + usage.ru_stime
        if pid == process.pid and status:
            raise SystemExit(f"{command[0]} failed")


def main(
    repeats: Annotated[int, typer.Option(min=2, help="Runs of each command, in turn.")] = 15,
    frames: Annotated[int, typer.Option(min=1, help="Frames to evaluate.")] = 1,
    processes: Annotated[int, typer.Option(min=1, help="As in `upsnet evaluate files`.")] = 1,
) -> None:
    """Print medians and quartiles of CPU seconds, and of ratios within each turn."""
    # Orphaned processes, such as multiprocessing's server, become children of this one.
    ctypes.CDLL(None).prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
    with tempfile.TemporaryDirectory() as folder:
        os.environ["PYTHONPYCACHEPREFIX"] = f"{folder}/compiled"
        upsnet = shutil.which("upsnet", path=Path(sys.executable).parent)
        assert upsnet is not None, "install upsnet_ros beside this interpreter"
        files = write_frames(Path(folder), frames)
        evaluate = [upsnet, "evaluate", "files", *files]
        commands = {
            "imports": [sys.executable, "-c", IMPORTS],
            "typer command": [sys.executable, "-c", COMMAND],
            "evaluate files": [*evaluate, "--processes", "1"],
            f"{processes} processes": [*evaluate, "--processes", str(processes)],
        }
        for command in commands.values():  # compile modules, fill the disk cache
            cpu_seconds(command)
        turns = [[cpu_seconds(command) for command in commands.values()] for _ in range(repeats)]
    seconds = dict(zip(commands, zip(*turns, strict=True), strict=True))
    print("CPU seconds, and relative to the imports and to the typer command: median (quartiles)")
    for name, values in seconds.items():
        columns = [values]
        for base in ("imports", "typer command"):
            columns.append(tuple(a / b for a, b in zip(values, seconds[base], strict=True)))
        print(f"{name:16}", *(_spread(column) for column in columns))


def _spread(values: tuple[float, ...]) -> str:
    low, middle, high = statistics.quantiles(values, n=4)
    return f"{middle:6.2f} ({low:.2f} to {high:.2f})"


if __name__ == "__main__":
    typer.run(main)
