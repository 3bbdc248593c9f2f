"""Streams that misbehave: sizes that change, bursts, clocks that jump, ends that die or sleep."""

from __future__ import annotations

import os
import random
import signal
import sys
import time

import pytest
from child_path import with_support
from diagnostic_msgs.msg import DiagnosticStatus
from faults import fault, repeats
from leaks import Holdings
from node_bench import Bench, image
from rclpy.qos import QoSProfile
from rosgraph_msgs.msg import Clock

from upsnet_ros.processes.transport import PROFILE_VARIABLES, shared_memory_profile

pytestmark = pytest.mark.dds

SECOND = 1_000_000_000

# Sends images of 1024x2048 as fast as it can; told of the first one on stdout.
TORRENT = """
import sys, rclpy
from node_bench import image
from rclpy.qos import QoSProfile
rclpy.init()
node = rclpy.create_node("torrent")
camera = node.create_publisher(image().__class__, sys.argv[1], QoSProfile(depth=5))
msg = image(height=1024, width=2048)
while not camera.get_subscription_count():
    rclpy.spin_once(node, timeout_sec=0.05)
print("sending", flush=True)
while True:
    camera.publish(msg)
"""

# Subscribes to answers and never takes one.
SLEEPER = """
import sys, time, rclpy
from sensor_msgs.msg import Image
rclpy.init()
node = rclpy.create_node("sleeper")
for topic in ("labels", "unknown_mask", "overlay"):
    node.create_subscription(Image, f"{sys.argv[1]}/{topic}", print, 10)
print("subscribed", flush=True)
time.sleep(1e6)
"""


@pytest.fixture
def bench(domain, request):
    bench = Bench(domain, *getattr(request, "param", ()), namespace="streams")
    assert bench.node.start()
    yield bench
    bench.close()


@pytest.fixture
def other(run, monkeypatch):
    """Runs code in a process of its own, with this folder's helpers and our transport profile."""
    monkeypatch.setenv("PYTHONPATH", with_support()["PYTHONPATH"])
    for name in PROFILE_VARIABLES:
        monkeypatch.setenv(name, str(shared_memory_profile()))
    return lambda code, *arguments: run(sys.executable, "-c", code, *arguments)


def stamp(msg):
    return msg.header.stamp.sec * SECOND + msg.header.stamp.nanosec


def counts(bench, *names):
    told = bench.values()
    return [int(told.get(name, -1)) for name in names]


def answer_to(bench, camera, labels, msg):
    """Shows a frame until it is answered; the answer."""
    bench.until(camera.get_subscription_count, "the node")
    found = bench.until(
        lambda: [one for one in labels if stamp(one) == stamp(msg)],
        f"an answer to {msg.width}x{msg.height}",
        again=lambda: camera.publish(msg),
        every=5.0,  # rarely: on a busy machine each would wait for those that were shown before
    )
    return found[0]


SIZES = [(64, 48), (48, 64), (1, 1), (640, 480), (2, 700), (700, 2), (33, 31), (64, 48)]


@fault(
    "Frames that change their size in mid-stream, down to 1x1 and 700x2, tracking on",
    often="{cases} runs through 8 sizes",
    happens="Each is answered in its own size, none fails",
)
@pytest.mark.parametrize("bench", [("tracking:=true",), ("label_resize:=bilinear",)], indirect=True)
def test_sizes_that_change(bench):
    camera, labels = bench.camera(), bench.collect("labels")
    for number, (width, height) in enumerate(SIZES, 1):
        msg = image(number * SECOND, width=width, height=height)
        labels_msg = answer_to(bench, camera, labels, msg)
        assert (labels_msg.width, labels_msg.height) == (width, height)
    bench.until(lambda: counts(bench, "answered_frames")[0] >= len(SIZES), "the counts")
    assert counts(bench, "failed_frames", "rejected_frames") == [0, 0]


DEEP = tuple(
    f"qos_overrides./streams/image.subscription.{one}"
    for one in ("depth:=500", "reliability:=reliable")
)


@fault(
    "A burst of 500 frames at once",
    often="once",
    happens="The newest is answered, each of the others is counted as answered or dropped; memory"
    " comes back",
)
@pytest.mark.parametrize("bench", [DEEP], indirect=True)
def test_a_burst(bench):
    camera, labels = bench.camera(qos=QoSProfile(depth=500)), bench.collect("labels")
    bench.until(camera.get_subscription_count, "the node")
    camera.publish(image(SECOND))  # once: it is reliable, and each that is sent is counted
    bench.until(lambda: labels, "an answer")
    for number in range(500):
        camera.publish(image((10 + number) * SECOND))
    bench.until(lambda: any(stamp(one) == 509 * SECOND for one in labels), "the newest's answer")
    names = ("answered_frames", "total_dropped_frames")
    bench.until(lambda: sum(counts(bench, *names)) == 501, "the fate of all")
    assert counts(bench, "received_frames", "failed_frames") == [501, 0]


@fault(
    "A publisher of 1024x2048 images that is killed by SIGKILL in the midst of a message",
    often="{kills} kills at random moments",
    happens="Another camera's next frame is answered each time; descriptors and threads of the"
    " node come back",
)
@pytest.mark.parametrize("kills", repeats(1, 20))
def test_a_publisher_killed_in_mid_message(bench, other, kills):
    camera, labels = bench.camera(), bench.collect("labels")
    moments = random.Random(0)
    holdings = Holdings()
    for number in range(1, kills + 1):
        torrent = other(TORRENT, "/streams/image")
        bench.until(lambda torrent=torrent: "sending" in torrent.output, "images")
        end = time.monotonic() + moments.uniform(0, 0.5)
        bench.until(lambda end=end: time.monotonic() > end, "the moment", every=0.01)
        assert torrent.signal(signal.SIGKILL) == -signal.SIGKILL
        labels.clear()
        answer_to(bench, camera, labels, image(number * SECOND))
        holdings.sample()
    assert bench.node.state == "active"
    if kills >= 8:
        holdings.assert_bounded(growth=64 << 20)


@fault(
    "A reliable subscriber that is stopped (SIGSTOP) and never reads",
    often="{frames} frames",
    happens="Every frame is answered for the others; the node's memory stays bounded",
)
@pytest.mark.parametrize("frames", repeats(8, 300))
def test_a_subscriber_that_never_reads(bench, other, frames):
    camera, labels = bench.camera(), bench.collect("labels")
    sleeper = other(SLEEPER, "/streams")
    bench.until(lambda: "subscribed" in sleeper.output, "the subscriber")
    bench.until(lambda: bench.node.count_subscribers("/streams/overlay") == 1, "its discovery")
    os.kill(sleeper.popen.pid, signal.SIGSTOP)
    holdings = Holdings()
    try:
        for number in range(1, frames + 1):
            answer_to(bench, camera, labels, image(number * SECOND, height=240, width=320))
            labels.clear()
            holdings.sample()
        holdings.assert_bounded()
    finally:
        sleeper.popen.kill()


JUMPS = (100, 101, 5, 6, 2_000_000_000, 2_000_000_001, 0, 7, -5, 8)


@fault(
    "use_sim_time and a /clock that jumps back and far ahead, stamps with it, tracking on",
    often="10 times",
    happens="Each frame is answered with its own stamp, backward steps are counted, diagnostics"
    " go on",
)
@pytest.mark.parametrize("bench", [("use_sim_time:=true", "tracking:=true")], indirect=True)
def test_a_clock_that_jumps(bench):
    camera, labels = bench.camera(), bench.collect("labels")
    clock = bench.other.create_publisher(Clock, "/clock", 10)
    for number, second in enumerate(JUMPS):
        now = Clock()
        now.clock.sec = max(second, 0)
        clock.publish(now)
        msg = image(second * SECOND + number)
        assert stamp(answer_to(bench, camera, labels, msg)) == stamp(msg)
    known = len(bench.diagnostics)
    bench.until(lambda: len(bench.diagnostics) >= known + 3, "diagnostics")
    backwards, failed = counts(bench, "stamps_backwards", "failed_frames")
    assert backwards >= 3
    assert failed == 0
    assert bench.statuses()[-1].level <= DiagnosticStatus.WARN
