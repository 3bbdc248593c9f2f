"""A simulated sweep: its geometry, what hides what, and that its truth is that of the pixels."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from upsnet_ros.errors import SettingsError
from upsnet_ros.synthetic import SceneFrame, scene_frame
from upsnet_ros.synthetic.canvas import Camera
from upsnet_ros.synthetic.labels import BUILDING, ROAD, SKY
from upsnet_ros.synthetic.lidar import Lidar, sweep

SIZE = (128, 256)


@pytest.fixture(scope="module")
def frames() -> list[SceneFrame]:
    return [scene_frame("val", sequence, 17, SIZE) for sequence in range(4)]


def in_camera(points: np.ndarray, lidar: Lidar) -> np.ndarray:
    """Points (N, 3) in the optical frame, by the quaternion of the extrinsics."""
    x, y, z, w = lidar.extrinsics[3:]
    own = np.stack([points["x"], points["y"], points["z"]], axis=1).astype(np.float64)
    axis = np.array([x, y, z])
    turned = own + 2 * np.cross(axis, np.cross(axis, own) + w * own)
    return turned + np.array(lidar.extrinsics[:3])


def wall_frame(depth: np.ndarray) -> SceneFrame:
    """A frame of a level camera in which pixels nearer than 10 m are a car, the rest building."""
    rows, columns = depth.shape
    instances = np.where(depth < 10, 26003, BUILDING).astype(np.int32)
    instances[~np.isfinite(depth)] = SKY
    return SceneFrame(
        image=np.full((rows, columns, 3), 90, np.uint8),
        semantic=np.where(instances >= 1000, 26, instances).astype(np.uint8),
        instances=instances,
        unknown=np.zeros(depth.shape, bool),
        depth=depth.astype(np.float32),
        camera=Camera(rows=rows, columns=columns, focal=0.9 * columns, height=1.4),
    )


def test_points_project_onto_their_pixels_and_have_their_truth(frames: list[SceneFrame]) -> None:
    lidar = Lidar()
    for frame in frames:
        swept = sweep(frame, lidar)
        assert len(swept.points) > 1000
        seen = in_camera(swept.points, lidar)
        camera = frame.camera
        u = np.rint(seen[:, 0] / seen[:, 2] * camera.focal + (camera.columns - 1) / 2)
        v = np.rint(seen[:, 1] / seen[:, 2] * camera.focal + (camera.rows - 1) / 2)
        assert (v * camera.columns + u == swept.pixels).all()
        np.testing.assert_allclose(seen[:, 2], frame.depth.reshape(-1)[swept.pixels], rtol=1e-5)
        labels = frame.instances.reshape(-1)[swept.pixels]
        truth = swept.truth
        joined = truth["class_id"].astype(int)
        joined = np.where(labels >= 1000, joined * 1000 + truth["instance_id"], joined)
        assert (joined == labels).all()
        assert (truth["unknown"] == frame.unknown.reshape(-1)[swept.pixels]).all()
        assert not (truth["class_id"] == SKY).any()
        assert seen[:, 2].max() <= lidar.reach + 1e-3


def test_a_point_lies_within_three_pixels_of_a_ray_of_its_ring(frames: list[SceneFrame]) -> None:
    lidar = Lidar()
    elevations = np.radians(np.linspace(lidar.lowest, lidar.highest, lidar.rings))
    for frame in frames:
        points = sweep(frame, lidar).points
        flat = np.hypot(points["x"], points["y"])
        elevation = np.arctan2(points["z"], flat)
        assert np.median(np.abs(elevation - elevations[points["ring"]])) < 0.5 / frame.camera.focal
        # Two steps of a pixel and the rounding to the pixel's centre.
        assert np.abs(elevation - elevations[points["ring"]]).max() < 3 / frame.camera.focal


def test_a_wall_is_hit_by_all_rays_that_the_image_shows() -> None:
    frame = wall_frame(np.full((120, 200), 20.0))
    lidar = Lidar(rings=16, lowest=-8.0, highest=8.0, step=1.0, position=(0.0, 0.0, 0.0))
    swept = sweep(frame, lidar)
    assert len(swept.points) == 16 * 59  # -29 to 29 degrees: half the field of view is 29.05
    assert np.allclose(swept.points["x"], 20.0)
    assert (swept.points["intensity"] == 90).all()
    assert (swept.truth["class_id"] == BUILDING).all()


def test_what_only_the_lidar_sees_has_no_return() -> None:
    depth = np.full((120, 200), 20.0)
    depth[40:80, 80:120] = 5.0  # a box before the wall
    frame = wall_frame(depth)
    above = Lidar(rings=60, lowest=-24.0, highest=10.0, step=0.5, position=(0.0, -1.5, 0.0))
    swept = sweep(frame, above)
    rows, columns = np.divmod(swept.pixels, 200)
    box = swept.truth["class_id"] == 26
    assert box.sum() > 50
    assert ((rows[box] >= 40) & (rows[box] < 80) & (columns[box] >= 80)).all()
    # Under the box, which hides it from the lidar above, the wall is not seen; beside it, it is.
    shadow = (columns > 85) & (columns < 115) & (rows >= 80)
    hidden = shadow & (rows < 105)
    assert not hidden.any()
    assert ((rows >= 80) & (rows < 105) & (columns < 70)).any()


def test_a_ray_into_the_sky_or_beyond_the_reach_has_no_return() -> None:
    assert len(sweep(wall_frame(np.full((60, 80), np.inf))).points) == 0
    assert len(sweep(wall_frame(np.full((60, 80), 150.0))).points) == 0


def test_a_street_shows_its_road_in_many_rings(frames: list[SceneFrame]) -> None:
    for frame in frames:
        swept = sweep(frame)
        road = swept.truth["class_id"] == ROAD
        assert len(np.unique(swept.points["ring"][road])) > 10
        heights = swept.points["z"][road] - frame.camera.pitch * swept.points["x"][road]
        assert heights.max() < 0


@pytest.mark.parametrize(
    "values", [{"rings": 0}, {"step": 0.0}, {"reach": -1.0}, {"lowest": 5.0}, {"highest": 90.0}]
)
def test_a_lidar_that_cannot_be(values: dict[str, float]) -> None:
    with pytest.raises(SettingsError):
        replace(Lidar(), **values)
