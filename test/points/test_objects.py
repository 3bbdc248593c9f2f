"""Objects in space: which points they have, and their measures by robust quantiles."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import point_scene as scene
import pytest

from upsnet_ros.messages.results import image_message
from upsnet_ros.points.objects import find_objects
from upsnet_ros.points.parameters import PointsSettings

EXACT = {"quantile": 0.0, "min_points": 1}


def points(depth=None, frame=None):
    return scene.labeller().label_depth(
        scene.depth_message(depth), frame or scene.frame(), settings=PointsSettings()
    )


def found(labelled, settings=EXACT):
    return find_objects(labelled, **settings)


def test_instances_then_unknown_regions_in_the_order_of_their_message():
    labelled = points()
    person, car, unknown = found(labelled)
    assert (person.id, person.class_id, person.class_name) == (scene.PERSON, 24, "person")
    assert (car.id, car.track_id, car.score) == (scene.CAR, scene.TRACK, pytest.approx(0.8))
    assert (unknown.id, unknown.is_unknown, unknown.class_id) == (1, True, 0)
    assert unknown.score == pytest.approx(0.75)
    labels = scene.label_map()
    assert person.num_points == (labels == scene.PERSON).sum()
    assert car.num_points == (labels == scene.CAR).sum()
    assert unknown.num_points == 150


def test_measures_without_outliers_are_those_of_numpy():
    labelled = points()
    for one, label in zip(found(labelled), (scene.PERSON, scene.CAR), strict=False):
        own = labelled.xyz[:, scene.label_map().reshape(-1) == label].astype(float)
        mean, low, high = own.mean(axis=1), own.min(axis=1), own.max(axis=1)
        for index, axis in enumerate("xyz"):
            assert getattr(one.centroid, axis) == pytest.approx(mean[index], abs=1e-5)
            assert getattr(one.size, axis) == pytest.approx(high[index] - low[index], abs=1e-5)
            assert getattr(one.center, axis) == pytest.approx((low + high)[index] / 2, abs=1e-5)
        assert one.distance == pytest.approx(np.linalg.norm(own, axis=0).min(), abs=1e-5)


def test_a_few_points_of_the_background_do_not_stretch_a_box():
    depth = scene.depth_map()
    inside = np.flatnonzero(scene.label_map() == scene.CAR)
    depth.flat[inside[:5]], depth.flat[inside[5:8]] = 60, 0.2
    labelled = points(depth)
    car = found(labelled)[1]
    assert car.size.z > 50
    car = found(labelled, {"quantile": 0.03, "min_points": 1})[1]
    assert (car.size.z, car.centroid.z) == (0, pytest.approx(5))
    assert car.distance > 4.9
    assert car.num_points == inside.size


def test_objects_with_few_points_are_not_listed():
    listed = found(points(), {"quantile": 0.02, "min_points": 200})
    assert [one.is_unknown for one in listed] == [False, False]
    assert found(points(), {"quantile": 0.02, "min_points": 10_000}) == []


def test_an_object_without_a_point_is_not_listed():
    depth = scene.depth_map()
    depth[scene.label_map() == scene.PERSON] = 0
    assert [one.id for one in found(points(depth))] == [scene.CAR, 1]


def test_two_unknown_regions_keep_their_order():
    frame = scene.frame()
    mask = scene.unknown_mask()
    mask[42:46, 5:9] = 255
    frame["unknown_mask"] = image_message(mask, "mono8", scene.header())
    second = type(frame["instances"].unknown_regions[0])(area=16, mean_score=0.6)
    second.roi.x_offset, second.roi.y_offset, second.roi.width, second.roi.height = 5, 42, 4, 4
    frame["instances"].unknown_regions.append(second)
    unknown = [one for one in found(points(frame=frame)) if one.is_unknown]
    assert [(one.id, one.num_points) for one in unknown] == [(1, 150), (2, 16)]
    assert unknown[1].score == pytest.approx(0.6)


def test_regions_of_another_mask_have_no_points():
    frame = scene.frame()
    frame["instances"].unknown_regions[0].area = 149
    assert [one.is_unknown for one in found(points(frame=frame))] == [False, False]


def test_points_that_the_camera_does_not_see_belong_to_no_object():
    labelled = points()
    nowhere = np.zeros_like(labelled.rows)
    assert found(replace(labelled, rows=nowhere)) == []


def test_a_large_object_is_measured_by_some_of_its_points():
    depth = np.full((scene.HEIGHT, scene.WIDTH), 5, np.float32)
    labelled = points(depth)
    many = replace(
        labelled,
        xyz=np.tile(labelled.xyz, 20),
        rows=np.tile(labelled.rows, 20),
        pixels=np.tile(labelled.pixels, 20),
    )
    few = found(labelled, {"quantile": 0.02, "min_points": 1})
    more = found(many, {"quantile": 0.02, "min_points": 1})
    for one, other in zip(few, more, strict=True):
        assert other.num_points == 20 * one.num_points
        assert other.size.x == pytest.approx(one.size.x, rel=0.1)
