from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from upsnet_ros.node.parameter_info import as_markdown, as_yaml, yaml_value
from upsnet_ros.node.parameters import NodeSettings, camera_parameters, parameters

ROOT = Path(__file__).resolve().parents[2]
AGAIN = "generate it again: python -m upsnet_ros.node.parameters"


def test_camera_yaml_is_made_from_the_settings():
    assert (ROOT / "config" / "camera.yaml").read_text() == as_yaml(
        parameters(), camera_parameters()
    ), f"{AGAIN} yaml"


def test_camera_yaml_holds_every_default():
    tree = yaml.safe_load(as_yaml(parameters(), camera_parameters()))
    values = tree["/**"]["ros__parameters"]
    values["cameras"] = tuple(values["cameras"])
    assert NodeSettings(**values) == NodeSettings()
    assert list(values) == [info.name for info in parameters()]


def test_camera_yaml_documents_every_parameter():
    prose = " ".join(
        line.strip().removeprefix("# ")
        for line in as_yaml(parameters(), camera_parameters()).splitlines()
    )
    for info in parameters():
        assert info.text in prose


def test_the_page_of_parameters_holds_their_table():
    page = ROOT / "docs" / "parameters.md"
    assert as_markdown(parameters(), camera_parameters()) in page.read_text(), f"{AGAIN} markdown"


@pytest.mark.parametrize(
    "value", ["", "1", "true", "a b: #c", 'quo"te', 0.5, 1.0, 3, False, ("", "a")]
)
def test_values_keep_their_type_in_yaml(value):
    read = yaml.safe_load(yaml_value(value))
    read = tuple(read) if isinstance(read, list) else read
    assert read == value
    assert type(read) is type(value)
