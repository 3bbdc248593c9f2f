"""Plays a bag to the node over DDS, and hands on what the node answers."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from typing import Any

from rclpy.context import Context
from rclpy.duration import Duration
from rclpy.executors import SingleThreadedExecutor
from rclpy.node import Node
from rclpy.qos import QoSDurabilityPolicy, QoSProfile, QoSReliabilityPolicy
from rclpy.serialization import deserialize_message
from rclpy.time import Time
from rosgraph_msgs.msg import Clock
from std_msgs.msg import Header

from upsnet_ros.ros.arrival import with_arrival
from upsnet_ros.ros.qos import label_info_qos
from upsnet_ros.ros.replay_settings import Bag, BagMessage, Record, ReplaySettings
from upsnet_ros.ros.replay_tally import ReplayTally, SentImage
from upsnet_ros.ros.replay_topics import COMPRESSED, IMAGE, OUTPUTS, ReplayTopics, message_class

__all__ = ["ReplayError", "Replayer"]

# Longest wait between two looks at whether to stop.
_POLL_SECONDS = 0.1

# What discovery may take on the other side once it is over on this one.
_SETTLE_SECONDS = 0.3

# Longest wait at the end for reliable subscribers to take the last message.
_FAREWELL = Duration(seconds=2)


class ReplayError(RuntimeError):
    """Nobody listens, or an image was not answered in time; the message says which."""


class Replayer(Node):
    """The node ``upsnet_replay``; `replay` does its work.

    Args:
        topics: What to publish.
        settings: How.
        record: Takes what belongs into a bag of results: the played images and ground truth as they
            were, and the node's outputs with their own stamps, each at its image's time in the bag
            plus the time that the answer took, but in the order in which they came. The second
            round of a loop would repeat every stamp, so only the first is handed on.
        namespace: Of the node that answers.
        context: As of any node.
    """

    def __init__(
        self,
        topics: ReplayTopics,
        *,
        settings: ReplaySettings,
        record: Record,
        namespace: str = "/panoptic",
        context: Context | None = None,
    ) -> None:
        super().__init__("upsnet_replay", namespace=namespace, context=context)
        self._topics, self._settings, self._record = topics, settings, record
        self.tally = ReplayTally(settings.outputs)
        self._recording = True
        self._answered_ns = 0  # bag time of the latest answer that was handed on
        self._label_info: bytes | None = None
        # Where bag time stands: (nanoseconds in the bag, monotonic second at which that was).
        self._now: tuple[int, float] | None = None
        #: By how much the latest message of all was published after its time, in milliseconds.
        self.late_ms = 0.0
        self._images = self.create_publisher(
            message_class(COMPRESSED if topics.compressed else IMAGE),
            topics.published,
            _qos(latched=False),
        )
        self._others = {
            name: self.create_publisher(
                message_class(msgtype), name, _qos(latched=name in topics.latched)
            )
            for name, msgtype in topics.carried.items()
        }
        self._clock = self.create_publisher(Clock, "/clock", 1) if settings.clock_hz else None
        self._answers = {name: self._listen(name) for name in settings.outputs}
        self.create_subscription(
            message_class(OUTPUTS["label_info"]),
            "label_info",
            self._on_label_info,
            label_info_qos(),
            raw=True,
        )
        self._executor = SingleThreadedExecutor(context=self.context)
        self._executor.add_node(self)

    def replay(self, bag: Bag, *, stopped: Callable[[], bool] = lambda: False) -> Iterator[int]:
        """Publish ``bag``, yielding the number of images sent after each one.

        Ends early as soon as ``stopped`` returns True.

        Raises:
            ReplayError: If the node or an answer does not come within the timeout, or the bag has
                no image.
            BagError: If the bag cannot be read.
        """
        self._wait_for_node(stopped)
        while not stopped():
            image = None
            for image in self._round(bag, stopped):  # noqa: B007 - the last one is waited for
                yield self.tally.sent
            if stopped():
                return
            if image is None:
                raise ReplayError(f"no image of {self._topics.camera} in what was to be played")
            # The newest image is the one that the node answers in any case, and last.
            self._wait_for_answer(image, stopped)
            if not self._settings.loop:
                break
            self._recording = False
        for publisher in (self._images, *self._others.values()):
            publisher.wait_for_all_acked(_FAREWELL)

    def destroy_node(self) -> None:
        """End the node and its executor."""
        self._executor.shutdown()
        super().destroy_node()

    def _round(self, bag: Bag, stopped: Callable[[], bool]) -> Iterator[SentImage]:
        """The bag once; yields each image when it was sent and, in lockstep, answered."""
        rate, begin = self._settings.rate, time.monotonic()
        first_ns: int | None = None
        for message in bag:
            if first_ns is None:
                first_ns = message.time_ns
                self._keep_label_info(first_ns)
                self._now = first_ns, begin
            if rate:
                due = begin + (message.time_ns - first_ns) / 1e9 / rate
                self._wait(lambda: False, stopped, until=due)
                self.late_ms = max(self.late_ms, 1e3 * (time.monotonic() - due))
            if stopped():
                return
            if not rate:
                self._now = message.time_ns, time.monotonic()
            self._publish_clock()
            if message.topic != self._topics.camera:
                self._others[message.topic].publish(message.raw)
                if message.topic in self._topics.truth:
                    self._keep(message)
                continue
            image = self._send(message)
            if not rate and not self._wait_for_answer(image, stopped):
                if stopped():
                    return
                raise ReplayError(self._unanswered(image))
            yield image

    def _send(self, message: BagMessage) -> SentImage:
        try:
            stamp_ns = _stamp_ns(message.raw)
        except RuntimeError as error:
            raise ReplayError(f"{message.topic} holds no {message.msgtype}: {error}") from error
        image = self.tally.send(stamp_ns=stamp_ns, bag_ns=message.time_ns, sent_ns=time.time_ns())
        self._images.publish(message.raw)
        self._keep(message)
        return image

    def _keep(self, message: BagMessage) -> None:
        if self._recording:
            self._record(message.topic, message.raw, message.time_ns, message.msgtype)

    def _keep_label_info(self, time_ns: int) -> None:
        """What the labels mean, before the first of them."""
        if self._recording and self._label_info is not None:
            topic = self.resolve_topic_name("label_info")
            self._record(topic, self._label_info, time_ns, OUTPUTS["label_info"])

    def _listen(self, name: str) -> Any:
        topic, msgtype = self.resolve_topic_name(name), OUTPUTS[name]

        def heard(raw: bytes, received_ns: int) -> None:
            image = self.tally.answer(name, _stamp_ns(raw), received_ns=received_ns)
            if image is not None and self._recording:
                # Never before an earlier answer: readers of the bag meet them in their order.
                took_ns = received_ns - image.sent_ns
                self._answered_ns = max(self._answered_ns, image.bag_ns + took_ns)
                self._record(topic, raw, self._answered_ns, msgtype)

        qos = QoSProfile(depth=10, reliability=QoSReliabilityPolicy.RELIABLE)
        return self.create_subscription(
            message_class(msgtype), topic, with_arrival(heard), qos, raw=True
        )

    def _on_label_info(self, raw: bytes) -> None:
        if self._label_info is None:
            self._label_info = raw

    def _wait_for_node(self, stopped: Callable[[], bool]) -> None:
        until = time.monotonic() + self._settings.timeout
        self._wait(lambda: not self._absent(), stopped, until=until)
        if (absent := self._absent()) and not stopped():
            raise ReplayError(f"{absent} after {self._settings.timeout:g} s: is the node active?")
        # This side has met all of them; the others learn of it at a moment of their own.
        self._wait(lambda: False, stopped, until=time.monotonic() + _SETTLE_SECONDS)

    def _absent(self) -> str:
        """What of the node is not there yet; empty where all is."""
        if not self._images.get_subscription_count():
            return f"nobody listens on {self._images.topic_name}"
        topics = [subscription.topic_name for subscription in self._answers.values()]
        if silent := [topic for topic in topics if not self.count_publishers(topic)]:
            return f"nobody publishes {', '.join(silent)}"
        return "" if self._label_info is not None else "no label_info came"

    def _wait_for_answer(self, image: SentImage, stopped: Callable[[], bool]) -> bool:
        until = time.monotonic() + self._settings.timeout
        self._wait(lambda: not self.tally.waits_for(image), stopped, until=until)
        return not self.tally.waits_for(image)

    def _unanswered(self, image: SentImage) -> str:
        seconds, nanoseconds = divmod(image.stamp_ns, 1_000_000_000)
        missing = ", ".join(self.tally.waits_for(image))
        return (
            f"no answer to image {self.tally.sent} of {self._topics.camera} (stamp "
            f"{seconds}.{nanoseconds:09d}) within {self._settings.timeout:g} s: {missing} missing"
        )

    def _publish_clock(self) -> None:
        if self._clock is not None and self._now is not None:
            bag_ns, at = self._now
            # In lockstep time stands still from message to message; else it never goes back.
            passed = (time.monotonic() - at) * 1e9 * (self._settings.rate or 0)
            self._clock.publish(Clock(clock=Time(nanoseconds=bag_ns + round(passed)).to_msg()))

    def _wait(
        self, arrived: Callable[[], bool], stopped: Callable[[], bool], *, until: float
    ) -> None:
        """Let messages in until ``arrived``, ``stopped``, or monotonic second ``until``."""
        step = min(_POLL_SECONDS, 1 / (self._settings.clock_hz or 1))
        tick = time.monotonic() + step
        while not arrived() and not stopped():
            now = time.monotonic()
            if now >= until:
                return
            if now >= tick:
                self._publish_clock()
                tick = now + step
            self._executor.spin_once(timeout_sec=min(until, tick) - now)


def _stamp_ns(raw: bytes) -> int:
    """The stamp of a serialised message that begins with a header."""
    # CDR is a sequence without lengths, so the rest of the message is simply not read.
    return int(Time.from_msg(deserialize_message(raw, Header).stamp).nanoseconds)


def _qos(*, latched: bool) -> QoSProfile:
    """Reliable, which both kinds of subscribers can join."""
    return QoSProfile(
        depth=10,
        reliability=QoSReliabilityPolicy.RELIABLE,
        durability=QoSDurabilityPolicy.TRANSIENT_LOCAL if latched else QoSDurabilityPolicy.VOLATILE,
    )
