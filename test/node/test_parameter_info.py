from __future__ import annotations

from pathlib import Path

import pytest

from upsnet_ros.errors import SettingsError
from upsnet_ros.node.parameter_info import (
    Changes,
    ParameterInfo,
    Value,
    missed_by,
    parameter_files,
    read_parameter_file,
)


def info(default: Value, **limits: float) -> ParameterInfo:
    return ParameterInfo(
        name="it", default=default, text="", group="", changes=Changes.ALWAYS, **limits
    )


@pytest.mark.parametrize(
    ("default", "text", "value"),
    [(False, "True", True), (True, "false", False), (1, "42", 42), (1.0, "42", 42.0),
     (1.0, "1e-3", 0.001), ("", "42", "42"), ("", "true", "true")],
)  # fmt: skip
def test_a_text_is_read_as_of_the_type_of_the_parameter(
    default: Value, text: str, value: Value
) -> None:
    found = info(default).parse(text)
    assert found == value and type(found) is type(value)


@pytest.mark.parametrize(
    ("default", "text"), [(False, "1"), (1, "1.5"), (1, "many"), (1.0, ""), (("a",), "a")]
)
def test_a_text_that_is_no_such_value_is_refused(default: Value, text: str) -> None:
    with pytest.raises(SettingsError, match=f"it must be .*, not '{text}'"):
        info(default).parse(text)


@pytest.mark.parametrize("text", ["-0.1", "1.5", "nan"])
def test_a_text_out_of_range_is_refused(text: str) -> None:
    with pytest.raises(SettingsError, match="0 to 1, not"):
        info(0.5, minimum=0, maximum=1).parse(text)


FILE = """
/panoptic/upsnet:
  ros__parameters: {scale: 320}
front:
  upsnet: {ros__parameters: {scale: 320}}
"""


@pytest.mark.parametrize(
    ("content", "node", "missed"),
    [
        (FILE, "/panoptic/upsnet", []),
        (FILE, "/front/upsnet", []),
        (FILE, "/upsnet", ["/panoptic/upsnet", "/front/upsnet"]),
        ("upsnet: {ros__parameters: {scale: 3}}", "/panoptic/upsnet", ["/upsnet"]),
        ("/**: {ros__parameters: {scale: 3}}", "/panoptic/upsnet", []),
        ("/**/upsnet: {ros__parameters: {scale: 3}}", "/a/b/upsnet", []),
        ("/**/upsnet: {ros__parameters: {scale: 3}}", "/upsnet", []),
        ("/*/upsnet: {ros__parameters: {scale: 3}}", "/a/upsnet", []),
        ("/*/upsnet: {ros__parameters: {scale: 3}}", "/a/b/upsnet", ["/*/upsnet"]),
        ("/*: {ros__parameters: {scale: 3}}", "/panoptic/upsnet", ["/*"]),
        ("/**: {other: {ros__parameters: {scale: 3}}}", "/a/upsnet", ["/**/other"]),
        ("", "/upsnet", []),
    ],
)
def test_nodes_that_a_parameter_file_is_for(tmp_path, content, node, missed):
    file = tmp_path / "parameters.yaml"
    file.write_text(content)
    assert missed_by(str(file), node) == missed


@pytest.mark.parametrize("name", ["camera.yaml", "cameras4.yaml"])
def test_files_that_ship_are_for_the_node(name):
    shipped = Path(__file__).parents[2] / "config" / name
    assert missed_by(str(shipped), "/panoptic/upsnet") == []


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("scale: 320", "sets no parameters"),
        ("/panoptic/upsnet: {scale: 320}", "under the node's name and then ros__parameters"),
        ("/a: {ros__parameters: {}}\n/b: {scale: 3}", "sets no parameters"),
        ("[1, 2]", "sets no parameters"),
        ("a: [", "is not a YAML file"),
    ],
)
def test_a_parameter_file_that_cannot_be_meant(tmp_path, content, message):
    file = tmp_path / "parameters.yaml"
    file.write_text(content)
    with pytest.raises(SettingsError, match=message):
        read_parameter_file(str(file))
    assert parameter_files(["--ros-args", "--params-file", str(file), "-r", "a:=b"]) == [str(file)]
