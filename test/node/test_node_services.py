"""~/enable, ~/reload_weights and what may change while frames are answered."""

from __future__ import annotations

import gc
import threading
import weakref

import pytest
from node_bench import Bench, image
from rclpy.lifecycle import TransitionCallbackReturn
from rclpy.parameter import Parameter
from safetensors.torch import save_file
from sensor_msgs.msg import Image
from std_srvs.srv import SetBool, Trigger

from upsnet_ros.inference.model import draw_weights_
from upsnet_ros.network.upsnet import UPSNet
from upsnet_ros.network.variants import get_variant
from upsnet_ros.weights import shipped_weights

pytestmark = pytest.mark.dds

SUCCESS = TransitionCallbackReturn.SUCCESS


@pytest.fixture
def bench(domain, weights):
    bench = Bench(domain, f"weights_folder:={weights}")
    yield bench
    bench.close()


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    """Files of weights: two that are good, one that is garbage, one of another variant."""
    folder = tmp_path_factory.mktemp("weights")
    for number, name in enumerate(("first", "second")):
        network = UPSNet(get_variant("cityscapes-r18"))
        draw_weights_(network, seed=number)
        save_file(network.state_dict(), folder / f"{name}.safetensors")
    (folder / "garbage.safetensors").write_bytes(b"no weights at all" * 100)
    save_file({"resnet.fc.weight": network.state_dict()["rcnn.cls_score.weight"].clone()},
              folder / "other.safetensors")  # fmt: skip
    return folder


class Stream:
    """A camera that sends frame after frame, each with a stamp of its own."""

    def __init__(self, bench):
        self._bench = bench
        self._publisher = bench.camera()
        self.sent = 0
        self.labels = bench.collect("labels")

    def send(self):
        self.sent += 1
        self._publisher.publish(image(self.sent * 1_000_000))

    def until(self, condition, what):
        return self._bench.until(condition, what, again=self.send, every=0.02)


def reload(bench, again=lambda: None):
    """Calls the service, and ``again`` from time to time until it answers."""
    client = bench.other.create_client(Trigger, "/in_process/upsnet/reload_weights")
    bench.until(client.service_is_ready, "the service")
    future = client.call_async(Trigger.Request())
    bench.until(future.done, "the answer", again=again, every=0.02)
    return future.result()


def counts(bench):
    return {key: int(text) for key, text in bench.values().items() if key.endswith("_frames")}


def test_disabled_it_takes_no_frame_and_stays_active(bench):
    camera, labels = bench.camera(), bench.collect("labels")
    assert bench.node.start()
    bench.show(camera, lambda: labels)

    answer = bench.call(SetBool, "enable", SetBool.Request(data=False))
    assert (answer.success, answer.message) == (True, "disabled")
    bench.until(lambda: bench.values("model").get("enabled") == "false", "diagnostics say so")
    assert bench.node.state == "active"
    assert bench.values("model")["message"].startswith("active, disabled")
    bench.until(lambda: bench.values("camera").get("state") == "disabled", "of the camera too")
    bench.until(lambda: camera.get_subscription_count() == 0, "nobody listens to the camera")

    answer = bench.call(SetBool, "enable", SetBool.Request(data=True))
    assert (answer.success, answer.message) == (True, "enabled")
    del labels[:]
    bench.show(camera, lambda: labels, "an answer after it was enabled")
    bench.until(lambda: bench.values("camera").get("state") == "active", "the camera is active")
    assert bench.values("model")["enabled"] == "true"


def test_what_cannot_be_enabled_says_why_and_stays_disabled(bench):
    assert bench.call(SetBool, "enable", SetBool.Request(data=False)).success
    name = "qos_overrides./in_process/image.subscription.reliability"
    bench.node.declare_parameter(name, "certain")
    assert bench.node.start()
    answer = bench.call(SetBool, "enable", SetBool.Request(data=True))
    assert not answer.success
    assert "Unexpected QoS override for policy" in answer.message
    bench.until(lambda: bench.values("model").get("enabled") == "false", "it is disabled")
    bench.node.set_parameters([Parameter(name, value="best_effort")])
    assert bench.call(SetBool, "enable", SetBool.Request(data=True)).success


def test_what_was_wished_before_activation_holds_after_it(bench):
    camera = bench.camera()
    answer = bench.call(SetBool, "enable", SetBool.Request(data=False))
    assert (answer.success, answer.message) == (True, "disabled, once the node is active")
    assert bench.node.start()
    bench.until(lambda: bench.values("camera").get("state") == "disabled", "it is disabled")
    assert camera.get_subscription_count() == 0
    assert bench.node.trigger_deactivate() is SUCCESS
    assert bench.node.trigger_activate() is SUCCESS
    assert bench.call(SetBool, "enable", SetBool.Request(data=True)).message == "enabled"
    bench.until(camera.get_subscription_count, "the node listens")


def test_weights_are_exchanged_between_frames_and_none_is_lost(bench, weights):
    stream = Stream(bench)
    assert bench.set(weights=str(weights / "first.safetensors"), score_threshold=0.5)[0]
    assert bench.node.start()
    stream.until(lambda: stream.labels, "a first answer")
    first = bench.node.model.predictor
    known = weakref.ref(first)

    assert bench.set(weights=str(weights / "second.safetensors")) == (True, "")
    assert bench.node.model.predictor is first, "the parameter alone changes nothing"
    assert bench.set(score_threshold=0.25)[0]
    answer = reload(bench, stream.send)
    assert answer.success, answer.message
    assert answer.message == f"now running: {weights / 'second.safetensors'}"
    second = bench.node.model.predictor
    assert second is not first
    del first
    assert second.score_threshold == 0.25
    before = stream.sent
    stream.until(
        lambda: [one for one in stream.labels if stamp(one) > before * 1_000_000],
        "an answer of the new weights",
    )
    bench.until(
        lambda: bench.values("model").get("weights", "").endswith("second.safetensors"),
        "diagnostics name the new weights",
    )
    bench.until(
        lambda: (
            (now := counts(bench))["received_frames"]
            == now["answered_frames"] + now["total_dropped_frames"]
        ),
        "every frame is answered, or was overtaken before it began",
    )
    assert counts(bench)["failed_frames"] == counts(bench)["rejected_frames"] == 0
    gc.collect()
    assert known() is None, "the old network is not kept"


def test_weights_are_exchanged_by_name(bench, weights, tmp_path, monkeypatch):
    monkeypatch.setenv("UPSNET_WEIGHTS", str(tmp_path))
    assert bench.set(weights=str(weights / "first.safetensors"))[0]
    assert bench.node.start()
    assert bench.set(weights="cityscapes-r18") == (True, "")
    answer = reload(bench)
    assert answer.success, answer.message
    assert answer.message == f"now running: {shipped_weights('cityscapes-r18')}"
    taken, reason = bench.set(weights="coco-fpn-r50")
    assert not taken and "`upsnet weights get coco-fpn-r50`" in reason
    # What is gone by the time of the call leaves the old weights running.
    (tmp_path / "coco-fpn-r50.safetensors").touch()
    assert bench.set(weights="coco-fpn-r50") == (True, "")
    (tmp_path / "coco-fpn-r50.safetensors").unlink()
    answer = reload(bench)
    assert not answer.success and "upsnet weights get coco-fpn-r50" in answer.message


def stamp(msg):
    return msg.header.stamp.sec * 1_000_000_000 + msg.header.stamp.nanosec


@pytest.mark.parametrize("name", ["garbage.safetensors", "other.safetensors", "none.safetensors"])
def test_weights_that_cannot_be_used_leave_the_old_ones_running(bench, weights, name, capfd):
    camera, labels = bench.camera(), bench.collect("labels")
    assert bench.set(weights=str(weights / "first.safetensors"))[0]
    assert bench.node.start()
    old = bench.node.model.predictor
    assert bench.set(weights=str(weights / name)) == (True, "")
    answer = reload(bench)
    assert not answer.success
    assert name in answer.message
    assert "\n" not in answer.message
    told = f"reload_weights failed, keeping the current weights: {answer.message}\n"
    assert told in capfd.readouterr().err
    assert bench.node.model.predictor is old
    bench.show(camera, lambda: labels, "an answer of the old weights")
    bench.until(
        lambda: bench.values("model")["weights"].endswith("first.safetensors"),
        "diagnostics name what runs",
    )


def test_a_reload_before_configure_is_refused(bench):
    answer = reload(bench)
    assert not answer.success
    assert answer.message.startswith("no network is loaded: configure the node")


def test_the_node_is_at_work_while_weights_load(bench, weights, monkeypatch):
    """Loading that takes long holds up neither frames, nor services, nor a cleanup."""
    from upsnet_ros.node import model as node_model

    assert bench.set(weights=str(weights / "first.safetensors"))[0]
    assert bench.node.start()
    stream = Stream(bench)
    go_on, load = threading.Event(), node_model.load_predictor
    monkeypatch.setattr(
        node_model, "load_predictor", lambda *given: go_on.wait(60) and load(*given)
    )
    client = bench.other.create_client(Trigger, "/in_process/upsnet/reload_weights")
    bench.until(client.service_is_ready, "the service")
    slow = client.call_async(Trigger.Request())
    try:
        stream.until(lambda: stream.labels, "an answer during loading")
        second = reload(bench)
        assert (second.success, second.message) == (False, "the weights are being loaded already")
        assert not slow.done()
        assert bench.node.trigger_deactivate() is SUCCESS
        assert bench.node.trigger_cleanup() is SUCCESS
    finally:
        go_on.set()
    bench.until(slow.done, "the slow answer")
    assert (slow.result().success, slow.result().message) == (
        False,
        "the node was cleaned up during loading",
    )
    assert bench.node.model.predictor is None
    monkeypatch.setattr(node_model, "load_predictor", load)
    assert bench.node.start()


def test_a_node_that_loads_weights_can_be_stopped(bench, weights, monkeypatch, capfd):
    from upsnet_ros.node import model as node_model

    assert bench.set(weights=str(weights / "first.safetensors"))[0]
    assert bench.node.start()
    go_on = threading.Event()
    monkeypatch.setattr(node_model, "load_predictor", lambda *_: go_on.wait(60))
    client = bench.other.create_client(Trigger, "/in_process/upsnet/reload_weights")
    bench.until(client.service_is_ready, "the service")
    client.call_async(Trigger.Request())
    bench.until(lambda: bench.node._offered_services.loading, "the weights are being loaded")
    try:
        bench.node.stop(timeout=0.1)
        assert "the new weights take longer than 0.1 s: not waiting" in capfd.readouterr().err
        assert bench.node.state == "finalized"
        assert bench.node.computing
    finally:
        go_on.set()
    bench.until(lambda: not bench.node.computing, "the thread ends by itself")


def test_outputs_come_and_go_while_frames_are_answered(bench):
    stream = Stream(bench)
    score = bench.collect("unknown_score")
    assert bench.node.start()
    stream.until(lambda: stream.labels, "labels")
    assert bench.other.count_publishers("/in_process/unknown_score") == 0

    assert bench.set(publish_unknown_score=True, publish_labels=False) == (True, "")
    stream.until(lambda: score, "a score, which was not published before")
    bench.until(
        lambda: bench.other.count_publishers("/in_process/labels") == 0, "labels to be gone"
    )
    known = len(stream.labels)
    assert bench.set(publish_labels=True, publish_unknown_score=False) == (True, "")
    stream.until(lambda: len(stream.labels) > known, "labels again")
    bench.until(
        lambda: bench.other.count_publishers("/in_process/unknown_score") == 0,
        "the score to be gone",
    )
    bench.until(lambda: "failed_frames" in counts(bench), "diagnostics")
    assert counts(bench)["failed_frames"] == 0


def test_what_cannot_be_changed_changes_nothing_else(bench, capfd):
    name = "qos_overrides./in_process/unknown_score.publisher.reliability"
    bench.node.declare_parameter(name, "certain")
    assert bench.node.start()
    topics = sorted(one.topic_name for one in bench.node.publishers)
    taken, reason = bench.set(publish_unknown_score=True, publish_labels=False, score_threshold=0.1)
    assert not taken
    assert f"{name} cannot be 'certain'" in reason
    assert sorted(one.topic_name for one in bench.node.publishers) == topics
    assert bench.node.settings.publish_labels
    assert bench.node.get_parameter("publish_labels").value is True
    assert bench.node.settings.score_threshold == -1.0
    assert bench.node.model.predictor.score_threshold == 0.6

    for refused, why in (
        ({"device": "auto", "overlay_alpha": 0.1}, "device is read at configure"),
        ({"cameras": ["front"], "overlay_alpha": 0.1}, "read-only"),
        ({"score_threshold": 3.0, "overlay_alpha": 0.1}, "out of range"),
    ):
        taken, reason = bench.set(**refused)
        assert not taken and why in reason
        assert bench.node.settings.overlay_alpha == 0.5

    bench.node.set_parameters([Parameter(name, value="reliable")])
    assert bench.set(publish_unknown_score=True) == (True, "")
    camera, score = bench.camera(), bench.collect("unknown_score", Image)
    bench.show(camera, lambda: score, "a score")
