from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from bag_messages import TYPES, make_header

from upsnet_ros.bags.messages import MessageTypes
from upsnet_ros.bags.storage import Definition
from upsnet_ros.errors import BagError

ROOT = Path(__file__).resolve().parents[2]


def test_every_message_of_this_package_is_known():
    names = [path.stem for path in (ROOT / "msg").glob("*.msg")]
    assert "PanopticInstanceArray" in names
    assert all(f"upsnet_ros/msg/{name}" in TYPES for name in names)


def test_bytes_come_back_as_the_message():
    raw = TYPES.serialize(make_header(3_000_000_007, "left"), "std_msgs/msg/Header")
    message = TYPES.deserialize(raw, "std_msgs/msg/Header")
    assert (message.stamp.sec, message.stamp.nanosec, message.frame_id) == (3, 7, "left")


def test_a_bags_own_definition_is_preferred():
    # As a RegionOfInterest of another time might have been.
    own = MessageTypes([Definition("sensor_msgs/msg/RegionOfInterest", "ros2msg", "uint8 x\n")])
    message = own.make("sensor_msgs/msg/RegionOfInterest", x=7)
    assert own.serialize(message, "sensor_msgs/msg/RegionOfInterest") == b"\0\1\0\0\7"
    assert "sensor_msgs/msg/Image" in own


def test_definitions_as_idl():
    idl = (
        "=" * 80
        + "\nIDL: other_msgs/msg/Count\nmodule other_msgs { module msg {\n"
        + "struct Count { uint32 value; }; }; };\n"
    )
    own = MessageTypes([Definition("other_msgs/msg/Count", "ros2idl", idl)])
    raw = own.serialize(own.make("other_msgs/msg/Count", value=5), "other_msgs/msg/Count")
    assert own.deserialize(raw, "other_msgs/msg/Count").value == 5


def test_unknown_types_are_named():
    with pytest.raises(BagError, match="other_msgs/msg/Nothing is unknown"):
        TYPES.deserialize(b"\0\1\0\0", "other_msgs/msg/Nothing")


def test_damaged_bytes_and_wrong_messages_are_told():
    with pytest.raises(BagError, match=r"4 bytes .*std_msgs/msg/Header"):
        TYPES.deserialize(b"\0\1\0\0", "std_msgs/msg/Header")
    with pytest.raises(BagError, match="is no sensor_msgs/msg/Image"):
        TYPES.serialize(make_header(1), "sensor_msgs/msg/Image")


def test_arrays_are_numpys():
    kind = "std_msgs/msg/UInt32MultiArray"
    layout = TYPES.make("std_msgs/msg/MultiArrayLayout", dim=[], data_offset=0)
    message = TYPES.make(kind, layout=layout, data=np.arange(3, dtype=np.uint32))
    again = TYPES.deserialize(TYPES.serialize(message, kind), kind)
    assert again.data.tolist() == [0, 1, 2]


def test_definitions_of_no_use_are_told_and_do_no_harm():
    own = MessageTypes(
        [
            Definition("other_msgs/msg/Broken", "ros2msg", "uint8[ x\n"),
            Definition("other_msgs/msg/Count", "ros2msg", "uint32 value\n"),
            Definition("other_msgs/msg/Count", "ros2msg", "uint64 value\n"),
            Definition("other.Thing", "protobuf", "\x00\x01"),
        ]
    )
    assert [line.split(" is ")[0] for line in own.unusable] == [
        "the definition of other_msgs/msg/Broken",
        "the definition of other_msgs/msg/Count",
    ]
    assert "other_msgs/msg/Broken" not in own
    raw = own.serialize(own.make("other_msgs/msg/Count", value=5), "other_msgs/msg/Count")
    assert len(raw) == 8
    assert "sensor_msgs/msg/Image" in own
