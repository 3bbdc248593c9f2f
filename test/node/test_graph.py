from __future__ import annotations

import re
import time
from pathlib import Path

import pytest
import rclpy
from rclpy.node import Node
from sensor_msgs.msg import CompressedImage, Image
from std_msgs.msg import String

from upsnet_ros.node.topics import image_topics, is_named_twice, why_no_image

pytestmark = pytest.mark.dds


@pytest.fixture(scope="module")
def nodes(domain):
    """The node that listens, and a camera, both in the graph."""
    context = rclpy.Context()
    rclpy.init(context=context, domain_id=domain)
    pair = Node("listener", namespace="graph", context=context), Node("cam", context=context)
    yield pair
    for one in pair:
        one.destroy_node()
    context.try_shutdown()


@pytest.fixture
def publish(nodes):
    """Makes a publisher of the camera, known in the graph, that is gone after the test."""
    listener, camera = nodes
    made = []

    def make(kind, topic, node=camera):
        made.append((node, topic, node.create_publisher(kind, topic, 1)))
        until(lambda: listener.count_publishers(topic))

    yield make
    for node, topic, publisher in made:
        node.destroy_publisher(publisher)
        until(lambda topic=topic: not listener.count_publishers(topic))


def until(condition):
    end = time.monotonic() + 240
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.005)


def why(nodes, topic, transport="raw"):
    return why_no_image(nodes[0], topic, transport=transport, parameter="eye.topic")


RAW, JPEG = Image, CompressedImage


@pytest.mark.parametrize(
    ("transport", "topic", "published", "says"),
    [
        ("raw", "/a", {}, ["/a has no publisher", "there is no image topic in ROS domain"]),
        ("compressed", "/a/compressed", {}, ["has no publisher", "no image topic in ROS domain"]),
        ("raw", "/a", {"/a": RAW}, ["no image from 1 publisher of /a (/cam)"]),
        ("compressed", "/a/compressed", {"/a/compressed": JPEG}, ["no image from 1 publisher"]),
        (
            "raw",
            "/a/compressed",
            {"/a/compressed": JPEG},
            ["carries sensor_msgs/msg/CompressedImage", "image_transport:=compressed", "topic /a "],
        ),
        (
            "raw",
            "/a",
            {"/a": JPEG},
            ["carries sensor_msgs/msg/CompressedImage", "remap /a/compressed to /a"],
        ),
        (
            "compressed",
            "/a/compressed",
            {"/a/compressed": RAW},
            ["carries sensor_msgs/msg/Image", "image_transport:=raw", "/a/compressed by eye.topic"],
        ),
        ("raw", "/a", {"/a/compressed": JPEG}, ["no publisher", "image_transport:=compressed"]),
        ("compressed", "/a/compressed", {"/a": RAW}, ["no publisher", "image_transport:=raw"]),
        ("raw", "/a", {"/b": RAW}, ["no publisher", "/b (Image)", "by eye.topic"]),
        ("compressed", "/a/compressed", {"/b": JPEG}, ["no publisher", "/b (CompressedImage)"]),
        ("raw", "/a", {"/a": String, "/b": RAW}, ["carries std_msgs/msg/String", "/b (Image)"]),
        ("compressed", "/a/compressed", {"/a/compressed": String}, ["std_msgs/msg/String"]),
    ],
)
def test_why_no_image_comes(nodes, publish, transport, topic, published, says):
    for name, kind in published.items():
        publish(kind, name)
    text = why(nodes, topic, transport)
    assert "\n" not in text
    for part in says:
        assert part in text


def test_what_the_node_publishes_itself_is_no_camera(nodes, publish):
    publish(Image, "/graph/overlay", node=nodes[0])
    assert image_topics(nodes[0]) == {}
    publish(Image, "/b")
    assert image_topics(nodes[0]) == {"/b": "sensor_msgs/msg/Image"}


def test_many_topics_are_cut_short(nodes, publish):
    for number in range(10):
        publish(Image, f"/camera{number}")
    assert "/camera7 (Image) and 2 more" in why(nodes, "/a")


def test_another_node_of_the_same_name(nodes):
    listener, _ = nodes
    assert not is_named_twice(listener)
    other = Node("listener", namespace="graph", context=listener.context)
    until(lambda: is_named_twice(listener))
    other.destroy_node()
    until(lambda: not is_named_twice(listener))


def test_the_section_that_it_points_to_exists(nodes, publish):
    publish(Image, "/quiet")
    (section,) = re.findall(r"see (.+) in docs/node\.md", why(nodes, "/quiet"))
    page = (Path(__file__).resolve().parents[2] / "docs/node.md").read_text("utf-8")
    assert f"\n## {section}\n" in page
