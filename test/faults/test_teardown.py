"""A DDS library that never returns where a process leaves it: every process of ours ends."""

from __future__ import annotations

import functools
import itertools
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import cv2
import drive_bag
import numpy as np
import psutil
import pytest
from faults import fault
from leaks import abandoned, shared_memory
from node_bench import BEST_EFFORT, image
from sensor_msgs.msg import Image

from upsnet_ros.bags.reader import open_bag
from upsnet_ros.processes.transport import remove_leftovers

pytestmark = pytest.mark.dds

SECOND = 1_000_000_000
SOURCE = Path(__file__).resolve().parents[1] / "support" / "hanging_dds.c"
NODE = ("--allow-random-weights", "--variant", "cityscapes-r18", "--scale", "64", "--device", "cpu")
SUBSCRIPTION, ENTITY = "rmw_destroy_subscription", "rmw_destroy_node"
#: What rcl calls to leave, in the order in which it does.
PLACES = ("rmw_destroy_service", "rmw_destroy_publisher", ENTITY, "rmw_shutdown",
          "rmw_context_fini")  # fmt: skip


@pytest.fixture(scope="module")
def library(tmp_path_factory):
    """Makes the library to preload, which hangs in one place."""
    compiler = shutil.which("cc")
    if compiler is None:
        pytest.skip("there is no C compiler")
    folder = tmp_path_factory.mktemp("libraries")

    def make(place):
        library = folder / f"{place}.so"
        options = ["-shared", "-fPIC", f"-DPLACE={place}", "-o", str(library)]
        subprocess.run([compiler, *options, str(SOURCE)], check=True)
        return str(library)

    return functools.cache(make)


@pytest.fixture
def hangs(library, monkeypatch):
    """Lets the processes that are started from now on hang in one place."""

    def hangs(place):
        monkeypatch.setenv("LD_PRELOAD", library(place))

    hangs(ENTITY)
    return hangs


@pytest.fixture
def picture(tmp_path):
    path = tmp_path / "picture.png"
    cv2.imwrite(str(path), np.zeros((48, 64, 3), np.uint8))
    return str(path)


def segments(process):
    """The files of shared memory that it has mapped, but ports, which others may have as well."""
    return {file for file in shared_memory(process.popen.pid) if "port" not in file.name}


#: Runs a command as `upsnet` does, and says last which threads of DDS are left.
LAST_WORDS = """
import atexit, sys
from upsnet_ros.cli import main
from upsnet_ros.node import process
from nodes_left import dds_threads
process.TEARDOWN_SECONDS = 100.0  # else a busy machine may end it before its last words
atexit.register(lambda: print("left:", dds_threads()))
main(sys.argv[1:])
"""


@fault(
    "a command ends, after an error or as it should, while DDS's threads could still run",
    often="{cases} commands",
    happens="It has left DDS before Python ends: none of its threads is left to crash",
)
@pytest.mark.parametrize("command", ["node", "play"])
def test_a_command_has_left_dds_before_python_ends(domain, picture, tmp_path, command):
    # Else C++ destroys what DDS's threads still use, and now and then they crash.
    (tmp_path / "weights.pth").write_bytes(b"\x80\x02 no checkpoint")
    arguments = {
        "node": ["--weights", str(tmp_path / "weights.pth")],
        "play": [picture, "--count", "1"],
    }
    done = subprocess.run(
        [sys.executable, "-c", LAST_WORDS, command, *arguments[command]],
        env={**os.environ, "PYTHONPATH": os.pathsep.join([str(SOURCE.parent), *sys.path])},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == {"node": 1, "play": 0}[command], done.stderr
    assert done.stdout.splitlines()[-1] == "left: []"


@fault(
    "DDS hangs for ever, Python's lock held, where `upsnet play` leaves it: in a service, a"
    " publisher, the node, or the context",
    often="5 places",
    happens="It ends some seconds later with the exit code that it would have had",
)
def test_a_place_that_hangs(hangs, start, picture):
    processes = {}
    for place in PLACES:
        hangs(place)
        processes[place] = start("play", picture, "--image-topic", f"/hangs/{place}")
    for place, process in processes.items():
        assert process.wait() == 0, process.output
        assert f"hangs in {place}" in process.output
        assert "published 1 frame" in process.output


@fault(
    "DDS hangs where `upsnet node`, `record`, `view`, or a `play` that fails leaves it",
    often="once each",
    happens="Each ends with its own exit code and leaves no segment of shared memory; what was"
    " recorded is readable",
)
def test_a_command_that_hangs(hangs, start, probe, picture, tmp_path):
    out, bag = tmp_path / "out", tmp_path / "bag"
    space = ("--ros-args", "-r", "__ns:=/hangs")
    hangs(SUBSCRIPTION)  # which the node destroys as it deactivates
    node = start("node", *NODE, *space)
    hangs(ENTITY)
    view = start("view", "--port", "0")
    record = start("record", "--namespace", "/hangs", "--out", str(out), "--bag", str(bag))
    lonely = start("play", picture, "--lockstep", "--image-topic", "/nobody", "--timeout", "0.1")
    camera = probe.node.create_publisher(Image, "/hangs/image", BEST_EFFORT)
    stamps = itertools.count(1)
    table = out / "frames.csv"

    def recorded():
        camera.publish(image(next(stamps) * SECOND))
        return table.exists() and table.read_text().count("\n") > 1

    view.until_it_says("Ctrl-C")
    probe.until(recorded, "a frame", record)
    processes = {"node": node, "view": view, "record": record}
    mapped = set().union(*(segments(process) for process in processes.values()))
    for process in processes.values():
        process.popen.send_signal(signal.SIGINT)
    for process in processes.values():
        assert process.wait() == 0, process.output
        assert f"hangs in {SUBSCRIPTION if process is node else ENTITY}" in process.output
    assert lonely.wait() == 1, lonely.output
    assert "error: 0 of 1 subscribers" in lonely.output
    assert mapped
    assert not abandoned(mapped)
    assert json.loads((out / "index.json").read_text())["complete"]
    assert cv2.VideoCapture(str(out / "overlay.mp4")).read()[0]
    with open_bag(bag) as found:
        assert "/hangs/labels" in {record.topic for record in found}


def replay(tmp_path, picture):
    drive = drive_bag.write_drive(tmp_path / "drive", 3)
    yield ["replay", str(drive), *NODE, "--evaluate", "--out", str(tmp_path / "out")]
    assert json.loads((tmp_path / "out/replay.json").read_text())["answered"] == 3
    assert (tmp_path / "out/report.html").exists()
    assert "hangs in rmw_destroy_node" in (tmp_path / "out/logs/node.log").read_text()


def bench(tmp_path, picture):
    report = tmp_path / "report.json"
    size = ["--size", "64x128", "--variant", "cityscapes-r18", "--device", "cpu"]
    runs = ["--rates", "", "--duration", "0.1", "--least-frames", "1", "--repeats", "1"]
    yield ["bench", "node", *size, *runs, "--limit", "2", "--json", str(report)]
    assert json.loads(report.read_text())["one_by_one"]


@fault(
    "DDS hangs where the processes of `upsnet replay --evaluate` and `bench node` leave it",
    often="{cases} commands",
    happens="The command succeeds; all that it writes is there",
)
@pytest.mark.parametrize("case", [replay, bench])
def test_a_command_whose_processes_hang(hangs, start, picture, tmp_path, case):
    work = case(tmp_path, picture)
    process = start(*next(work))
    assert process.wait() == 0, process.output
    assert next(work, None) is None


@fault(
    "SIGKILL to `upsnet demo` as it records, and DDS hangs where its node, recorder and player"
    " leave it",
    often="once",
    happens="They end all the same and leave no segment of shared memory; what was recorded is"
    " readable",
)
def test_a_killed_command_whose_processes_hang(hangs, start, tmp_path):
    frames, out = tmp_path / "frames", tmp_path / "out"
    frames.mkdir()
    for number in range(200):
        cv2.imwrite(str(frames / f"{number}.png"), np.zeros((64, 128, 3), np.uint8))
    demo = start("demo", str(frames), "--frames", "200", "--scale", "64", "--out", str(out))
    table = out / "frames.csv"
    while not table.exists() or table.read_text().count("\n") < 3:
        assert demo.popen.poll() is None, demo.output
        time.sleep(0.05)
    family = psutil.Process(demo.popen.pid).children(recursive=True)
    mapped = set().union(*(shared_memory(one.pid) for one in family))
    demo.signal(signal.SIGKILL)
    assert not psutil.wait_procs(family, timeout=60)[1]
    for name in ("node", "record", "play"):
        assert f"hangs in {ENTITY}" in (out / f"logs/{name}.log").read_text()
    assert mapped
    assert not abandoned(file for file in mapped if "port" not in file.name)
    assert cv2.VideoCapture(str(out / "overlay.mp4")).read()[0]
    with open_bag(out / "bag") as bag:
        assert "/panoptic/labels" in {record.topic for record in bag}


@fault(
    "A FIFO, a folder or a link to a file of the user, called in /dev/shm as Fast DDS calls a"
    " segment's files",
    often="15 cases",
    happens="A process that starts removes what others left all the same; it neither waits for the"
    " FIFO nor follows the link",
)
@pytest.mark.parametrize("ending", ["_el", "_sl", ""])
@pytest.mark.parametrize("kind", ["fifo", "folder", "full folder", "link", "dangling link"])
def test_what_others_put_into_shared_memory(tmp_path, kind, ending):
    shm, outside = tmp_path / "shm", tmp_path / "outside"
    shm.mkdir()
    name, other = "fastrtps_0000000000000000", "fastrtps_1111111111111111"
    for file in (name, f"{name}_el", f"{name}_sl", f"{other}_el"):
        (shm / file).touch()
        os.utime(shm / file, (1, 1))
    outside.write_text("of the user")
    path = shm / f"{name}{ending}"
    path.unlink()
    if kind == "fifo":
        os.mkfifo(path)
    elif "folder" in kind:
        path.mkdir()
        if kind == "full folder":
            (path / "file").touch()
    else:
        path.symlink_to(outside if kind == "link" else tmp_path / "none")
    os.utime(path, (1, 1), follow_symlinks=False)
    assert other in remove_leftovers(shm)  # the others are seen to all the same
    assert outside.read_text() == "of the user"
    if "folder" in kind:
        assert path.is_dir()
