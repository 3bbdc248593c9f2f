"""What the node's log and diagnostics say of what is wrong around it, and of what it does."""

from __future__ import annotations

import os
import signal
import sys
import time
from pathlib import Path

import psutil
import pytest
import rclpy
from node_bench import Bench, image
from rclpy.duration import Duration
from rclpy.lifecycle import TransitionCallbackReturn
from rclpy.node import Node
from rclpy.qos import (
    QoSDurabilityPolicy,
    QoSLivelinessPolicy,
    QoSProfile,
    QoSReliabilityPolicy,
)
from sensor_msgs.msg import CompressedImage, Image

from upsnet_ros.msg import PanopticInstanceArray
from upsnet_ros.node import camera as camera_module
from upsnet_ros.ops import dispatch

pytestmark = pytest.mark.dds

SUCCESS = TransitionCallbackReturn.SUCCESS


@pytest.fixture(scope="module", autouse=True)
def _impatient():
    """Says at once what it would say after some seconds."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(camera_module, "QUIET_SECONDS", 0.0)
        yield


@pytest.fixture(scope="module")
def active(domain):
    """One node for the tests that need nothing special, active."""
    bench = Bench(domain, namespace="says")
    assert bench.node.start()
    yield bench
    bench.close()


OUTPUTS = {
    "durability": {"durability": QoSDurabilityPolicy.TRANSIENT_LOCAL},
    "deadline": {"deadline": Duration(seconds=1)},
    "lease duration": {"liveliness_lease_duration": Duration(seconds=1)},
    "liveliness": {"liveliness": QoSLivelinessPolicy.MANUAL_BY_TOPIC},
}
WORDS = {"durability": "transient local", "liveliness": "manual by topic"}


@pytest.mark.parametrize("policy", OUTPUTS)
def test_the_policy_that_does_not_match_is_named(active, policy, capfd):
    topic = "/says/labels"
    profile = QoSProfile(depth=1, **OUTPUTS[policy])
    one = active.other.create_subscription(Image, topic, lambda _: None, profile)
    key, word = f"qos_mismatch {topic}", WORDS.get(policy, policy)
    try:
        active.until(lambda: word in active.values("model").get(key, ""), f"{policy} is named")
        told = active.values("model")[key]
        assert told.startswith("/other: ")
        assert f"{topic}: incompatible QoS, so no message passes: {told}" in capfd.readouterr().err
    finally:
        active.other.destroy_subscription(one)
    active.until(lambda: key not in active.values("model"), "it is gone")


def test_so_is_that_of_a_camera(bench, capfd):
    one = bench("image_reliability:=reliable")
    assert one.node.start()
    one.camera(qos=QoSProfile(depth=1, reliability=QoSReliabilityPolicy.BEST_EFFORT))
    one.until(lambda: "qos_mismatch" in one.values("camera"), "the mismatch")
    expected = "/other: best effort publisher and reliable subscription"
    assert one.values("camera")["qos_mismatch"] == expected
    assert one.values("camera")["message"].startswith(f"waiting: incompatible QoS: {expected}")
    assert expected in capfd.readouterr().err


def test_each_reason_for_silence_is_told_once_and_then_the_first_image(domain, bench, capfd):
    one = bench()
    assert one.node.start()

    def until_it_is(text):
        one.until(lambda: text in one.values("camera").get("message", ""), text)

    until_it_is("waiting: /in_process/image has no publisher")
    context = rclpy.Context()  # of its own, for a process has one type of message on a topic
    rclpy.init(context=context, domain_id=domain)
    wrong = Node("wrong", context=context)
    wrong.create_publisher(CompressedImage, "/in_process/image", 1)
    until_it_is("waiting: /in_process/image carries sensor_msgs/msg/CompressedImage")
    wrong.destroy_node()
    context.try_shutdown()
    camera, labels = one.camera(), one.collect("labels")
    until_it_is("waiting: no image from 1 publisher of /in_process/image (/other)")
    one.show(camera, lambda: labels)
    one.show(camera, lambda: len(labels) > 1)
    log = capfd.readouterr().err
    assert log.count("no image yet: /in_process/image has no publisher") >= 1
    assert log.count("no image yet: /in_process/image carries") == 1
    assert log.count("no image yet: no image from 1 publisher") == 1
    assert log.count("/in_process/image: first image: 64x48, rgb8\n") == 1
    assert log.count("/in_process/image: first result after ") == 1


def test_a_camera_that_stops_is_told(bench, capfd):
    one = bench()
    camera, labels = one.camera(), one.collect("labels")
    assert one.node.start()
    one.show(camera, lambda: labels)
    one.other.destroy_publisher(camera)
    assert one.set(stale_timeout=0.1) == (True, "")
    one.until(lambda: one.values("camera")["state"] == "stale", "the camera is stale")
    one.until(lambda: one.values("camera")["publishers"] == "0", "the publisher is gone")
    # Timers of their own look at the graph and report, in an order that the moment decides.
    one.until(lambda: "images stopped: " in capfd.readouterr().err, "a word in the log")


def test_a_second_node_of_the_name_is_told_by_both(bench, capfd):
    one, other = bench(), bench()
    told = "there is another node named /in_process/upsnet"
    text = []

    def said():
        text.append(capfd.readouterr().err)
        return "".join(text).count(told) == 2

    one.until(said, "both say so", again=lambda: other.executor.spin_once(timeout_sec=0), every=0)


def test_every_transition_is_logged(bench, capfd):
    one = bench("variant:=cityscapes-r18", "device:=cpu", "precision:=fp32")
    for step in ("configure", "activate", "deactivate", "cleanup", "shutdown"):
        assert getattr(one.node, f"trigger_{step}")() is SUCCESS
    log = capfd.readouterr().err
    words = "loading random weights (variant cityscapes-r18, device cpu, precision fp32)"
    places = [
        log.index(text)
        for text in (
            f"configuring: {words}",
            "configured: cityscapes-r18, cpu, fp32, random weights",
            "active: listening to /in_process/image",
            "deactivated: ",
            "cleaned up: ",
            "shut down",
        )
    ]
    assert places == sorted(places)


def test_whoever_is_stopped_while_loading_never_becomes_active(bench):
    one = bench()
    assert not one.node.start(stopped=lambda: one.node.state == "inactive")
    assert one.node.state == "inactive"


# The node's own main, with a network that loads for ever.
LOADING = """
import sys, time
from upsnet_ros.node import model, node
model.load_predictor = lambda *_: time.sleep(1e6)
sys.exit(node.main(sys.argv[1:]))
"""


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_a_node_that_is_loading(run, number):
    arguments = ["--ros-args", "-r", "__ns:=/loading", "-p", "weights:=/no/such/weights.pth"]
    process = run(sys.executable, "-c", LOADING, *arguments)
    process.until_it_says("configuring: loading /no/such/weights.pth (variant auto")
    assert process.signal(number) == 0
    assert "stopped while loading" in process.output
    for text in ("active", "configured", "Traceback"):
        assert text not in process.output


def test_a_kernel_that_failed_is_named(active, monkeypatch):
    monkeypatch.setattr(dispatch, "_failures", {"nms": "self-test: 3 % of the values are wrong"})
    told = lambda: active.values("model").get("kernel_failed nms", "")  # noqa: E731
    active.until(lambda: "self-test: 3 %" in told(), "diagnostics name it")
    monkeypatch.undo()
    active.until(lambda: active.statuses() and not told(), "it is gone")


# The same while a child tests a GPU that this process believes in, in which nothing can be ended.
TESTING = """
import sys
import torch
from upsnet_ros.inference import self_test
from upsnet_ros.node import model, node

def load_predictor(*_):
    request = self_test.Request(device="cpu", variant="", precision="fp32")
    self_test.run(request, module="faulty_steps")

model.load_predictor = load_predictor
sys.exit(node.main(sys.argv[1:]))
"""


def test_ctrl_c_during_the_self_test_leaves_no_child(run, tmp_path, monkeypatch):
    log = tmp_path / "children"
    monkeypatch.setenv("FAULTS", '[["nms", "hangs_deaf"]]')
    monkeypatch.setenv("CHILDREN", str(log))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    support = str(Path(__file__).parents[1] / "support")
    monkeypatch.setenv("PYTHONPATH", f"{support}{os.pathsep}{os.environ.get('PYTHONPATH', '')}")
    arguments = ["--ros-args", "-r", "__ns:=/testing", "-p", "weights:=/no/such/weights.pth"]
    process = run(sys.executable, "-c", TESTING, *arguments)
    while not log.exists():
        time.sleep(0.02)
    children = psutil.Process(process.popen.pid).children(recursive=True)
    assert children
    time.sleep(0.5)  # it becomes deaf
    assert process.signal(signal.SIGINT) == 0
    # By itself such a child would end a minute after its parent.
    _, left = psutil.wait_procs(children, timeout=20)
    assert not left
    assert "stopped while loading" in process.output


def test_autostart_false_is_told(start):
    process = start("node", "--no-autostart", "--ros-args", "-r", "__ns:=/waits")
    process.until_it_says("autostart is false: waiting to be configured")
    assert "ros2 lifecycle set /waits/upsnet configure" in process.output
    assert process.signal(signal.SIGINT) == 0


OPTIONAL = {
    "labels": (False, False),
    "instances": (True, False),
    "unknown_score": (True, False),
    "semantic": (False, True),
    "confidence": (False, True),
    "color_mask": (False, False),
}


@pytest.mark.parametrize("topic", OPTIONAL)
def test_only_what_somebody_subscribes_to_is_computed(domain, bench, topic):
    one = bench("publish_unknown_score:=true")
    assert one.node.start()
    kind = PanopticInstanceArray if topic == "instances" else Image
    camera, heard = one.camera(), one.collect(topic, kind)
    one.show(camera, lambda: heard)
    head = one.node.model.predictor.settings().head
    assert (head.unknown_score, head.confidence) == OPTIONAL[topic]


def test_an_image_of_another_time_is_no_first_one(bench, capfd):
    """Every activation says it again, since the camera may be another one."""
    one = bench()
    camera, labels = one.camera(), one.collect("labels")
    for second in (1, 2):  # results of the first round may still arrive in the second one
        assert one.node.start() if one.node.state == "unconfigured" else one.node.trigger_activate()
        one.until(
            lambda second=second: any(label.header.stamp.sec == second for label in labels),
            "labels",
            again=lambda second=second: camera.publish(image(second * 1_000_000_000)),
        )
        assert one.node.trigger_deactivate() is SUCCESS
    assert capfd.readouterr().err.count("first image: 64x48, rgb8") == 2
