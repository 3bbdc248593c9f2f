"""Quality of service of the node's topics, and words for the case that two sides do not match."""

from __future__ import annotations

from typing import Any

from rclpy.node import Node
from rclpy.qos import (
    QoSCompatibility,
    QoSDurabilityPolicy,
    QoSHistoryPolicy,
    QoSProfile,
    QoSReliabilityPolicy,
    qos_check_compatible,
)

try:
    from rclpy.event_handler import PublisherEventCallbacks, SubscriptionEventCallbacks
except ImportError:  # Humble
    from rclpy.qos_event import PublisherEventCallbacks, SubscriptionEventCallbacks

__all__ = ["QosWatch", "input_qos", "label_info_qos", "output_qos"]

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


class QosWatch:
    """Remembers which topics met an endpoint of incompatible QoS, and says who and why.

    The middleware tells of such an endpoint before the graph knows its node, hence the two steps:
    an event marks the topic, and `mismatches`, called from time to time, looks who is there.
    """

    def __init__(self, node: Node) -> None:
        self._node = node
        self._subscriptions: dict[str, QoSProfile] = {}
        self._publishers: dict[str, QoSProfile] = {}
        self._logged: set[str] = set()

    def subscription_events(self, topic: str, qos: QoSProfile) -> SubscriptionEventCallbacks:
        """Event callbacks for a subscription of this topic with this profile."""
        return SubscriptionEventCallbacks(
            incompatible_qos=lambda _: self._subscriptions.update({topic: qos})
        )

    def publisher_events(self, topic: str, qos: QoSProfile) -> PublisherEventCallbacks:
        """Event callbacks for a publisher of this topic with this profile."""
        return PublisherEventCallbacks(
            incompatible_qos=lambda _: self._publishers.update({topic: qos})
        )

    def forget(self, topic: str | None = None) -> None:
        """Forgets a topic whose subscription or publisher was taken back; by default all."""
        if topic is not None:
            self._subscriptions.pop(topic, None)
            self._publishers.pop(topic, None)
            return
        self._subscriptions.clear()
        self._publishers.clear()
        self._logged.clear()

    def mismatches(self) -> dict[str, str]:
        """By topic, in one line, which other ends do not match now; each is logged once."""
        found = {}
        for topic, qos in self._subscriptions.items():
            others = [
                f"{_name(other)} offers {_text(other.qos_profile)}"
                for other in self._node.get_publishers_info_by_topic(topic)
                if not _compatible(other.qos_profile, qos)
            ]
            if others:
                found[topic] = f"asked for {_text(qos)}, but {', '.join(others)}"
        for topic, qos in self._publishers.items():
            others = [
                f"{_name(other)} asks for {_text(other.qos_profile)}"
                for other in self._node.get_subscriptions_info_by_topic(topic)
                if not _compatible(qos, other.qos_profile)
            ]
            if others:
                found[topic] = f"offered {_text(qos)}, but {', '.join(others)}"
        for topic, text in found.items():
            if text not in self._logged:
                self._logged.add(text)
                self._node.get_logger().warning(
                    f"{topic}: incompatible QoS, so messages get lost: {text};"
                    " see image_reliability and qos_overrides"
                )
        return found


def _compatible(offered: QoSProfile, asked: QoSProfile) -> bool:
    return qos_check_compatible(offered, asked)[0] != QoSCompatibility.ERROR


def _text(qos: QoSProfile) -> str:
    return f"{qos.reliability.name.lower()} and {qos.durability.name.lower()}"


def _name(endpoint: Any) -> str:
    return f"{endpoint.node_namespace.rstrip('/')}/{endpoint.node_name}"
