"""Projection and rays against OpenCV, and calibrations that cannot be used."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from point_scene import HEIGHT, WIDTH, camera_info
from scipy.spatial.transform import Rotation

from upsnet_ros.errors import PointsError
from upsnet_ros.points.camera_model import CameraModel, RigidTransform, StaticTransforms

COEFFICIENTS = {
    "plumb_bob": [-0.3, 0.12, 0.001, -0.002, -0.02],
    "rational_polynomial": [0.5, -0.2, 0.001, 0.0005, 0.02, 0.6, -0.1, 0.01],
    "equidistant": [-0.02, 0.003, -0.001, 0.0002],
}


def model(name: str, coefficients=None) -> CameraModel:
    d = COEFFICIENTS[name] if coefficients is None else coefficients
    return CameraModel.from_message(camera_info(distortion_model=name, d=d))


def by_opencv(points: np.ndarray, name: str, coefficients) -> np.ndarray:
    """Pixels (N, 2) of points (3, N)."""
    matrix = np.array(camera_info().k).reshape(3, 3)
    function = cv2.fisheye.projectPoints if name == "equidistant" else cv2.projectPoints
    arguments = (points.T[:, None], np.zeros(3), np.zeros(3), matrix, np.array(coefficients))
    return function(*arguments)[0].reshape(-1, 2)


def points_before_the_camera() -> np.ndarray:
    points = np.random.default_rng(3).normal(size=(3, 2000))
    points[2] = 1 + np.abs(points[2])
    return points


@pytest.mark.parametrize("name", COEFFICIENTS)
@given(scale=st.floats(0, 1.2), signs=st.lists(st.sampled_from([-1, 1]), min_size=8, max_size=8))
@settings(max_examples=40, deadline=None, derandomize=True)
def test_visible_points_appear_where_opencv_projects_them(name, scale, signs):
    d = [scale * one * sign for one, sign in zip(COEFFICIENTS[name], signs, strict=False)]
    points = points_before_the_camera()
    u, v, visible = model(name, d).project(points)
    assert visible.any()
    expected = by_opencv(points, name, d)
    np.testing.assert_allclose(np.stack((u, v), 1)[visible], expected[visible], atol=1e-8)


@pytest.mark.parametrize("name", COEFFICIENTS)
def test_float32_is_exact_to_a_thousandth_of_a_pixel(name):
    points = points_before_the_camera()
    exact, (u, v, visible) = model(name).project(points), model(name).project(np.float32(points))
    assert u.dtype == v.dtype == np.float32
    both = visible & exact[2]
    assert (visible == exact[2]).mean() > 0.999
    np.testing.assert_allclose(u[both], exact[0][both], atol=1e-3)
    np.testing.assert_allclose(v[both], exact[1][both], atol=1e-3)


@pytest.mark.parametrize("name", ["", *COEFFICIENTS])
def test_rays_lead_back_to_their_pixels(name):
    camera = model(name, [] if not name else None)
    assert camera.has_all_rays
    rays = camera.rays.astype(np.float64).reshape(2, -1)
    u, v, visible = camera.project(3 * np.stack((*rays, np.ones(rays.shape[1]))))
    rows, columns = np.divmod(np.arange(HEIGHT * WIDTH), WIDTH)
    assert visible.all()
    np.testing.assert_allclose(u, columns, atol=1e-4)
    np.testing.assert_allclose(v, rows, atol=1e-4)


def test_points_that_fold_back_into_the_image_are_not_visible():
    d = [-0.4, 0.0, 0.0, 0.0, 0.0]
    camera = model("plumb_bob", d)
    folding = 1 / np.sqrt(3 * 0.4)  # where d/dr (r - 0.4 r^3) is 0
    radius = np.array([0.2, 0.99 * folding, 1.01 * folding, 1.5])
    points = np.stack((np.zeros(4), radius, np.ones(4)))
    inside = (by_opencv(points, "plumb_bob", d) < (WIDTH, HEIGHT)).all(axis=1)
    assert inside[3], "OpenCV projects it into the image"
    # The second is as far out as the distortion reaches, which is below the image.
    assert camera.project(points)[2].tolist() == [True, False, False, False]


def test_pixels_that_no_point_appears_at_have_no_ray():
    camera = model("plumb_bob", [-4.0, 0.0, 0.0, 0.0, 0.0])
    assert not camera.has_all_rays
    assert np.isnan(camera.rays[:, 0, 0]).all()
    assert np.isfinite(camera.rays[:, 24, 32]).all()


def test_points_behind_beside_and_nowhere_are_not_visible():
    points = np.array(
        [[0, 0, 1], [0, 0, -1], [0, 0, 0], [9, 0, 1], [np.nan, 0, 1], [0, 0, np.inf], [0, 0, 1e-40]]
    ).T
    for name in COEFFICIENTS:
        visible = model(name).project(points.astype(np.float32))[2]
        assert visible[0]
        assert not visible[[1, 2, 3, 4]].any()


def test_binning_and_region_of_interest_change_the_image():
    info = camera_info(height=96, width=128, d=[], binning_x=2, binning_y=2)
    camera = CameraModel.from_message(info)
    assert (camera.height, camera.width) == (48, 64)
    assert (camera.focal, camera.centre) == ((25, 25), (16, 12))
    info = camera_info(d=[])
    info.roi.x_offset, info.roi.y_offset, info.roi.width, info.roi.height = 10, 4, 30, 20
    camera = CameraModel.from_message(info)
    assert (camera.height, camera.width) == (20, 30)
    assert camera.centre == (22, 20)
    with pytest.raises(PointsError, match="30x20 pixels, the labels have 64x48"):
        camera.check_size(height=48, width=64, what="the labels")


def test_rectified_images_use_p_without_distortion():
    camera = CameraModel.from_message(camera_info(), rectified=True)
    assert (camera.focal, camera.centre, camera.distortion) == ((55, 55), (31, 23), "")


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"k": [float("nan")] * 9}, "NaN"),
        ({"d": [float("inf")] * 5}, "NaN, infinite"),
        ({"width": 0}, "size of 0x48"),
        ({"k": [0.0] * 9}, "not calibrated"),
        ({"k": [-50.0, 0, 32, 0, 50, 24, 0, 0, 1]}, "focal lengths of -50"),
        ({"distortion_model": "kannala"}, "distortion model 'kannala'"),
        ({"distortion_model": "equidistant"}, "at most 4"),
    ],
)
def test_calibrations_that_cannot_be_used(changes, says):
    d = [0.1] * 5
    with pytest.raises(PointsError, match=says):
        CameraModel.from_message(camera_info(**{"d": d, **changes}))


@given(
    numbers=st.lists(st.floats(-10, 10), min_size=7, max_size=7).filter(
        lambda values: np.linalg.norm(values[3:]) > 0.1
    )
)
@settings(max_examples=50, deadline=None, derandomize=True)
def test_transforms_are_those_of_scipy(numbers):
    quaternion = np.array(numbers[3:]) / np.linalg.norm(numbers[3:])
    pose = RigidTransform.from_values([*numbers[:3], *quaternion], name="x")
    points = np.random.default_rng(1).normal(size=(3, 20))
    expected = Rotation.from_quat(quaternion).apply(points.T).T + np.array(numbers[:3])[:, None]
    np.testing.assert_allclose(pose.apply(points), expected, atol=1e-9)
    np.testing.assert_allclose(pose.inverse().apply(expected), points, atol=1e-9)


@pytest.mark.parametrize(
    "values", [[0, 0, 0, 0, 0, 0, 2], [0, 0, 0, 0, 0, 0, float("nan")], [1, 2, 3], [0] * 7]
)
def test_what_is_no_pose(values):
    with pytest.raises(PointsError, match="extrinsics"):
        RigidTransform.from_values(values, name="extrinsics")


def pose(x: float, quaternion=(0, 0, 0, 1)) -> RigidTransform:
    return RigidTransform.from_values([x, 0, 0, *quaternion], name="pose")


def test_transforms_are_composed_along_the_tree():
    tree = StaticTransforms()
    half = np.sqrt(0.5)
    tree.add("base", "lidar", pose(1))
    tree.add("/base", "camera", pose(10, (0, 0, half, half)))  # turned left
    tree.add("camera", "optical", pose(100))
    found = tree.lookup(source="/lidar", target="optical")
    # In base the point is at (3, 0, 0); in camera at (0, 7, 0); in optical at (-100, 7, 0).
    np.testing.assert_allclose(found.apply(np.array([[2.0], [0], [0]])).T, [[-100, 7, 0]])
    same = tree.lookup(source="lidar", target="lidar")
    np.testing.assert_allclose(same.rotation, np.eye(3))


def test_frames_that_are_not_connected_are_named():
    tree = StaticTransforms()
    tree.add("base", "lidar", pose(1))
    with pytest.raises(PointsError, match="no frame optical"):
        tree.lookup(source="lidar", target="optical")
    tree.add("island", "optical", pose(1))
    with pytest.raises(PointsError, match="not connected"):
        tree.lookup(source="lidar", target="optical")


def test_a_cycle_of_frames_ends():
    tree = StaticTransforms()
    tree.add("a", "b", pose(1))
    tree.add("b", "a", pose(1))
    with pytest.raises(PointsError):
        tree.lookup(source="a", target="c")


HERE, THERE = (1.0, 0.0, 0.0, 0.0, 0.0, 0.0, 1.0), (1.1, 0.0, 0.0, 0.0, 0.0, 0.0, 1.0)
TURNED = (1.0, 0.0, 0.0, 0.0, 0.0, 0.02, 0.9998)


def moving_tree(*samples, static: tuple[float, ...] | None = None) -> StaticTransforms:
    """base to camera is static, base to pan as the samples say, pan to lidar static."""
    tree = StaticTransforms()
    tree.add("base", "camera", pose(0))
    tree.add("pan", "lidar", pose(1))
    if static is not None:
        tree.add("base", "pan", RigidTransform.from_values(static, name="pan"))
    for one in samples:
        tree.add_sample("base", "pan", one)
    return tree


@pytest.mark.parametrize("static", [None, HERE])
def test_a_frame_that_is_always_in_the_same_place_on_tf_may_be_between(static):
    same = (1.0005, 0.0, 0.0, 0.0, 0.0, 0.0, -1.0)  # a quaternion's sign means nothing
    tree = moving_tree(HERE, same, HERE, static=static)
    found = tree.lookup(source="lidar", target="camera")
    np.testing.assert_allclose(found.translation, [2, 0, 0])


@pytest.mark.parametrize(
    "tree",
    [
        moving_tree(HERE, THERE),
        moving_tree(HERE, TURNED),
        moving_tree(HERE, THERE, HERE),
        moving_tree(HERE, (float("nan"),) * 7),
        moving_tree(THERE, static=HERE),
        moving_tree(HERE, *((1.0 + step / 2000, *HERE[1:]) for step in range(5))),
    ],
)
def test_a_lidar_that_moves_is_told_rather_than_labelled(tree):
    with pytest.raises(PointsError, match=r"'pan' moves in 'base'.* from 'lidar' to 'camera'"):
        tree.lookup(source="lidar", target="camera")
    with pytest.raises(PointsError, match="'pan' moves"):
        tree.lookup(source="camera", target="lidar")
    found = tree.lookup(source="lidar", target="pan")
    np.testing.assert_allclose(found.translation, [1, 0, 0])


def test_a_robot_that_moves_moves_its_lidar_and_camera_together():
    tree = moving_tree(static=HERE)
    for place in (HERE, THERE):
        tree.add_sample("odom", "base", place)
    assert tree.lookup(source="lidar", target="camera") is not None
    with pytest.raises(PointsError, match="'base' moves in 'odom'"):
        tree.lookup(source="lidar", target="odom")


def test_a_static_transform_that_comes_after_another_one_on_tf_is_in_doubt():
    tree = moving_tree(THERE)
    tree.add("base", "pan", RigidTransform.from_values(HERE, name="pan"))
    with pytest.raises(PointsError, match="'pan' moves"):
        tree.lookup(source="lidar", target="camera")


def test_a_frame_that_is_hung_elsewhere_moves():
    tree = moving_tree(HERE)
    tree.add_sample("mast", "pan", HERE)
    with pytest.raises(PointsError, match="'pan' moves"):
        tree.lookup(source="lidar", target="camera")


def test_samples_that_are_no_pose_are_ignored():
    tree = moving_tree((0.0,) * 7)
    with pytest.raises(PointsError, match="not connected"):
        tree.lookup(source="lidar", target="camera")


def test_what_names_no_frame_between_the_two_need_not_be_read():
    tree = moving_tree(HERE)
    assert tree.may_concern(b"odom base_link")
    tree.lookup(source="lidar", target="camera")
    assert not tree.may_concern(b"odom base_link")
    assert tree.may_concern(b"base pan")
    with pytest.raises(PointsError):
        tree.lookup(source="lidar", target="odom")
    assert tree.may_concern(b"odom base_link")
