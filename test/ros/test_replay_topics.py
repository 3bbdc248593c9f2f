"""Which topic of a bag is the camera, and what else is played."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from upsnet_ros.ros.replay_topics import OUTPUTS, TRUTH, TopicError, message_class, sort_topics

pytest.importorskip("rclpy", reason="ROS 2 is not installed")

IMAGE, COMPRESSED = "sensor_msgs/msg/Image", "sensor_msgs/msg/CompressedImage"


def bag(*names, latched=(), empty=(), **others):
    kinds = {name: COMPRESSED if name.endswith("/compressed") else IMAGE for name in names}
    return [
        SimpleNamespace(name=name, msgtype=kind, count=name not in empty, latched=name in latched)
        for name, kind in {**kinds, **others}.items()
    ]


DRIVE = bag(
    "/camera/image_raw",
    "/ground_truth/labels",
    "/ground_truth_of_others",
    "/panoptic/labels",
    "/panoptic/overlay/compressed",
    **{
        "/camera/camera_info": "sensor_msgs/msg/CameraInfo",
        "/panoptic/instances": OUTPUTS["instances"],
        "/panoptic/detections": "vision_msgs/msg/Detection2DArray",
        "/rosout": "rcl_interfaces/msg/Log",
        "/clock": "rosgraph_msgs/msg/Clock",
        "/lidar": "vendor_msgs/msg/Cloud",
    },
    latched=("/camera/camera_info", "/rosout"),
    empty=("/ground_truth_of_others",),
)


def test_every_topic_of_a_drive_has_its_part():
    topics = sort_topics(DRIVE, truth=["/ground_truth"])
    assert (topics.camera, topics.compressed) == ("/camera/image_raw", False)
    assert topics.base == topics.published == "/camera/image_raw"
    assert topics.truth == {"/ground_truth/labels"}
    assert topics.latched == {"/camera/camera_info"}
    assert set(topics.carried) == {"/camera/camera_info", "/ground_truth/labels", "/clock"}
    assert set(topics.played) == {"/camera/image_raw", *topics.carried}
    assert topics.left_out == {
        "/panoptic/labels": "an earlier node's answer",
        "/panoptic/overlay/compressed": "an earlier node's answer",
        "/panoptic/instances": "an earlier node's answer",
        "/panoptic/detections": "an earlier node's answer",
        "/rosout": "of the system that recorded it",
        "/lidar": "vendor_msgs/msg/Cloud is not installed",
    }


def test_a_clock_of_our_own_takes_the_bags_place():
    topics = sort_topics(DRIVE, truth=["/ground_truth"], clock=True)
    assert topics.left_out["/clock"] == "the replay keeps the clock"


def test_answers_in_another_namespace_are_played_and_may_be_truth():
    truth = ["/panoptic/labels", "/ground_truth/labels"]
    topics = sort_topics(DRIVE, camera="/camera/image_raw", truth=truth, namespace="/b")
    assert topics.truth == {"/panoptic/labels", "/ground_truth/labels"}
    assert "/panoptic/instances" in topics.carried


@pytest.mark.parametrize("name", ["/panoptic/image", "/image"])
def test_a_camera_in_the_nodes_own_namespace(name):
    assert sort_topics(bag(name, "/panoptic/labels")).camera == name


def test_of_raw_and_compressed_the_raw_one_is_taken_unless_named():
    both = bag("/cam/image_raw", "/cam/image_raw/compressed")
    assert sort_topics(both).camera == "/cam/image_raw"
    named = sort_topics(both, camera="/cam/image_raw/compressed")
    assert named.compressed
    assert named.base == "/cam/image_raw"
    assert named.published == "/cam/image_raw/compressed"
    assert set(named.carried) == {"/cam/image_raw"}


def test_compressed_images_without_the_suffix_go_to_where_the_node_looks():
    topics = sort_topics(bag(**{"/cam/jpeg": COMPRESSED}))
    assert (topics.camera, topics.base) == ("/cam/jpeg", "/cam/jpeg")
    assert topics.published == "/cam/jpeg/compressed"


def test_of_several_the_only_readable_one():
    several = bag("/color/image", "/depth/image")
    assert sort_topics(several, readable=lambda name: "color" in name).camera == "/color/image"
    with pytest.raises(TopicError, match="name one by --topic, of /color/image, /depth/image"):
        sort_topics(several)


@pytest.mark.parametrize(
    ("camera", "says"),
    [
        ("/camera/camera_info", "/camera/camera_info holds sensor_msgs/msg/CameraInfo; image"),
        ("/front", "/front is not in the bag, or is empty; image topics there: /camera/image_raw"),
        ("/ground_truth_of_others", "is not in the bag, or is empty"),
    ],
)
def test_a_camera_that_is_none(camera, says):
    with pytest.raises(TopicError, match=says):
        sort_topics(DRIVE, camera=camera)


def test_no_camera_at_all():
    with pytest.raises(TopicError, match="no camera: nothing of Image or CompressedImage"):
        sort_topics(bag("/ground_truth/labels"), truth=["/ground_truth"])


def test_truth_is_where_bags_are_made_with_it():
    from upsnet_ros.bags import make

    assert make.TRUTH == TRUTH


def test_message_class():
    from sensor_msgs.msg import Image

    assert message_class(IMAGE) is Image
    assert message_class("sensor_msgs/msg/Imagine") is None
    assert message_class("no_such_msgs/msg/Image") is None
    assert all(message_class(msgtype) for msgtype in OUTPUTS.values())
