"""The node's topics: QoS profiles, why no image arrives, and when a message arrived."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable
from typing import Any

from builtin_interfaces.msg import Time
from rclpy.node import Node
from rclpy.qos import (
    QoSCompatibility,
    QoSDurabilityPolicy,
    QoSHistoryPolicy,
    QoSProfile,
    QoSReliabilityPolicy,
    qos_check_compatible,
)
from rclpy.subscription import Subscription

from upsnet_ros.errors import SettingsError, listed, printable
from upsnet_ros.messages.results import compressed_topic
from upsnet_ros.node.parameter_server import parameter_overrides

try:
    from rclpy.event_handler import PublisherEventCallbacks, SubscriptionEventCallbacks
except ImportError:  # Humble
    from rclpy.qos_event import PublisherEventCallbacks, SubscriptionEventCallbacks


# Every function makes a new profile: rclpy writes qos_overrides into the one that it is given.


def input_qos(reliability: str) -> QoSProfile:
    """Of the cameras' images; ``reliability`` as the parameter has it.

    Only the last image counts, but which it is the node decides, and counts the others: with a
    depth of 1 the middleware overwrote, without a word, one of four at 30 Hz on a busy machine.
    """
    return QoSProfile(
        history=QoSHistoryPolicy.KEEP_LAST,
        depth=5,
        reliability=QoSReliabilityPolicy[reliability.upper()],
        durability=QoSDurabilityPolicy.VOLATILE,
    )


def output_qos() -> QoSProfile:
    """Of all outputs: reliable, which subscribers of both kinds can join.

    A few frames are kept, such that a consumer that joins several topics by stamp and lags a little
    still gets each one's part of the same frame.
    """
    return QoSProfile(
        history=QoSHistoryPolicy.KEEP_LAST,
        depth=5,
        reliability=QoSReliabilityPolicy.RELIABLE,
        durability=QoSDurabilityPolicy.VOLATILE,
    )


def label_info_qos() -> QoSProfile:
    """Of label_info: sent once, kept for whoever comes later."""
    return QoSProfile(
        history=QoSHistoryPolicy.KEEP_LAST,
        depth=1,
        reliability=QoSReliabilityPolicy.RELIABLE,
        durability=QoSDurabilityPolicy.TRANSIENT_LOCAL,
    )


def transforms_qos() -> QoSProfile:
    """Of /tf_static: each of its publishers keeps its transforms for who comes later."""
    return QoSProfile(
        depth=100,
        reliability=QoSReliabilityPolicy.RELIABLE,
        durability=QoSDurabilityPolicy.TRANSIENT_LOCAL,
    )


def check_override(node: Node, topic: str) -> None:
    """Checks the parameters ``qos_overrides.<topic>.publisher.*`` before there is a publisher.

    Args:
        node: Whose publisher it will be.
        topic: Fully resolved.

    Raises:
        SettingsError: With these, rclpy could not make the publisher.
    """
    for policy, names in {
        "history": QoSHistoryPolicy.__members__,
        "reliability": QoSReliabilityPolicy.__members__,
        "depth": None,
    }.items():
        name = f"qos_overrides.{topic}.publisher.{policy}"
        given = parameter_overrides(node).get(name)
        if node.has_parameter(name):
            given = node.get_parameter(name)
        if given is None:
            continue
        value = given.value
        good = type(value) is int if names is None else str(value).upper() in names
        if not good:
            raise SettingsError(f"{name} cannot be {value!r}")


class QosWatch:
    """Remembers which topics met an endpoint of incompatible QoS, and says who and why.

    The middleware reports such an endpoint before the graph knows its node. So there are two steps:
    an event marks the topic, and `mismatches`, called periodically, looks up the node.
    """

    def __init__(self, node: Node) -> None:
        self._node = node
        self._subscriptions: set[str] = set()
        self._publishers: set[str] = set()
        self._logged: set[str] = set()

    def subscription_events(self, topic: str) -> SubscriptionEventCallbacks:
        """Event callbacks for a subscription of this topic."""
        return SubscriptionEventCallbacks(incompatible_qos=lambda _: self._subscriptions.add(topic))

    def publisher_events(self, topic: str) -> PublisherEventCallbacks:
        """Event callbacks for a publisher of this topic."""
        return PublisherEventCallbacks(incompatible_qos=lambda _: self._publishers.add(topic))

    def forget(self, topic: str | None = None) -> None:
        """Forgets a topic whose subscription or publisher was taken back; by default all."""
        if topic is not None:
            self._subscriptions.discard(topic)
            self._publishers.discard(topic)
            return
        self._subscriptions.clear()
        self._publishers.clear()
        self._logged.clear()

    def mismatches(self) -> dict[str, str]:
        """By topic, in one line, which other ends do not match now; each is logged once."""
        found = {}
        for topic in self._subscriptions | self._publishers:
            offers = self._node.get_publishers_info_by_topic(topic)
            asks = self._node.get_subscriptions_info_by_topic(topic)
            # As the graph has them: of our own profiles it knows what the system has made of
            # policies left to it, without which rclpy could not compare them.
            texts = [
                f"{_name(other)}: {conflict}"
                for mine in filter(self._is_mine, asks if topic in self._subscriptions else ())
                for other in offers
                if (conflict := _conflict(other.qos_profile, mine.qos_profile))
            ] + [
                f"{_name(other)}: {conflict}"
                for mine in filter(self._is_mine, offers if topic in self._publishers else ())
                for other in asks
                if (conflict := _conflict(mine.qos_profile, other.qos_profile))
            ]
            if texts:
                found[topic] = "; ".join(texts)
        for topic, text in found.items():
            if text not in self._logged:
                self._logged.add(text)
                self._node.get_logger().warning(
                    f"{topic}: incompatible QoS, so no message passes: {text}; change the other"
                    " node's, or this one's by image_reliability or qos_overrides"
                )
        return found

    def _is_mine(self, endpoint: Any) -> bool:
        me = (self._node.get_name(), self._node.get_namespace())
        return (endpoint.node_name, endpoint.node_namespace) == me


def _conflict(offered: QoSProfile, asked: QoSProfile) -> str:
    """The policies that do not match, in rclpy's words; empty where all do."""
    compatibility, reason = qos_check_compatible(offered, asked)
    if compatibility != QoSCompatibility.ERROR:
        return ""
    errors = (one.strip() for one in reason.split(";"))
    texts = [one.removeprefix("ERROR: ") for one in errors if one.startswith("ERROR: ")]
    return ", ".join(one[:1].lower() + one[1:] for one in texts) or reason


def _name(endpoint: Any) -> str:
    return f"{endpoint.node_namespace.rstrip('/')}/{endpoint.node_name}"


RAW, COMPRESSED = "sensor_msgs/msg/Image", "sensor_msgs/msg/CompressedImage"
#: The message type of a camera's topic, by image_transport.
IMAGE_TYPES = {"raw": RAW, "compressed": COMPRESSED}

_SUFFIX = "/compressed"


def why_no_image(node: Node, topic: str, *, transport: str, parameter: str) -> str:
    """Why a node hears no image on a topic, and what to do about it, in one line.

    Args:
        node: The node that listens.
        topic: Fully resolved.
        transport: raw or compressed, which decides the message type.
        parameter: What names another topic.
    """
    wanted = IMAGE_TYPES[transport]
    publishers = node.get_publishers_info_by_topic(topic)
    types = Counter(one.topic_type for one in publishers)
    if types[wanted]:
        who = sorted({_name(one) for one in publishers if one.topic_type == wanted})
        return printable(
            f"no image from {_count(types[wanted], 'publisher')} of {topic}"
            f" ({listed(who)}): does the camera run? If it does, see Quality of service, transport"
            " in docs/node.md"
        )
    if types:
        number = _count(sum(types.values()), "publisher")
        return printable(
            f"{topic} carries {listed(types)}, not {wanted} ({number}):"
            f" {_other_type(node, topic, list(types), transport, parameter)}"
        )
    return printable(f"{topic} has no publisher; {_other_topic(node, topic, transport, parameter)}")


def image_topics(node: Node) -> dict[str, str]:
    """Type of each topic of images that somebody else publishes, by its name."""
    me = (node.get_name(), node.get_namespace())
    found = {}
    for topic, types in node.get_topic_names_and_types():
        for one in IMAGE_TYPES.values():
            if one in types and any(
                (other.node_name, other.node_namespace) != me
                for other in node.get_publishers_info_by_topic(topic)
                if other.topic_type == one
            ):
                found[topic] = one
    return found


def is_named_twice(node: Node) -> bool:
    """Whether another node of the graph has the same full name."""
    me = (node.get_name(), node.get_namespace())
    return node.get_node_names_and_namespaces().count(me) > 1


def _other_type(node: Node, topic: str, types: list[str], transport: str, parameter: str) -> str:
    """What to do where a topic carries messages of another type."""
    if transport == "raw" and COMPRESSED in types:
        if topic.endswith(_SUFFIX):
            return (
                "set image_transport:=compressed, or name the base topic"
                f" {topic.removesuffix(_SUFFIX)} for raw images"
            )
        return f"set image_transport:=compressed, and remap {topic}{_SUFFIX} to {topic}"
    if transport == "compressed" and RAW in types:
        return f"set image_transport:=raw, and name {topic} by {parameter}"
    return _listed_topics(node, parameter)


def _other_topic(node: Node, topic: str, transport: str, parameter: str) -> str:
    """What to do where nobody publishes a topic."""
    if transport == "raw":
        sibling, other = compressed_topic(topic), "compressed"
    else:
        sibling, other = topic.removesuffix(_SUFFIX), "raw"
    if sibling != topic and image_topics(node).get(sibling) == IMAGE_TYPES[other]:
        return f"{sibling} has one: set image_transport:={other}"
    return _listed_topics(node, parameter)


def _listed_topics(node: Node, parameter: str) -> str:
    found = [f"{name} ({kind.split('/')[-1]})" for name, kind in sorted(image_topics(node).items())]
    if found:
        return f"image topics there are: {listed(found, most=8)}; name the camera's by {parameter}"
    return (
        f"there is no image topic in ROS domain {node.context.get_domain_id()}: start the camera,"
        " or `upsnet play VIDEO`"
    )


def _count(number: int, what: str) -> str:
    return f"{number} {what}{'' if number == 1 else 's'}"


_SECONDS = -(2**31), 2**31 - 1  # that a stamp can tell

# From Jazzy on a callback can learn when DDS received the message; a busy executor calls later.
_TELLS_ARRIVAL = hasattr(Subscription, "CallbackType")


def stamp_ns(stamp: Any) -> int:
    """Return the nanoseconds since 1970 of a builtin_interfaces/Time, whatever its fields are.

    Unlike `rclpy.time.Time.from_msg`, which raises on times before 1970.
    """
    return int(stamp.sec) * 1_000_000_000 + int(stamp.nanosec)


def stamp_of(nanoseconds: int) -> Time:
    """Return the stamp of a time, or the nearest that there is: a simulated clock may run away."""
    seconds, rest = divmod(nanoseconds, 1_000_000_000)
    least, most = _SECONDS
    return Time(sec=min(max(seconds, least), most), nanosec=rest)


def with_arrival(callback: Callable[[Any, int], None]) -> Callable[..., None]:
    """A subscription's callback made of one that also takes the time at which the message came.

    Args:
        callback: Called with the message and the nanoseconds since 1970, by the system's clock, at
            which the middleware received it; where it does not tell, at which the executor called.
    """

    def with_info(message: Any, info: Any) -> None:
        callback(message, info["received_timestamp"] or time.time_ns())

    if _TELLS_ARRIVAL:
        return with_info
    return lambda message: callback(message, time.time_ns())
