"""The depth of synthetic frames is that of the surfaces that were painted."""

from __future__ import annotations

import numpy as np
import pytest

from upsnet_ros.synthetic import SceneFrame, scene_frame
from upsnet_ros.synthetic.canvas import NEAR, Camera, Canvas
from upsnet_ros.synthetic.labels import CAR, ROAD, SKY, TRAIN

SIZE = (128, 256)


@pytest.fixture(scope="module")
def frames() -> list[SceneFrame]:
    return [scene_frame("val", sequence, 17, SIZE) for sequence in range(6)]


def world_points(frame: SceneFrame) -> np.ndarray:
    """World points (H, W, 3) of all pixels; the camera's own in the sky."""
    camera = frame.camera
    v, u = np.mgrid[: camera.rows, : camera.columns].astype(np.float64)
    depth = np.where(np.isfinite(frame.depth), frame.depth, 0)
    pixels = np.stack([u, v, np.ones_like(u)], axis=-1) * depth[..., None]
    return (pixels - camera.matrix[:, 3]) @ np.linalg.inv(camera.matrix[:, :3]).T


def test_only_the_sky_has_no_depth(frames: list[SceneFrame]) -> None:
    for frame in frames:
        assert (frame.depth.shape, frame.depth.dtype) == (SIZE, np.float32)
        assert (np.isinf(frame.depth) == (frame.semantic == SKY)).all()
        assert frame.depth.min() >= NEAR


def test_the_road_lies_on_the_ground(frames: list[SceneFrame]) -> None:
    for frame in frames:
        road = (frame.semantic == ROAD) & (frame.depth < 100)
        assert road.any()
        assert np.abs(world_points(frame)[road][:, 1]).max() < 0.01


def test_things_stand_on_the_ground_and_have_their_own_size(frames: list[SceneFrame]) -> None:
    seen = 0
    for frame in frames:
        points = world_points(frame)
        for number in np.unique(frame.instances[frame.instances >= 1000]):
            own = points[frame.instances == number]
            if len(own) < 60:
                continue
            seen += 1
            assert own[:, 1].min() > -0.4
            assert own[:, 1].max() < 5.0
            longest = 45.0 if number // 1000 == TRAIN else 20.0
            assert np.ptp(own[:, 2]) < longest
    assert seen > 20


def test_a_car_is_as_deep_as_it_is_long(frames: list[SceneFrame]) -> None:
    """The sides of a car have their own planes, not one depth for the whole car."""
    extents = [
        np.ptp(frame.depth[frame.instances == number])
        for frame in frames
        for number in np.unique(frame.instances[frame.instances // 1000 == CAR])
        if (frame.instances == number).sum() > 300
    ]
    assert extents
    assert max(extents) > 3.0


def test_a_facet_keeps_within_the_depths_of_its_corners() -> None:
    canvas = Canvas(4, 4)
    body = canvas.surfaces.add(ROAD, 10.0)
    steep = canvas.surfaces.facet(body, np.array([1.0, 0.0, -1.0]), np.array([5.0, 20.0]))
    canvas.surface[:] = body
    canvas.surface[0] = steep

    assert canvas.depth()[0].tolist() == [20.0, 20.0, 5.0, 5.0]
    assert (canvas.depth()[1:] == 10.0).all()
    assert (canvas.outlines() == body).all()
    assert canvas.surfaces.labels == [ROAD, ROAD]


def test_the_camera_projects_as_its_pinhole_parameters_say(frames: list[SceneFrame]) -> None:
    camera: Camera = frames[0].camera
    level = Camera(rows=camera.rows, columns=camera.columns, focal=camera.focal, height=0.0)
    uv, depth = level.project(np.array([[1.0, -0.5, 8.0]]))
    assert uv[0] == pytest.approx(
        [127.5 + camera.focal / 8, 63.5 + 0.5 * camera.focal / 8], abs=1e-9
    )
    assert depth[0] == pytest.approx(8.0)
