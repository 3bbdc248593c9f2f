"""How far around a lidar point nearer points hide it: found for each cloud, or given."""

from __future__ import annotations

import numpy as np
import pytest

from upsnet_ros.points.camera_model import CameraModel
from upsnet_ros.points.cloud import LABEL_WORDS
from upsnet_ros.points.labelling import lidar_rows, occlusion_window
from upsnet_ros.points.labels import FrameLabels
from upsnet_ros.points.parameters import PointsSettings
from upsnet_ros.synthetic import scene_frame
from upsnet_ros.synthetic.lidar import Lidar, sweep

SHAPE = (480, 640)
FOCAL = 600.0


def window(rows: np.ndarray, columns: np.ndarray, *, focal: float = FOCAL) -> int:
    row, column = np.meshgrid(rows, columns, indexing="ij")
    return occlusion_window(row.reshape(-1), column.reshape(-1), shape=SHAPE, focal=focal)


@pytest.mark.parametrize("gap", [1, 2, 3, 5, 9, 17, 35])
def test_the_window_closes_the_gap_between_rings_and_does_not_reach_the_next_ring(gap):
    rings = np.arange(150, 480, gap)
    found = window(rings, np.arange(0, 640, 3))
    assert gap // 2 - 2 <= found <= gap // 2 + 1
    assert found < gap or gap == 1


def test_neither_sky_nor_a_hole_in_the_cloud_widens_the_window():
    rings, columns = np.arange(240, 480, 9), np.arange(0, 640, 3)
    whole = window(rings, columns)
    row, column = (one.reshape(-1) for one in np.meshgrid(rings, columns, indexing="ij"))
    kept = (abs(row - 350) > 50) | (abs(column - 320) > 120)
    assert kept.mean() < 0.9
    found = occlusion_window(row[kept], column[kept], shape=SHAPE, focal=FOCAL)
    assert abs(found - whole) <= 1


@pytest.mark.parametrize("count", [0, 1, 2])
def test_a_few_points_make_no_large_window(count):
    row = np.array([100, 400], np.intp)[:count]
    found = occlusion_window(row, row, shape=SHAPE, focal=FOCAL)
    assert 0 <= found <= FOCAL * np.radians(2)


def share_labelled(size: tuple[int, int], settings: PointsSettings) -> float:
    """Share of a street's points, all of which the camera sees, that take a label."""
    frame, lidar = scene_frame("val", 7, 3, size), Lidar()
    camera = frame.camera
    swept = sweep(frame, lidar)
    pose = PointsSettings(extrinsics=lidar.extrinsics).pose
    assert pose is not None
    own = np.stack([swept.points[name] for name in "xyz"])
    _, pixels = lidar_rows(
        pose.apply(own),
        camera=CameraModel(
            width=camera.columns,
            height=camera.rows,
            focal=(camera.focal, camera.focal),
            centre=((camera.columns - 1) / 2, (camera.rows - 1) / 2),
        ),
        labels=FrameLabels(
            rows=frame.semantic.astype(np.uint32),
            table=np.zeros((256, LABEL_WORDS), np.uint32),
            unknown=frame.unknown.astype(np.uint8),
            unknown_row=255,
            instances=None,
        ),
        settings=settings,
    )
    assert np.isin(pixels[pixels >= 0], swept.pixels).all()
    return float((pixels >= 0).mean())


@pytest.mark.parametrize("size", [(128, 256), (256, 512), (512, 1024)])
def test_most_points_of_a_street_take_a_label_at_any_image_size(size):
    assert share_labelled(size, PointsSettings()) > 0.9


def test_a_window_that_is_given_is_used():
    assert share_labelled((128, 256), PointsSettings(occlusion_window=5)) < 0.7
    assert share_labelled((128, 256), PointsSettings(occlusion_window=0)) > 0.97
