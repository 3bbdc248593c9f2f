"""Replays a bag to the node over DDS; collects and counts the results and their latencies."""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
from builtin_interfaces.msg import Time
from rclpy.clock import Clock as NodeClock
from rclpy.clock import ClockType
from rclpy.context import Context
from rclpy.duration import Duration
from rclpy.qos import QoSDurabilityPolicy, QoSProfile, QoSReliabilityPolicy
from rclpy.serialization import deserialize_message
from rosgraph_msgs.msg import Clock
from std_msgs.msg import Header

from upsnet_ros.bags.replay_topics import (
    COMPRESSED,
    IMAGE,
    OUTPUTS,
    POINT_OUTPUTS,
    ReplayTopics,
    message_class,
)
from upsnet_ros.bags.storage import is_leap
from upsnet_ros.errors import ReplayError
from upsnet_ros.node.lifecycle import SpinningNode
from upsnet_ros.node.topics import label_info_qos, stamp_ns, with_arrival
from upsnet_ros.playback.settings import ReplaySettings

# Images to keep track of. The node processes one and queues one; older ones were dropped.
_OUTSTANDING = 1000
_BINS = 20


@dataclass(slots=True)
class SentImage:
    """A published image and the outputs received for it.

    Attributes:
        stamp_ns: Header stamp, nanoseconds.
        bag_ns: Time of reception in the bag, nanoseconds.
        sent_ns: Time of publishing, nanoseconds.
        results: Time of reception of each output, nanoseconds, by name.
    """

    stamp_ns: int
    bag_ns: int
    sent_ns: int
    results: dict[str, int] = field(default_factory=dict)


class ReplayTally:
    """Counts images that were sent, answered by all outputs, and missed.

    Args:
        outputs: Names of the outputs that must arrive for an image to count as answered.
    """

    def __init__(self, outputs: Sequence[str]) -> None:
        self._outputs = frozenset(outputs)
        self._outstanding: OrderedDict[int, SentImage] = OrderedDict()
        self._latencies_ms: list[float] = []
        self._partial = 0
        self.sent = 0
        self.answered = 0
        self.repeated_stamps = 0

    @property
    def missed(self) -> int:
        """Number of images that have not been answered so far."""
        return self.sent - self.answered

    def send(self, *, stamp_ns: int, bag_ns: int, sent_ns: int) -> SentImage:
        """Register an image that is about to be published."""
        self.sent += 1
        image = SentImage(stamp_ns, bag_ns, sent_ns)
        if (older := self._outstanding.pop(stamp_ns, None)) is not None:
            self.repeated_stamps += 1
            self._partial += bool(older.results)
        self._outstanding[stamp_ns] = image
        if len(self._outstanding) > _OUTSTANDING:
            self._partial += bool(self._outstanding.popitem(last=False)[1].results)
        return image

    def answer(self, output: str, stamp_ns: int, *, received_ns: int) -> SentImage | None:
        """Register an output that was received.

        Returns:
            The image with this stamp; None if no such image is outstanding.
        """
        image = self._outstanding.get(stamp_ns)
        if image is None or output in image.results:
            return None
        image.results[output] = received_ns
        if image.results.keys() >= self._outputs:
            del self._outstanding[stamp_ns]
            self.answered += 1
            last_ns = max(image.results[name] for name in self._outputs)
            self._latencies_ms.append((last_ns - image.sent_ns) / 1e6)
        return image

    def missing_outputs(self, image: SentImage) -> list[str]:
        """Return the sorted names of the outputs that have not arrived for an image."""
        return sorted(self._outputs - image.results.keys())

    def report(self) -> dict[str, Any]:
        """Return counts and latencies, JSON-ready.

        Returns:
            ``sent``, ``answered``, ``missed`` (and ``missed_share``, its fraction of ``sent``),
            ``partly_answered`` (those of the missed with some outputs), ``repeated_stamps``,
            ``latency_ms`` (see `latency_statistics`) and ``histogram`` (see `histogram`).
        """
        partly = self._partial + sum(bool(image.results) for image in self._outstanding.values())
        return {
            "sent": self.sent,
            "answered": self.answered,
            "missed": self.missed,
            "missed_share": self.missed / self.sent if self.sent else 0.0,
            "partly_answered": partly,
            "repeated_stamps": self.repeated_stamps,
            "latency_ms": latency_statistics(self._latencies_ms),
            "histogram": histogram(self._latencies_ms),
        }


def latency_statistics(latencies_ms: Sequence[float]) -> dict[str, float] | None:
    """Return mean, min, max and percentiles of latencies in milliseconds; None if empty."""
    if not latencies_ms:
        return None
    p50, p90, p99 = np.percentile(latencies_ms, (50, 90, 99)).tolist()
    statistics = {
        "mean": float(np.mean(latencies_ms)),
        "min": min(latencies_ms),
        "p50": p50,
        "p90": p90,
        "p99": p99,
        "max": max(latencies_ms),
    }
    return {name: round(value, 3) for name, value in statistics.items()}


def histogram(latencies_ms: Sequence[float]) -> dict[str, list[float] | list[int]]:
    """Return a histogram of latencies with at most 20 bins of a round width.

    Returns:
        ``edges_ms`` (one more than there are bins) and ``counts``; both empty without latencies.
    """
    if not latencies_ms:
        return {"edges_ms": [], "counts": []}
    low, high = min(latencies_ms), max(latencies_ms)
    # One spare bin, because the extremes do not lie on bin edges.
    least = max((high - low) / (_BINS - 1), 1e-3)
    power = 10.0 ** np.floor(np.log10(least))
    width = next(step * power for step in (1, 2, 5, 10) if step * power >= least * (1 - 1e-9))
    first, last = np.floor(low / width), np.floor(high / width) + 1
    edges = np.arange(first, last + 1) * width
    counts, _ = np.histogram(latencies_ms, edges)
    return {"edges_ms": [round(float(edge), 4) for edge in edges], "counts": counts.tolist()}


class BagMessage(Protocol):
    """The attributes of a bag record that the replayer uses; see `upsnet_ros.bags`."""

    @property
    def topic(self) -> str: ...  # noqa: D102

    @property
    def time_ns(self) -> int: ...  # noqa: D102

    @property
    def msgtype(self) -> str: ...  # noqa: D102

    @property
    def raw(self) -> bytes: ...  # noqa: D102


class Bag(Protocol):
    """A bag that can be iterated repeatedly."""

    def __iter__(self) -> Iterator[BagMessage]: ...


#: Called with topic, serialised message, time in the bag in nanoseconds, and message type.
Record = Callable[[str, bytes, int, str], None]


# Gaps between messages of the bag that are longer than this are logged.
_LONG_SECONDS = 10

# Time for discovery to complete on the other side once it has completed on this side.
_SETTLE_SECONDS = 0.3

# Longest wait at the end for reliable subscribers to acknowledge the last message.
_ACK_TIMEOUT = Duration(seconds=2)


class Replayer(SpinningNode):
    """The node ``upsnet_replay``; call `replay` to replay a bag.

    Args:
        topics: Topics to publish.
        settings: How to replay.
        record: Called with every message for a bag of results: the replayed images and ground truth
            unchanged, and the node's outputs with their own stamps. The bag time of an output is
            that of its image plus the latency, kept in order of arrival. With ``loop``, only the
            first pass is recorded, because later ones repeat every stamp.
        namespace: Namespace of the node under test.
        context: rclpy context; None uses the default one.
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
        self._failure: Exception | None = None  # raised by `record` in a callback
        self._recorded_ns = 0  # bag time of the latest recorded output
        self._label_info: bytes | None = None
        # Current bag time: (nanoseconds in the bag, monotonic time at which this was reached).
        self._now: tuple[int, float] | None = None
        #: Largest delay of a message after its due time, milliseconds.
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
        if settings.clock_hz:
            steady = NodeClock(clock_type=ClockType.STEADY_TIME)
            self.create_timer(1 / settings.clock_hz, self._publish_clock, clock=steady)
        self._results = {name: self._subscribe(name) for name in settings.outputs}
        self.create_subscription(
            message_class(OUTPUTS["label_info"]),
            "label_info",
            self._on_label_info,
            label_info_qos(),
            raw=True,
        )

    def replay(self, bag: Bag, *, stopped: Callable[[], bool] = lambda: False) -> Iterator[int]:
        """Publish ``bag``; yield the number of images sent so far after each image.

        Ends early as soon as ``stopped`` returns True.

        Raises:
            ReplayError: If the node or a result does not arrive within the timeout, or the bag has
                no image.
            BagError: If the bag cannot be read.
        """
        self._wait_for_node(stopped)
        while not stopped():
            image = None
            for image in self._replay_once(bag, stopped):  # noqa: B007 - used after the loop
                yield self.tally.sent
            if stopped():
                return
            if image is None:
                raise ReplayError(f"no image on {self._topics.camera} in the messages to replay")
            # The node never drops the newest image, and processes it last.
            self._wait_for_results(image, stopped)
            if not self._settings.loop:
                break
            self._recording = False
        for publisher in (self._images, *self._others.values()):
            publisher.wait_for_all_acked(_ACK_TIMEOUT)

    def _replay_once(self, bag: Bag, stopped: Callable[[], bool]) -> Iterator[SentImage]:
        """Publish the bag once; yield each image after publishing (in lockstep: its results)."""
        rate, due = self._settings.rate, time.monotonic()
        last_ns: int | None = None
        for message in bag:
            if last_ns is None:
                self._keep_label_info(message.time_ns)
                self._now = message.time_ns, due
            elif rate:
                due = self._due(message.time_ns, last_ns, due, rate)
            last_ns = message.time_ns
            if rate:
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
            if not rate and not self._wait_for_results(image, stopped):
                if stopped():
                    return
                raise ReplayError(self._timeout_message(image))
            yield image

    def _due(self, time_ns: int, last_ns: int, last_due: float, rate: float) -> float:
        """Return the monotonic time at which to publish a message, in seconds."""
        assert self._now is not None
        seconds = (time_ns - last_ns) / 1e9
        if is_leap(last_ns, time_ns):
            self.get_logger().warning(
                f"the bag's clock jumps by {seconds:.0f} s, to {time_ns} ns: continuing without"
                " waiting"
            )
            self._now = time_ns, last_due
        elif seconds / rate > _LONG_SECONDS:
            self.get_logger().info(f"the next message of the bag is {seconds:.0f} s later")
        first_ns, begin = self._now
        return begin + (time_ns - first_ns) / 1e9 / rate

    def _send(self, message: BagMessage) -> SentImage:
        try:
            stamp = _header_ns(message.raw)
        except RuntimeError as error:
            raise ReplayError(
                f"cannot read a message of {message.topic} as {message.msgtype}: {error}"
            ) from error
        image = self.tally.send(stamp_ns=stamp, bag_ns=message.time_ns, sent_ns=time.time_ns())
        self._images.publish(message.raw)
        self._keep(message)
        return image

    def _keep(self, message: BagMessage) -> None:
        if self._recording:
            self._record(message.topic, message.raw, message.time_ns, message.msgtype)

    def _keep_label_info(self, time_ns: int) -> None:
        """Record the latched label_info before the first message."""
        if self._recording and self._label_info is not None:
            topic = self.resolve_topic_name("label_info")
            self._record(topic, self._label_info, time_ns, OUTPUTS["label_info"])

    def _subscribe(self, name: str) -> Any:
        topic, msgtype = self.resolve_topic_name(name), OUTPUTS[name]

        def on_output(raw: bytes, received_ns: int) -> None:
            image = self.tally.answer(name, _header_ns(raw), received_ns=received_ns)
            if image is not None and self._recording:
                # Keep bag times in order of arrival.
                took_ns = received_ns - image.sent_ns
                self._recorded_ns = max(self._recorded_ns, image.bag_ns + took_ns)
                try:
                    self._record(topic, raw, self._recorded_ns, msgtype)
                except Exception as error:  # noqa: BLE001 - the callback guard would only count it
                    self._failure = error

        qos = QoSProfile(depth=10, reliability=QoSReliabilityPolicy.RELIABLE)
        return self.create_subscription(
            message_class(msgtype), topic, with_arrival(on_output), qos, raw=True
        )

    def _on_label_info(self, raw: bytes) -> None:
        if self._label_info is None:
            self._label_info = raw

    def _wait_for_node(self, stopped: Callable[[], bool]) -> None:
        until = time.monotonic() + self._settings.timeout
        self._wait(lambda: not self._missing_peer(), stopped, until=until)
        if (missing := self._missing_peer()) and not stopped():
            raise ReplayError(f"{missing} after {self._settings.timeout:g} s: is the node active?")
        # Discovery is complete on this side; give the other side time to complete it too.
        self._wait(lambda: False, stopped, until=time.monotonic() + _SETTLE_SECONDS)

    @property
    def _needs_points(self) -> bool:
        """Whether an output of a points node is waited for."""
        return not self._results.keys().isdisjoint(POINT_OUTPUTS)

    def _missing_peer(self) -> str:
        """Return which subscriber or publisher of the node is missing; empty if complete."""
        count, wanted = self._images.get_subscription_count(), self._settings.subscribers
        if count < wanted:
            few = f"{count} of {wanted} subscribers" if count else "no subscriber"
            return f"{few} on {self._images.topic_name}"
        # A points node subscribes to its sensor last, when it is connected to the segmenting node.
        if self._needs_points and not any(
            self._others[name].get_subscription_count() for name in self._topics.sensors
        ):
            sensors = ", ".join(self._topics.sensors)
            return f"no points node on {sensors or 'a topic of clouds or depth images'}"
        topics = [subscription.topic_name for subscription in self._results.values()]
        if silent := [topic for topic in topics if not self.count_publishers(topic)]:
            return f"no publisher on {', '.join(silent)}"
        return "" if self._label_info is not None else "no label_info received"

    def _wait_for_results(self, image: SentImage, stopped: Callable[[], bool]) -> bool:
        until = time.monotonic() + self._settings.timeout
        self._wait(lambda: not self.tally.missing_outputs(image), stopped, until=until)
        return not self.tally.missing_outputs(image)

    def _timeout_message(self, image: SentImage) -> str:
        seconds, nanoseconds = divmod(image.stamp_ns, 1_000_000_000)
        missing = ", ".join(self.tally.missing_outputs(image))
        return (
            f"no result for image {self.tally.sent} of {self._topics.camera} (stamp "
            f"{seconds}.{nanoseconds:09d}) within {self._settings.timeout:g} s: {missing} missing"
        )

    def _publish_clock(self) -> None:
        if self._clock is not None and self._now is not None:
            bag_ns, at = self._now
            # In lockstep the clock only advances with each message.
            passed = (time.monotonic() - at) * 1e9 * (self._settings.rate or 0)
            seconds, nanoseconds = divmod(bag_ns + round(passed), 1_000_000_000)
            if 0 <= seconds < 1 << 31:  # range of builtin_interfaces/Time
                self._clock.publish(Clock(clock=Time(sec=seconds, nanosec=nanoseconds)))

    def _wait(
        self, arrived: Callable[[], bool], stopped: Callable[[], bool], *, until: float
    ) -> None:
        """Spin until ``arrived`` or ``stopped`` returns True, or monotonic time ``until``."""

        def over() -> bool:
            if self._failure is not None:
                raise self._failure
            return arrived() or stopped()

        self.spin_until(over, until=until)


def _header_ns(raw: bytes) -> int:
    """Return the stamp of a serialised message that starts with a header, nanoseconds."""
    # CDR has no outer length, so rclpy simply ignores the rest of the message.
    return stamp_ns(deserialize_message(raw, Header).stamp)


def _qos(*, latched: bool) -> QoSProfile:
    """Return a reliable QoS profile, which matches reliable and best-effort subscribers."""
    return QoSProfile(
        depth=10,
        reliability=QoSReliabilityPolicy.RELIABLE,
        durability=QoSDurabilityPolicy.TRANSIENT_LOCAL if latched else QoSDurabilityPolicy.VOLATILE,
    )
