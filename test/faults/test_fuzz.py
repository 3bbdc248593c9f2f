"""Messages that may be anything: no crash, no hang, no leak, and both ways to read them agree."""

from __future__ import annotations

import fuzz
import numpy as np
import pytest
from faults import fault, repeats
from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis import strategies as st
from leaks import Holdings
from node_bench import Bench, image
from rclpy.qos import QoSProfile
from sensor_msgs.msg import CompressedImage, Image

from upsnet_ros.errors import ImageError
from upsnet_ros.messages.cdr_image import read_compressed_image, read_image
from upsnet_ros.messages.images import to_bgr


def search(messages, strategy, check, *, each=1, portion=50):
    """Calls ``check`` with so many messages, and checks what the process holds.

    Args:
        messages: How many at least.
        strategy: Draws what ``check`` takes.
        check: Raises where something is wrong.
        each: Messages in a value of the strategy.
        portion: Values between two looks.
    """
    holdings = Holdings()
    seen = []

    def look(value):
        seen.append(1)
        check(value)

    for number in range(messages // each // portion):
        # Hypothesis remembers what it drew; a new search for each portion lets that go.
        options = settings(
            max_examples=portion,
            database=None,
            phases=[Phase.generate, Phase.shrink],
            suppress_health_check=list(HealthCheck),
        )
        seed(number)(options(given(strategy)(lambda value: look(value))))()
        holdings.sample()
    assert len(seen) * each >= messages
    holdings.assert_bounded()


def outcome(read):
    """The pixels, or why there are none."""
    try:
        pixels = read()
    except ImageError as error:
        assert str(error)
        return str(error)
    assert pixels.dtype == np.uint8
    assert pixels.ndim == 3 and pixels.shape[2] == 3
    return pixels.shape, pixels.tobytes()


def both_ways(read):
    """A check of a message: as an object, as its bytes, and those bytes damaged."""

    def check(drawn):
        msg, wire, damaged = drawn
        as_object = outcome(lambda: to_bgr(msg))
        assert outcome(lambda: to_bgr(read(wire))) == as_object
        found = outcome(lambda: to_bgr(read(damaged)))
        if damaged == wire:
            assert found == as_object

    return check


@fault(
    "An Image of any fields, read as a message object, from its bytes, and from its bytes after"
    " damage",
    often="{messages} messages",
    happens="Both ways give the same pixels or the same reason; no crash, no growth of memory or"
    " descriptors",
)
@pytest.mark.parametrize("messages", repeats(300, 12_000))
def test_images_that_may_be_anything(messages):
    search(messages, fuzz.wires(fuzz.images()), both_ways(read_image))


@fault(
    "A CompressedImage of a JPEG, PNG or TIFF, cut, flipped, overwritten or stretched",
    often="{messages} messages",
    happens="As above",
)
@pytest.mark.parametrize("messages", repeats(300, 8_000))
def test_compressed_images_that_may_be_anything(messages):
    search(messages, fuzz.wires(fuzz.compressed_images()), both_ways(read_compressed_image))


@pytest.fixture
def bench(domain):
    inputs = ("plain/image", "packed/image/compressed")
    every_message_arrives = [
        f"qos_overrides./fuzzed/{name}.subscription.{policy}"
        for name in inputs
        for policy in ("depth:=100", "reliability:=reliable")
    ]
    bench = Bench(
        domain,
        "cameras:=[plain, packed]",
        "packed.image_transport:=compressed",
        "tracking:=true",
        *every_message_arrives,
        namespace="fuzzed",
    )
    assert bench.node.start()
    yield bench
    bench.close()


_GOOD = 123  # nanoseconds of the stamps of frames that have to be answered
_FATES = ("answered_frames", "total_dropped_frames", "rejected_frames", "failed_frames")


class Sender:
    """Sends to both cameras of the node, and counts."""

    def __init__(self, bench):
        self._bench = bench
        reliable = QoSProfile(depth=100)
        self._cameras = {
            Image: bench.camera("plain/image", qos=reliable),
            CompressedImage: bench.camera(
                "packed/image/compressed", qos=reliable, message=CompressedImage
            ),
        }
        self._labels = bench.collect("plain/labels")
        self._sent = dict.fromkeys(self._cameras, 0)
        for camera in self._cameras.values():
            bench.until(camera.get_subscription_count, "the node")

    def send(self, drawn):
        """Sends what was drawn, and a good frame, which is answered."""
        for msg, _, damaged in drawn:
            self._publish(type(msg), damaged)
        self._publish(Image, image(1_000_000_000 * (1 + self._sent[Image]) + _GOOD))
        self._labels.clear()
        self._bench.until(
            lambda: any(one.header.stamp.nanosec == _GOOD for one in self._labels),
            "an answer to the good frame",
        )

    def assert_all_counted(self):
        for message, name in ((Image, "plain"), (CompressedImage, "packed")):
            sent = self._sent[message]
            self._bench.until(
                lambda name=name, sent=sent: sum(self._counts(name, *_FATES)) >= sent,
                f"the fate of every message of {name}",
            )
            assert self._counts(name, "received_frames") == [sent]
            assert sum(self._counts(name, *_FATES)) == sent
            assert self._counts(name, "failed_frames") == [0]

    def _publish(self, message, content):
        self._cameras[message].publish(content)
        self._sent[message] += 1

    def _counts(self, name, *keys):
        told = self._bench.values(f": {name}")
        return [int(told[key]) for key in keys]


@fault(
    "Such messages sent to the running node over DDS, damaged or not, tracking on",
    often="{messages} messages",
    happens="Each is counted as answered, overtaken or rejected, no inference fails; after each"
    " twenty a good frame is answered",
)
@pytest.mark.dds
@pytest.mark.parametrize("messages", repeats(200, 4_000))
def test_a_node_that_is_sent_anything(bench, messages):
    sender = Sender(bench)
    either = st.one_of(fuzz.images(), fuzz.compressed_images())
    twenty = st.lists(fuzz.wires(either), min_size=20, max_size=20)
    search(messages, twenty, sender.send, each=20, portion=messages // 200)
    sender.assert_all_counted()
