"""The ends of a frame that ROS adds do what the node does."""

from __future__ import annotations

import numpy as np
import pytest

from upsnet_ros.datasets.taxonomy import CITYSCAPES
from upsnet_ros.inference.frame import PanopticFrame

pytest.importorskip("rclpy", reason="needs ROS 2")


def test_a_camera_message_decodes_to_its_image_and_an_answer_is_serialised() -> None:
    from upsnet_ros.benchmark.ros_ends import RosEnds

    ends = RosEnds(CITYSCAPES)
    image = np.random.default_rng(0).integers(0, 256, (6, 8, 3), dtype=np.uint8)
    message = ends.camera_message(image)
    np.testing.assert_array_equal(ends.decode(message), image)
    frame = PanopticFrame(
        labels=np.zeros((6, 8), np.int32),
        unknown=np.ones((6, 8), bool),
        instances=(),
        stuff=(),
    )
    # labels have two bytes a pixel for Cityscapes, the unknown mask has one.
    assert ends.publish(frame, message) > 6 * 8 * 3
