"""Clouds of every layout are read, and come out with their own fields and the labels'."""

from __future__ import annotations

import array

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from point_scene import cloud_message, header, records
from rclpy.serialization import deserialize_message, serialize_message
from sensor_msgs.msg import PointCloud2, PointField

from upsnet_ros.errors import ImageError, PointsError
from upsnet_ros.messages.cdr_image import read_cloud
from upsnet_ros.points.cloud import (
    LABEL_WORDS,
    XYZ_FIELDS,
    Cloud,
    labelled_cloud,
    labels_dtype,
)

LABEL_FIELDS = ["rgb", "class_id", "instance_id", "track_id", "unknown"]


def field(name: str, offset: int, datatype: int = PointField.FLOAT32, count: int = 1):
    return PointField(name=name, offset=offset, datatype=datatype, count=count)


@st.composite
def layouts(draw):
    """A message, its coordinates, and the ring and time that each point also has."""
    order = draw(st.sampled_from("<>"))
    formats = {"x": "f4", "y": "f4", "z": "f4", "ring": "u2", "time": "f8"}
    names = draw(st.permutations(list(formats)))
    offsets, at = {}, 0
    for name in names:
        at += draw(st.integers(0, 5))
        offsets[name], at = at, at + np.dtype(formats[name]).itemsize
    step = at + draw(st.integers(0, 7))
    height, width = draw(st.integers(1, 4)), draw(st.integers(1, 5))
    padding = draw(st.integers(0, 9)) if height > 1 else 0
    dtype = np.dtype(
        {
            "names": names,
            "formats": [order + formats[name] for name in names],
            "offsets": [offsets[name] for name in names],
            "itemsize": step,
        }
    )
    rng = np.random.default_rng(draw(st.integers(0, 1000)))
    points = np.zeros((height, width), dtype)
    for name in names:
        points[name] = rng.integers(0, 1000, (height, width))
    rows = np.zeros((height, width * step + padding), np.uint8)
    rows[:, : width * step] = points.view(np.uint8).reshape(height, -1)
    kinds = {"f4": PointField.FLOAT32, "u2": PointField.UINT16, "f8": PointField.FLOAT64}
    message = PointCloud2(
        header=header(5, "lidar"),
        height=height,
        width=width,
        fields=[field(name, offsets[name], kinds[formats[name]]) for name in names],
        is_bigendian=order == ">",
        point_step=step,
        row_step=rows.shape[1],
        data=array.array("B", rows.tobytes()),
        is_dense=draw(st.booleans()),
    )
    return message, points


def label_rows(count: int) -> np.ndarray:
    rows = np.zeros(count, labels_dtype())
    for index, name in enumerate(LABEL_FIELDS):
        rows[name] = (np.arange(count) + 7 * index) % 200
    return rows


@given(layouts())
@settings(max_examples=100, deadline=None, derandomize=True)
def test_any_layout_keeps_its_fields_and_gets_labels(layout):
    message, points = layout
    cloud = Cloud.from_message(read_cloud(serialize_message(message)))
    xyz = np.stack([points[name].reshape(-1) for name in "xyz"])
    np.testing.assert_array_equal(cloud.xyz(), xyz)
    rows = label_rows(points.size)
    labelled = cloud.with_labels(rows.view(np.uint32).reshape(-1, LABEL_WORDS))
    answer = deserialize_message(labelled.serialize(), PointCloud2)
    assert answer.header == message.header
    assert (answer.height, answer.width) == (message.height, message.width)
    assert (answer.is_bigendian, answer.is_dense) == (message.is_bigendian, message.is_dense)
    assert answer.row_step == answer.width * answer.point_step
    found = records(answer)
    assert [one.name for one in answer.fields] == [*points.dtype.names, *LABEL_FIELDS]
    for name in points.dtype.names:
        np.testing.assert_array_equal(found[name], points[name].reshape(-1))
    for name in LABEL_FIELDS[1:]:
        np.testing.assert_array_equal(found[name], rows[name])
    colors = np.ascontiguousarray(found["rgb"]).view(">u4" if message.is_bigendian else "<u4")
    np.testing.assert_array_equal(colors, rows["rgb"])


@pytest.mark.parametrize("bigendian", [False, True])
def test_bytes_between_fields_are_zero_whatever_lay_in_memory(bigendian: bool):
    count = 500
    cloud = Cloud(
        header=header(5, "lidar"),
        height=1,
        width=count,
        fields=tuple(field(name, 4 * index) for index, name in enumerate("xyz")),
        is_bigendian=bigendian,
        is_dense=True,
        points=np.zeros((1, count, 12), np.uint8),
    )
    rows = np.zeros((count, LABEL_WORDS), np.uint32)
    for _ in range(5):
        used = [np.full(count * 4 * LABEL_WORDS, 255, np.uint8) for _ in range(3)]
        del used  # what is allocated next may lie there
        assert not cloud.with_labels(rows).points.any()


def test_fields_with_the_names_of_labels_are_renamed():
    message = cloud_message(np.ones((3, 3), np.float32))
    message.fields = [*message.fields[:3], field("rgb", 12), field("rgb_in", 12)]
    labels = np.zeros((3, LABEL_WORDS), np.uint32)
    names = [one.name for one in Cloud.from_message(message).with_labels(labels).fields]
    assert names == ["x", "y", "z", "rgb_in_in", "rgb_in", *LABEL_FIELDS]


def test_a_chosen_part_is_one_row():
    message = cloud_message(np.arange(18, dtype=np.float32).reshape(6, 3), height=2, width=3)
    message.row_step = 48
    cloud = Cloud.from_message(message).select(np.array([0, 1, 0, 0, 0, 1], bool))
    answer = deserialize_message(cloud.serialize(), PointCloud2)
    assert (answer.height, answer.width) == (1, 2)
    assert records(answer)["x"].tolist() == [3, 15]
    assert Cloud.from_message(message).select(np.zeros(6, bool)).size == 0


def test_points_of_depth_images_have_coordinates_and_labels():
    words = np.zeros((2, 3 + LABEL_WORDS), np.uint32)
    words[:, :3].view(np.float32)[:] = [[1, 2, 3], [4, 5, 6]]
    words[:, 3:] = label_rows(2).view(np.uint32).reshape(2, -1)
    answer = deserialize_message(labelled_cloud(words, header()).serialize(), PointCloud2)
    found = records(answer)
    assert found["y"].tolist() == [2, 5]
    assert found["track_id"].tolist() == label_rows(2)["track_id"].tolist()


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"width": 0}, "empty: 0x1"),
        ({"height": 0}, "empty: 3x0"),
        ({"fields": []}, "no field x: its fields are none"),
        ({"fields": [field("y", 0), field("z", 4)]}, "no field x: its fields are y, z"),
        (
            {"fields": [field("x", 0, PointField.FLOAT64), field("y", 8), field("z", 12)]},
            "x must be one FLOAT32, not 1 of f8",
        ),
        ({"fields": [field("x", 0, count=3), field("y", 4), field("z", 8)]}, "not 3 of f4"),
        ({"fields": [field("x", 0, 99), field("y", 4), field("z", 8)]}, "of type 99"),
        ({"fields": [field("x", 13), field("y", 4), field("z", 8)]}, "outside the point"),
        (
            {"fields": [*XYZ_FIELDS, field("intensity", 12, PointField.FLOAT64)]},
            "intensity at byte",
        ),
        ({"fields": [*XYZ_FIELDS, field("normal", 4, count=4)]}, "normal at byte 4"),
        ({"fields": [*XYZ_FIELDS, field("count", 2**32 - 1, count=2**32 - 1)]}, "outside the"),
        ({"point_step": 12, "row_step": 36}, "intensity at byte 12"),
        ({"fields": [*XYZ_FIELDS, field("x", 12)]}, "2 fields x: its fields are x, y, z, x"),
        ({"point_step": 0}, "do not hold"),
        ({"point_step": 17}, "do not hold"),
        ({"width": 2**32 - 1}, "do not hold"),
        ({"height": 2}, "do not hold"),
        ({"row_step": 0, "height": 2}, "do not hold"),
        ({"row_step": 47, "height": 2}, "do not hold"),
        ({"row_step": 2**32 - 1, "height": 2}, "do not hold"),
    ],
)
def test_clouds_that_make_no_sense(changes, says):
    with pytest.raises(PointsError, match=says):
        Cloud.from_message(cloud_message(np.ones((3, 3), np.float32), **changes))


def test_fields_of_several_values_twice_or_of_no_known_type_are_kept():
    message = cloud_message(np.ones((3, 3), np.float32))
    message.fields = [
        field("x", 0),
        field("y", 4),
        field("z", 8),
        field("pair", 8, PointField.UINT16, count=4),
        field("pair", 12, PointField.UINT16, count=2),
        field("odd", 15, 99),
    ]
    labels = np.zeros((3, LABEL_WORDS), np.uint32)
    answer = deserialize_message(
        Cloud.from_message(message).with_labels(labels).serialize(), PointCloud2
    )
    assert answer.fields[:6] == message.fields
    points = np.frombuffer(bytes(answer.data), np.uint8).reshape(3, -1)
    given = np.frombuffer(bytes(message.data), np.uint8).reshape(3, -1)
    np.testing.assert_array_equal(points[:, :16], given)


def test_one_row_needs_no_row_step():
    message = cloud_message(np.ones((3, 3), np.float32), row_step=0)
    assert Cloud.from_message(message).size == 3


def test_a_message_that_is_cut_off_is_an_error():
    whole = serialize_message(cloud_message(np.ones((3, 3), np.float32)))
    for end in range(4, len(whole) - 8, 7):
        with pytest.raises(ImageError, match="cut off"):
            read_cloud(whole[:end])


def test_values_of_a_field_are_in_native_order() -> None:
    for order, is_big in (("<", False), (">", True)):
        points = np.zeros(3, [("x", f"{order}f4"), ("y", f"{order}f4"), ("z", f"{order}f4"),
                              ("ring", f"{order}u2"), ("many", f"{order}u2", 2)])  # fmt: skip
        points["ring"] = [1, 2, 300]
        message = cloud_message(np.zeros((3, 3), np.float32), is_bigendian=is_big)
        message.fields = [
            *(field(name, 4 * index) for index, name in enumerate("xyz")),
            field("ring", 12, PointField.UINT16),
            field("many", 14, PointField.UINT16, 2),
        ]
        message.point_step, message.row_step = points.itemsize, points.nbytes
        message.data = array.array("B", points.tobytes())
        cloud = Cloud.from_message(message)
        assert cloud.values("ring").tolist() == [1, 2, 300]
        assert cloud.values("ring").dtype == np.uint16
        assert cloud.values("many") is None
        assert cloud.values("other") is None
