from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from upsnet_ros.bags.make import BagJob, LidarDrive, ScenesDrive, make_bag
from upsnet_ros.bags.messages import stamp_of
from upsnet_ros.bags.reader import open_bag
from upsnet_ros.errors import BagError, DatasetError
from upsnet_ros.messages.images import plane, to_bgr
from upsnet_ros.synthetic.dataset import SceneJob, write_scenes

DRIVE = ScenesDrive(split="val", seed=3, sequences=1, first=0, frames=3, size=(17, 33))


def stamp_of_name(header) -> int:
    return header.stamp.sec * 10**9 + header.stamp.nanosec


def read(path: Path) -> dict[str, list]:
    messages: dict[str, list] = {}
    with open_bag(path) as bag:
        for record in bag:
            messages.setdefault(record.topic, []).append(record)
    return messages


def test_what_lies_in_a_bag_of_a_drive(tmp_path: Path):
    frames = list(make_bag(DRIVE, BagJob(path=tmp_path / "bag", compression="zstd")))
    topics = read(tmp_path / "bag")
    assert {name: len(records) for name, records in topics.items()} == {
        "/camera/camera_info": 3,
        "/camera/image_raw": 3,
        "/ground_truth/frame": 3,
        "/ground_truth/label_info": 1,
        "/ground_truth/labels": 3,
        "/ground_truth/unknown_mask": 3,
    }
    for place, frame in enumerate(frames):
        image, labels, mask, info, name = (
            topics[topic][place]
            for topic in (
                "/camera/image_raw",
                "/ground_truth/labels",
                "/ground_truth/unknown_mask",
                "/camera/camera_info",
                "/ground_truth/frame",
            )
        )
        assert frame.truth is not None
        assert frame.truth.unknown is not None
        assert (to_bgr(image.message) == frame.image).all()
        assert labels.message.encoding == "16UC1"
        assert (plane(labels.message) == frame.truth.labels).all()
        assert (plane(mask.message) == frame.truth.unknown * 255).all()
        assert (info.message.width, info.message.height) == (33, 17)
        assert info.message.k[[0, 2, 4, 5]].tolist() == [frame.focal, 16, frame.focal, 8]
        assert name.message.frame_id == frame.name
        stamps = {stamp_of(one.message.header) for one in (image, labels, mask, info)}
        assert stamps | {stamp_of_name(name.message)} == {image.time_ns}
        assert {one.message.header.frame_id for one in (image, labels, mask, info)} == {"camera"}
    info = topics["/ground_truth/label_info"][0].message
    assert (info.dataset, info.label_divisor, len(info.classes)) == ("cityscapes", 1000, 19)


def test_jpegs_of_another_camera_at_another_rate(tmp_path: Path):
    job = BagJob(path=tmp_path / "bag", camera="front", jpeg=95, rate_hz=20, storage="sqlite3")
    frames = list(make_bag(DRIVE, job))
    topics = read(tmp_path / "bag")
    images = topics["/front/image_raw/compressed"]
    assert "/front/image_raw" not in topics
    assert [record.time_ns - images[0].time_ns for record in images] == [0, 5 * 10**7, 10**8]
    pixels = to_bgr(images[0].message)
    assert np.abs(pixels.astype(int) - frames[0].image).mean() < 6


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"camera": "2 cameras"}, "name of a topic"),
        ({"jpeg": 101}, "JPEG quality 101"),
        ({"rate_hz": 0}, "rate 0 Hz"),
    ],
)
def test_jobs_that_are_not_possible(tmp_path: Path, options, reason):
    with pytest.raises(BagError, match=reason):
        BagJob(path=tmp_path / "bag", **options)


def records(message, columns: tuple[str, ...]) -> dict[str, np.ndarray]:
    """Columns of a cloud, by the fields that the message describes."""
    kinds = {2: "u1", 4: "<u2", 7: "<f4"}
    raw = np.asarray(message.data, np.uint8).reshape(message.width, message.point_step)
    fields = {field.name: field for field in message.fields}
    return {
        name: np.ascontiguousarray(
            raw[:, field.offset : field.offset + np.dtype(kinds[field.datatype]).itemsize]
        ).view(kinds[field.datatype])[:, 0]
        for name, field in fields.items()
        if name in columns
    }


def test_points_of_a_drive_lie_before_their_image_with_their_truth(tmp_path: Path):
    drive = ScenesDrive(
        split="val", seed=3, sequences=1, first=0, frames=2, size=(64, 128), points=True
    )
    frames = list(make_bag(drive, BagJob(path=tmp_path / "bag")))
    order = []
    with open_bag(tmp_path / "bag") as bag:
        latched = {topic.name for topic in bag.topics if topic.latched}
        order = [record.topic for record in bag]
    topics = read(tmp_path / "bag")
    assert "/tf_static" in latched
    assert order.index("/lidar/points") < order.index("/camera/image_raw")
    (pose,) = topics["/tf_static"][0].message.transforms
    assert (pose.header.frame_id, pose.child_frame_id) == ("camera", "lidar")
    assert (pose.transform.translation.y, pose.transform.rotation.w) == (-0.3, 0.5)
    for place, frame in enumerate(frames):
        assert frame.points is not None
        assert frame.truth is not None
        cloud, truth, depth = (
            topics[name][place].message
            for name in ("/lidar/points", "/ground_truth/points", "/camera/depth")
        )
        assert depth.encoding == "32FC1"
        assert np.array_equal(
            np.asarray(depth.data).view("<f4").reshape(64, 128), frame.points.depth
        )
        assert cloud.header.frame_id == truth.header.frame_id == "lidar"
        assert (
            stamp_of(cloud.header)
            == stamp_of(truth.header)
            == topics["/camera/image_raw"][place].time_ns
        )
        measured = records(cloud, ("x", "y", "z", "intensity", "ring"))
        known = records(truth, ("x", "y", "z", "class_id", "instance_id", "unknown"))
        assert len(measured["x"]) > 200
        for axis in "xyz":
            assert np.array_equal(measured[axis], known[axis])
        labels = frame.truth.labels.reshape(-1)[frame.points.swept.pixels]
        joined = np.where(
            labels >= 1000,
            known["class_id"].astype(int) * 1000 + known["instance_id"],
            known["class_id"],
        )
        assert (joined == labels).all()
        assert measured["ring"].max() < 64


def test_a_bag_without_points_has_none_of_their_topics(tmp_path: Path):
    list(make_bag(DRIVE, BagJob(path=tmp_path / "bag")))
    assert not {"/lidar/points", "/camera/depth", "/tf_static"} & read(tmp_path / "bag").keys()


def scenes(out: Path, *, depth: bool) -> Path:
    job = SceneJob(out=out, split="val", seed=3, sequences=1, length=2, size=(32, 64), depth=depth)
    assert len(list(write_scenes(job))) == 2
    return out


def test_the_lidar_of_written_scenes_is_that_of_rendered_ones(tmp_path: Path):
    rendered = ScenesDrive(
        split="val", seed=3, sequences=1, first=0, frames=2, size=(32, 64), points=True
    )
    frames = list(
        make_bag(LidarDrive(scenes(tmp_path / "a", depth=True), "val"), BagJob(path=tmp_path / "b"))
    )
    for one, other in zip(frames, rendered, strict=True):
        assert one.name == other.name
        assert one.focal == other.focal
        assert one.points is not None
        assert other.points is not None
        assert one.points.extrinsics == other.points.extrinsics
        assert len(one.points.swept.points) > 0
        for kind in ("points", "truth"):
            own = getattr(one.points.swept, kind)
            assert own.tobytes() == getattr(other.points.swept, kind).tobytes()
    topics = read(tmp_path / "b")
    assert len(topics["/lidar/points"]) == len(topics["/ground_truth/points"]) == 2
    assert "/camera/depth" not in topics


def test_scenes_without_depth_or_with_a_damaged_one_have_no_lidar(tmp_path: Path):
    with pytest.raises(DatasetError, match="scenes --depth"):
        list(LidarDrive(scenes(tmp_path / "a", depth=False), "val"))
    root = scenes(tmp_path / "b", depth=True)
    (first, *_) = sorted(root.rglob("*_camera.json"))
    for content in ("", "[]", '{"intrinsic": {"fx": null}}'):
        first.write_text(content)
        with pytest.raises(DatasetError, match="camera"):
            list(LidarDrive(root, "val"))
    (first, *_) = sorted(root.rglob("*_depth.tiff"))
    first.write_bytes(b"II*\0")
    with pytest.raises(DatasetError, match="depth"):
        list(LidarDrive(root, "val"))
