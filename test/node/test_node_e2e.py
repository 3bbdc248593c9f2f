"""The node as its users run it: a process of its own, spoken to over DDS only."""

from __future__ import annotations

import array
import signal
import sys
import time

import cv2
import numpy as np
import pytest
from dds_fixtures import own_words
from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus
from forked_cli import ForkedCli
from lifecycle_msgs.msg import Transition
from lifecycle_msgs.srv import ChangeState, GetState
from rcl_interfaces.srv import DescribeParameters, SetParameters
from rclpy.parameter import Parameter
from rclpy.qos import (
    QoSDurabilityPolicy,
    QoSProfile,
    QoSReliabilityPolicy,
)
from sensor_msgs.msg import CompressedImage, Image

from upsnet_ros.datasets.taxonomy import CITYSCAPES
from upsnet_ros.messages.results import decode_mask
from upsnet_ros.msg import PanopticInstanceArray, PanopticLabelInfo
from upsnet_ros.node.parameter_info import Changes
from upsnet_ros.node.parameters import parameters

pytestmark = pytest.mark.dds

SMALL = ("--variant", "cityscapes-r18", "--scale", "64", "--device", "cpu", "--warm-up", "none")
RANDOM = (*SMALL, "--allow-random-weights", "--score-threshold", "0.0")
PLAIN = ("allow_random_weights:=true", "warm_up:=none", "variant:=cityscapes-r18", "device:=cpu")
RELIABLE = QoSProfile(depth=50, reliability=QoSReliabilityPolicy.RELIABLE)
BEST_EFFORT = QoSProfile(depth=50, reliability=QoSReliabilityPolicy.BEST_EFFORT)
LATCHED = QoSProfile(
    depth=1,
    reliability=QoSReliabilityPolicy.RELIABLE,
    durability=QoSDurabilityPolicy.TRANSIENT_LOCAL,
)
HEIGHT, WIDTH = 96, 160


def picture(seed=0):
    """Blocks of colours, uint8 (H, W, 3)."""
    blocks = np.random.default_rng(seed).integers(0, 256, (6, 10, 3), np.uint8)
    return cv2.resize(blocks, (WIDTH, HEIGHT), interpolation=cv2.INTER_NEAREST)


def image(stamp=(1_700_000_000, 123_456_789), pixels=None, frame_id="front camera/optical"):
    pixels = picture() if pixels is None else pixels
    height, width = pixels.shape[:2]
    msg = Image(height=height, width=width, encoding="bgr8", step=3 * width)
    msg.header.stamp.sec, msg.header.stamp.nanosec = stamp
    msg.header.frame_id = frame_id
    msg.data = array.array("B", pixels.tobytes())
    return msg


def by_stamp(messages, stamp):
    found = [one for one in messages if (one.header.stamp.sec, one.header.stamp.nanosec) == stamp]
    return found[0] if found else None


def pixels_of(msg):
    dtype = {"mono8": np.uint8, "16UC1": np.uint16, "32SC1": np.int32}[msg.encoding]
    return np.frombuffer(msg.data, dtype).reshape(msg.height, msg.width)


def values_of(diagnostics, ending):
    """Key and value of the newest status whose name ends so; empty before the first."""
    for report in reversed(diagnostics):
        for status in report.status:
            if status.name.endswith(ending):
                return {**{one.key: one.value for one in status.values}, "message": status.message}
    return {}


class Running:
    """A node process and what the probe hears of it."""

    def __init__(self, probe, process, name="/panoptic/upsnet"):
        self.probe, self.process, self.name = probe, process, name
        self.diagnostics = probe.collect("/diagnostics", DiagnosticArray, RELIABLE)

    def until(self, condition, what):
        return self.probe.until(condition, what, self.process)

    def until_state(self, label):
        self.until(lambda: self.values("model").get("state") == label, f"the node is {label}")

    def values(self, ending):
        mine = [report for report in self.diagnostics if report.status[0].hardware_id == self.name]
        return values_of(mine, ending)

    def publisher(self, topic, message=Image, qos=RELIABLE):
        publisher = self.probe.node.create_publisher(message, topic, qos)
        self.until(publisher.get_subscription_count, f"a subscriber of {topic}")
        return publisher

    def show(self, publisher, msg, answered, what):
        """Shows a frame until it is answered: the first one may be sent before both sides met."""
        shown = [time.monotonic()]
        publisher.publish(msg)

        def condition():
            if time.monotonic() > shown[-1] + 3:
                shown.append(time.monotonic())
                publisher.publish(msg)
            return answered()

        return self.until(condition, what)

    def collect(self, topic, message=Image, qos=RELIABLE):
        messages = self.probe.collect(topic, message, qos)
        self.until(lambda: self.probe.node.count_publishers(topic), f"a publisher of {topic}")
        return messages

    def set(self, **values):
        wished = [Parameter(name, value=value).to_parameter_msg() for name, value in values.items()]
        request = SetParameters.Request(parameters=wished)
        results = self.probe.call(SetParameters, f"{self.name}/set_parameters", request).results
        return [(one.successful, one.reason) for one in results]

    def change(self, transition):
        request = ChangeState.Request(transition=Transition(id=transition))
        return self.probe.call(ChangeState, f"{self.name}/change_state", request).success

    def state(self):
        response = self.probe.call(GetState, f"{self.name}/get_state", GetState.Request())
        return response.current_state.label


@pytest.fixture(scope="module")
def node(probe, start):
    """One node for the tests that need nothing special, active."""
    options = ("--publish-unknown-score", "--unknown-min-area", "1")
    options += ("--stale-timeout", "600")  # between two frames, however busy the machine is
    running = Running(probe, start("node", *RANDOM, *options))
    running.until_state("active")
    return running


@pytest.fixture(scope="module")
def camera(node):
    return node.publisher("/panoptic/image")


IMAGES = (
    "labels",
    "unknown_mask",
    "unknown_score",
    "semantic",
    "confidence",
    "color_mask",
    "overlay",
)


@pytest.fixture(scope="module")
def answer(node, camera):
    """Every output for one frame, by topic."""
    heard = {topic: node.collect(f"/panoptic/{topic}") for topic in IMAGES}
    heard["instances"] = node.collect("/panoptic/instances", PanopticInstanceArray)
    heard["overlay/compressed"] = node.collect("/panoptic/overlay/compressed", CompressedImage)
    node.show(camera, image(), lambda: all(heard.values()), "an answer on every topic")
    return {topic: messages[0] for topic, messages in heard.items()}


def test_every_output_carries_the_cameras_header(answer):
    assert len(answer) == 9
    for topic, msg in answer.items():
        assert msg.header == image().header, topic


def test_labels_instances_and_unknown_mask_of_a_frame_agree(answer):
    labels = pixels_of(answer["labels"])
    unknown = pixels_of(answer["unknown_mask"])
    assert labels.shape == unknown.shape == (HEIGHT, WIDTH)
    assert set(np.unique(unknown)) <= {0, 255}
    assert (labels[unknown == 255] == 0).all()
    instances = answer["instances"]
    segments = [*instances.instances, *instances.stuff]
    assert instances.instances, "random weights find something at threshold 0"
    assert sorted(one.id for one in segments) == sorted(set(np.unique(labels)) - {0})
    for one in segments:
        mask = np.zeros(labels.shape, np.bool_)
        roi = one.roi
        mask[roi.y_offset :, roi.x_offset :][: roi.height, : roi.width] = decode_mask(one)
        np.testing.assert_array_equal(mask, labels == one.id)
        assert one.area == mask.sum()
        assert one.id == (one.class_id * 1000 + one.instance_id if one.is_thing else one.class_id)
    assert sum(one.area for one in instances.unknown_regions) == (unknown == 255).sum()
    assert all(0.5 <= one.mean_score <= 1 for one in instances.unknown_regions)


def test_the_other_pictures_of_a_frame(answer):
    known = {one.id for one in CITYSCAPES.classes}
    assert set(np.unique(pixels_of(answer["semantic"]))) <= known | {255}
    score, unknown = pixels_of(answer["unknown_score"]), pixels_of(answer["unknown_mask"])
    assert score[unknown == 255].min(initial=255) > 127
    labels, colors = pixels_of(answer["labels"]), answer["color_mask"]
    shown = np.frombuffer(colors.data, np.uint8).reshape(HEIGHT, WIDTH, 3)
    assert colors.encoding == "rgb8"
    for label in np.unique(labels):
        class_id = label // 1000 if label >= 1000 else label
        color = CITYSCAPES.by_id[class_id].color if class_id else (0, 0, 0)
        assert (shown[labels == label] == color).all()
    overlay = answer["overlay"]
    assert (overlay.encoding, overlay.height, overlay.width) == ("rgb8", HEIGHT, WIDTH)
    drawn = np.frombuffer(overlay.data, np.uint8).reshape(HEIGHT, WIDTH, 3)
    jpeg = cv2.imdecode(np.frombuffer(answer["overlay/compressed"].data, np.uint8), 1)
    assert np.abs(drawn[:, :, ::-1].astype(int) - jpeg).mean() < 30


def test_who_joins_late_learns_what_labels_mean(node, answer):
    label_info = node.collect("/panoptic/label_info", PanopticLabelInfo, LATCHED)
    node.until(lambda: label_info, "label_info")
    assert label_info[0].dataset == "cityscapes"
    names = {one.id: one.name for one in label_info[0].classes}
    assert names == {one.id: one.name for one in CITYSCAPES.classes}


def test_diagnostics_say_in_every_message_that_the_weights_are_random(node, answer):
    node.until(lambda: node.values("camera").get("answered_frames", "0") != "0", "its count")
    for report in node.diagnostics:
        active = [one for one in report.status if "unconfigured" not in one.message]
        assert all("random weights: results mean nothing" in one.message for one in active)
        assert all(one.level >= DiagnosticStatus.WARN for one in active)
    model, camera = node.values("model"), node.values("camera")
    assert (model["variant"], model["device"], model["random_weights"]) == (
        "cityscapes-r18",
        "cpu",
        "true",
    )
    stages = ("decode", "queue", "preprocess", "backbone", "semantic", "panoptic", "publish")
    assert all(float(model[f"{stage}_ms_p99"]) > 0 for stage in stages)
    assert camera["state"] == "active"
    assert float(camera["latency_ms_p50"]) > 0
    assert float(camera["current_delay_from_realtime_ms"]) > 1e9, "the stamp is years old"


def test_of_a_burst_the_newest_frame_is_answered_and_the_others_are_counted(node, camera, answer):
    labels = node.collect("/panoptic/labels")
    stamp = (1_700_000_099, 0)
    node.show(camera, image(stamp), lambda: by_stamp(labels, stamp), "an answer on this topic")
    labels.clear()
    stamps = []
    small = picture()[:24, :32].copy()  # all of them together fit into the transport's buffers

    def burst_overtakes_itself():
        # Again if need be: on a busy machine the transport itself may have let frames go.
        for _ in range(10):
            stamps.append((1_700_000_100, len(stamps) + 1))
            camera.publish(image(stamps[-1], small))
        return int(node.values("camera")["total_dropped_frames"]) > 0

    node.until(burst_overtakes_itself, "dropped frames in the diagnostics")
    newest = image(stamps[-1], small)
    node.show(camera, newest, lambda: by_stamp(labels, stamps[-1]), "an answer to the newest frame")
    order = [one.header.stamp.nanosec for one in labels if one.header.stamp.sec == 1_700_000_100]
    assert 1 <= len(order) < len(stamps)
    assert order == sorted(order), "answers keep the order of the frames"

    def each_frame_is_accounted_for():
        counts = {key: int(text) for key, text in node.values("camera").items() if "_frames" in key}
        ends = ("answered_frames", "total_dropped_frames", "rejected_frames", "failed_frames")
        return counts["received_frames"] == sum(counts[end] for end in ends)

    node.until(each_frame_is_accounted_for, "diagnostics in which each frame has an end")


def test_a_malformed_frame_is_reported_and_the_next_good_one_answered(node, camera, answer):
    labels = node.collect("/panoptic/labels")
    broken = image((1_700_000_200, 1))
    broken.step = 7

    def rejected():
        told = node.values("camera")
        return told["state"] == "rejected" and told

    told = node.show(camera, broken, rejected, "the rejection in the diagnostics")
    assert int(told["rejected_frames"]) >= 1
    assert told["last_rejection"] == "step 7 is smaller than a row's 480 bytes"
    assert "image rejected: step 7" in node.process.output
    other_size = picture()[:50, :70].copy()
    stamp = (1_700_000_200, 2)
    msg = node.show(camera, image(stamp, other_size), lambda: by_stamp(labels, stamp), "an answer")
    assert (msg.height, msg.width) == other_size.shape[:2]
    node.until(lambda: node.values("camera")["state"] == "active", "the camera is active again")


def test_parameters_while_running(node, camera, answer):
    assert node.set(score_threshold=0.99) == [(True, "")]
    instances = node.collect("/panoptic/instances", PanopticInstanceArray)
    stamp = (1_700_000_300, 1)
    msg = node.show(camera, image(stamp), lambda: by_stamp(instances, stamp), "an answer")
    assert len(msg.instances) < len(answer["instances"].instances)
    assert all(one.score > 0.99 for one in msg.instances)

    ((taken, reason),) = node.set(score_threshold=2.0)
    assert not taken and "out of range" in reason
    ((taken, reason),) = node.set(device="cuda")
    assert (taken, reason) == (False, "device is read at configure: clean the node up first")
    ((taken, reason),) = node.set(cameras=["front"])
    assert not taken and "read-only" in reason
    assert node.set(score_threshold=0.0) == [(True, "")]


def test_parameters_are_described(node):
    names = [info.name for info in parameters()]
    request = DescribeParameters.Request(names=names)
    described = node.probe.call(DescribeParameters, f"{node.name}/describe_parameters", request)
    for info, one in zip(parameters(), described.descriptors, strict=True):
        assert one.description == info.text
        assert one.read_only == (info.changes is Changes.NEVER)


def test_a_lifecycle_manager_can_run_two_compressed_cameras(probe, start):
    override = "qos_overrides./robot/rear/image/compressed.subscription.reliability:=best_effort"
    process = start(
        *("node", *SMALL, "--no-autostart"),
        *("--cameras", "front", "--cameras", "rear"),
        *("--image-transport", "compressed", "--image-reliability", "reliable"),
        *("--ros-args", "-r", "__ns:=/robot", "-p", override, "-p", "weights:=/no/such.pth"),
    )
    node = Running(probe, process, "/robot/upsnet")
    node.until_state("unconfigured")

    assert not node.change(Transition.TRANSITION_CONFIGURE)
    assert node.state() == "unconfigured"
    assert "configure failed: there is no weights file /no/such.pth" in process.output
    assert node.set(weights="") == [(True, "")]
    assert node.change(Transition.TRANSITION_CONFIGURE)
    assert process.output.count("the bundled weights were trained on synthetic") == 1
    assert probe.node.count_subscribers("/robot/front/image/compressed") == 0
    assert node.change(Transition.TRANSITION_ACTIVATE)
    assert node.state() == "active"

    heard = {name: node.collect(f"/robot/{name}/labels") for name in ("front", "rear")}
    cameras = {
        name: node.publisher(f"/robot/{name}/image/compressed", CompressedImage)
        for name in ("front", "rear")
    }
    (front,) = probe.node.get_subscriptions_info_by_topic("/robot/front/image/compressed")
    (rear,) = probe.node.get_subscriptions_info_by_topic("/robot/rear/image/compressed")
    assert front.qos_profile.reliability == QoSReliabilityPolicy.RELIABLE
    assert rear.qos_profile.reliability == QoSReliabilityPolicy.BEST_EFFORT

    def jpeg(nanosec, name):
        msg = CompressedImage(format="bgr8; jpeg compressed bgr8")
        msg.header.stamp.sec, msg.header.stamp.nanosec, msg.header.frame_id = 5, nanosec, name
        msg.data = array.array("B", cv2.imencode(".jpg", picture())[1].tobytes())
        return msg

    for name, publisher in cameras.items():
        node.show(publisher, jpeg(1, name), lambda name=name: heard[name], f"an answer to {name}")
        assert heard[name][0].header == jpeg(1, name).header
    node.until(lambda: node.values("rear").get("answered_frames", "0") != "0", "its diagnostics")

    assert node.change(Transition.TRANSITION_DEACTIVATE)
    node.until(lambda: cameras["front"].get_subscription_count() == 0, "the node stops listening")
    assert node.change(Transition.TRANSITION_CLEANUP)
    assert node.state() == "unconfigured"
    assert node.change(Transition.TRANSITION_CONFIGURE)
    assert node.change(Transition.TRANSITION_ACTIVATE)
    node.until(cameras["front"].get_subscription_count, "the node listens again")
    again = jpeg(2, "front")
    node.show(cameras["front"], again, lambda: by_stamp(heard["front"], (5, 2)), "a late answer")

    probe.node.create_publisher(CompressedImage, "/robot/front/image/compressed", BEST_EFFORT)
    node.until(lambda: "/probe" in node.values("front").get("qos_mismatch", ""), "the mismatch")
    told = node.values("front")["qos_mismatch"]
    assert told == "/probe: best effort publisher and reliable subscription"
    assert told in process.output

    assert process.signal(signal.SIGINT) == 0


# The node's own main, with a word on stdout when it begins a frame.
TELLING = """
import sys
from upsnet_ros.node import camera, node
decode = camera.Camera.decode
def tell(self, arrival, **options):
    print("started", arrival.message.header.stamp.sec, flush=True)
    return decode(self, arrival, **options)
camera.Camera.decode = tell
sys.exit(node.main(sys.argv[1:]))
"""
#: The same, where that frame waits for a file, and the end for that frame.
HELD = (
    """
import os, time
from pathlib import Path
from upsnet_ros.node import camera_image, node
node._STOP_SECONDS = 200.0
read = camera_image.CameraImage.read
def hold(arrival, **options):
    while arrival.message.header.stamp.sec == 7 and not Path(os.environ["GO_ON"]).exists():
        time.sleep(0.01)
    return read(arrival, **options)
camera_image.CameraImage.read = hold
"""
    + TELLING
)
ENDLESS = (
    """
import time
from upsnet_ros.inference.predictor import Predictor
Predictor.compute_batch = lambda *frame, **options: time.sleep(1e6)
"""
    + TELLING
)


def run_node(run, code, namespace):
    arguments = [part for one in (*PLAIN, "scale:=64") for part in ("-p", one)]
    return run(sys.executable, "-c", code, "--ros-args", *arguments, "-r", f"__ns:={namespace}")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_during_a_frame_ends_the_node_when_it_has_answered(
    probe, run, number, tmp_path, monkeypatch
):
    namespace, go_on = f"/ended_by_{number.name.lower()}", tmp_path / "go_on"
    monkeypatch.setenv("GO_ON", str(go_on))
    process = run_node(run, HELD, namespace)
    node = Running(probe, process, f"{namespace}/upsnet")
    labels = node.collect(f"{namespace}/labels")
    camera = node.publisher(f"{namespace}/image")
    node.show(camera, image((6, 0)), lambda: by_stamp(labels, (6, 0)), "a first answer")
    node.show(camera, image((7, 0)), lambda: "started 7" in process.output, "the frame begins")
    process.popen.send_signal(number)
    process.popen.send_signal(number)  # whoever stops a node may do so twice
    assert process.popen.poll() is None
    go_on.touch()
    probe.until(lambda: process.popen.poll() is not None, "the process ends")
    assert process.popen.returncode == 0, process.output
    assert "Traceback" not in process.output
    probe.until(lambda: by_stamp(labels, (7, 0)), "the result of the frame that was started")


def test_a_signal_ends_the_node_even_where_a_frame_takes_forever(probe, run):
    process = run_node(run, ENDLESS, "/endless")
    node = Running(probe, process, "/endless/upsnet")
    camera = node.publisher("/endless/image")
    node.show(camera, image((7, 0)), lambda: "started 7" in process.output, "inference begins")
    assert process.signal(signal.SIGINT) == 0
    assert "the last frames take longer than 4 s: not waiting" in process.output


REFUSED = [
    (
        ("--variant", "cityscapes-r50"),
        "configure failed: no weights: set the parameter weights to a name",
    ),
    (("--weights", "/no/such.pth"), "file /no/such.pth"),
    (("--ros-args", "-p", "weights:=/no/such.pth"), "configure failed: there is no weights file"),
    (("--weights", __file__), "is not a file of weights"),
    (("--ros-args", "-p", f"weights:={__file__}"), "configure failed: "),
    (("--variant", "cityscapes-r34"), "variant must be one of auto, cityscapes-r50, "),
    (("--scale", "20"), "scale must be at least 32, or 0, not 20"),
    (("--score-threshold", "1.5"), "score_threshold must be -1.0 to 0.99"),
    (("--allow-random-weights", "--device", "cuda:99"), "device 'cuda:99'"),
    (
        ("--ros-args", "-p", "score_threshold:=high"),
        "score_threshold must be of type double",
    ),
    (("--cameras", "front", "--ros-args", "-p", "front.topic:='a b'"), "topic name must not"),
    (
        ("--ros-args", "--params-file", "/no.yaml"),
        "cannot read --params-file /no.yaml: No",
    ),
    (("--ros-args", "-p", "scale"), "cannot read parameter override rule: '-p scale'"),
]


def without_information(output):
    return [line for line in own_words(output).splitlines() if "[INFO]" not in line]


@pytest.fixture(scope="module")
def forked(domain, tmp_path_factory):
    """``upsnet ARGUMENTS`` in a process that need not import torch and ROS first."""
    modules = ["torch", "upsnet_ros.cli.node", "upsnet_ros.node.node"]
    with ForkedCli(tmp_path_factory.mktemp("forked"), modules) as forked:
        yield forked


@pytest.mark.parametrize(("options", "says"), REFUSED)
def test_a_node_that_cannot_start_says_why_in_one_line(forked, options, says):
    code, output = forked("node", *options)
    assert code == 1
    lines = without_information(output)
    assert len(lines) == 1, output
    assert says in lines[0]


# One that fails in configure, and one that rcl refuses.
@pytest.mark.parametrize(("options", "says"), [REFUSED[0], REFUSED[-1]])
def test_so_does_a_process_of_its_own(start, options, says):
    process = start("node", *options)
    assert process.wait() == 1
    lines = without_information(process.output)
    assert len(lines) == 1, process.output
    assert says in lines[0]
