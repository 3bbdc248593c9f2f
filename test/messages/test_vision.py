"""The topics in vision_msgs, where that is installed: what Detection2DArray and LabelInfo say."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest
from child_path import SUPPORT, is_installed, with_packages
from node_bench import Bench

from upsnet_ros.datasets.taxonomy import CITYSCAPES

pytestmark = pytest.mark.dds

INSTALLED = is_installed("vision_msgs")


@pytest.fixture(scope="module")
def said(domain):
    """What the node says of a frame, by topic."""
    environment = with_packages("vision_msgs")
    command = [sys.executable, str(SUPPORT / "vision_check.py"), str(domain)]
    result = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=240)
    assert result.returncode == 0, result.stderr
    return json.loads(result.stdout)


def test_detections_are_the_things_of_instances_in_their_order(said):
    detections, instances = said["detections"], said["instances"]
    assert detections["header"] == instances["header"]
    assert detections["header"]["frame_id"] == "eye"
    assert instances["instances"], "random weights find something at threshold 0"
    for detection, instance in zip(detections["detections"], instances["instances"], strict=True):
        assert detection["header"] == instances["header"]
        (result,) = detection["results"]
        assert result["hypothesis"]["class_id"] == str(instance["class_id"])
        assert result["hypothesis"]["score"] == pytest.approx(instance["score"])
        roi, box = instance["roi"], detection["bbox"]
        assert (box["size_x"], box["size_y"]) == (roi["width"], roi["height"])
        assert box["center"]["position"]["x"] - box["size_x"] / 2 == roi["x_offset"]
        assert box["center"]["position"]["y"] - box["size_y"] / 2 == roi["y_offset"]
        assert detection["id"] == "", "no tracker runs"


def test_label_info_names_the_classes_for_who_joins_late(said):
    named = {one["class_id"]: one["class_name"] for one in said["label_info"]["class_map"]}
    assert named == {one.id: one.name for one in CITYSCAPES.classes}
    assert said["thresholds"] == [0.0, 0.5]


def test_both_topics_go_where_they_are_not_wished_for(said):
    assert "/in_process/instances" in said["topics_left"]
    assert not [one for one in said["topics_left"] if "detections" in one or "vision" in one]


@pytest.mark.skipif(INSTALLED, reason="vision_msgs is installed")
def test_without_vision_msgs_there_are_no_such_topics(domain):
    bench = Bench(domain)
    try:
        assert bench.node.settings.publish_detections
        assert bench.node.start()
        topics = [one.topic_name for one in bench.node.publishers]
        assert "/in_process/instances" in topics
        assert not [one for one in topics if "detections" in one or "vision" in one]
    finally:
        bench.close()
