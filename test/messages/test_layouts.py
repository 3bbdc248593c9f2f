"""RViz's and Foxglove's layouts show what the node really publishes under its default names."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rclpy
import yaml
from rclpy.lifecycle import LifecycleNode

from upsnet_ros.datasets.taxonomy import CITYSCAPES
from upsnet_ros.inference.predictor import Predictor
from upsnet_ros.node.diagnostics import CameraHealth, NodeHealth, camera_status, node_status
from upsnet_ros.node.outputs import Outputs
from upsnet_ros.node.parameters import NodeSettings
from upsnet_ros.node.statistics import CameraStatistics
from upsnet_ros.node.topics import QosWatch

pytestmark = pytest.mark.dds

CONFIG = Path(__file__).resolve().parents[2] / "config"
NODE = "/panoptic/upsnet"
RAW, COMPRESSED = "sensor_msgs/msg/Image", "sensor_msgs/msg/CompressedImage"
# As Foxglove's own diagnostics panel writes it where one of its values is plotted.
VALUE = re.compile(
    r'/diagnostics\.status\[:\]\{hardware_id=="([^"]+)"\}\{name=="([^"]+)"\}'
    r'\.values\[:\]\{key=="([^"]+)"\}\.value'
)


@pytest.fixture(scope="module")
def topics(domain: int) -> Iterator[dict[str, list[str]]]:
    """Types of the default outputs, by topic."""
    context = rclpy.Context()
    rclpy.init(context=context, domain_id=domain)
    node = LifecycleNode("upsnet", namespace="panoptic", context=context)
    outputs = Outputs(node=node, camera="", taxonomy=CITYSCAPES, qos_watch=QosWatch(node))
    outputs.create(NodeSettings())
    yield dict(node.get_publisher_names_and_types_by_node("upsnet", "/panoptic"))
    outputs.destroy()
    node.destroy_node()
    node._state_machine.destroy_when_not_in_use()  # rclpy forgets it
    context.try_shutdown()


@pytest.fixture(scope="module")
def values() -> set[tuple[str, str, str]]:
    """Hardware id, status and key of each value that the node reports of a frame."""
    predictor = Predictor(
        variant="cityscapes-r18", device="cpu", scale=64, allow_random_weights=True, measure=True
    )
    stages = predictor(np.zeros((64, 128, 3), np.uint8)).timings
    camera = CameraHealth(
        name="",
        topic="/camera/image_raw",
        listening=True,
        publishers=1,
        qos_mismatch="",
        report=CameraStatistics().report(now=0.0, stale_after=2.0),
    )
    health = NodeHealth(
        state="active",
        enabled=True,
        model={},
        random_weights=True,
        # The camera's own stages lie around the predictor's.
        stages_ms=dict.fromkeys(["wait", *stages, "publish"], (1.0, 2.0)),
        gpu_memory={},
        output_mismatches={},
        cameras=[camera],
    )
    statuses = [node_status(NODE, health), camera_status(NODE, camera, random_weights=False)]
    return {(one.hardware_id, one.name, value.key) for one in statuses for value in one.values}


def test_rviz_shows_topics_of_the_node(topics: dict[str, list[str]]) -> None:
    config = yaml.safe_load((CONFIG / "panoptic.rviz").read_text())
    shown = {
        display["Name"]: display["Topic"]["Value"]
        for display in config["Visualization Manager"]["Displays"]
    }
    assert shown.keys() == {"Overlay", "Unknown mask", "Camera"}
    assert shown.pop("Camera") == "/panoptic/image"  # camera.launch.py remaps it
    assert all(topics[topic] == [RAW] for topic in shown.values())
    windows = set(config["Window Geometry"]) - {"Height", "Width"}
    assert windows == {"Displays", "Overlay", "Unknown mask", "Camera"}


def test_foxglove_shows_topics_of_the_node(topics: dict[str, list[str]]) -> None:
    panels = foxglove()["configById"]
    images = {
        name: panel["imageMode"]["imageTopic"]
        for name, panel in panels.items()
        if name.startswith("Image!")
    }
    assert topics[images["Image!overlay"]] == [COMPRESSED]
    assert topics[images["Image!unknown"]] == [RAW]
    reports = [panel["topicToRender"] for panel in panels.values() if "topicToRender" in panel]
    assert reports == ["/diagnostics"] * 2


def test_foxglove_plots_values_that_the_node_reports(values: set[tuple[str, str, str]]) -> None:
    panels = foxglove()["configById"]
    paths = [path["value"] for panel in panels.values() for path in panel.get("paths", [])]
    assert len(paths) > 10
    for path in paths:
        found = VALUE.fullmatch(path)
        assert found is not None, path
        assert found.groups() in values, path
    detail = panels["DiagnosticStatusPanel!camera"]
    assert (detail["selectedHardwareId"], detail["selectedName"]) in {one[:2] for one in values}


def test_foxglove_lays_out_every_panel_once() -> None:
    layout = foxglove()
    placed: list[str] = []

    def walk(part: Any) -> None:
        if isinstance(part, str):
            placed.append(part)
            return
        assert part["direction"] in ("row", "column")
        assert 0 < part["splitPercentage"] < 100
        walk(part["first"])
        walk(part["second"])

    walk(layout["layout"])
    assert sorted(placed) == sorted(layout["configById"])


def foxglove() -> dict[str, Any]:
    return json.loads((CONFIG / "foxglove_layout.json").read_text())
