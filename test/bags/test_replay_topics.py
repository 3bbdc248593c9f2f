"""Which topic of a bag is the camera, and what else is played."""

from __future__ import annotations

from types import SimpleNamespace

import drive_bag
import pytest

from upsnet_ros.bags.make import BagJob, ScenesDrive, make_bag
from upsnet_ros.bags.reader import open_bag
from upsnet_ros.bags.replay_topics import (
    OUTPUTS,
    POINT_OUTPUTS,
    TRUTH,
    message_class,
    point_inputs,
    sort_topics,
    topics_of,
)
from upsnet_ros.bags.writer import BagWriter
from upsnet_ros.cli import replay
from upsnet_ros.errors import TopicError

pytest.importorskip("rclpy", reason="ROS 2 is not installed")

from rclpy.validate_full_topic_name import validate_full_topic_name

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
        "/panoptic/labels": "a result of an earlier run",
        "/panoptic/overlay/compressed": "a result of an earlier run",
        "/panoptic/instances": "a result of an earlier run",
        "/panoptic/detections": "a result of an earlier run",
        "/rosout": "about the system that recorded it",
        "/lidar": "vendor_msgs/msg/Cloud is not installed",
    }


def test_a_clock_of_our_own_takes_the_bags_place():
    topics = sort_topics(DRIVE, truth=["/ground_truth"], clock=True)
    assert topics.left_out["/clock"] == "the replay publishes the clock itself"


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


def of_depth(topic):
    return "16UC1" if "depth" in topic else ""


def test_of_several_the_only_readable_one():
    several = bag("/color/image", "/depth/image")
    assert sort_topics(several, problem=of_depth).camera == "/color/image"
    with pytest.raises(TopicError, match="--topic, of /color/image, /depth/image"):
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


def test_a_camera_that_the_node_cannot_read():
    several = bag("/color/image", "/color/image/compressed", "/depth/image")
    with pytest.raises(TopicError, match=r"/depth/image: 16UC1; .*: /color/image, /color/image/c"):
        sort_topics(several, camera="/depth/image", problem=of_depth)
    with pytest.raises(TopicError, match=r"/depth/image: 16UC1; .*: none"):
        sort_topics(bag("/depth/image"), problem=of_depth)


def test_no_camera_at_all():
    with pytest.raises(TopicError, match=r"no camera: .*Image or CompressedImage"):
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


@pytest.mark.parametrize(
    "name",
    ["/a b", "/\ufffd", "/a//b", "/a/", "/1a", "", "/", "a\n", "/a{b}", "~/a", "/" + 300 * "a"],
)
def test_names_that_are_none_in_ros_are_left_out(name):
    topics = sort_topics([*bag("/camera/image_raw"), *bag(**{name: "std_msgs/msg/Header"})])
    assert topics.played == ("/camera/image_raw",)
    assert topics.left_out == {name: "not a valid ROS topic name"}
    with pytest.raises(TopicError, match="no camera"):
        sort_topics(bag(name))
    with pytest.raises(TopicError):
        sort_topics(bag(name), camera=name)


@pytest.mark.parametrize("name", ["/a", "/a/b_c/D1", "/__a__b", "/_a"])
def test_names_that_ros_allows_are_played(name):
    validate_full_topic_name(name)
    assert sort_topics(bag(name)).camera == name


@pytest.mark.parametrize(
    "msgtype",
    ["", "os/msg/path", "../msg/Image", "./msg/X", "/msg/X", "sensor_msgs/msg/__name__",
     "sensor_msgs/msg/", "sensor_msgs.msg/msg/Image", "a\0b/msg/C", "sensor_msgs/msg/Image/x",
     "Ä/msg/X", "torch/msg/Tensor"],
)  # fmt: skip
def test_texts_that_are_no_message_types(msgtype):
    assert message_class(msgtype) is None


def test_images_of_the_ground_truth_are_no_cameras(tmp_path):
    topics = topics_of(drive_bag.write_drive(tmp_path / "drive", 1, unknown_mask=True))
    assert topics.camera == drive_bag.CAMERA
    assert topics.truth == {drive_bag.TRUTH, "/ground_truth/unknown_mask"}


def test_depth_images_are_refused_by_name(tmp_path):
    path = drive_bag.write_drive(tmp_path / "drive", 1)
    says = f"{drive_bag.TRUTH}: encoding '16UC1' is .*: {drive_bag.CAMERA}$"
    with pytest.raises(TopicError, match=says):
        topics_of(path, camera=drive_bag.TRUTH)


@pytest.mark.parametrize(("damaged", "refused"), [(0, False), (2, False), (4, True)])
def test_a_camera_whose_first_images_are_damaged(tmp_path, damaged, refused):
    count = 0

    def shorten(record):
        nonlocal count
        if record.topic == drive_bag.CAMERA:
            count += 1
            record.message.data = record.message.data[: 0 if count <= damaged else None]
        return [(record.topic, record.message)]

    drive = drive_bag.write_drive(tmp_path / "drive", 4)
    path = copied(drive, tmp_path / "copy", shorten)
    if refused:
        with pytest.raises(TopicError, match="data holds 0 bytes"):
            topics_of(path)
    else:
        assert topics_of(path).camera == drive_bag.CAMERA


@pytest.mark.parametrize(
    ("camera", "left_out"),
    [
        ("/camera/image_raw", {"/panoptic/camera_info", "/panoptic/image/camera_info"}),
        ("/panoptic/image", {"/panoptic/image/camera_info"}),
        ("/panoptic/image/compressed", {"/panoptic/image/camera_info"}),
    ],
)
def test_the_calibration_is_the_cameras_own(camera, left_out):
    """What the node published again beside its results is not played."""
    names = ("/camera/camera_info", "/panoptic/camera_info", "/panoptic/image/camera_info")
    kinds = dict.fromkeys(names, "sensor_msgs/msg/CameraInfo")
    topics = sort_topics(bag(camera, **kinds), namespace="/panoptic")
    assert topics.left_out.keys() == left_out
    assert topics.carried.keys() == kinds.keys() - left_out


@pytest.fixture(scope="module")
def street(tmp_path_factory):
    path = tmp_path_factory.mktemp("street") / "drive"
    scenes = ScenesDrive(
        split="val", seed=7, sequences=1, first=0, frames=2, size=(32, 64), points=True
    )
    list(make_bag(scenes, BagJob(path=path)))
    return path


def test_the_command_knows_the_outputs_of_a_points_node():
    assert POINT_OUTPUTS.keys() == replay._POINT_OUTPUTS


def copied(street, path, change):
    """The bag with other topics, stamps or none: ``change`` returns topic and message."""
    with open_bag(street) as source, BagWriter(path=path, types=source.types) as out:
        for record in source:
            for topic, message in change(record):
                out.write(topic, message, record.time_ns, record.msgtype)
    return path


def test_what_a_points_node_needs_is_in_the_bag_of_a_street(street):
    topics = topics_of(street)
    assert topics.camera == "/camera/image_raw"
    assert topics.clouds == ("/lidar/points",)
    inputs = point_inputs(street, topics)
    assert (inputs.kind, inputs.topic, inputs.camera_info) == (
        "cloud",
        "/lidar/points",
        "/camera/camera_info",
    )
    assert (inputs.source, inputs.target) == ("lidar", "camera")
    assert inputs.transforms == (("camera", "lidar", (0.0, -0.3, -0.4, 0.5, -0.5, 0.5, 0.5)),)


def test_points_come_from_depth_if_asked_for_or_if_there_is_no_lidar(street, tmp_path):
    topics = topics_of(street)
    inputs = point_inputs(street, topics, kind="depth")
    assert (inputs.kind, inputs.topic) == ("depth", "/camera/depth")
    assert inputs.source == inputs.target == "camera"
    bag = copied(street, tmp_path / "bag", without("/lidar/points"))
    assert point_inputs(bag, topics_of(bag)).topic == "/camera/depth"


def without(*names):
    def change(record):
        return [] if record.topic in names else [(record.topic, record.message)]

    return change


def twice(record):
    yield record.topic, record.message
    if record.topic in ("/lidar/points", "/camera/depth"):
        yield f"/second{record.topic}", record.message


def later(record):
    if record.topic in ("/lidar/points", "/camera/depth"):
        record.message.header.stamp.nanosec += 5_000_000
    return [(record.topic, record.message)]


@pytest.mark.parametrize(
    ("change", "kind", "says"),
    [
        (without("/lidar/points"), "cloud", "PointCloud2, not none"),
        (without("/lidar/points", "/camera/depth"), None, "not none"),
        (without("/camera/depth"), "depth", r"depth images \(.*\), not none"),
        (without("/camera/camera_info"), None, "no /camera/camera_info"),
        (twice, None, "not /lidar/points, /second/lidar/points"),
        (twice, "depth", "not /camera/depth, /second/camera/depth"),
        (later, None, "5.0 ms from"),
        (later, "depth", "5.0 ms from"),
    ],
)
def test_bags_whose_points_cannot_be_labelled(street, tmp_path, change, kind, says):
    bag = copied(street, tmp_path / "bag", change)
    with pytest.raises(TopicError, match=says):
        point_inputs(bag, topics_of(bag), kind=kind)
