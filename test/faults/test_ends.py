"""Processes that are ended at any moment, and disks that are full: what is left is whole."""

from __future__ import annotations

import contextlib
import itertools
import json
import random
import re
import shutil
import signal
import sys
import time
from pathlib import Path

import cv2
import drive_bag
import numpy as np
import psutil
import pytest
from child_path import with_support
from faults import fault, repeats
from leaks import abandoned, is_of_one_domain, make_old, shared_memory
from node_bench import BEST_EFFORT, Bench, image
from sensor_msgs.msg import Image
from small_disk import small_disk

from upsnet_ros.bags.reader import open_bag
from upsnet_ros.errors import BagError
from upsnet_ros.processes.transport import PROFILE_VARIABLES, shared_memory_profile

pytestmark = pytest.mark.dds

SECOND = 1_000_000_000
MIB = 1 << 20
ENDS = (signal.SIGKILL, signal.SIGINT, signal.SIGTERM)
NODE = ("node", "--allow-random-weights", "--variant", "cityscapes-r18", "--scale", "64",
        "--device", "cpu")  # fmt: skip


@pytest.fixture(scope="module")
def bench(domain):
    with pytest.MonkeyPatch.context() as patch:
        for name in PROFILE_VARIABLES:
            patch.setenv(name, str(shared_memory_profile()))
        bench = Bench(domain, namespace="ends")
        assert bench.node.start()
        yield bench
        bench.close()


class Stream:
    """A camera before the bench's node."""

    def __init__(self, bench):
        self._bench = bench
        self._camera = bench.camera()
        self._stamps = itertools.count(1)

    def until(self, condition, what):
        return self._bench.until(condition, what, again=self._show, every=0.05)

    def _show(self):
        self._camera.publish(image(next(self._stamps) * SECOND))


@pytest.fixture(scope="module")
def stream(bench):
    return Stream(bench)


class Moments:
    """Random seconds, told in the output that pytest shows of a test that fails."""

    def __init__(self, seed):
        self._seed, self._random = seed, random.Random(seed)

    def draw(self, least, most, end_by):
        moment = self._random.uniform(least, most)
        print(f"{end_by!r} after {moment:.3f} s (seed {self._seed})")
        return moment


def family(process):
    """The process and all that it started."""
    with contextlib.suppress(psutil.NoSuchProcess):
        parent = psutil.Process(process.popen.pid)
        return [parent, *parent.children(recursive=True)]
    return []


def wait_for_a_recording(stream, out, bag):
    """Until the first frame is in the table, and what comes once at the start is in the bag."""
    table = out / "frames.csv"

    def recording():
        if not table.exists() or table.read_text().count("\n") < 2:
            return False
        with contextlib.suppress(BagError), open_bag(bag, topics=["/ends/label_info"]) as found:
            return any(record.message is not None for record in found)
        return False

    stream.until(recording, "a first frame, and label_info in the bag")


def assert_no_process_is_left(members):
    _, alive = psutil.wait_procs(members, timeout=60)
    assert not alive, f"still there: {alive}"


def assert_readable(out: Path, bag: Path, namespace="/ends"):
    """The recording's table names pictures that are whole, and its bag can be read."""
    rows = (out / "frames.csv").read_text().count("\n") - 1
    for number in range(max(rows, 0)):
        for kind in ("labels", "unknown", "overlay"):
            assert cv2.imread(str(out / kind / f"{number:06d}.png"), -1) is not None
    json.loads((out / "index.json").read_text())
    with open_bag(bag) as found:
        topics = {record.topic for record in found if record.message is not None}
    assert f"{namespace}/label_info" in topics
    return rows


@fault(
    "SIGINT, SIGTERM or SIGKILL to `upsnet record --bag` at a random moment",
    often="{times} times",
    happens="Table, pictures and bag are readable, the encoder of the video ends too, no process is"
    " left",
)
@pytest.mark.parametrize("times", repeats(1, 15))
def test_a_recorder_that_is_ended(stream, start, tmp_path, times):
    moments = Moments(seed=1)
    for number in range(times):
        out, bag = tmp_path / f"out{number}", tmp_path / f"bag{number}"
        recorder = start("record", "--namespace", "/ends", "--out", str(out), "--bag", str(bag))
        wait_for_a_recording(stream, out, bag)
        end_by = ENDS[number % 3]
        end = time.monotonic() + moments.draw(0, 1, end_by)
        stream.until(lambda end=end: time.monotonic() > end, "the moment")
        members = family(recorder)
        code = recorder.signal(end_by)
        assert code in (0, -signal.SIGKILL), recorder.output
        assert_no_process_is_left(members)
        assert assert_readable(out, bag) >= 1


@fault(
    "The disk is full while `upsnet record --bag` writes (RLIMIT_FSIZE)",
    often="once",
    happens="The recorder ends with an error that names the file; table, pictures and bag are"
    " readable",
)
def test_a_disk_that_is_full(stream, start, tmp_path):
    out, bag = tmp_path / "out", tmp_path / "bag"
    recorder = start(
        *("record", "--namespace", "/ends", "--out", str(out)),
        *("--no-video", "--bag", str(bag)),
    )
    wait_for_a_recording(stream, out, bag)
    # Not from the start: shared memory is files too.
    full = (bag / "bag.mcap").stat().st_size + 100_000
    psutil.Process(recorder.popen.pid).rlimit(psutil.RLIMIT_FSIZE, (full, full))
    stream.until(lambda: recorder.popen.poll() is not None, "the end of the recorder")
    assert recorder.popen.returncode == 1, recorder.output
    assert f"cannot write {bag}: File too large" in " ".join(recorder.output.split())
    assert "Traceback" not in recorder.output
    assert assert_readable(out, bag) >= 1


@fault(
    "The disk is full while `upsnet record --bag` writes (a file system of 1 MiB)",
    often="once",
    happens="As above; the node's next frame is answered",
)
def test_a_file_system_that_is_full(bench, stream, run, tmp_path):
    with small_disk(tmp_path, MIB) as disk:
        recorder = run(
            *disk.command(sys.executable, "-m", "upsnet_ros.cli", "record", "--no-video"),
            *("--namespace", "/ends", "--out", str(tmp_path / "out")),
            *("--bag", str(tmp_path / "bag")),
        )
        stream.until(lambda: recorder.popen.poll() is not None, "the end of the recorder")
        assert recorder.popen.returncode == 1, recorder.output
        assert re.search(
            rf"error: cannot write {tmp_path}/\S+: No space left on device",
            " ".join(recorder.output.split()),
        )
        assert "Traceback" not in recorder.output
        assert assert_readable(disk.outside / "out", disk.outside / "bag") >= 1
        assert not list(disk.outside.rglob("*.part"))
    labels = bench.collect("labels")
    stream.until(lambda: labels, "the node's next answer")


# Writes a bag until that does not go any more.
FILLER = """
import sys
import numpy as np
from bag_messages import IMAGE, make_image
from upsnet_ros.bags import BagError, BagWriter
path, storage, compression = sys.argv[1:]
noise = np.random.default_rng(0)
try:
    with BagWriter(path=path, storage=storage, compression=compression) as bag:
        for number in range(1000):
            msg = make_image(number, size=100)
            msg.data[:] = noise.integers(0, 256, msg.data.size)  # cannot be compressed
            bag.write("/a", msg, number, IMAGE)
            if number % 10 == 0:
                bag.flush()
except BagError as error:
    print(error)
"""


@fault(
    "The disk is full while a bag is written, MCAP or SQLite, plain or compressed (a file system of"
    " 1 MiB)",
    often="{cases} kinds of bags",
    happens="The writer is told so; what was written before is readable and in order, without a"
    " gap",
)
@pytest.mark.parametrize("kind", list(itertools.product(("mcap", "sqlite3"), ("none", "zstd"))))
def test_a_bag_on_a_file_system_that_is_full(run, tmp_path, monkeypatch, kind):
    monkeypatch.setenv("PYTHONPATH", with_support()["PYTHONPATH"])
    full, copy = tmp_path / "full", tmp_path / "copy"
    full.mkdir()
    with small_disk(full, MIB) as disk:
        command = (sys.executable, "-c", FILLER, str(full / "bag"), *kind)
        writer = run(*disk.command(*command))
        assert writer.wait() == 0, writer.output
        shutil.copytree(disk.outside / "bag", copy)
    reason = {"mcap": "No space left on device", "sqlite3": "database or disk is full"}
    assert writer.output == f"cannot write {full / 'bag'}: {reason[kind[0]]}\n"
    with open_bag(copy) as bag:
        seen = [record.time_ns for record in bag if record.message is not None]
    assert seen == list(range(len(seen)))
    assert len(seen) > 50


# Writes a bag until it is ended.
WRITER = """
import signal, sys, time
from bag_messages import IMAGE, make_image
from upsnet_ros.bags import BagWriter
signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background jobs ignore it
with BagWriter(path=sys.argv[1], storage=sys.argv[2]) as bag:
    for number in range(10**6):
        bag.write("/a", make_image(number, size=64), number, IMAGE)
        print("." if number == 0 else "", end="", flush=True)
        time.sleep(0.001)
"""


def numbers(path: Path) -> list[int]:
    """The times of what can be read of a bag; empty where it cannot be read yet."""
    with contextlib.suppress(BagError), open_bag(path) as bag:
        return [record.time_ns for record in bag if record.message is not None]
    return []


@fault(
    "SIGINT, SIGTERM or SIGKILL to a process that writes a bag, MCAP or SQLite, at a random moment",
    often="{times} times",
    happens="What the bag holds is readable and in order, without a gap",
)
@pytest.mark.parametrize("times", repeats(2, 60))
def test_a_bag_whose_writer_is_ended(run, tmp_path, monkeypatch, times):
    monkeypatch.setenv("PYTHONPATH", with_support()["PYTHONPATH"])
    moments = Moments(seed=2)
    for number in range(times):
        path = tmp_path / f"bag{number}"
        writer = run(sys.executable, "-c", WRITER, str(path), ("mcap", "sqlite3")[number // 3 % 2])
        writer.until_it_says(".")
        while not (before := numbers(path)):  # it flushes now and then
            assert writer.popen.poll() is None, writer.output
        end_by = ENDS[number % 3]
        time.sleep(moments.draw(0.0, 1.0, end_by))
        writer.signal(end_by)
        seen = numbers(path)
        assert seen == list(range(len(seen)))
        assert len(seen) >= len(before)


@fault(
    "SIGINT, SIGTERM or SIGKILL to `upsnet node` at a random moment from its start on, and a node"
    " started after it",
    often="{times} times",
    happens="No process is left; the next node answers, and of what killed ones left in /dev/shm it"
    " has removed the segments and taken over the ports",
)
@pytest.mark.parametrize("times", repeats(1, 12))
def test_a_node_that_is_ended(bench, start, times):
    moments = Moments(seed=3)
    camera = bench.other.create_publisher(Image, "/ended/image", BEST_EFFORT)
    labels = bench.collect("/ended/labels")
    mapped = set()
    for number in range(times):
        node = start(*NODE, "--ros-args", "-r", "__ns:=/ended")
        end_by = signal.SIGKILL if number == times - 1 else ENDS[number % 3]
        end = time.monotonic() + moments.draw(0, 8, end_by)
        bench.until(
            lambda end=end: time.monotonic() > end,
            "the moment",
            again=lambda: camera.publish(image(SECOND)),
            every=0.05,
        )
        if number == times - 1:  # at least this one is killed in full operation
            labels.clear()
            bench.show(camera, lambda: labels)
        members = family(node)
        mapped |= shared_memory(node.popen.pid)
        # 128 and more: typer's way to end where SIGINT comes while it still imports the command.
        assert node.signal(end_by) in (0, -end_by, 128 + end_by), node.output
        assert_no_process_is_left(members)
    assert mapped
    make_old(mapped)
    labels.clear()
    start(*NODE, "--ros-args", "-r", "__ns:=/ended")
    bench.show(camera, lambda: labels, "an answer of the node that was started again")
    left = abandoned(filter(is_of_one_domain, mapped))
    assert not left, f"left in /dev/shm: {left}"


def grown(path: Path, size: int):
    """Whether a file has so many bytes."""
    return path.exists() and path.stat().st_size > size


def demo(folder):
    """Node, recorder and player in full operation."""
    frames = folder / "frames"
    frames.mkdir()
    for number in range(200):
        cv2.imwrite(str(frames / f"{number}.png"), np.zeros((64, 128, 3), np.uint8))
    options = ["--frames", "200", "--scale", "64", "--out", str(folder / "out")]
    yield ["demo", str(frames), *options], lambda: grown(folder / "out/frames.csv", 150)
    assert assert_readable(folder / "out", folder / "out/bag", "/panoptic") >= 1
    assert cv2.VideoCapture(str(folder / "out/overlay.mp4")).read()[0]


def demo_that_draws(folder):
    """Its workers, which draw a street."""
    command = ["demo", "--frames", "10000", "--out", str(folder / "out")]
    yield command, lambda: any((folder / "out").rglob("*_leftImg8bit.png"))


def replay(folder):
    """A node, and the bag that the command itself writes."""
    drive = drive_bag.write_drive(folder / "drive", 300)
    options = [*NODE[1:], "--out", str(folder / "out")]
    yield ["replay", str(drive), *options], lambda: grown(folder / "out/bag/bag.mcap", 60_000)
    with open_bag(folder / "out/bag") as bag:
        assert "/panoptic/labels" in {record.topic for record in bag}


@fault(
    "SIGKILL to `upsnet demo`, as it draws and as it records, or to `upsnet replay`",
    often="{cases} cases",
    happens="The processes that it started notice, end well, and leave no segment of shared memory;"
    " what was recorded is readable",
)
@pytest.mark.parametrize("case", [demo, demo_that_draws, replay])
def test_a_command_that_is_killed_before_those_it_started(start, tmp_path, case):
    work = case(tmp_path)
    command, busy = next(work)
    process = start(*command)
    end = time.monotonic() + 120
    while not busy():
        assert process.popen.poll() is None, process.output
        assert time.monotonic() < end, process.output
        time.sleep(0.05)
    members = family(process)
    assert len(members) >= 2
    mapped = set().union(*(shared_memory(one.pid) for one in members))
    assert mapped or case is demo_that_draws
    assert process.signal(signal.SIGKILL) == -signal.SIGKILL
    assert_no_process_is_left(members)
    left = abandoned(file for file in mapped if "port" not in file.name)
    assert not left, f"left in /dev/shm: {left}"
    assert next(work, None) is None
