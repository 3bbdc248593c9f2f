"""Runs the launch file with a stand-in for each executable, and reads what it would have started.

Needs ROS's `launch` and `launch_ros`, which no wheel carries, and the package built by colcon: on a
ROS machine `colcon test`, or pytest with the workspace sourced.
"""

from pathlib import Path

import pytest

pytest.importorskip("launch")
pytest.importorskip("launch_ros")

from launch_file import LaunchFile, node_parameters, options

from upsnet_ros.node.parameters import NodeSettings, parameters
from upsnet_ros.processes.transport import (
    PROFILE_VARIABLES,
    TRANSPORT_VARIABLES,
    shared_memory_profile,
)

CAMERA = LaunchFile("camera.launch.py")
declared, launch, start = CAMERA.declared, CAMERA.launch, CAMERA.start


@pytest.fixture
def video(tmp_path):
    (tmp_path / "drive.mp4").touch()
    return str(tmp_path / "drive.mp4")


@pytest.fixture(autouse=True)
def _no_transport_chosen(monkeypatch):
    for name in TRANSPORT_VARIABLES:
        monkeypatch.delenv(name, raising=False)


def test_every_argument_is_described_and_optional():
    assert declared()
    for argument in declared().values():
        assert argument.description not in ("", "no description given")
        assert argument.default_value is not None


def test_arguments_named_like_parameters_carry_their_text():
    texts = {info.name: info.text for info in parameters()}
    shared = declared().keys() & texts.keys()
    assert {"weights", "variant", "device", "scale", "autostart"} <= shared
    for name in shared:
        assert declared()[name].description.startswith(texts[name])


def test_defaults_start_the_node_alone_with_the_defaults_of_settings():
    started = start()
    assert started.keys() == {"upsnet_node"}
    node = started["upsnet_node"]
    values = node_parameters(node)
    assert values.pop("use_sim_time") is False
    assert {key: tuple(v) if isinstance(v, list) else v for key, v in values.items()} == {
        info.name: info.default for info in parameters()
    }
    assert NodeSettings(cameras=tuple(values.pop("cameras")), **values) == NodeSettings()
    remaps = options(node, "-r")
    assert "__node:=upsnet" in remaps
    assert "__ns:=/panoptic" in remaps
    assert "image:=image" in remaps
    assert "image/compressed:=image/compressed" in remaps
    assert options(node, "--log-level") == ["panoptic.upsnet:=info"]


def test_arguments_override_the_params_file_and_others_do_not(tmp_path):
    file = tmp_path / "mine.yaml"
    file.write_text(
        "/**: {ros__parameters: {variant: coco-r50, scale: 256, score_threshold: 0.25}}"
    )
    node = start(params_file=str(file), scale="128", allow_random_weights="true")["upsnet_node"]
    assert node_parameters(node) == {
        "variant": "coco-r50",
        "scale": 128,
        "score_threshold": 0.25,
        "allow_random_weights": True,
        "use_sim_time": False,
    }


def test_four_cameras():
    file = CAMERA.path.parent.parent / "config" / "cameras4.yaml"
    values = node_parameters(start(params_file=str(file))["upsnet_node"])
    assert values["cameras"] == ["front", "left", "right", "rear"]
    assert values["rear"]["image_transport"] == "compressed"


def test_a_weights_file_named_like_a_number_stays_text(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "42").touch()
    assert node_parameters(start(weights="42")["upsnet_node"])["weights"] == "42"


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ({"params_file": "/no/where.yaml"}, "/no/where.yaml"),
        ({"params_file": "/"}, "Is a directory"),
        ({"points_params_file": "/no/where.yaml"}, "cannot read points_params_file"),
        ({"video": "/no/where.mp4"}, "source /no/where.mp4 does not exist"),
        ({"video": "gopher://there"}, "cannot open gopher:// addresses"),
        ({"video": " "}, "no source is named"),
        ({"weights": "/no/where.pth"}, "there is no weights file /no/where.pth"),
        ({"weights": "coco-fpn-r50"}, "`upsnet weights get coco-fpn-r50`"),
        ({"label_map": "coco_to_cityscape"}, "did you mean coco_to_cityscapes"),
    ],
)
def test_a_file_that_is_not_there_ends_the_launch_in_one_line(
    arguments, says, caplog, tmp_path, monkeypatch
):
    monkeypatch.setenv("UPSNET_WEIGHTS", str(tmp_path))
    assert launch(**arguments) == (1, {})
    assert says in caplog.text


def test_weights_have_names(tmp_path, monkeypatch):
    monkeypatch.setenv("UPSNET_WEIGHTS", str(tmp_path))
    (tmp_path / "coco-fpn-r50.safetensors").touch()
    node = start(weights="coco-fpn-r50")["upsnet_node"]
    assert node_parameters(node)["weights"] == "coco-fpn-r50"


@pytest.mark.parametrize("video", ["0", "rtsp://robot/stream", "http://robot:8080/video.mjpg"])
def test_a_camera_or_an_address_need_not_be_a_file(video):
    command = start(video=video)["upsnet"].cmd
    assert command[command.index("play") + 1] == video


def test_points_are_labelled_where_asked_for(tmp_path):
    assert "upsnet_points" not in start()
    started = start(points="depth", depth_topic="/camera/depth", namespace="front")
    node = started["upsnet_points"]
    assert node_parameters(node) == {"input": "depth", "use_sim_time": False}
    assert "__ns:=/front" in options(node, "-r")
    assert "depth:=/camera/depth" in options(node, "-r")


def test_a_lidar_has_extrinsics_and_other_parameters_in_a_file(tmp_path):
    file = tmp_path / "points.yaml"
    file.write_text("/**: {ros__parameters: {occlusion_window: 7, input: depth}}")
    node = start(
        points="cloud",
        cloud_topic="/lidar",
        extrinsics="0,0,1.5,0,0,0,1",
        points_params_file=str(file),
    )["upsnet_points"]
    assert node_parameters(node) == {
        "input": "cloud",
        "occlusion_window": 7,
        "extrinsics": [0.0, 0.0, 1.5, 0.0, 0.0, 0.0, 1.0],
        "use_sim_time": False,
    }
    assert "points_in:=/lidar" in options(node, "-r")


@pytest.mark.parametrize(
    ("extrinsics", "says"),
    [
        ("0,0,0,0,0,0,2", "must have length 1"),
        ("1,2", "must be 7 finite numbers"),
        ("here", "must be of type double array"),
    ],
)
def test_extrinsics_that_are_no_pose_end_the_launch_before_a_process_starts(
    extrinsics, says, caplog
):
    assert launch(points="cloud", extrinsics=extrinsics) == (1, {})
    assert says in caplog.text


def test_what_users_change_often_has_an_argument():
    node = start(
        unknown_threshold="0.25",
        max_rate="10",
        tracking="true",
        node_name="eye",
        label_map="coco_to_cityscapes",
    )
    values = node_parameters(node["upsnet_node"])
    assert values["label_map"] == "coco_to_cityscapes"
    assert (values["unknown_threshold"], values["max_rate"], values["tracking"]) == (
        0.25,
        10.0,
        True,
    )
    assert "__node:=eye" in options(node["upsnet_node"], "-r")
    assert options(node["upsnet_node"], "--log-level") == ["panoptic.eye:=info"]


@pytest.mark.parametrize(
    "arguments",
    [{"scale": "abc"}, {"score_threshold": "1.5"}, {"autostart": "maybe"}, {"precision": "fp8"}],
)
def test_a_bad_value_ends_the_launch_and_is_named(arguments, caplog):
    assert launch(**arguments) == (1, {})
    assert f"{next(iter(arguments))} must be" in caplog.text


@pytest.mark.parametrize("namespace", ["front/eye", "/front/eye/"])
def test_namespace(namespace):
    node = start(namespace=namespace, log_level="debug")["upsnet_node"]
    assert "__ns:=/front/eye" in options(node, "-r")
    assert options(node, "--log-level") == ["front.eye.upsnet:=debug"]


def test_the_root_is_a_namespace_too():
    node = start(namespace="", log_level="debug")["upsnet_node"]
    assert "__ns:=/" in options(node, "-r")
    assert options(node, "--log-level") == ["upsnet:=debug"]


def test_video_is_played_on_the_topic_that_the_node_reads(video):
    started = start(video=video, image_topic="/eye")
    assert started.keys() == {"upsnet_node", "upsnet"}
    command = started["upsnet"].cmd
    assert command[command.index("play") + 1] == video
    assert options(started["upsnet"], "--image-topic") == ["/eye"]
    assert "image:=/eye" in options(started["upsnet_node"], "-r")
    assert not {"--loop", "--compressed"} & set(command)


def test_video_options_reach_the_player():
    player = start(video="0", loop="true", image_transport="compressed")["upsnet"]
    assert {"--loop", "--compressed"} <= set(player.cmd)


def test_a_relative_image_topic_is_the_same_for_player_and_node():
    for process in start(video="0", image_topic="image", namespace="front").values():
        assert "__ns:=/front" in options(process, "-r")


def test_transport_profile_is_set_for_all_processes(video):
    for process in start(video=video).values():
        for name in PROFILE_VARIABLES:
            assert Path(process.env[name]).samefile(shared_memory_profile())


@pytest.mark.parametrize("name", TRANSPORT_VARIABLES)
def test_a_transport_that_the_user_chose_is_kept(name, monkeypatch):
    monkeypatch.setenv(name, "LARGE_DATA")
    environment = start()["upsnet_node"].env
    assert environment[name] == "LARGE_DATA"
    assert not {other for other in PROFILE_VARIABLES if other != name} & environment.keys()
