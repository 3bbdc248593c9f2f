from __future__ import annotations

import pytest
import yaml

from upsnet_ros.cli import main
from upsnet_ros.cli.node import ros_arguments
from upsnet_ros.node.parameters import parameters


@pytest.fixture
def started(monkeypatch):
    """What the node's main would have been called with."""
    from upsnet_ros.node import node
    from upsnet_ros.points import node as points_node

    calls = []
    for module in (node, points_node):
        monkeypatch.setattr(module, "main", lambda args: calls.append(args) or 0)

    def run(*arguments, command="node"):
        calls.clear()
        with pytest.raises(SystemExit) as ended:
            main([command, *arguments])
        assert ended.value.code == 0
        return calls[0]

    return run


def values(arguments):
    """The parameters that a command line sets, as ROS reads it."""
    rules = [arguments[at + 1] for at, one in enumerate(arguments) if one == "-p"]
    return {
        name: yaml.safe_load(text) for name, _, text in (rule.partition(":=") for rule in rules)
    }


def test_nothing_given_sets_nothing(started):
    assert started() == ["--ros-args"]


def test_options_become_parameters_of_their_type(started, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "123").write_bytes(b"\x80\x02")  # begins as a file of torch does
    arguments = started(
        *("--weights", "123", "--score-threshold", "0", "--scale", "512", "--no-publish-overlay"),
        *("--allow-random-weights", "--cameras", "front", "--cameras", "rear"),
    )
    assert values(arguments) == {
        "weights": "123",
        "score_threshold": 0.0,
        "scale": 512,
        "publish_overlay": False,
        "allow_random_weights": True,
        "cameras": ["front", "rear"],
    }
    assert isinstance(values(arguments)["score_threshold"], float)


def test_ros_arguments_pass_untouched_and_come_last(started):
    rest = ["-p", "scale:=64", "-r", "__ns:=/robot", "--log-level", "debug", "--", "--scale"]
    arguments = started("--scale", "512", "--ros-args", *rest)
    assert arguments == ["--ros-args", "-p", "scale:=512", *rest]


@pytest.mark.parametrize(("kind", "name"), [("depth", "depth"), ("cloud", "points_in")])
def test_the_topic_of_points_says_what_the_input_is(started, kind, name):
    # A cloud needs extrinsics where tf2_msgs is not installed.
    pose = [0.1, 0.0, 0.0, 0.0, 0.0, 0.0, 1.0]
    text = ",".join(map(str, pose))
    arguments = started(f"--{kind}-topic", "/sensor", "--extrinsics", text, command="points")
    assert values(arguments) == {"input": kind, "extrinsics": pose}
    assert arguments[-2:] == ["-r", f"{name}:=/sensor"]


def test_the_image_topic_is_a_remap(started):
    arguments = started("--image-topic", "/camera/image_raw")
    assert arguments == ["--ros-args", "-r", "image:=/camera/image_raw"]


def test_every_parameter_has_an_option(capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")
    with pytest.raises(SystemExit):
        main(["node", "--help-all"])
    told = " ".join(capsys.readouterr().out.split())
    for info in parameters():
        assert "--" + info.name.replace("_", "-") in told


def test_ros_arguments_without_any():
    assert ros_arguments({}) == ["--ros-args"]


def test_the_exit_code_is_the_nodes(monkeypatch):
    from upsnet_ros.node import node

    monkeypatch.setattr(node, "main", lambda args: 1)
    with pytest.raises(SystemExit) as ended:
        main(["node"])
    assert ended.value.code == 1
