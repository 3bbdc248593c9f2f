"""Each point has the label of its pixel, or none; compared with a plain loop over points."""

from __future__ import annotations

import array
import math

import numpy as np
import point_scene as scene
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rclpy.serialization import deserialize_message
from sensor_msgs.msg import PointCloud2

from upsnet_ros.errors import PointsError
from upsnet_ros.messages.results import image_message
from upsnet_ros.points.camera_model import RigidTransform
from upsnet_ros.points.labels import UNKNOWN_RGB
from upsnet_ros.points.objects import find_objects
from upsnet_ros.points.parameters import PointsSettings

DEPTH = PointsSettings()


def published(points) -> np.ndarray:
    return scene.records(deserialize_message(points.cloud.serialize(), PointCloud2))


def rgb(record) -> tuple[int, int, int]:
    word = int(np.float32(record["rgb"]).view(np.uint32))
    return word >> 16, word >> 8 & 255, word & 255


@pytest.mark.parametrize("encoding", ["16UC1", "32FC1"])
@pytest.mark.parametrize("labels", ["16UC1", "32SC1"])
def test_points_of_depth_have_the_labels_of_their_pixels(encoding, labels):
    message = scene.depth_message(encoding=encoding)
    points = scene.labeller().label_depth(message, scene.frame(encoding=labels), settings=DEPTH)
    found = published(points)
    assert len(found) == scene.HEIGHT * scene.WIDTH
    values, unknown = scene.label_map().reshape(-1), scene.unknown_mask().reshape(-1) != 0
    things = values >= 1000
    np.testing.assert_array_equal(found["class_id"], np.where(things, values // 1000, values))
    np.testing.assert_array_equal(found["instance_id"], np.where(things, values % 1000, 0))
    np.testing.assert_array_equal(found["track_id"], np.where(values == scene.CAR, scene.TRACK, 0))
    np.testing.assert_array_equal(found["unknown"], unknown)
    np.testing.assert_array_equal(found["z"], scene.depth_map().reshape(-1))
    colors = {one.id: tuple(one.color) for one in scene.label_info().classes}
    assert rgb(found[0]) == colors[scene.ROAD]
    assert rgb(found[np.flatnonzero(unknown)[0]]) == UNKNOWN_RGB


def test_points_of_depth_project_back_onto_their_pixels():
    labeller = scene.labeller()
    points = labeller.label_depth(scene.depth_message(), scene.frame(), settings=DEPTH)
    found = published(points)
    xyz = np.stack([found[name] for name in "xyz"])
    u, v, visible = labeller._model(DEPTH).project(xyz)
    assert visible.all()
    rows, columns = np.divmod(points.pixels, scene.WIDTH)
    np.testing.assert_allclose(u, columns, atol=1e-3)
    np.testing.assert_allclose(v, rows, atol=1e-3)


@pytest.mark.parametrize("bad", [0, -1, np.nan, np.inf, -np.inf])
def test_pixels_without_depth_have_no_point(bad):
    depth = scene.depth_map()
    depth[5:9, 3:50] = bad
    points = scene.labeller().label_depth(scene.depth_message(depth), scene.frame(), settings=DEPTH)
    valid = np.flatnonzero(np.isfinite(depth.reshape(-1)) & (depth.reshape(-1) > 0))
    np.testing.assert_array_equal(points.pixels, valid)
    np.testing.assert_array_equal(points.xyz[2], depth.reshape(-1)[valid])


@pytest.mark.parametrize("holes", [False, True])
def test_organized_points_form_the_grid_of_the_image(holes):
    depth = scene.depth_map()
    if holes:
        depth[5:9, 3:50], depth[32:36, 42:50] = np.nan, 0  # some of the unknown object's too
    message, frame = scene.depth_message(depth), scene.frame()
    points = scene.labeller().label_depth(message, frame, settings=PointsSettings(organized=True))
    row = scene.labeller().label_depth(message, frame, settings=DEPTH)
    grid = deserialize_message(points.cloud.serialize(), PointCloud2)
    assert (grid.height, grid.width, grid.is_dense) == (*depth.shape, not holes)
    found, pixels = scene.records(grid), row.pixels
    np.testing.assert_array_equal(found[pixels], published(row))
    rest = np.delete(found, pixels)
    assert len(rest) == holes * (4 * 47 + 4 * 8)
    assert all(np.isnan(rest[name]).all() for name in "xyz")
    assert not rest["class_id"].any() and not rest["unknown"].any()
    # What is chosen or measured of them does not depend on the layout.
    unknown, expected = (one.cloud.select(one.unknown).points for one in (points, row))
    assert expected.size
    np.testing.assert_array_equal(unknown, expected)
    measures = {"quantile": 0.02, "min_points": 1}
    assert find_objects(row, **measures) == find_objects(points, **measures)
    kept = np.isfinite(points.xyz[2])
    np.testing.assert_array_equal(points.xyz[:, kept], row.xyz)
    np.testing.assert_array_equal(points.rows[kept], row.rows)
    np.testing.assert_array_equal(points.pixels[kept], row.pixels)
    assert not points.rows[~kept].any()


def test_padded_and_bigendian_depth_is_read():
    depth = (1000 * scene.depth_map()).astype(">u2")
    padded = np.zeros((scene.HEIGHT, scene.WIDTH + 3), ">u2")
    padded[:, : scene.WIDTH] = depth
    message = scene.depth_message(padded.view(np.uint16), encoding="32FC1")
    message.encoding, message.is_bigendian, message.width = "16UC1", 1, scene.WIDTH
    points = scene.labeller().label_depth(message, scene.frame(), settings=DEPTH)
    np.testing.assert_allclose(points.xyz[2], scene.depth_map().reshape(-1))


@pytest.mark.parametrize("encoding", ["16UC1", "32FC1"])
def test_a_step_that_is_no_multiple_of_a_value_is_read(encoding):
    whole = scene.depth_message(encoding=encoding)
    rows = np.frombuffer(bytes(whole.data), np.uint8).reshape(scene.HEIGHT, -1)
    padded = np.pad(rows, ((0, 0), (0, 1)), constant_values=255)
    message = scene.depth_message(encoding=encoding)
    message.step, message.data = padded.shape[1], array.array("B", padded.tobytes()[:-1])
    found, expected = (
        scene.labeller().label_depth(one, scene.frame(), settings=DEPTH) for one in (message, whole)
    )
    np.testing.assert_array_equal(found.xyz, expected.xyz)


def test_values_that_no_class_has_are_void():
    frame = scene.frame(encoding="32SC1")
    values = np.full((scene.HEIGHT, scene.WIDTH), 2**30, np.int32)
    values[0] = -5
    values[1] = scene.ROAD
    frame["labels"] = image_message(values, "32SC1", scene.header())
    found = published(
        scene.labeller().label_depth(scene.depth_message(), frame, settings=DEPTH)
    ).reshape(scene.HEIGHT, -1)
    assert set(found["class_id"][2:29].flat) == {0}
    assert set(found["class_id"][0].flat) == {0}
    assert (found["class_id"][1] == scene.ROAD).all()


def by_a_loop(xyz, labeller, *, window: int, tolerance: float) -> list[int]:
    """Index of the pixel of each point that the camera sees, or -1; point by point."""
    camera = labeller._model(DEPTH)
    pixels = []
    for point in xyz.T:
        u, v, visible = camera.project(point[:, None])
        pixels.append((math.floor(v[0] + 0.5), math.floor(u[0] + 0.5)) if visible[0] else None)
    answer = []
    for point, pixel in zip(xyz.T, pixels, strict=True):
        if pixel is None:
            answer.append(-1)
            continue
        nearest = min(
            other[2]
            for other, at in zip(xyz.T, pixels, strict=True)
            if at is not None and max(abs(at[0] - pixel[0]), abs(at[1] - pixel[1])) <= window
        )
        hidden = point[2] > np.float32(nearest) * np.float32(1 + tolerance)
        answer.append(-1 if hidden else pixel[0] * scene.WIDTH + pixel[1])
    return answer


@given(seed=st.integers(0, 10_000), window=st.integers(0, 3), tolerance=st.floats(0, 1))
@settings(max_examples=25, deadline=None, derandomize=True)
def test_lidar_points_are_seen_as_by_a_loop(seed, window, tolerance):
    rng = np.random.default_rng(seed)
    optical = rng.uniform((-6, -5, -3), (6, 5, 8), (120, 3)).astype(np.float32).T
    optical[:, :3] = [[np.nan, 0, 0], [0, np.inf, 0], [1, 1, 0]]
    own = RigidTransform.from_values((0, 0, 0, 0, 0, 0, 1), name="none")
    labeller = scene.labeller()
    points = labeller.label_cloud(
        scene.cloud_message(own.apply(optical).T),
        scene.frame(),
        settings=scene.cloud_settings(
            extrinsics=(0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 1.0),
            occlusion_window=window,
            occlusion_tolerance=tolerance,
        ),
    )
    expected = by_a_loop(optical, labeller, window=window, tolerance=tolerance)
    np.testing.assert_array_equal(points.pixels, expected)
    found, labels = published(points), scene.label_map().reshape(-1)
    for record, pixel in zip(found, expected, strict=True):
        label = 0 if pixel < 0 else int(labels[pixel])
        assert record["class_id"] == (label // 1000 or label)
        assert record["unknown"] == (pixel >= 0 and scene.unknown_mask().flat[pixel] != 0)


def test_a_point_behind_what_the_camera_sees_has_no_label():
    # Two points on one line of sight: on the car at 5 m, and on a wall behind it at 9 m.
    optical = np.array([[-2.0, -0.8, 5.0], [-3.6, -1.44, 9.0], [0.0, 0.0, -5.0], [90.0, 0, 1.0]])
    lidar = RigidTransform.from_values(scene.EXTRINSICS, name="x").inverse().apply(optical.T)
    points = scene.labeller().label_cloud(
        scene.cloud_message(lidar.T), scene.frame(), settings=scene.cloud_settings()
    )
    found = published(points)
    assert found["class_id"].tolist() == [26, 0, 0, 0]
    assert found["track_id"].tolist() == [scene.TRACK, 0, 0, 0]
    assert found["intensity"].tolist() == [0, 1, 2, 3], "fields of the input are kept"
    np.testing.assert_array_equal(np.float32(lidar[0]), found["x"])
    assert points.warning == ""


def test_a_cloud_that_nowhere_meets_the_image_is_warned_of():
    message = scene.cloud_message(np.array([[-9.0, 0, 0]]))  # behind
    points = scene.labeller().label_cloud(message, scene.frame(), settings=scene.cloud_settings())
    assert "check the transform" in points.warning


def test_depth_of_another_frame_is_warned_of():
    message = scene.depth_message(frame_id="depth_optical")
    points = scene.labeller().label_depth(message, scene.frame(), settings=DEPTH)
    assert "'depth_optical', the labels in 'camera_optical'" in points.warning


def failure(*, depth=None, cloud=None, frame=None, labeller=None, settings=None) -> PointsError:
    labeller = labeller or scene.labeller()
    frame = frame or scene.frame()
    with pytest.raises(PointsError) as caught:
        if depth is not None:
            labeller.label_depth(depth, frame, settings=settings or DEPTH)
        else:
            labeller.label_cloud(cloud, frame, settings=settings or scene.cloud_settings())
    assert "\n" not in str(caught.value)
    return caught.value


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"encoding": "rgb8"}, "encoding 'rgb8' is not a depth image's"),
        ({"width": 0}, "the depth image is empty"),
        ({"step": 3}, "do not hold"),
        ({"step": 4 * scene.WIDTH - 1}, "do not hold"),
        ({"encoding": "16UC1", "step": 2 * scene.WIDTH - 1}, "do not hold"),
        ({"step": 2**32 - 1}, "do not hold"),
        ({"data": array.array("B")}, "0 bytes with step"),
        ({"height": 1000}, "do not hold"),
        ({"height": 24}, "64x24 pixels, the labels 64x48"),
    ],
)
def test_depth_images_that_cannot_be_used(changes, says):
    message = scene.depth_message()
    for name, value in changes.items():
        setattr(message, name, value)
    error = failure(depth=message)
    assert error.topic == "depth"
    assert says in str(error)


def test_depth_of_zeros_only_is_an_error():
    error = failure(depth=scene.depth_message(0 * scene.depth_map(), encoding="16UC1"))
    assert (error.topic, "no valid pixel" in str(error)) == ("depth", True)


def test_clouds_that_cannot_be_used():
    error = failure(cloud=scene.cloud_message(np.full((4, 3), np.nan)))
    assert (error.topic, "none of the 4 points is finite" in str(error)) == ("points_in", True)
    error = failure(cloud=scene.cloud_message(np.ones((4, 3)), fields=[]))
    assert (error.topic, "no field x" in str(error)) == ("points_in", True)


def test_a_calibration_that_cannot_be_used():
    error = failure(depth=scene.depth_message(), labeller=scene.labeller(k=[float("nan")] * 9))
    assert (error.topic, "NaN" in str(error)) == ("camera_info", True)
    error = failure(depth=scene.depth_message(), labeller=scene.labeller(width=1280))
    assert (error.topic, "1280x48 pixels" in str(error)) == ("camera_info", True)


def test_what_has_not_come_yet_is_named():
    labeller = scene.labeller()
    labeller.set_camera_info(None)
    assert failure(depth=scene.depth_message(), labeller=labeller).topic == "camera_info"
    labeller = type(labeller)()
    assert failure(depth=scene.depth_message(), labeller=labeller).topic == "label_info"


def test_labels_that_do_not_belong_together():
    frame = scene.frame()
    frame["unknown_mask"] = image_message(np.zeros((2, 2), np.uint8), "mono8", scene.header())
    assert failure(depth=scene.depth_message(), frame=frame).topic == "labels"
    frame = scene.frame()
    frame["labels"].encoding = "rgb8"
    assert failure(depth=scene.depth_message(), frame=frame).topic == "labels"


def test_missing_transforms_and_frames_are_named():
    cloud, settings_ = scene.cloud_message(np.ones((4, 3))), PointsSettings(input="cloud")
    error = failure(cloud=cloud, settings=settings_)
    assert error.topic == "tf_static"
    assert "from 'lidar' to 'camera_optical'" in str(error)
    cloud.header.frame_id = ""
    error = failure(cloud=cloud, settings=settings_)
    assert "the cloud has no frame_id" in str(error)


def test_a_new_calibration_is_used_from_then_on():
    labeller = scene.labeller()

    def label():
        depth = scene.depth_message()
        return labeller.label_depth(depth, scene.frame(), settings=DEPTH).xyz

    before = label()
    labeller.set_camera_info(scene.camera_info(d=[]))
    assert not np.allclose(before, label())
    labeller.set_camera_info(scene.camera_info())
    np.testing.assert_array_equal(before, label())


def test_label_info_without_classes_is_an_error():
    info = scene.label_info()
    info.classes = []
    with pytest.raises(PointsError, match="0 classes") as caught:
        scene.labeller().set_label_info(info)
    assert caught.value.topic == "label_info"
