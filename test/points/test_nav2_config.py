"""config/nav2 against the documented keys of nav2's layers, and against what our nodes publish.

nav2 itself does not run here. The tables hold names and types from the pages named in `SOURCES`.
"""

from __future__ import annotations

import copy
import json
import math
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from child_path import with_packages
from rclpy.qos import (
    QoSCompatibility,
    QoSDurabilityPolicy,
    QoSLivelinessPolicy,
    QoSProfile,
    QoSReliabilityPolicy,
    qos_check_compatible,
)
from sensor_msgs.msg import Image, PointCloud2

from upsnet_ros.datasets.taxonomy import CITYSCAPES
from upsnet_ros.node.outputs import Outputs
from upsnet_ros.node.parameters import NodeSettings
from upsnet_ros.node.topics import label_info_qos, output_qos
from upsnet_ros.points.node import OUTPUTS
from upsnet_ros.points.parameters import PointsSettings

ROOT = Path(__file__).resolve().parents[2]
CONFIG = ROOT / "config" / "nav2"

#: Where the keys are from: repository, file, commit. docs/nav2.md has the same list.
SOURCES = {
    "costmap": "docs.nav2.org configuration/packages/configuring-costmaps.rst 016d937",
    "obstacle": "docs.nav2.org configuration/packages/costmap-plugins/obstacle.rst 0006b08",
    "voxel": "docs.nav2.org configuration/packages/costmap-plugins/voxel.rst 343e932",
    "inflation": "docs.nav2.org configuration/packages/costmap-plugins/inflation.rst 016d937",
    "semantic": "semantic_segmentation_layer README.md d1914ba",
    "semantic source": "semantic_segmentation_layer src/semantic_segmentation_layer.cpp d1914ba",
}

# Keys with their types, one table for each source.
COSTMAP = {
    **dict.fromkeys(("global_frame", "robot_base_frame", "footprint", "observation_sources"), str),
    **dict.fromkeys(("width", "height", "lethal_cost_threshold", "unknown_cost_value"), int),
    **dict.fromkeys(("resolution", "robot_radius", "footprint_padding", "origin_x"), float),
    **dict.fromkeys(("origin_y", "map_vis_z", "update_frequency", "publish_frequency"), float),
    **dict.fromkeys(("transform_tolerance", "initial_transform_timeout"), float),
    **dict.fromkeys(("rolling_window", "track_unknown_space", "trinary_costmap"), bool),
    **dict.fromkeys(("always_send_full_costmap", "use_maximum"), bool),
    **dict.fromkeys(("plugins", "filters"), list),
}
# The page calls observation_sources a vector of strings; its examples, and the layer, take names in
# one string.
OBSTACLE = {
    **dict.fromkeys(("plugin", "observation_sources"), str),
    **dict.fromkeys(("enabled", "footprint_clearing_enabled"), bool),
    **dict.fromkeys(("min_obstacle_height", "max_obstacle_height", "tf_filter_tolerance"), float),
    "combination_method": int,
}
VOXEL = {
    **dict.fromkeys(("plugin", "observation_sources"), str),
    **dict.fromkeys(("enabled", "footprint_clearing_enabled", "publish_voxel_map"), bool),
    **dict.fromkeys(("max_obstacle_height", "origin_z", "z_resolution"), float),
    **dict.fromkeys(("combination_method", "z_voxels", "unknown_threshold", "mark_threshold"), int),
}
# The sources of both layers.
OBSTACLE_SOURCE = {
    **dict.fromkeys(("topic", "sensor_frame", "data_type"), str),
    **dict.fromkeys(("inf_is_valid", "marking", "clearing"), bool),
    **dict.fromkeys(("observation_persistence", "expected_update_rate"), float),
    **dict.fromkeys(("min_obstacle_height", "max_obstacle_height"), float),
    **dict.fromkeys(("obstacle_min_range", "obstacle_max_range"), float),
    **dict.fromkeys(("raytrace_min_range", "raytrace_max_range"), float),
}
INFLATION = {
    "plugin": str,
    **dict.fromkeys(("enabled", "inflate_unknown", "inflate_around_unknown"), bool),
    **dict.fromkeys(("inflation_radius", "cost_scaling_factor"), float),
}
# The README shows some of these keys, the source declares all of them. The branches for Jazzy and
# later have use_approximate_time_sync; that for Humble always compares stamps exactly.
SEMANTIC = {
    **dict.fromkeys(("plugin", "observation_sources"), str),
    **dict.fromkeys(("enabled", "publish_debug_topics", "use_approximate_time_sync"), bool),
    **dict.fromkeys(("combination_method", "sensor_data_depth"), int),
}
SEMANTIC_SOURCE = {
    **dict.fromkeys(("segmentation_topic", "confidence_topic"), str),
    **dict.fromkeys(("labels_topic", "pointcloud_topic"), str),
    **dict.fromkeys(("observation_persistence", "expected_update_rate"), float),
    **dict.fromkeys(("min_obstacle_distance", "max_obstacle_distance"), float),
    "tile_map_decay_time": float,
    **dict.fromkeys(("visualize_tile_map", "use_cost_selection"), bool),
    "class_types": list,
}
CLASS_TYPE = {
    "classes": list,
    **dict.fromkeys(("base_cost", "max_cost", "mark_confidence", "samples_to_max_cost"), int),
    "dominant_priority": bool,
}
#: Keys of a layer and of its observation sources, by plugin.
LAYERS = {
    "semantic_segmentation_layer::SemanticSegmentationLayer": (SEMANTIC, SEMANTIC_SOURCE),
    "nav2_costmap_2d::ObstacleLayer": (OBSTACLE, OBSTACLE_SOURCE),
    "nav2_costmap_2d::VoxelLayer": (VOXEL, OBSTACLE_SOURCE),
    "nav2_costmap_2d::InflationLayer": (INFLATION, {}),
}
#: QoS with which the layers subscribe: sensor data, and latched for labels_topic.
SENSOR_DATA = QoSProfile(
    depth=10,
    reliability=QoSReliabilityPolicy.BEST_EFFORT,
    durability=QoSDurabilityPolicy.VOLATILE,
    liveliness=QoSLivelinessPolicy.AUTOMATIC,
)
LATCHED = QoSProfile(
    depth=5,
    reliability=QoSReliabilityPolicy.RELIABLE,
    durability=QoSDurabilityPolicy.TRANSIENT_LOCAL,
    liveliness=QoSLivelinessPolicy.AUTOMATIC,
)


def wrong(values: dict, known: dict[str, type], where: str) -> list[str]:
    """What is wrong with keys and types, which are exact: ROS refuses an integer for a double."""
    found = [f"{where}: no key {name}" for name in values.keys() - known.keys()]
    for name in values.keys() & known.keys():
        value = values[name]
        if type(value) is not known[name]:
            found.append(f"{where}: {name} is {value!r}, not {known[name].__name__}")
        elif isinstance(value, list) and not all(type(one) is str for one in value):
            found.append(f"{where}: {name} holds more than text")
    return found


def part(values: dict, names: list[str], found: list[str], where: str) -> dict[str, dict]:
    """Remove the groups of these names from the values, and return them."""
    found += [f"{where}: no group {name}" for name in names if name not in values]
    return {name: values.pop(name) for name in names if name in values}


def problems(costmap: dict) -> list[str]:
    """What is wrong with the parameters of a costmap."""
    costmap, found = copy.deepcopy(costmap), []
    layers = part(costmap, costmap.get("plugins", []), found, "costmap")
    found += wrong(costmap, COSTMAP, "costmap")
    for name, layer in layers.items():
        if layer.get("plugin") not in LAYERS:
            found.append(f"{name}: no plugin {layer.get('plugin')}")
            continue
        known, known_of_source = LAYERS[layer["plugin"]]
        sources = layer.get("observation_sources", "").split()
        for source, values in part(layer, sources, found, name).items():
            where = f"{name}.{source}"
            for kind, costs in part(values, values.get("class_types", []), found, where).items():
                found += wrong(costs, CLASS_TYPE, f"{where}.{kind}")
            found += wrong(values, known_of_source, where)
        found += wrong(layer, known, name)
    return found


@pytest.fixture
def costmap() -> dict:
    values = yaml.safe_load((CONFIG / "costmap.yaml").read_text())
    return values["local_costmap"]["local_costmap"]["ros__parameters"]


@pytest.fixture
def camera(costmap) -> dict:
    """The source of the semantic layer."""
    return costmap["semantic_layer"]["camera"]


def test_every_key_is_documented_and_has_its_type(costmap):
    assert problems(costmap) == []


@pytest.mark.parametrize(
    ("layer", "source", "key", "value", "says"),
    [
        ("semantic_layer", "camera", "labels_topics", "/a", "semantic_layer.camera: no key"),
        ("semantic_layer", "camera", "max_obstacle_distance", 5, "is 5, not float"),
        ("semantic_layer", "camera", "class_types", ["free", "steep"], "no group steep"),
        ("unknown_layer", "seen", "obstacle_range", 2.5, "unknown_layer.seen: no key"),
        ("unknown_layer", "seen", "clearing", "yes", "is 'yes', not bool"),
    ],
)
def test_other_keys_and_types_are_found(costmap, layer, source, key, value, says):
    costmap[layer][source][key] = value
    assert says in " ".join(problems(costmap))


def test_the_page_names_the_sources_of_the_keys():
    page = (ROOT / "docs" / "nav2.md").read_text()
    assert [one for one in SOURCES.values() if not all(word in page for word in one.split())] == []


def segmenting_topics() -> dict[str, type]:
    # What is published depends on the settings; no node is asked.
    outputs = Outputs(node=None, camera="", taxonomy=CITYSCAPES, qos_watch=None)
    return outputs.topics(NodeSettings())


def test_topics_are_those_of_our_nodes(costmap, camera):
    published = {
        f"/panoptic/{name}": kind for name, kind in {**segmenting_topics(), **OUTPUTS}.items()
    }
    assert published[camera["segmentation_topic"]] is Image
    assert published[camera["confidence_topic"]] is Image
    assert published[camera["pointcloud_topic"]] is PointCloud2
    unknown = costmap["unknown_layer"]
    for source in unknown["observation_sources"].split():
        assert published[unknown[source]["topic"]] is PointCloud2
        assert unknown[source]["data_type"] == "PointCloud2"


def test_the_topic_of_class_names_is_published_where_vision_msgs_is(camera):
    code = (
        "import json\n"
        "from vision_msgs.msg import LabelInfo\n"
        "from test_nav2_config import segmenting_topics\n"
        "print(json.dumps([name for name, kind in segmenting_topics().items()"
        " if kind is LabelInfo]))"
    )
    result = subprocess.run(
        [sys.executable, "-c", code],
        cwd=Path(__file__).parent,
        env=with_packages("vision_msgs"),
        capture_output=True,
        text=True,
        timeout=240,
    )
    assert result.returncode == 0, result.stderr
    (name,) = json.loads(result.stdout)
    assert camera["labels_topic"] == f"/panoptic/{name}"


def test_subscriptions_match_our_publishers():
    for ours, theirs in ((output_qos(), SENSOR_DATA), (label_info_qos(), LATCHED)):
        assert qos_check_compatible(ours, theirs) == (QoSCompatibility.OK, "")
    # The check can fail.
    assert qos_check_compatible(output_qos(), LATCHED)[0] == QoSCompatibility.ERROR


def test_every_class_of_cityscapes_has_a_cost(camera):
    kinds = [camera[kind] for kind in camera["class_types"]]
    names = [name for kind in kinds for name in kind["classes"]]
    assert sorted(names) == sorted(one.name for one in CITYSCAPES.classes)
    for kind in kinds:
        assert 0 <= kind["base_cost"] <= kind["max_cost"] <= 254, "255 means no information"
        assert 0 <= kind["mark_confidence"] < 255


def test_ids_fit_the_pixels_of_semantic():
    # The layer keeps ids in a byte, and 255 is ours for unlabelled.
    assert all(0 < one.id < 255 for one in CITYSCAPES.classes)


def test_points_have_the_order_of_pixels_and_all_stamps_are_the_images():
    values = yaml.safe_load((CONFIG / "points.yaml").read_text())["/**"]["ros__parameters"]
    settings = PointsSettings(**values)
    assert settings.organized and settings.input == "depth"


def test_frames_and_ranges_are_consistent(costmap, camera):
    assert costmap["rolling_window"] and costmap["global_frame"] != costmap["robot_base_frame"]
    layer = costmap["unknown_layer"]
    unknown, seen = layer["unknown"], layer["seen"]
    # The origin of rays is the frame of the cloud's header, which is the depth image's own.
    assert "sensor_frame" not in unknown and "sensor_frame" not in seen
    assert unknown["marking"] and not unknown["clearing"]
    assert seen["clearing"] and not seen["marking"]
    assert seen["raytrace_max_range"] > unknown["obstacle_max_range"], "what is marked is cleared"
    assert seen["min_obstacle_height"] < 0 <= unknown["min_obstacle_height"], "the ground clears"
    top = layer["origin_z"] + layer["z_voxels"] * layer["z_resolution"]
    assert layer["z_voxels"] <= 16 and unknown["max_obstacle_height"] <= top
    corner = math.hypot(costmap["width"], costmap["height"]) / 2
    assert max(camera["max_obstacle_distance"], unknown["obstacle_max_range"]) <= corner
    order = costmap["plugins"]
    assert order[-1] == "inflation_layer", "it inflates what the layers before it marked"
