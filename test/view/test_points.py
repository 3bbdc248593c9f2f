"""Labelled points from above, for the page: from any message a picture or one clear error."""

from __future__ import annotations

import struct

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from point_scene import cloud_message, labelled_message
from rclpy.serialization import serialize_message
from sensor_msgs.msg import PointField

from upsnet_ros.errors import ImageError, PointsError
from upsnet_ros.view import points as points_module
from upsnet_ros.view.points import PointsView

RED, YELLOW = 0xFF0000, 0xFFD700
AHEAD_LEFT = {"lidar": (20.0, 5.0, 0.0), "camera": (-5.0, 0.0, 20.0)}


@pytest.fixture(autouse=True)
def every_message(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(points_module, "_SECONDS", 0.0)


def drawn(message: bytes, *, view: PointsView | None = None, camera: str = "camera"):
    """The header and the picture, BGR."""
    found = (view or PointsView()).draw(message, camera=camera)
    assert found is not None
    return found[0], cv2.imdecode(np.frombuffer(found[1], np.uint8), cv2.IMREAD_COLOR)


def place_of(picture, bgr: tuple[int, int, int]) -> tuple[float, float]:
    """Mean row and column of a colour, as shares of the picture."""
    rows, columns = np.nonzero((picture == bgr).all(axis=-1))
    assert rows.size
    return rows.mean() / picture.shape[0], columns.mean() / picture.shape[1]


@pytest.mark.parametrize("frame_id", list(AHEAD_LEFT))
def test_the_frame_says_what_is_ahead(frame_id: str) -> None:
    message = labelled_message([AHEAD_LEFT[frame_id]], [RED], frame_id=frame_id, stamp_ns=7)
    header, picture = drawn(message)
    assert header.stamp.nanosec == 7
    row, column = place_of(picture, (0, 0, 255))
    assert 0.1 < row < 0.3
    assert 0.2 < column < 0.4


def test_unknown_points_are_larger() -> None:
    xyz = [(20, 5, 0), (20, -5, 0)]
    _, picture = drawn(labelled_message(xyz, [RED, YELLOW], unknown=[0, 1]))
    count = {bgr: (picture == bgr).all(axis=-1).sum() for bgr in ((0, 0, 255), (0, 215, 255))}
    assert count[0, 215, 255] > count[0, 0, 255] > 0


def test_the_reach_does_not_shrink() -> None:
    view = PointsView()
    near, far = (labelled_message([(x, 0, 0)], [RED]) for x in (8, 45))
    first = place_of(drawn(near, view=view)[1], (0, 0, 255))[0]
    drawn(far, view=view)
    assert place_of(drawn(near, view=view)[1], (0, 0, 255))[0] > first + 0.3


def test_nothing_is_drawn_too_soon_or_before_the_camera_is_known(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    message = labelled_message([(20, 5, 0)], [RED])
    view = PointsView()
    assert view.draw(message, camera=None) is None
    monkeypatch.setattr(points_module, "_SECONDS", 1e9)
    assert view.draw(message, camera="") is not None
    assert view.draw(message, camera="") is None


def test_of_many_points_a_part_is_drawn(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(points_module, "_MOST_POINTS", 10)
    xyz = np.stack([np.linspace(5, 45, 100), np.zeros(100), np.zeros(100)], axis=1)
    _, picture = drawn(labelled_message(xyz, [RED] * 100))
    place_of(picture, (0, 0, 255))


def other_fields(**changes) -> bytes:
    message = cloud_message(np.zeros((4, 3), np.float32))
    for name, value in changes.items():
        setattr(message, name, value)
    return serialize_message(message)


@pytest.mark.parametrize(
    ("message", "error"),
    [
        (other_fields(), "no labels"),
        (other_fields(fields=[]), "field x"),
        (other_fields(width=0), "empty"),
        (other_fields(width=2**31), "bytes"),
        (b"", "."),
        (b"\0\1\0\0", "."),
    ],
    ids=["no labels", "no fields", "empty", "too wide", "no bytes", "a head only"],
)
def test_what_has_no_labelled_points_is_an_error(message: bytes, error: str) -> None:
    with pytest.raises((ImageError, PointsError), match=error):
        PointsView().draw(message, camera="")


def test_labels_outside_of_the_points_are_none() -> None:
    message = cloud_message(np.zeros((4, 3), np.float32))
    message.fields = [
        *message.fields,
        PointField(name="rgb", offset=2**32 - 1, datatype=PointField.FLOAT32, count=1),
        PointField(name="unknown", offset=0, datatype=PointField.UINT8, count=1),
    ]
    with pytest.raises(PointsError, match="outside"):
        PointsView().draw(serialize_message(message), camera="")


GOOD = labelled_message([(20, 5, 0), (np.nan, 1, 1), (np.inf, 1, 1)], [RED, 0, YELLOW])


@given(st.lists(st.tuples(st.integers(0, len(GOOD) - 1), st.integers(0, 255)), max_size=6))
def test_any_change_of_a_message_is_a_picture_or_an_error(changes) -> None:
    message = bytearray(GOOD)
    for place, value in changes:
        message[place] = value
    try:
        PointsView().draw(bytes(message), camera="")
    except (ImageError, PointsError) as error:
        assert str(error)


@given(st.binary(max_size=64), st.integers(0, 2**32 - 1))
def test_any_bytes_are_an_error(data: bytes, count: int) -> None:
    with pytest.raises((ImageError, PointsError)):
        PointsView().draw(GOOD[:24] + struct.pack("<I", count) + data, camera="")
