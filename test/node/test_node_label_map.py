"""The node with a label map: what it announces and publishes has the new classes."""

from __future__ import annotations

import numpy as np
import pytest
from node_bench import Bench
from rclpy.lifecycle import TransitionCallbackReturn
from rclpy.qos import QoSDurabilityPolicy, QoSProfile
from sensor_msgs.msg import Image

from upsnet_ros.datasets.taxonomy import CITYSCAPES
from upsnet_ros.msg import PanopticInstanceArray, PanopticLabelInfo
from upsnet_ros.synthetic.dataset import DrivingScenes

pytestmark = pytest.mark.dds

#: The bundled weights' classes: some merged, one renamed, cars as stuff, the rest void.
MAP = """
from: cityscapes
to: depot
classes:
  verge: {from: [sidewalk, terrain], id: 50}
  lane: [road]
  parked: {from: [car, bus], kind: stuff, id: 52}
  living: {from: [person, rider], id: 53, color: [1, 2, 3]}
"""
LATCHED = QoSProfile(depth=1, durability=QoSDurabilityPolicy.TRANSIENT_LOCAL)


@pytest.fixture
def label_map(tmp_path):
    path = tmp_path / "depot.yaml"
    path.write_text(MAP)
    return path


def _bench(domain, label_map):
    return Bench(
        domain, f"label_map:={label_map}", "allow_random_weights:=false", "scale:=192"
    )  # fmt: skip


def _shown(scene: np.ndarray) -> Image:
    height, width, _ = scene.shape
    msg = Image(height=height, width=width, encoding="bgr8", step=3 * width)
    msg.header.stamp.sec = 1
    msg.data = scene.tobytes()
    return msg


def test_topics_have_the_classes_of_the_map(domain, label_map):
    bench = _bench(domain, label_map)
    try:
        infos = bench.collect("label_info", PanopticLabelInfo, LATCHED)
        instances = bench.collect("instances", PanopticInstanceArray)
        labels, semantic, colors = (
            bench.collect(topic) for topic in ("labels", "semantic", "color_mask")
        )
        assert bench.node.start()
        camera = bench.camera()
        scene = _shown(DrivingScenes("test", 0, 2, (180, 360))[1].image)
        bench.until(
            lambda: infos and instances and labels and semantic and colors,
            "all topics",
            again=lambda: camera.publish(scene),
        )
        (info,) = infos
        assert info.dataset == "depot"
        classes = {one.name: (one.id, one.is_thing) for one in info.classes}
        assert classes == {
            "verge": (50, False),
            "lane": (7, False),
            "parked": (52, False),
            "living": (53, True),
        }
        assert labels[0].encoding == "16UC1"
        pixels = np.frombuffer(labels[0].data, np.uint16).reshape(180, 360)
        things = {one.id: one for one in instances[0].instances}
        assert {one.class_name for one in things.values()} == {"living"}
        assert sorted(things) == [53001 + n for n in range(len(things))] and len(things) > 1
        assert {*np.unique(pixels).tolist()} <= {0, 50, 7, 52, *things}
        assert (pixels == 50).any() and (pixels == 52).any()
        assert {*np.unique(np.frombuffer(semantic[0].data, np.uint8))} <= {50, 7, 52, 53, 255}
        rgb = np.frombuffer(colors[0].data, np.uint8).reshape(180, 360, 3)
        assert (rgb[pixels == 7] == (128, 64, 128)).all()
        assert bench.values("model")["label_map"] == str(label_map)
        # Which file is read is fixed: whoever sets parameters can name no other.
        taken, reason = bench.set(label_map="/etc/passwd")
        assert not taken and reason
    finally:
        bench.close()


def test_coco_weights_in_a_cityscapes_stack(domain):
    """By name; in half precision, and tracked."""
    bench = Bench(
        domain,
        "variant:=coco-fpn-r50",
        "label_map:=coco_to_cityscapes",
        "precision:=bf16",
        "tracking:=true",
        "score_threshold:=0.05",
    )
    try:
        infos = bench.collect("label_info", PanopticLabelInfo, LATCHED)
        instances = bench.collect("instances", PanopticInstanceArray)
        labels = bench.collect("labels")
        assert bench.node.start()
        camera = bench.camera()
        noise = np.random.default_rng(0).integers(0, 256, (60, 90, 3), np.uint8)
        bench.until(
            lambda: infos and instances and labels,
            "all topics",
            again=lambda: camera.publish(_shown(noise)),
        )
        classes = [(one.id, one.name, one.is_thing) for one in infos[0].classes]
        assert classes == [(one.id, one.name, one.is_thing) for one in CITYSCAPES.classes]
        assert infos[0].dataset == "cityscapes"
        assert labels[0].encoding == "16UC1"
        ids = {*np.unique(np.frombuffer(labels[0].data, np.uint16)).tolist()} - {0}
        assert {one if one < 1000 else one // 1000 for one in ids} <= {*CITYSCAPES.by_id}
        assert {one.id for one in instances[0].instances} == {one for one in ids if one >= 1000}
        assert all(one.track_id for one in instances[0].instances)
    finally:
        bench.close()


@pytest.mark.parametrize(("variant", "own"), [("cityscapes-r18", 0.6), ("coco-fpn-r50", 0.5)])
def test_the_score_threshold_is_the_variant_s_unless_it_is_set(domain, variant, own):
    bench = Bench(domain, f"variant:={variant}", "warm_up:=none")
    try:
        assert bench.node.trigger_configure() is TransitionCallbackReturn.SUCCESS
        predictor = bench.node.model.predictor
        assert predictor.score_threshold == own
        assert bench.set(score_threshold=0.25)[0] and predictor.score_threshold == 0.25
        assert bench.set(score_threshold=-1.0)[0] and predictor.score_threshold == own
    finally:
        bench.close()


@pytest.mark.parametrize(
    ("text", "says"),
    [
        (None, "no such file"),
        (MAP.replace("terrain", "terain"), "did you mean terrain"),
        ("from: coco\nto: x\nclasses: {a: [cat]}", "maps the classes of coco"),
    ],
)
def test_a_map_that_cannot_be_used_fails_configure_in_one_line(
    domain, label_map, text, says, capfd
):
    if text is None:
        label_map.unlink()
    else:
        label_map.write_text(text)
    bench = _bench(domain, label_map)
    try:
        assert bench.node.trigger_configure() is TransitionCallbackReturn.FAILURE
        assert bench.node.state == "unconfigured"
        errors = [line for line in capfd.readouterr().err.splitlines() if "ERROR" in line]
        assert len(errors) == 1 and says in errors[0] and str(label_map.name) in errors[0]
    finally:
        bench.close()
