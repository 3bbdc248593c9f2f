"""Messages of any content: times before 1970, classes that break the rules, foreign types."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from faults import fault

from upsnet_ros.bag_evaluation.scoring import BagTask, evaluate_bag
from upsnet_ros.bags.index import FrameKey, Role, index_bag
from upsnet_ros.bags.messages import IMAGE, LABEL_INFO, Messages, MessageTypes
from upsnet_ros.bags.storage import Definition
from upsnet_ros.bags.writer import BagWriter
from upsnet_ros.errors import BagError, EvaluationError

SECOND = 10**9
LABELS = "/ground_truth/labels"
INFO = "/ground_truth/label_info"


def write(path: Path, stamps: list[int], classes: list[tuple[int, bool]]) -> Path:
    with BagWriter(path=path) as bag:
        messages, make = Messages(bag.types, "camera"), bag.types.make
        color = np.zeros(3, np.uint8)
        info = make(
            LABEL_INFO,
            header=messages.header(0),
            dataset="odd",
            label_divisor=1000,
            classes=[
                make("upsnet_ros/msg/PanopticClass", id=key, name="x", is_thing=thing, color=color)
                for key, thing in classes
            ],
        )
        bag.write(INFO, info, SECOND, LABEL_INFO)
        for stamp_ns in stamps:
            labels = messages.image(np.full((4, 6), 7), "16UC1", stamp_ns)
            for topic in (LABELS, "/panoptic/labels"):
                bag.write(topic, labels, SECOND, IMAGE)
    return path


STAMPS = {
    "before 1970": -SECOND,
    "the first of all": -(1 << 31) * SECOND,
    "zero": 0,
    "the last of all": ((1 << 31) - 1) * SECOND + SECOND - 1,
}


@fault(
    tried="Bags whose messages carry stamps before 1970, 0, or the largest that there is",
    often="{cases} stamps",
    happens="They are joined by their stamps and evaluated as all others",
)
@pytest.mark.parametrize("stamp_ns", STAMPS.values(), ids=STAMPS)
def test_any_stamp_is_evaluated(tmp_path: Path, stamp_ns):
    path = write(tmp_path / "bag", [stamp_ns], [(7, False)])
    assert list(index_bag(path).arrivals[Role.TRUTH]) == [FrameKey(stamp_ns, "camera")]
    assert len(evaluate_bag(BagTask(bag=path)).frames) == 1


CLASSES = {
    "none": [],
    "one id twice": [(7, False), (7, True)],
    "stuff after things": [(7, True), (8, False)],
    "void": [(0, False)],
}


@fault(
    tried="A label_info in a bag that is empty, names an id twice, void, or stuff after things",
    often="{cases} kinds",
    happens="One line names topic, time and rule",
)
@pytest.mark.parametrize("classes", CLASSES.values(), ids=CLASSES)
def test_classes_that_break_the_rules_are_told(tmp_path: Path, classes):
    path = write(tmp_path / "bag", [SECOND], classes)
    with pytest.raises(BagError, match=f"{INFO} at .* is no label_info"):
        index_bag(path)
    with pytest.raises(EvaluationError, match=f"{INFO} at .* is no label_info"):
        evaluate_bag(BagTask(bag=path))


@fault(
    tried="A bag that defines sensor_msgs/Image otherwise",
    often="{cases} definitions",
    happens="One line names topic and type",
)
@pytest.mark.parametrize("definition", ["uint8 x\n", "uint8 header\n", "string header\n"])
def test_a_type_that_the_bag_defines_otherwise_is_told(tmp_path: Path, definition):
    types = MessageTypes([Definition(IMAGE, "ros2msg", definition)])
    value = "x" if definition.startswith("string") else 7
    message = types.make(IMAGE, **{definition.split()[1]: value})
    with BagWriter(path=tmp_path / "bag", types=types) as bag:
        bag.write(LABELS, message, SECOND, IMAGE)
    with pytest.raises(BagError, match=f"{LABELS} is of another {IMAGE}"):
        index_bag(tmp_path / "bag")
