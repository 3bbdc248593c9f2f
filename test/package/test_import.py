"""The package is importable from anywhere, with its messages, and by itself needs very little."""

import subprocess
import sys

import pytest


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
CHAINS = {
    "with torch": [
        ("upsnet_ros", {"torch", "cv2", "numpy", "rclpy", "typer"}),
        ("upsnet_ros.ros.settings", {"torch", "cv2", "rclpy", "typer"}),
        ("upsnet_ros.datasets", {"torch", "cv2", "rclpy", "typer"}),
        ("upsnet_ros.network", {"cv2", "rclpy", "typer"}),
        ("upsnet_ros.inference.predictor", {"rclpy", "typer"}),
    ],
    "the command": [("upsnet_ros.cli", {"torch", "cv2", "rclpy"})],
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


def test_predictor_is_exported():
    from upsnet_ros import Predictor

    assert Predictor.__module__ == "upsnet_ros.inference.predictor"


def test_an_unknown_attribute_is_an_attribute_error(tmp_path):
    code = "import upsnet_ros; print(hasattr(upsnet_ros, 'Predicter'), upsnet_ros.__all__)"
    assert python(code, tmp_path).strip() == "False ['Predictor']"


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
