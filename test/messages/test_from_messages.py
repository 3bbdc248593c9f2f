"""A frame that was sent as messages comes back as it was."""

from __future__ import annotations

import array
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

pytest.importorskip("rclpy", reason="ROS 2 is not installed")

from sensor_msgs.msg import Image
from std_msgs.msg import Header

from upsnet_ros.datasets.taxonomy import CITYSCAPES, COCO, Taxonomy
from upsnet_ros.errors import ImageError
from upsnet_ros.inference.frame import Instance, PanopticFrame, StuffSegment
from upsnet_ros.messages.frames import frame_from_messages, taxonomy_from_message
from upsnet_ros.messages.images import plane
from upsnet_ros.messages.results import (
    instances_message,
    label_info_message,
    labels_message,
    unknown_mask_message,
)


@pytest.fixture
def frame() -> PanopticFrame:
    labels = np.full((6, 10), 7, np.int32)
    labels[1:4, 2:5] = 26001
    labels[5] = 0
    unknown = np.zeros(labels.shape, bool)
    unknown[5, :4] = True
    box = (2, 1, 4, 3)
    car = Instance(
        id=26001,
        class_id=26,
        class_name="car",
        score=0.75,
        box=box,
        detection_box=box,
        area=9,
        track_id=70_000,
    )
    road = StuffSegment(id=7, class_id=7, class_name="road", box=(0, 0, 9, 4), area=41)
    return PanopticFrame(labels=labels, unknown=unknown, instances=(car,), stuff=(road,))


@pytest.mark.parametrize("encoding", ["16UC1", "32SC1"])
def test_there_and_back(frame: PanopticFrame, encoding: str) -> None:
    header = Header()
    again = frame_from_messages(
        labels_message(frame, header, encoding=encoding),
        instances_message(frame, header),
        unknown_mask_message(frame, header),
    )
    assert again.labels.dtype == np.int32
    assert (again.labels == frame.labels).all()
    assert (again.unknown == frame.unknown).all()
    assert again.instances == frame.instances
    assert again.stuff == frame.stuff


@pytest.mark.parametrize("taxonomy", [CITYSCAPES, COCO])
def test_taxonomy_there_and_back(taxonomy: Taxonomy) -> None:
    assert taxonomy_from_message(label_info_message(taxonomy, Header())) == taxonomy


def image(values: npt.NDArray[Any], encoding: str = "16UC1", **fields: Any) -> Image:
    """A message with exactly these bytes."""
    given = {
        "height": values.shape[0],
        "width": values.shape[1],
        "encoding": encoding,
        "step": values.strides[0],
        "data": array.array("B", values.tobytes()),
    }
    return Image(**(given | fields))


def test_padded_rows_and_foreign_byte_order() -> None:
    padded = np.arange(12, dtype=">u2").reshape(3, 4)
    values = plane(image(padded, width=3, is_bigendian=1))
    assert values.dtype == np.uint16
    assert values.tolist() == [[0, 1, 2], [4, 5, 6], [8, 9, 10]]


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"encoding": "bgr8"}, "encoding 'bgr8' is none of mono8"),
        ({"step": 3}, "do not hold 4x3 pixels"),
        ({"height": 4}, "do not hold 4x4 pixels"),
    ],
)
def test_malformed_planes_are_refused(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(ImageError, match=message):
        plane(image(np.zeros((3, 4), "u2"), **fields))


def test_planes_of_different_sizes_are_refused(frame: PanopticFrame) -> None:
    header = Header()
    with pytest.raises(ImageError, match="the unknown mask is"):
        frame_from_messages(
            labels_message(frame, header, encoding="16UC1"),
            instances_message(frame, header),
            image(np.zeros((2, 2), "u1"), "mono8"),
        )
