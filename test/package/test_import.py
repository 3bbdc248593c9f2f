"""The package is importable from anywhere, with its messages, and by itself needs very little."""

import subprocess
import sys

import pytest

import upsnet_ros


def python(code: str, cwd) -> str:
    """Runs code in a process of its own, and returns what it printed."""
    result = subprocess.run(
        [sys.executable, "-c", code], cwd=cwd, capture_output=True, text=True, timeout=120
    )
    assert result.returncode == 0, result.stderr
    return result.stdout


def test_messages_and_modules_share_one_name(tmp_path):
    code = (
        "from upsnet_ros.msg import PanopticInstanceArray\n"
        "from upsnet_ros.inference.frame import PanopticFrame\n"
        "print(PanopticInstanceArray.__name__, PanopticFrame.__name__)"
    )
    assert python(code, tmp_path).split() == ["PanopticInstanceArray", "PanopticFrame"]


# Modules that one process imports in this order, and what each must not have brought by then. Those
# with torch share a process: to import it takes seconds.
COMPILER = {"torchvision", "torch._dynamo"}  # the first imports the second: as long as torch itself
HEAVY = {"torch", "rclpy", "scipy", "pycocotools", "jinja2", "PIL", "yaml", "rosbags"}
CHAINS = {
    "with torch": [
        ("upsnet_ros", {"torch", "cv2", "numpy", "rclpy", "typer"}),
        ("upsnet_ros.node.parameters", {"torch", "cv2", "rclpy", "typer"}),
        ("upsnet_ros.datasets", {"torch", "cv2", "rclpy", "typer"}),
        ("upsnet_ros.network", COMPILER | {"cv2", "rclpy", "typer"}),
        ("upsnet_ros.inference.predictor", COMPILER | {"rclpy", "typer"}),
        ("upsnet_ros.node.node", COMPILER | {"typer"}),
        ("upsnet_ros.bags.make", COMPILER | {"typer"}),
    ],
    "evaluation of files": [
        ("upsnet_ros.evaluation.panoptic_files", HEAVY | {"typer", "rich"}),
        ("upsnet_ros.evaluation.run", HEAVY | {"typer", "rich"}),
        ("upsnet_ros.evaluation.report", HEAVY | {"typer", "rich"}),
        ("upsnet_ros.cli.evaluate", HEAVY),
    ],
    "weights": [
        ("upsnet_ros.weights", HEAVY | {"typer", "rich", "numpy"}),
        ("upsnet_ros.cli.weights", HEAVY | {"cv2"}),
    ],
    "the command": [("upsnet_ros.cli.commands", {"torch", "cv2", "rclpy"})],
}


@pytest.mark.parametrize("chain", CHAINS)
def test_a_module_imports_no_more_than_it_needs(chain, tmp_path):
    steps = "".join(f"import {module}; print(*sys.modules)\n" for module, _ in CHAINS[chain])
    loaded = python(f"import sys\n{steps}", tmp_path).splitlines()
    found = {
        module: absent & set(names.split())
        for (module, absent), names in zip(CHAINS[chain], loaded, strict=True)
    }
    assert found == {module: set() for module, _ in CHAINS[chain]}


def test_public_names_are_there_and_listed():
    for name in upsnet_ros.__all__:
        assert getattr(upsnet_ros, name) is not None
        assert name in dir(upsnet_ros)
    assert upsnet_ros.Predictor.__module__ == "upsnet_ros.inference.predictor"
    assert upsnet_ros.variants()["coco-r50"].dataset == "coco"


def test_an_unknown_attribute_is_an_attribute_error():
    assert not hasattr(upsnet_ros, "Predicter")


def test_exporting_and_settings_need_no_torch(tmp_path):
    code = (
        "import sys, upsnet_ros as u\n"
        "u.draw, u.to_coco, u.save_cityscapes_png, u.PanopticFrame, u.open_bag, u.Tracker\n"
        "u.variants()\n"
        "import upsnet_ros.training.settings\n"
        "print('torch' in sys.modules, 'rclpy' in sys.modules)"
    )
    assert python(code, tmp_path).split() == ["False", "False"]


def test_names_of_the_network_are_there():
    import upsnet_ros.network

    for name in upsnet_ros.network.__all__:
        assert getattr(upsnet_ros.network, name) is not None


def test_message_fields():
    # What consumers read on the wire; a field that changes its type breaks recorded bags.
    from upsnet_ros.msg import PanopticClass, PanopticInstance, PanopticLabelInfo, UnknownRegion

    assert PanopticInstance.get_fields_and_field_types() == {
        "id": "uint32",
        "is_thing": "boolean",
        "class_id": "uint16",
        "class_name": "string",
        "instance_id": "uint16",
        "track_id": "uint32",
        "score": "float",
        "roi": "sensor_msgs/RegionOfInterest",
        "area": "uint32",
        "mask_rle": "sequence<uint32>",
    }
    assert PanopticClass.get_fields_and_field_types()["color"] == "uint8[3]"
    assert PanopticLabelInfo.get_fields_and_field_types()["classes"] == (
        "sequence<upsnet_ros/PanopticClass>"
    )
    assert UnknownRegion.get_fields_and_field_types()["mean_score"] == "float"


def test_service_fields():
    from upsnet_ros.srv import Segment

    assert Segment.Request.get_fields_and_field_types() == {"image": "sensor_msgs/Image"}
    assert Segment.Response.get_fields_and_field_types() == {
        "success": "boolean",
        "message": "string",
        "labels": "sensor_msgs/Image",
        "instances": "upsnet_ros/PanopticInstanceArray",
        "unknown_mask": "sensor_msgs/Image",
    }
