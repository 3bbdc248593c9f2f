from __future__ import annotations

import numpy as np
import pytest

from upsnet_ros.synthetic.canvas import NEAR, Camera


@pytest.fixture
def camera() -> Camera:
    return Camera(rows=512, columns=1024, focal=900.0, height=1.4, pitch=0.04)


def test_the_horizon_is_where_far_ground_ends(camera: Camera) -> None:
    uv, _ = camera.project(np.array([[0.0, 0.0, 1e7]]))

    assert uv[0] == pytest.approx([511.5, camera.horizon], abs=1e-3)


def test_rows_of_the_ground_lie_where_their_points_are_seen(camera: Camera) -> None:
    first, z, step = camera.ground_rows()
    points = np.stack([step * 100, np.zeros_like(z), z], axis=1)
    uv, _ = camera.project(points)

    np.testing.assert_allclose(uv[:, 1], np.arange(first, camera.rows), atol=1e-6)
    np.testing.assert_allclose(uv[:, 0], 511.5 + 100, atol=1e-6)


def test_a_homography_agrees_with_projection_and_tells_the_depth(camera: Camera) -> None:
    origin, across, down = np.array([[-2.0, 3, 12], [5, 0, 4], [0, -3, 0]])
    homography = camera.homography(origin, across, down)
    for a, b in ((0, 0), (1, 0), (0.3, 0.8)):
        uv, depth = camera.project((origin + a * across + b * down)[None])
        seen = homography @ (a, b, 1)
        assert seen[:2] / seen[2] == pytest.approx(uv[0])
        assert camera.inverse_depth(homography) @ (*uv[0], 1) == pytest.approx(1 / depth[0])


def test_an_outline_is_cut_off_before_the_camera(camera: Camera) -> None:
    wall = np.array([[2.0, 0, -5], [2, 0, 10], [2, 3, 10], [2, 3, -5]])
    outline = camera.outline(wall)
    nearest, _ = camera.project(np.array([[2.0, 0, NEAR + 0.2]]))

    assert len(outline) == 4
    assert outline[:, 0].max() > nearest[0, 0]
    assert len(camera.outline(wall - (0, 0, 20))) == 0
