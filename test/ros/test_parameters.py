from __future__ import annotations

import pytest
import rclpy
from rclpy.exceptions import ParameterException
from rclpy.node import Node
from rclpy.parameter import Parameter

from upsnet_ros.ros.parameters import NodeParameters
from upsnet_ros.ros.settings import NodeSettings, SettingsError, parameters

pytestmark = pytest.mark.dds


class Host:
    """A node with the parameters on it."""

    def __init__(self, context, *arguments):
        self.configured = False
        self.changes = []
        cli = ["--ros-args", *(part for one in arguments for part in ("-p", one))]
        self.node = Node("host", context=context, cli_args=cli)
        try:
            self.parameters = NodeParameters(
                self.node,
                configured=lambda: self.configured,
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
    ("argument", "error"),
    [
        ("scale:=4097", ParameterException),
        ("score_threshold:=1", ParameterException),
        ("cameras:=front", ParameterException),
        ("scale:=20", SettingsError),
        ("variant:=nothing", SettingsError),
    ],
)
def test_a_node_does_not_come_up_with_a_value_that_cannot_be_used(host, argument, error):
    with pytest.raises(error, match=argument.split(":=")[0]):
        host(argument)


def test_changes_while_running_are_told(host):
    one = host()
    one.configured = True
    assert one.set(score_threshold=0.3, overlay_alpha=0.1) == (True, "")
    assert one.changes == [NodeSettings(score_threshold=0.3, overlay_alpha=0.1)]
    assert one.parameters.settings == one.changes[0]


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
