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


@pytest.mark.parametrize(
    ("module", "absent"),
    [
        ("upsnet_ros", {"torch", "cv2", "numpy", "rclpy", "typer"}),
        ("upsnet_ros.network", {"cv2", "rclpy", "typer"}),
        ("upsnet_ros.datasets", {"torch", "cv2", "rclpy", "typer"}),
        ("upsnet_ros.inference.predictor", {"rclpy", "typer"}),
        ("upsnet_ros.ros.settings", {"torch", "cv2", "rclpy", "typer"}),
        ("upsnet_ros.cli", {"torch", "cv2", "rclpy"}),
    ],
)
def test_a_module_imports_no_more_than_it_needs(module, absent, tmp_path):
    loaded = python(f"import sys, {module}; print(*sys.modules)", tmp_path).split()
    assert absent & set(loaded) == set()


def test_predictor_is_exported(tmp_path):
    code = "import upsnet_ros; from upsnet_ros import Predictor; print(Predictor.__module__)"
    assert python(code, tmp_path).strip() == "upsnet_ros.inference.predictor"


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
