"""Quality of service of the node's topics, and words for the case that two sides do not match."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from rclpy.node import Node
from rclpy.qos import (
    QoSDurabilityPolicy,
    QoSHistoryPolicy,
    QoSProfile,
    QoSReliabilityPolicy,
)

try:
    from rclpy.event_handler import PublisherEventCallbacks, SubscriptionEventCallbacks
except ImportError:  # Humble
    from rclpy.qos_event import PublisherEventCallbacks, SubscriptionEventCallbacks

__all__ = ["input_qos", "label_info_qos", "output_qos", "publisher_events", "subscription_events"]

# Every function makes a new profile: rclpy writes qos_overrides into the one that it is given.


def input_qos(reliability: str) -> QoSProfile:
    """Of the cameras' images: only the last one counts. ``reliability`` as the parameter has it."""
    return QoSProfile(
        history=QoSHistoryPolicy.KEEP_LAST,
        depth=1,
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


def subscription_events(
    node: Node, topic: str, qos: QoSProfile, mismatch: Callable[[str], None]
) -> SubscriptionEventCallbacks:
    """Callbacks that tell ``mismatch`` in one line which publishers cannot be heard, and why."""

    def tell(_event: Any) -> None:
        others = node.get_publishers_info_by_topic(topic)
        mismatch(
            f"{topic}: incompatible QoS, so frames may not come; this node asks for {_text(qos)};"
            f" {_offers(others, 'offers')}; see image_reliability and qos_overrides"
        )

    return SubscriptionEventCallbacks(incompatible_qos=tell)


def publisher_events(node: Node, topic: str, qos: QoSProfile) -> PublisherEventCallbacks:
    """Callbacks that log in one line which subscribers cannot hear an output, and why."""

    def tell(_event: Any) -> None:
        others = node.get_subscriptions_info_by_topic(topic)
        node.get_logger().warning(
            f"{topic}: incompatible QoS, so a subscriber gets nothing; this node offers"
            f" {_text(qos)}; {_offers(others, 'asks for')}; see qos_overrides"
        )

    return PublisherEventCallbacks(incompatible_qos=tell)


def _text(qos: QoSProfile) -> str:
    return f"{qos.reliability.name.lower()}, {qos.durability.name.lower()}"


def _offers(endpoints: list[Any], verb: str) -> str:
    return ", ".join(
        f"{one.node_namespace.rstrip('/')}/{one.node_name} {verb} {_text(one.qos_profile)}"
        for one in endpoints
    )
