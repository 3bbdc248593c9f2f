from __future__ import annotations

import pytest
import rclpy
from rcl_interfaces.msg import SetParametersResult
from rclpy.node import Node
from rclpy.parameter import Parameter

from upsnet_ros.errors import SettingsError
from upsnet_ros.node.parameter_server import LenientParameters, NodeParameters
from upsnet_ros.node.parameters import NodeSettings, parameters

pytestmark = pytest.mark.dds


class HostNode(LenientParameters, Node):
    pass


class Host:
    """A node with the parameters on it."""

    def __init__(self, context, *arguments):
        self.configured = False
        self.changes = []
        cli = ["--ros-args", *(part for one in arguments for part in ("-p", one))]
        self.node = HostNode("host", context=context, cli_args=cli)
        try:
            self.parameters = NodeParameters(
                self.node,
                configured=lambda: self.configured,
                check=lambda settings: None,
                changed=lambda settings, cameras: self.changes.append(settings),
            )
        except Exception:
            self.node.destroy_node()
            raise

    def set(self, **values):
        wished = [Parameter(name, value=value) for name, value in values.items()]
        result = self.node.set_parameters_atomically(wished)
        return result.successful, result.reason


@pytest.fixture(scope="module")
def context(domain):
    context = rclpy.Context()
    rclpy.init(context=context, domain_id=domain)
    yield context
    context.try_shutdown()


@pytest.fixture
def host(context):
    hosts = []

    def make(*arguments):
        hosts.append(Host(context, *arguments))
        return hosts[-1]

    yield make
    for one in hosts:
        one.node.destroy_node()


def test_defaults_are_those_of_the_settings(host):
    one = host()
    assert one.parameters.settings == NodeSettings()
    for info in parameters():
        value = one.node.get_parameter(info.name).value
        assert (tuple(value) if isinstance(value, list) else value) == info.default


def test_values_from_the_command_line(host):
    settings = host(
        "weights:=model.pth", "scale:=512", "cameras:=[front, rear]", "score_threshold:=0.25"
    ).parameters.settings
    assert settings == NodeSettings(
        weights="model.pth", scale=512, cameras=("front", "rear"), score_threshold=0.25
    )


@pytest.mark.parametrize(
    ("argument", "says"),
    [
        ("scale:=4097", "scale must be 0 to 4096, not 4097"),
        ("scale:=1.5", "scale must be of type integer, not 1.5"),
        ("scale:=[1, 2]", r"scale must be of type integer, not \(1, 2\)"),
        ("scale:=true", "scale must be of type integer, not True"),
        ("score_threshold:=1", r"score_threshold must be .* not 1\.0"),
        ("score_threshold:=abc", "score_threshold must be of type double, not 'abc'"),
        ("tracking:=maybe", "tracking must be of type boolean, not 'maybe'"),
        ("weights:=18", "weights must be of type string, not 18"),
        ("cameras:=front", "cameras must be of type string array, not 'front'"),
        ("cameras:=[1]", r"cameras must be of type string array, not \(1,\)"),
        ("scale:=20", "scale must be at least 32"),
        ("variant:=nothing", "variant must be one of"),
    ],
)
def test_a_node_does_not_come_up_with_a_value_that_cannot_be_used(host, argument, says):
    with pytest.raises(SettingsError, match=says):
        host(argument)


@pytest.mark.parametrize(
    ("policy", "value", "wanted"),
    [("depth", "abc", "integer"), ("depth", "2.5", "integer"), ("reliability", "5", "string")],
)
def test_a_policy_of_the_wrong_type(host, policy, value, wanted):
    name = f"qos_overrides./panoptic/image.subscription.{policy}"
    with pytest.raises(SettingsError, match=f"{name} must be of type {wanted}"):
        host(f"{name}:={value}")


def test_policies_of_the_right_types(host):
    topic = "qos_overrides./panoptic/image.subscription"
    host(f"{topic}.depth:=3", f"{topic}.reliability:=reliable", f"{topic}.deadline:=1000000")


def test_a_value_of_one_camera_that_cannot_be_used(host):
    with pytest.raises(SettingsError, match=r"front\.max_rate must be of type double, not 'x'"):
        host("cameras:=[front]", "front.max_rate:=x")


def test_changes_while_running_are_told(host):
    one = host()
    one.configured = True
    assert one.set(score_threshold=0.3, overlay_alpha=0.1) == (True, "")
    assert one.changes == [NodeSettings(score_threshold=0.3, overlay_alpha=0.1)]
    assert one.parameters.settings == one.changes[0]


def test_what_another_callback_refuses_changes_nothing(host):
    one = host()
    refusal = SetParametersResult(successful=False, reason="not now")
    one.node.add_on_set_parameters_callback(lambda _: refusal)
    one.node._on_set_parameters_callbacks.reverse()  # rclpy asks the last one first
    assert one.set(score_threshold=0.3) == (False, "not now")
    assert (one.changes, one.parameters.settings) == ([], NodeSettings())


def test_without_a_callback_after_setting_as_on_humble(host, monkeypatch):
    monkeypatch.delattr(Node, "add_post_set_parameters_callback")
    one = host()
    assert one.set(score_threshold=0.3) == (True, "")
    assert one.set(scale=20)[0] is False
    assert one.changes == [NodeSettings(score_threshold=0.3)]


def test_every_parameter_can_be_set_to_what_it_is(host):
    one = host("scale:=64", "max_rate:=7", "cameras:=[front]", "front.max_rate:=3")
    one.configured = True
    names = one.node.list_parameters([], 0).names
    values = one.node.get_parameters(names)
    assert {"scale", "cameras", "weights_folder", "front.topic", "use_sim_time"} <= set(names)
    for result in one.node.set_parameters(values):
        assert result.successful, result.reason
    assert one.node.set_parameters_atomically(values).successful
    assert one.changes == []
    assert one.set(scale=65) == (False, "scale is read at configure: clean the node up first")


def test_an_integer_is_taken_for_a_double(host):
    one = host("max_rate:=10", "cameras:=[front]", "front.max_rate:=5", "overlay_alpha:=1")
    assert (one.parameters.settings.max_rate, one.parameters.settings.overlay_alpha) == (10.0, 1.0)
    assert one.parameters.cameras["front"].max_rate == 5.0
    assert one.set(max_rate=20) == (True, "")
    value = one.node.get_parameter("max_rate").value
    assert (value, type(value)) == (20.0, float)
    assert one.changes[-1].max_rate == 20.0
    assert one.set(max_rate=2000)[0] is False
    assert one.set(weights=3)[0] is False
    assert one.set(scale=64.0)[0] is False


def test_several_changes_are_taken_whole_or_not_at_all(host):
    one = host()
    one.configured = True
    taken, reason = one.set(score_threshold=0.3, device="cpu")
    assert (taken, reason) == (False, "device is read at configure: clean the node up first")
    assert one.parameters.settings == NodeSettings()
    assert one.node.get_parameter("score_threshold").value == NodeSettings().score_threshold
    assert one.changes == []


def test_what_configure_reads_can_change_before_it(host):
    one = host("weights_folder:=.")
    assert one.set(weights="a.pth", variant="coco-r50") == (True, "")
    taken, reason = one.set(scale=20)
    assert (taken, reason) == (False, "scale must be at least 32, or 0, not 20")
    assert one.parameters.settings == NodeSettings(
        weights="a.pth", weights_folder=".", variant="coco-r50"
    )


def test_weights_come_from_no_folder_but_the_one_that_was_given(host, tmp_path):
    models, elsewhere = tmp_path / "models", tmp_path / "elsewhere"
    models.mkdir()
    elsewhere.mkdir()
    (models / "link.pth").symlink_to(elsewhere / "a.pth")
    (tmp_path / "way").symlink_to(models)
    bad = (elsewhere / "a.pth", models / ".." / "a.pth", models / "link.pth", "/etc/passwd")
    for one in (
        host(f"weights:={models / 'first.pth'}"),
        host(f"weights:={elsewhere / 'first.pth'}", f"weights_folder:={models}"),
        host(f"weights_folder:={tmp_path / 'way'}"),
    ):
        before = one.parameters.settings
        for path in bad:
            taken, reason = one.set(weights=str(path), score_threshold=0.1)
            assert not taken
            assert reason.startswith("weights must lie in the folder ")
        assert one.parameters.settings == before
        assert one.set(weights=str(models / "deep" / "second.pth")) == (True, "")
        assert one.set(weights=before.weights) == (True, "")
        assert one.set(weights="") == (True, "")


def test_a_name_leads_to_the_cache_folder_and_nowhere_else(host, tmp_path, monkeypatch):
    models, cache = tmp_path / "models", tmp_path / "cache"
    for folder in (models, cache):
        folder.mkdir()
    monkeypatch.setenv("UPSNET_WEIGHTS", str(cache))
    monkeypatch.chdir(tmp_path)
    (cache / "coco-fpn-r50.safetensors").touch()
    (cache / "coco-r50.safetensors").symlink_to(models / "any")
    (models / "any").touch()
    for one in (host(f"weights_folder:={models}"), host(), host("weights:=models/first.pth")):
        assert one.set(weights="coco-fpn-r50") == (True, "")
        assert one.set(weights="cityscapes-r18") == (True, "")
        taken, reason = one.set(weights="coco-fpn-r101")
        assert not taken and "`upsnet weights get coco-fpn-r101`" in reason
        taken, reason = one.set(weights="coco-r50")
        assert not taken and "must lie in the folder" in reason, "a link out of the cache folder"
    # A file that is called like a name is a file, and must lie where files may.
    (tmp_path / "coco-fpn-r101").touch()
    for one in (host(f"weights_folder:={models}"), host("weights:=models/first.pth")):
        taken, reason = one.set(weights="coco-fpn-r101")
        assert not taken and "must lie in the folder" in reason


def test_a_node_that_was_started_with_a_name_takes_files_of_the_cache_folder(
    host, tmp_path, monkeypatch
):
    monkeypatch.setenv("UPSNET_WEIGHTS", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    one = host("weights:=coco-fpn-r50")  # which need not be there: configure tells that
    taken, reason = one.set(weights="mine.pth")  # the working folder is not the name's
    assert not taken and "must lie in the folder" in reason
    assert one.set(weights=str(tmp_path / "cache" / "mine.pth")) == (True, "")
    assert one.set(weights="coco-fpn-r50") == (True, "")


def test_without_a_folder_weights_stay(host):
    taken, reason = host().set(weights="a.pth")
    assert (taken, reason.split(",")[0]) == (False, "weights cannot be changed")


def test_what_is_fixed_at_start_never_changes(host):
    taken, reason = host().set(cameras=["front"])
    assert not taken
    assert "read-only" in reason


def test_parameters_of_others_pass(host):
    one = host()
    one.node.declare_parameter("mine", 1)
    assert one.set(mine=2) == (True, "")
    assert one.changes == []


def test_a_misspelt_parameter_is_pointed_out(host, capfd):
    host("weight:=model.pth", "use_sim_time:=true")
    told = capfd.readouterr().err
    assert "there is no parameter weight; did you mean weights?" in told
    assert "use_sim_time" not in told


def test_a_parameter_that_does_not_exist_is_named(host):
    one = host()
    taken, reason = one.set(scael=320, score_threshold=0.1)
    assert (taken, reason) == (False, "there is no parameter scael; did you mean scale?")
    assert one.changes == []


def test_parameters_of_another_node_are_warned_of_in_one_line(host, capfd):
    host(*(f"other_{index}:=1" for index in range(9)))
    told = capfd.readouterr().err
    assert "there are no parameters other_" in told and "and 4 more" in told
    assert told.count("no parameter") == 1


def test_weights_that_are_neither_a_file_nor_a_name(host, tmp_path):
    for one in (host(), host(f"weights_folder:={tmp_path}")):
        taken, reason = one.set(weights="coco-fpn-r5")
        assert not taken
        assert "coco-fpn-r5 is neither a file nor a name of `upsnet weights list`" in reason
        assert "did you mean coco-fpn-r50?" in reason
