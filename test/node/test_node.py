"""The node within this process: what cannot be provoked from outside."""

from __future__ import annotations

import pytest
import rclpy
from node_bench import Bench
from rclpy.lifecycle import TransitionCallbackReturn

from upsnet_ros.inference.model import draw_weights_
from upsnet_ros.network.checkpoint import save_checkpoint
from upsnet_ros.network.upsnet import UPSNet
from upsnet_ros.network.variants import get_variant
from upsnet_ros.node.outputs import Answer

pytestmark = pytest.mark.dds

SUCCESS, FAILURE = TransitionCallbackReturn.SUCCESS, TransitionCallbackReturn.FAILURE


@pytest.fixture
def bench(domain):
    bench = Bench(domain)
    yield bench
    bench.close()


def test_inference_that_raises_ends_one_frame_and_not_the_node(bench, capfd):
    camera, labels = bench.camera(), bench.collect("labels")
    assert bench.node.start()
    whole = bench.node.model.predictor

    def run_out_of_memory(image):
        raise MemoryError("CUDA out of memory\nand much more about it")

    bench.answer_by(run_out_of_memory)
    bench.show(
        camera, lambda: bench.values().get("state") == "failed", "the failure in diagnostics"
    )
    told = bench.values()
    assert int(told["failed_frames"]) >= 1
    assert told["last_failure"] == "MemoryError: CUDA out of memory"
    assert "a frame was not segmented: MemoryError: CUDA out of memory\n" in capfd.readouterr().err

    bench.answer_by(whole)
    bench.show(camera, lambda: labels)
    bench.until(lambda: bench.values().get("state") == "active", "the camera is well again")


def test_weights_of_a_diverged_training_fail_frames_and_not_the_node(domain, tmp_path, capfd):
    network = UPSNet(get_variant("cityscapes-r18"))
    draw_weights_(network, seed=0)
    for name, tensor in network.state_dict().items():
        if name.startswith("fpn.") and name.endswith("weight"):
            tensor.mul_(1e25)  # finite, unlike what the network computes with them
    path = tmp_path / "diverged.safetensors"
    save_checkpoint(network, path)
    bench = Bench(domain, f"weights:={path}")
    try:
        camera = bench.camera()
        assert bench.node.start()
        bench.show(camera, lambda: int(bench.values().get("failed_frames", 0)) >= 2, "two failures")
        assert bench.node.state == "active"
        told = capfd.readouterr().err
        assert f"a frame was not segmented: DivergedError: {path}: " in told
        assert "Traceback" not in told
    finally:
        bench.close()


def test_ten_times_through_all_states(bench):
    camera, labels = bench.camera(), bench.collect("labels")
    for _ in range(10):
        assert bench.node.trigger_configure() is SUCCESS
        assert bench.node.trigger_activate() is SUCCESS
        assert bench.node.state == "active"
        assert bench.node.trigger_deactivate() is SUCCESS
        assert bench.node.trigger_cleanup() is SUCCESS
        assert bench.node.state == "unconfigured"
        assert bench.node.model.predictor is None
    assert bench.node.start()
    bench.show(camera, lambda: labels, "an answer after all that")
    assert bench.node.trigger_shutdown() is SUCCESS
    assert bench.node.state == "finalized"


def test_what_configure_made_is_taken_back_where_it_fails(bench, capfd):
    before = len(list(bench.node.publishers))
    name = "qos_overrides./in_process/overlay.publisher.reliability"
    bench.node.declare_parameter(name, "certain")
    assert bench.node.trigger_configure() is FAILURE
    assert bench.node.state == "unconfigured"
    assert bench.node.model.predictor is None
    assert len(list(bench.node.publishers)) == before
    assert "configure failed: Unexpected QoS override for policy" in capfd.readouterr().err
    bench.node.set_parameters([rclpy.Parameter(name, value="reliable")])
    assert bench.node.trigger_configure() is SUCCESS


def test_labels_that_cannot_hold_the_ids_fail_configure(bench, capfd):
    coco, narrow = {"variant": "coco-r50"}, {"labels_encoding": "16UC1"}
    wished = [rclpy.Parameter(name, value=value) for name, value in {**coco, **narrow}.items()]
    assert bench.node.set_parameters_atomically(wished).successful
    assert bench.node.trigger_configure() is FAILURE
    told = capfd.readouterr().err
    assert "configure failed: labels_encoding: this dataset's ids do not fit 16UC1" in told


def test_an_output_is_made_only_while_somebody_subscribes(bench, monkeypatch):
    camera, labels = bench.camera(), bench.collect("labels")
    made = []
    overlay = Answer.overlay.func
    monkeypatch.setattr(
        Answer, "overlay", property(lambda self: made.append("overlay") or overlay(self))
    )
    assert bench.node.start()
    bench.show(camera, lambda: labels)
    assert made == []
    pictures = bench.collect("overlay")
    bench.until(lambda: bench.node.count_subscribers("/in_process/overlay"), "the subscriber")
    bench.show(camera, lambda: pictures, "a picture")
    assert made
    assert pictures[0].encoding == "rgb8"
