"""The feed beside a node that reports and shows overlays, over real DDS."""

from __future__ import annotations

import array
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
import pytest
import rclpy
from point_scene import labelled_message
from rclpy.executors import SingleThreadedExecutor
from rclpy.node import Node
from sensor_msgs.msg import CompressedImage, Image, PointCloud2

from upsnet_ros.node.diagnostics import Diagnostics, NodeHealth, health_statuses
from upsnet_ros.view import feed as feed_module
from upsnet_ros.view.feed import Feed
from upsnet_ros.view.figures import Presence

pytestmark = pytest.mark.dds

TOPIC, RAW_TOPIC = "/panoptic/overlay/compressed", "/panoptic/left/overlay"
POINTS = "/panoptic/points"
PIXELS = cv2.resize(
    np.random.default_rng(0).integers(0, 256, (4, 6, 3), np.uint8), (96, 64), interpolation=0
)
SECONDS = 240.0


def until(condition: Callable[[], Any], what: str) -> Any:
    end = time.monotonic() + SECONDS
    while not (found := condition()):
        assert time.monotonic() < end, f"waited in vain for {what}"
        time.sleep(0.02)
    return found


def health() -> NodeHealth:
    return NodeHealth(
        state="active",
        enabled=True,
        model={},
        random_weights=False,
        stages_ms={},
        gpu_memory={},
        output_mismatches={},
        cameras=[],
    )


@dataclass
class Stage:
    feed: Feed
    compressed: Any
    raw: Any
    node: Node


@pytest.fixture
def stage(domain: int, monkeypatch: pytest.MonkeyPatch) -> Iterator[Stage]:
    """A feed, and a node called as ours, which reports as ours does."""
    monkeypatch.setattr(feed_module, "_LEASE_SECONDS", 0.3)
    context = rclpy.Context()
    rclpy.init(context=context, domain_id=domain)
    upsnet = Node("upsnet", namespace="panoptic", context=context)
    viewer = Node("upsnet_view", context=context)
    compressed = upsnet.create_publisher(CompressedImage, "overlay/compressed", 5)
    upsnet.create_publisher(Image, "overlay", 5)
    raw = upsnet.create_publisher(Image, "left/overlay", 5)
    feed = Feed(viewer)
    Diagnostics(upsnet, period=0.1, statuses=lambda: health_statuses("/panoptic/upsnet", health()))
    executor = SingleThreadedExecutor(context=context)
    executor.add_node(upsnet)
    executor.add_node(viewer)
    thread = threading.Thread(target=executor.spin)
    thread.start()
    yield Stage(feed, compressed, raw, upsnet)
    feed.close()
    executor.shutdown()
    context.try_shutdown()
    thread.join()
    upsnet.destroy_node()
    viewer.destroy_node()


def overlays(feed: Feed) -> dict[str, str]:
    _, figures = feed.figures(after=-1, timeout=0)
    return {one["name"]: one["overlay"] for node in figures["nodes"] for one in node["cameras"]}


def jpeg(stamp: int = 1) -> CompressedImage:
    _, encoded = cv2.imencode(".jpg", PIXELS)
    message = CompressedImage(format="jpeg", data=array.array("B", encoded.tobytes()))
    message.header.stamp.sec, message.header.frame_id = stamp, "camera"
    return message


def seen(stage: Stage, topic: str, publish: Callable[[], None], after: int = 0) -> Any:
    """The picture that comes of publishing, which may have to be done before both sides met."""

    def look() -> Any:
        picture = stage.feed.picture(topic, after=after, timeout=0.2)
        if picture is None:
            publish()
        return picture

    return until(look, f"a picture of {topic}")


def test_pictures_are_subscribed_to_only_while_somebody_looks(stage: Stage) -> None:
    with pytest.raises(KeyError):
        stage.feed.picture(TOPIC, after=0, timeout=0)  # no node is known yet
    until(lambda: overlays(stage.feed), "the node's overlays")
    # Compressed where that is offered.
    assert overlays(stage.feed) == {"camera": TOPIC, "left": RAW_TOPIC}
    with pytest.raises(KeyError):
        stage.feed.picture("/panoptic/labels", after=0, timeout=0)
    assert stage.compressed.get_subscription_count() == 0

    picture = seen(stage, TOPIC, lambda: stage.compressed.publish(jpeg(7)))
    assert picture.stamp == 7.0
    assert picture.media_type == "image/jpeg"
    assert picture.data == jpeg().data.tobytes()
    assert stage.raw.get_subscription_count() == 0

    until(lambda: not stage.compressed.get_subscription_count(), "the end of the subscription")
    # Who comes back is shown the old picture, and not as a new one.
    kept = stage.feed.picture(TOPIC, after=0, timeout=0)
    # On a busy machine it was published twice before it was seen.
    assert kept.data == picture.data and kept.number >= picture.number
    assert kept.received < time.monotonic()
    assert stage.feed.picture(TOPIC, after=kept.number, timeout=0.1) is None
    again = seen(stage, TOPIC, lambda: stage.compressed.publish(jpeg(8)), after=kept.number)
    assert again.stamp == 8.0


@pytest.fixture
def namesake(domain: int) -> Iterator[None]:
    """An older node of the same name without publishers, as one that is ending."""
    context = rclpy.Context()
    rclpy.init(context=context, domain_id=domain)
    node = Node("upsnet", namespace="panoptic", context=context)
    yield
    node.destroy_node()
    context.try_shutdown()


def test_another_node_of_the_same_name_hides_no_overlay(namesake: None, stage: Stage) -> None:
    names = stage.feed._node.get_node_names
    until(lambda: names().count("upsnet") == 2, "the discovery of both nodes")
    until(lambda: overlays(stage.feed), "the node's overlays")
    version, _ = stage.feed.figures(after=-1, timeout=0)
    until(lambda: stage.feed.figures(after=-1, timeout=0)[0] > version + 2, "further reports")
    assert overlays(stage.feed) == {"camera": TOPIC, "left": RAW_TOPIC}


def test_a_raw_overlay_is_compressed_here(stage: Stage) -> None:
    until(lambda: overlays(stage.feed), "the node's overlays")
    message = Image(height=64, width=96, encoding="rgb8", step=288)
    message.data = array.array("B", PIXELS[:, :, ::-1].tobytes())
    picture = seen(stage, RAW_TOPIC, lambda: stage.raw.publish(message))
    decoded = cv2.imdecode(np.frombuffer(picture.data, np.uint8), cv2.IMREAD_COLOR)
    assert np.abs(decoded.astype(int) - PIXELS).mean() < 8


def test_what_is_no_picture_is_reported_and_survived(stage: Stage) -> None:
    until(lambda: overlays(stage.feed), "the node's overlays")

    def malformed() -> dict[str, str]:
        stage.compressed.publish(CompressedImage(format="jpeg", data=[1, 2, 3, 4]))
        stage.feed.picture(TOPIC, after=0, timeout=0.1)
        return stage.feed.figures(after=-1, timeout=0)[1]["malformed"]

    assert "is not a JPEG, PNG" in until(malformed, "a report of the malformed picture")[TOPIC]
    assert seen(stage, TOPIC, lambda: stage.compressed.publish(jpeg()))
    assert stage.feed.figures(after=-1, timeout=0)[1]["malformed"] == {}


def points(feed: Feed) -> dict[str, str]:
    _, figures = feed.figures(after=-1, timeout=0)
    return {one["name"]: one["points"] for node in figures["nodes"] for one in node["cameras"]}


def red(frame_id: str) -> bytes:
    """A point 20 m ahead of a camera, or above a lidar."""
    return labelled_message([(0, -1, 20)], [0xFF0000], frame_id=frame_id, stamp_ns=9 * 10**9)


def test_points_are_subscribed_to_only_while_somebody_looks(stage: Stage) -> None:
    until(lambda: overlays(stage.feed), "the node's overlays")
    assert points(stage.feed) == {"camera": "", "left": ""}
    with pytest.raises(KeyError):
        stage.feed.picture(POINTS, after=0, timeout=0)
    publisher = stage.node.create_publisher(PointCloud2, "points", 5)
    stage.node.create_publisher(PointCloud2, "unknown_points", 5)
    stage.node.create_publisher(PointCloud2, "/lidar/points", 5)
    until(lambda: points(stage.feed)["camera"], "the topic of points")
    assert points(stage.feed) == {"camera": POINTS, "left": ""}
    assert publisher.get_subscription_count() == 0

    # Which axis is ahead is known when the first overlay has come.
    until(
        lambda: (
            stage.feed.picture(POINTS, after=0, timeout=0.05) or publisher.get_subscription_count()
        ),
        "the subscription",
    )
    for _ in range(3):
        publisher.publish(red("camera"))
        assert stage.feed.picture(POINTS, after=0, timeout=0.1) is None
    seen(stage, TOPIC, lambda: stage.compressed.publish(jpeg()))
    picture = seen(stage, POINTS, lambda: publisher.publish(red("camera")))
    assert (picture.media_type, picture.stamp) == ("image/png", 9.0)
    decoded = cv2.imdecode(np.frombuffer(picture.data, np.uint8), cv2.IMREAD_COLOR)
    rows, _ = np.nonzero((decoded == (0, 0, 255)).all(axis=-1))
    assert rows.mean() < 0.4 * decoded.shape[0]
    until(lambda: not publisher.get_subscription_count(), "the end of the subscription")

    stage.node.destroy_publisher(publisher)
    until(lambda: not points(stage.feed)["camera"], "the end of the topic")
    with pytest.raises(KeyError):
        stage.feed.picture(POINTS, after=0, timeout=0)


def test_clouds_without_labels_are_reported_and_survived(stage: Stage) -> None:
    publisher = stage.node.create_publisher(PointCloud2, "points", 5)
    until(lambda: overlays(stage.feed) and points(stage.feed)["camera"], "the topic of points")
    seen(stage, TOPIC, lambda: stage.compressed.publish(jpeg()))

    def malformed() -> str:
        publisher.publish(PointCloud2(height=1, width=1))
        stage.feed.picture(POINTS, after=0, timeout=0.1)
        return stage.feed.figures(after=-1, timeout=0)[1]["malformed"].get(POINTS, "")

    assert "bytes" in until(malformed, "a report of the malformed cloud")
    assert seen(stage, POINTS, lambda: publisher.publish(red("camera")))
    assert POINTS not in stage.feed.figures(after=-1, timeout=0)[1]["malformed"]


def test_close_ends_all_waiting(stage: Stage) -> None:
    until(lambda: overlays(stage.feed), "the node's overlays")
    got: list[Any] = []
    waiting = threading.Thread(
        target=lambda: got.append(stage.feed.picture(TOPIC, after=0, timeout=600))
    )
    waiting.start()
    until(stage.compressed.get_subscription_count, "the subscription")
    stage.feed.close()
    waiting.join(SECONDS)
    assert got == [None]


def test_what_is_asked_for_after_close_uses_no_node(domain: int) -> None:
    context = rclpy.Context()
    rclpy.init(context=context, domain_id=domain)
    viewer = Node("upsnet_view", context=context)
    feed = Feed(viewer)
    feed._presence = {"/panoptic/upsnet": Presence(there=True, overlays={"camera": TOPIC})}
    feed.close()
    viewer.destroy_node()
    context.try_shutdown()
    # A browser's request may come while the command ends.
    assert feed.picture(TOPIC, after=0, timeout=60) is None
