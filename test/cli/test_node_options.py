from __future__ import annotations

import inspect
from typing import Any

import pytest

from upsnet_ros.cli.node import OF_A_DRIVEN_NODE, given, ros_arguments, with_node_options
from upsnet_ros.node.parameters import parameters


def test_parameters_that_are_left_out_have_no_option_and_own_ones_stay():
    @with_node_options(leave_out={"variant"}, common={"scale"}, panel="The node")
    def command(*, bag: str, **options: Any) -> None: ...

    names = list(inspect.signature(command).parameters)
    assert names[0] == "bag"
    assert set(names[1:]) == {info.name for info in parameters()} - {"variant"}
    options = {name: command.__annotations__[name].__metadata__[0] for name in names[1:]}
    assert options["scale"].rich_help_panel == "The node"
    assert [name for name, option in options.items() if not option.hidden] == ["scale"]


def test_what_drives_a_node_chooses_real_parameters():
    assert {info.name for info in parameters()} > OF_A_DRIVEN_NODE


def test_only_what_was_given_counts():
    assert given({"scale": 0, "weights": None, "cameras": [], "measure_stages": False}) == {
        "scale": 0,
        "measure_stages": False,
    }
    assert given({"cameras": ["a", "b"]}) == {"cameras": ("a", "b")}


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({}, []),
        ({"use_sim_time": True}, ["-p", "use_sim_time:=true"]),
        ({"namespace": "/a/b"}, ["-r", "__ns:=/a/b"]),
        ({"remappings": {"image": "/cam", "depth": None}}, ["-r", "image:=/cam"]),
    ],
)
def test_ros_arguments(options, words):
    assert ros_arguments({}, **options) == ["--ros-args", *words]
    rest = ["--ros-args", "-p", "scale:=64"]
    expected = ["--ros-args", "-p", "scale:=128", *words, "-p", "scale:=64"]
    assert ros_arguments({"scale": 128}, rest, **options) == expected
