"""Messages with extreme values, of every type that our processes read."""

from __future__ import annotations

import csv
import itertools
import json
import re
import signal
import time

import cv2
import drive_bag
import numpy as np
import pytest
import rclpy
from builtin_interfaces.msg import Time
from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus, KeyValue
from extremes import extreme, extremes
from faults import fault
from node_bench import BEST_EFFORT, Bench, image
from rclpy.executors import SingleThreadedExecutor
from rclpy.node import Node
from rosgraph_msgs.msg import Clock
from sensor_msgs.msg import CompressedImage, Image
from std_msgs.msg import Header

from upsnet_ros.datasets.taxonomy import CITYSCAPES
from upsnet_ros.inference.frame import PanopticFrame
from upsnet_ros.messages.results import (
    instances_message,
    label_info_message,
    labels_message,
    unknown_mask_message,
)
from upsnet_ros.msg import PanopticInstanceArray, PanopticLabelInfo
from upsnet_ros.node.lifecycle import GuardedNode
from upsnet_ros.node.topics import label_info_qos, output_qos
from upsnet_ros.view.feed import Feed

pytestmark = pytest.mark.dds

HEIGHT, WIDTH = 48, 64
OUTPUTS = {"labels": Image, "instances": PanopticInstanceArray, "unknown_mask": Image}


@pytest.mark.parametrize("transport", ["raw", "compressed"])
@fault(
    "An Image, CompressedImage or Clock with extreme values in all fields (integers of either end,"
    " NaN, infinities, nothing, 64 KiB of text, times before 1970), with simulated time or without,"
    " tracking on",
    often="2 transports, 8 kinds of values",
    happens="Each is counted or refused; `use_sim_time` can be set over DDS; the next good frame is"
    " answered",
)
def test_a_node_that_is_sent_extremes(domain, transport):
    space = f"extreme_{transport}"
    bench = Bench(domain, f"image_transport:={transport}", "tracking:=true", namespace=space)
    try:
        assert bench.node.start()
        clock = bench.other.create_publisher(Clock, "/clock", 1)
        if transport == "raw":
            camera, good = bench.camera(), image()
            kind = Image
        else:
            camera, kind = (
                bench.camera("image/compressed", message=CompressedImage),
                CompressedImage,
            )
            _, encoded = cv2.imencode(".jpg", np.zeros((HEIGHT, WIDTH, 3), np.uint8))
            good = CompressedImage(format="jpeg", data=encoded.tobytes())
        labels = bench.collect("labels")

        def is_answered():
            labels.clear()
            bench.until(lambda: labels, "an answer", again=lambda: camera.publish(good))

        is_answered()
        for simulated in (False, True):
            assert bench.set(use_sim_time=simulated)[0]
            if simulated:
                bench.until(clock.get_subscription_count, "the node's subscription to /clock")
            for one, tick in zip(extremes(kind), extremes(Clock), strict=True):
                clock.publish(tick)
                camera.publish(one)
                is_answered()
        bench.until(
            lambda: bench.node.refusals["message on /clock"],
            "a refused time",
            again=lambda: clock.publish(Clock(clock=Time(sec=-1))),
        )
        bench.until(
            lambda: "refused message on /clock" in bench.values("model"),
            "a report of it",
        )
        assert bench.values()["failed_frames"] == "0"
        # A clock that has run away, beyond what a stamp can tell, is reported all the same.
        clock.publish(extreme(Clock, "most"))
        bench.diagnostics.clear()
        bench.until(bench.statuses, "diagnostics")
        is_answered()
    finally:
        bench.set(use_sim_time=False)
        bench.close()


def ours(number):
    """Extremes that look like a report of ours."""
    reports = extremes(DiagnosticArray)
    for report in reports:
        status = DiagnosticStatus(name="panoptic/upsnet: model", hardware_id="/panoptic/upsnet")
        text = ("nan", "-inf", "1e999", "9" * 400, "", "[/]", "x" * 10**5, "-1")[number]
        keys = ("received_frames", "latency_ms_p50", "box_ms_p99", "frame_rate_node")
        status.values = [KeyValue(key="state", value=text), KeyValue(key="enabled", value=text)]
        status.values = [*status.values, *(KeyValue(key=key, value=text) for key in keys)]
        camera = DiagnosticStatus(name="panoptic/upsnet: front", hardware_id="/panoptic/upsnet")
        camera.values = status.values
        report.status = [*report.status, status, camera]
    return reports


@fault(
    "A report on /diagnostics with extreme values in all fields, or one like ours with figures that"
    " are none; an overlay with extreme values",
    often="72 reports, 16 overlays",
    happens="`upsnet view` continues; what it sends is JSON, the next good overlay is shown",
)
def test_a_view_that_is_sent_extremes(domain):
    context = rclpy.Context()
    rclpy.init(context=context, domain_id=domain)
    viewer, upsnet = GuardedNode("viewer", context=context), Node("upsnet", context=context,
                                                                  namespace="panoptic")  # fmt: skip
    feed = Feed(viewer)
    executor = SingleThreadedExecutor(context=context)
    for node in (viewer, upsnet):
        executor.add_node(node)
    diagnostics = upsnet.create_publisher(DiagnosticArray, "/diagnostics", 100)
    overlays = {
        topic: upsnet.create_publisher(kind, topic, 10)
        for topic, kind in (
            ("/panoptic/overlay/compressed", CompressedImage),
            ("/panoptic/left/overlay", Image),
        )
    }

    def until(condition, again=lambda: None):
        end = time.monotonic() + 240
        while not (found := condition()):
            assert time.monotonic() < end
            again()
            executor.spin_once(timeout_sec=0.05)
        return found

    try:
        until(diagnostics.get_subscription_count)
        reports = [
            *extremes(DiagnosticArray),
            *(one for number in range(8) for one in ours(number)),
        ]
        for report in reports:
            before = feed.figures(after=-1, timeout=0)[0]
            diagnostics.publish(report)
            until(lambda before=before: feed.figures(after=-1, timeout=0)[0] != before)
            json.dumps(feed.figures(after=-1, timeout=0)[1], allow_nan=False)
        assert feed.figures(after=-1, timeout=0)[1]["nodes"]
        assert not viewer.refusals
        _, encoded = cv2.imencode(".jpg", np.zeros((HEIGHT, WIDTH, 3), np.uint8))
        good = {Image: image(), CompressedImage: CompressedImage(data=encoded.tobytes())}
        for topic, publisher in overlays.items():

            def look(topic=topic):
                try:
                    return feed.picture(topic, after=0, timeout=0)
                except KeyError:
                    return None

            until(publisher.get_subscription_count, again=look)
            for one in extremes(publisher.msg_type):
                publisher.publish(one)
                executor.spin_once(timeout_sec=0.05)
            picture = until(look, again=lambda one=publisher: one.publish(good[one.msg_type]))
            assert picture.data
    finally:
        executor.shutdown()
        viewer.destroy_node()
        upsnet.destroy_node()
        context.try_shutdown()


class Street:
    """Camera and node in one."""

    def __init__(self, probe, space, *, label_info=True):
        self.probe, self._space = probe, space
        node = probe.node
        self.camera = node.create_publisher(Image, f"{space}/image", BEST_EFFORT)
        self.outputs = {
            name: node.create_publisher(kind, f"{space}/{name}", output_qos())
            for name, kind in OUTPUTS.items()
        }
        self.label_info = node.create_publisher(
            PanopticLabelInfo, f"{space}/label_info", label_info_qos()
        )
        self._stamps = itertools.count(1)

    def tell_classes(self):
        self.label_info.publish(label_info_message(CITYSCAPES, Header()))

    def answer(self, header):
        labels = np.full((HEIGHT, WIDTH), 7, np.int32)
        frame = PanopticFrame(
            labels=labels, unknown=np.zeros(labels.shape, bool), instances=(), stuff=()
        )
        self.outputs["labels"].publish(labels_message(frame, header, encoding="16UC1"))
        self.outputs["instances"].publish(instances_message(frame, header))
        self.outputs["unknown_mask"].publish(unknown_mask_message(frame, header))

    def show(self, stamp_ns=None):
        stamp_ns = next(self._stamps) * 10**9 if stamp_ns is None else stamp_ns
        picture = image(stamp_ns, height=HEIGHT, width=WIDTH)
        self.camera.publish(picture)
        self.answer(picture.header)

    def send_extremes(self):
        """Sets that are joined, for the same kind of values gives the same stamp."""
        publishers = [self.camera, *self.outputs.values()]
        for ones in zip(*(extremes(one.msg_type) for one in publishers), strict=True):
            for publisher, one in zip(publishers, ones, strict=True):
                publisher.publish(one)


def label_infos():
    """Such as are none: extremes, duplicate ids, things before stuff, a class of id 0."""
    good = label_info_message(CITYSCAPES, Header())
    road, car = good.classes[0], next(one for one in good.classes if one.is_thing)
    lists = ([], [road, road], [car, road], [type(road)(id=0, name="void")])
    return [*extremes(PanopticLabelInfo), *(PanopticLabelInfo(classes=one) for one in lists)]


@fault(
    "label_info that is empty, has equal ids or things before stuff; labels, instances, masks and"
    " images with extreme values and times before 1970, to `upsnet record --bag`",
    often="12 kinds of label_info, 8 kinds of frames",
    happens="What makes no sense is counted and named; the good frames are recorded, those of 1969"
    " too",
)
def test_a_recorder_that_is_sent_extremes(probe, start, tmp_path):
    street = Street(probe, "/extreme_record")
    out, bag = tmp_path / "out", tmp_path / "bag"
    recorder = start(
        *("record", "--namespace", "/extreme_record", "--out", str(out), "--no-video"),
        *("--bag", str(bag)),
    )
    probe.until(street.label_info.get_subscription_count, "the recorder", recorder)
    for one in label_infos():
        street.label_info.publish(one)
    recorder.until_it_says("message on /extreme_record/label_info refused")
    # One that stands is the first of "most": three equal ids do not.
    probe.until(
        lambda: (street.tell_classes(), street.camera.get_subscription_count())[1],
        "its subscription to the camera",
        recorder,
    )
    street.send_extremes()
    for stamp_ns in (-1, -(2**31) * 10**9):
        probe.until(
            lambda stamp_ns=stamp_ns: (street.show(stamp_ns), rows(out, stamp_ns))[1],
            "a frame before 1970",
            recorder,
        )
    assert recorder.signal(signal.SIGINT) == 0, recorder.output
    # Each stamp may have been sent, and recorded, more than once.
    assert int(re.search(r"recorded (\d+) frames", recorder.output)[1]) >= 2
    assert "message on /extreme_record/label_info refused" in recorder.output
    assert "frames malformed" in recorder.output
    assert "Traceback" not in recorder.output


def rows(out, stamp_ns):
    table = out / "frames.csv"
    if not table.exists():
        return False
    seconds, nanoseconds = divmod(stamp_ns, 10**9)
    with table.open(newline="") as file:
        return any(row["stamp"] == f"{seconds}.{nanoseconds:09d}" for row in csv.DictReader(file))


@fault(
    "Answers with extreme values and times before 1970 to `upsnet play --lockstep` and"
    " `upsnet replay`",
    often="2 commands, 8 kinds of values",
    happens="They wait for the answers to their frames, and end well",
)
@pytest.mark.parametrize("command", ["play", "replay"])
def test_a_command_that_is_answered_by_extremes(probe, start, tmp_path, command):
    street = Street(probe, f"/extreme_{command}")
    street.tell_classes()
    heard = []
    if command == "play":
        topic = "/extreme_play/image"
        cv2.imwrite(str(tmp_path / "picture.png"), np.zeros((HEIGHT, WIDTH, 3), np.uint8))
        arguments = [str(tmp_path / "picture.png"), "--lockstep", "--image-topic", topic]
        arguments += ["--answer-topic", "/extreme_play/labels"]
    else:
        topic = drive_bag.CAMERA
        drive = drive_bag.write_drive(tmp_path / "drive", 1)
        arguments = [str(drive), "--no-node", "--namespace", "/extreme_replay"]
        arguments += ["--out", str(tmp_path / "out")]
    probe.node.create_subscription(Image, topic, heard.append, output_qos())
    process = start(command, *arguments)
    probe.until(lambda: heard, "a frame", process)
    street.send_extremes()
    for one in label_infos():
        street.label_info.publish(one)
    assert process.popen.poll() is None, process.output
    while process.popen.poll() is None:
        street.answer(heard[0].header)
        time.sleep(0.1)
    assert process.wait() == 0, process.output
    assert "Traceback" not in process.output
