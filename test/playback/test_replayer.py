"""The replaying node against a node that the test plays itself: order, times, losses, ends."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

pytest.importorskip("rclpy", reason="ROS 2 is not installed")

import drive_bag
import rclpy
from rclpy.executors import SingleThreadedExecutor
from rclpy.node import Node
from rclpy.time import Time
from rosgraph_msgs.msg import Clock
from sensor_msgs.msg import CameraInfo, CompressedImage, Image
from std_msgs.msg import Header

from upsnet_ros.bags.reader import open_bag
from upsnet_ros.bags.replay_topics import OUTPUTS, message_class, sort_topics
from upsnet_ros.datasets.taxonomy import CITYSCAPES
from upsnet_ros.errors import ReplayError
from upsnet_ros.messages.results import label_info_message
from upsnet_ros.node.topics import label_info_qos, output_qos
from upsnet_ros.playback.replayer import Replayer
from upsnet_ros.playback.settings import ReplaySettings

pytestmark = pytest.mark.dds

COUNT = 4


def stamp_ns(stamp: Any) -> int:
    return Time.from_msg(stamp).nanoseconds


class Answering(Node):
    """Answers every image with messages that hold nothing but its header."""

    def __init__(self, namespace: str, context: Any, *, camera: str, outputs: list[str]) -> None:
        super().__init__("answering", namespace=namespace, context=context)
        self.heard: list[tuple[str, int]] = []
        self.silent_to: set[int] = set()
        self.clock: list[int] = []
        self._outputs = {
            name: self.create_publisher(message_class(OUTPUTS[name]), name, output_qos())
            for name in outputs
        }
        kind = message_class(OUTPUTS["label_info"])
        info = self.create_publisher(kind, "label_info", label_info_qos())
        info.publish(label_info_message(CITYSCAPES, Header()))
        kind = CompressedImage if camera.endswith("/compressed") else Image
        for topic, message in ((camera, kind), (drive_bag.INFO, CameraInfo)):
            self.create_subscription(message, topic, partial(self._hear, topic), 100)
        self.create_subscription(
            Clock, "/clock", lambda one: self.clock.append(stamp_ns(one.clock)), 100
        )

    def _hear(self, topic: str, message: Any) -> None:
        self.heard.append((topic, stamp_ns(message.header.stamp)))
        if topic != drive_bag.INFO and len(self.images) not in self.silent_to:
            for name, publisher in self._outputs.items():
                publisher.publish(message_class(OUTPUTS[name])(header=message.header))

    def wait(self, condition: Callable[[], bool], what: str) -> None:
        """Until the node's own thread has heard so much."""
        end = time.monotonic() + 240
        while not condition():
            assert time.monotonic() < end, f"waited for {what}"
            time.sleep(0.01)

    @property
    def images(self) -> list[int]:
        """Stamps of the images heard."""
        return [stamp for topic, stamp in self.heard if topic != drive_bag.INFO]


@pytest.fixture
def contexts(domain: int) -> Iterator[Callable[[], Any]]:
    made = []

    def make() -> Any:
        made.append(rclpy.Context())
        rclpy.init(context=made[-1], domain_id=domain)
        return made[-1]

    yield make
    for context in made:
        context.try_shutdown()


@pytest.fixture
def answering(contexts: Any, request: pytest.FixtureRequest) -> Iterator[Callable[..., Answering]]:
    """Starts nodes that answer, each spun by a thread of its own."""
    started = []

    def start(*, camera: str = drive_bag.CAMERA, outputs: tuple[str, ...] = ("labels",)) -> Any:
        context = contexts()
        node = Answering(f"/{request.node.name}", context, camera=camera, outputs=list(outputs))
        executor = SingleThreadedExecutor(context=context)
        executor.add_node(node)
        thread = threading.Thread(target=executor.spin)
        thread.start()
        started.append((node, executor, thread))
        return node

    yield start
    for node, executor, thread in started:
        executor.shutdown()
        thread.join()
        node.destroy_node()


@pytest.fixture
def replayer(contexts: Any, request: pytest.FixtureRequest) -> Iterator[Callable[..., Any]]:
    """Makes replaying nodes; ``recorded`` is what they hand on."""
    made = []

    def make(bag: Any, **settings: Any) -> Any:
        recorded: list[tuple[str, int, bytes]] = []
        settings = {"outputs": ("labels",), "timeout": 60.0, **settings}
        topics = sort_topics(bag.topics, truth=["/ground_truth"], clock="clock_hz" in settings)
        node = Replayer(
            topics,
            settings=ReplaySettings(**settings),
            record=lambda topic, raw, time_ns, _: recorded.append((topic, time_ns, raw)),
            namespace=f"/{request.node.name}",
            context=contexts(),
        )
        made.append(node)
        return SimpleNamespace(node=node, recorded=recorded)

    yield make
    for node in made:
        node.destroy_node()


@pytest.fixture
def drive(tmp_path: Path) -> Iterator[Any]:
    with open_bag(drive_bag.write_drive(tmp_path / "drive", COUNT)) as bag:
        yield bag


def of(recorded: list[tuple[str, int, bytes]], topic: str) -> list[tuple[int, bytes]]:
    return [(time_ns, raw) for name, time_ns, raw in recorded if name.endswith(topic)]


def test_lockstep_sends_each_image_when_the_last_one_was_answered(
    answering: Any, replayer: Any, drive: Any
) -> None:
    node = answering(outputs=("labels", "instances"))
    replay = replayer(drive, outputs=("labels", "instances"))
    sent = []
    for count in replay.node.replay(drive):
        sent.append(count)
        assert len(node.images) == count, "the next image was sent before this one was answered"
    assert sent == list(range(1, COUNT + 1))
    assert node.images == drive_bag.stamps(COUNT), "stamps are those of the bag"

    def infos() -> list[int]:
        return [stamp for topic, stamp in node.heard if topic == drive_bag.INFO]

    # The node's thread may hear what goes along with the last image after that image.
    node.wait(lambda: len(infos()) == COUNT, "what goes along")
    assert infos() == drive_bag.stamps(COUNT)
    report = replay.node.tally.report()
    assert (report["sent"], report["answered"], report["missed"]) == (COUNT, COUNT, 0)


def test_what_is_handed_on_is_a_bag_of_results(answering: Any, replayer: Any, drive: Any) -> None:
    answering()
    replay = replayer(drive)
    assert list(replay.node.replay(drive))
    original = {
        topic: [(one.time_ns, one.raw) for one in drive if one.topic == topic]
        for topic in (drive_bag.CAMERA, drive_bag.TRUTH)
    }
    for topic, messages in original.items():
        assert of(replay.recorded, topic) == messages, "not as it was"
    assert of(replay.recorded, drive_bag.INFO) == []
    assert replay.recorded[0][0].endswith("/label_info")
    assert replay.recorded[0][1] == drive_bag.BEGIN_NS
    labels = of(replay.recorded, f"/{replay.node.get_namespace()[1:]}/labels")
    assert len(labels) == COUNT
    latency = replay.node.tally.report()["latency_ms"]
    after_ms = [
        (time_ns - image_ns) / 1e6
        for (time_ns, _), (image_ns, _) in zip(labels, original[drive_bag.CAMERA], strict=True)
    ]
    assert min(after_ms) == pytest.approx(latency["min"], abs=1e-3)
    assert max(after_ms) == pytest.approx(latency["max"], abs=1e-3)
    assert min(after_ms) > 0


def wait_for_discovery(replay: Any, *, silent: str = "label_info") -> None:
    """Until only ``silent`` is missing: what comes after it shall be timed, not discovery."""
    end = time.monotonic() + 240
    while (missing := replay.node._missing_peer()) and silent not in missing:
        assert time.monotonic() < end, missing
        time.sleep(0.01)


def test_an_answer_that_does_not_come_is_an_error(
    answering: Any, replayer: Any, drive: Any
) -> None:
    answering().silent_to = {2}
    replay = replayer(drive, timeout=5.0)
    wait_for_discovery(replay)
    with pytest.raises(ReplayError, match="image 2 of /camera/image_raw") as error:
        list(replay.node.replay(drive))
    seconds, nanoseconds = divmod(drive_bag.stamps(2)[1], 10**9)
    assert f"(stamp {seconds}.{nanoseconds:09d}) within 5 s: labels missing" in str(error.value)
    assert len(of(replay.recorded, "/labels")) > 1, "what was answered before is lost"


def test_realtime_counts_what_was_missed(answering: Any, replayer: Any, drive: Any) -> None:
    answering().silent_to = {1, 3}
    replay = replayer(drive, rate=2.0)
    assert list(replay.node.replay(drive)) == [1, 2, 3, 4]
    report = replay.node.tally.report()
    assert (report["sent"], report["answered"], report["missed"]) == (4, 2, 2)
    sent = [one for one in replay.recorded if one[0] == drive_bag.CAMERA]
    assert len(sent) == COUNT


def test_realtime_does_not_wait_for_a_leap_of_the_clock(
    answering: Any, replayer: Any, drive: Any
) -> None:
    node = answering()

    class Leaping:
        """The drive after messages that were received before the recorder knew the time."""

        def __iter__(self) -> Iterator[Any]:
            info = next(one for one in drive if one.topic == drive_bag.INFO)
            for time_ns in (0, 20_000_000_000):
                info.time_ns = time_ns
                yield info
            yield from drive

    replay = replayer(drive, rate=2.0, clock_hz=100.0)
    assert list(replay.node.replay(Leaping())) == [1, 2, 3, 4]
    end_ns = drive_bag.BEGIN_NS + 100_000_000 * (COUNT - 1)
    node.wait(lambda: bool(node.clock) and node.clock[-1] >= end_ns, "the last tick")
    assert node.clock[0] < drive_bag.BEGIN_NS
    assert node.clock[-1] < end_ns + 60 * 10**9


def test_the_clock_follows_the_bag_and_goes_on_between_messages(
    answering: Any, replayer: Any, drive: Any
) -> None:
    node = answering()
    replay = replayer(drive, rate=0.5, clock_hz=100.0)
    list(replay.node.replay(drive))
    end_ns = drive_bag.BEGIN_NS + 100_000_000 * (COUNT - 1)
    node.wait(lambda: bool(node.clock) and node.clock[-1] >= end_ns, "the last tick")
    ticks = node.clock
    assert ticks == sorted(ticks)
    assert ticks[0] >= drive_bag.BEGIN_NS
    between = [tick for tick in ticks if 5e6 < (tick - drive_bag.BEGIN_NS) % 100_000_000 < 95e6]
    assert between, "time stood still from message to message"


def test_in_lockstep_the_clock_is_at_each_message_and_stands_still_between(
    answering: Any, replayer: Any, drive: Any
) -> None:
    node = answering()
    replay = replayer(drive, clock_hz=100.0)
    list(replay.node.replay(drive))
    times = [one.time_ns for one in drive]
    node.wait(lambda: node.clock[-1:] == times[-1:], "the last tick")
    assert set(node.clock) <= set(times)
    assert node.clock == sorted(node.clock)


def test_a_loop_goes_on_and_hands_on_its_first_round_only(
    answering: Any, replayer: Any, drive: Any
) -> None:
    node = answering()
    replay = replayer(drive, loop=True)
    rounds = replay.node.replay(drive, stopped=lambda: len(node.images) > 2 * COUNT)
    sent = list(rounds)
    assert sent[-1] >= 2 * COUNT
    assert node.images[: 2 * COUNT] == 2 * drive_bag.stamps(COUNT)
    assert len(of(replay.recorded, "/labels")) == 2 * COUNT, "answers, and ground truth as often"
    assert len(of(replay.recorded, drive_bag.CAMERA)) == COUNT


def test_it_ends_as_soon_as_it_is_told(answering: Any, replayer: Any, drive: Any) -> None:
    node = answering()
    replay = replayer(drive)
    for count in replay.node.replay(drive, stopped=lambda: len(node.images) >= 2):
        assert count <= 2
    assert len(node.images) == 2


def test_nobody_there_is_an_error(replayer: Any, drive: Any) -> None:
    replay = replayer(drive, timeout=0.3)
    with pytest.raises(ReplayError, match=r"/camera/image_raw after 0\.3 s"):
        list(replay.node.replay(drive))


def test_an_output_that_nobody_publishes_is_named(
    answering: Any, replayer: Any, drive: Any
) -> None:
    answering()
    replay = replayer(drive, outputs=("labels", "semantic"), timeout=1.5)
    wait_for_discovery(replay, silent="/semantic")
    with pytest.raises(ReplayError, match=r"/[a-z_]*/semantic after 1.5 s"):
        list(replay.node.replay(drive))


def test_a_stretch_without_images_is_an_error(answering: Any, replayer: Any, drive: Any) -> None:
    answering()
    replay = replayer(drive)
    with pytest.raises(ReplayError, match="no image on /camera/image_raw"):
        list(replay.node.replay([one for one in drive if one.topic == drive_bag.TRUTH]))


def test_the_command_plays_to_a_node_that_runs(
    answering: Any, start: Any, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    node = answering()
    drive = drive_bag.write_drive(tmp_path / "drive", COUNT)
    process = start(
        *("replay", str(drive), "--no-node", "--namespace", request.node.name),
        *("--record", "labels", "--no-images", "--out", str(tmp_path / "out")),
    )
    assert process.wait() == 0, process.output
    assert f"{COUNT} images sent, {COUNT} with results, 0 missed" in process.output
    assert node.images == drive_bag.stamps(COUNT)
    with open_bag(tmp_path / "out/bag") as bag:
        counts = {topic.name: topic.count for topic in bag.topics}
    space = f"/{request.node.name}"
    assert counts == {
        drive_bag.TRUTH: COUNT,
        f"{space}/label_info": 1,
        f"{space}/labels": COUNT,
    }
