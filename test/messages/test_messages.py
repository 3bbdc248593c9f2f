from __future__ import annotations

import sys

import numpy as np
import pytest
from rclpy.serialization import deserialize_message, serialize_message
from sensor_msgs.msg import Image
from std_msgs.msg import Header

from upsnet_ros.datasets.taxonomy import CITYSCAPES, COCO
from upsnet_ros.inference.frame import Instance, PanopticFrame, StuffSegment
from upsnet_ros.messages import results as messages
from upsnet_ros.msg import PanopticInstanceArray, PanopticLabelInfo

CAR, ROAD = 26, 7


def header():
    stamped = Header(frame_id="front_camera_optical")
    stamped.stamp.sec, stamped.stamp.nanosec = 1_234_567_890, 987_654_321
    return stamped


def a_frame() -> PanopticFrame:
    """Two cars, the second one in two parts, on a road; two unknown regions above."""
    labels = np.zeros((30, 40), np.int32)
    labels[12:, :] = ROAD
    labels[10:20, 2:12] = CAR * 1000 + 1
    labels[15:18, 20:25] = labels[16:22, 30:33] = CAR * 1000 + 2
    unknown = np.zeros(labels.shape, np.bool_)
    unknown[0:2, 0:3] = unknown[5, 20:30] = unknown[6, 30:32] = True
    score = np.where(unknown, 204, 20).astype(np.uint8)
    score[0:2, 0:3] = [51, 102, 153]
    cars = [(1, 0.9, (2, 10, 11, 19)), (2, 0.7, (20, 15, 32, 21))]
    return PanopticFrame(
        labels=labels,
        unknown=unknown,
        unknown_score=score,
        instances=tuple(
            Instance(
                id=CAR * 1000 + k,
                class_id=CAR,
                class_name="car",
                score=probability,
                box=box,
                detection_box=tuple(float(edge) for edge in box),
                area=int((labels == CAR * 1000 + k).sum()),
            )
            for k, probability, box in cars
        ),
        stuff=(
            StuffSegment(
                id=ROAD,
                class_id=ROAD,
                class_name="road",
                box=(0, 12, 39, 29),
                area=int((labels == ROAD).sum()),
            ),
        ),
    )


def over_the_wire(msg):
    return deserialize_message(serialize_message(msg), type(msg))


def pixels(msg: Image, dtype) -> np.ndarray:
    return np.frombuffer(msg.data, dtype).reshape(msg.height, msg.width)


@pytest.mark.parametrize(("encoding", "dtype"), [("16UC1", np.uint16), ("32SC1", np.int32)])
def test_labels_are_the_frames_labels(encoding, dtype):
    msg = over_the_wire(messages.labels_message(a_frame(), header(), encoding=encoding))
    assert msg.header == header()
    assert msg.encoding == encoding
    assert msg.is_bigendian == (sys.byteorder == "big")
    assert msg.step == 40 * dtype().itemsize
    np.testing.assert_array_equal(pixels(msg, dtype), a_frame().labels)


def test_unknown_mask_is_0_or_255():
    msg = over_the_wire(messages.unknown_mask_message(a_frame(), header()))
    assert (msg.encoding, msg.step, msg.header) == ("mono8", 40, header())
    np.testing.assert_array_equal(pixels(msg, np.uint8), np.where(a_frame().unknown, 255, 0))


def test_every_segments_mask_area_and_roi_agree_with_the_labels():
    frame = a_frame()
    msg = over_the_wire(messages.instances_message(frame, header()))
    assert isinstance(msg, PanopticInstanceArray)
    assert msg.header == header()
    assert [one.id for one in msg.instances] == [26001, 26002]
    assert [one.id for one in msg.stuff] == [ROAD]
    for one in (*msg.instances, *msg.stuff):
        mask = np.zeros(frame.labels.shape, np.bool_)
        roi = one.roi
        mask[roi.y_offset :, roi.x_offset :][: roi.height, : roi.width] = messages.decode_mask(one)
        np.testing.assert_array_equal(mask, frame.labels == one.id)
        assert one.area == mask.sum()


def test_what_is_told_of_things_and_stuff():
    msg = messages.instances_message(a_frame(), header())
    car, road = msg.instances[1], msg.stuff[0]
    assert (car.is_thing, car.class_id, car.class_name, car.instance_id) == (True, 26, "car", 2)
    assert car.score == pytest.approx(0.7)
    assert (road.is_thing, road.class_id, road.class_name, road.instance_id) == (
        False,
        7,
        "road",
        0,
    )
    assert road.score == 1.0


def test_unknown_regions_are_connected_and_sorted_by_area():
    corner, line = {"area": 6, "score": 0.4}, {"area": 12, "score": 0.8}
    regions = messages.unknown_regions(a_frame())
    assert [one.area for one in regions] == [line["area"], corner["area"]]
    assert [one.mean_score for one in regions] == pytest.approx([line["score"], corner["score"]])
    roi = regions[0].roi
    assert (roi.x_offset, roi.y_offset, roi.width, roi.height) == (20, 5, 12, 2)
    assert [one.area for one in messages.unknown_regions(a_frame(), min_area=7)] == [12]


def test_a_frame_in_which_nothing_was_found():
    empty = PanopticFrame(
        labels=np.zeros((4, 6), np.int32),
        unknown=np.zeros((4, 6), np.bool_),
        instances=(),
        stuff=(),
    )
    msg = over_the_wire(messages.instances_message(empty, header()))
    assert msg == PanopticInstanceArray(header=header())


@pytest.mark.filterwarnings("error")
def test_an_image_that_is_unknown_everywhere():
    frame = PanopticFrame(
        labels=np.zeros((4, 6), np.int32),
        unknown=np.ones((4, 6), np.bool_),
        instances=(),
        stuff=(),
        unknown_score=np.full((4, 6), 51, np.uint8),
    )
    (region,) = messages.unknown_regions(frame)
    assert (region.area, region.mean_score) == (24, pytest.approx(0.2))


def test_regions_without_a_score_say_so():
    frame = a_frame()
    bare = PanopticFrame(labels=frame.labels, unknown=frame.unknown, instances=(), stuff=())
    assert all(np.isnan(one.mean_score) for one in messages.unknown_regions(bare))


@pytest.mark.parametrize("taxonomy", [CITYSCAPES, COCO])
def test_label_info_lists_every_class(taxonomy):
    msg = over_the_wire(messages.label_info_message(taxonomy, header()))
    assert isinstance(msg, PanopticLabelInfo)
    assert (msg.dataset, msg.label_divisor) == (taxonomy.name, 1000)
    listed = [(one.id, one.name, one.is_thing, tuple(one.color)) for one in msg.classes]
    assert listed == [(one.id, one.name, one.is_thing, one.color) for one in taxonomy.classes]


def test_an_image_of_the_wrong_type_is_refused():
    with pytest.raises(TypeError, match=r"mono8 .*uint8, not int32"):
        messages.image_message(np.zeros((2, 2), np.int32), "mono8", header())
