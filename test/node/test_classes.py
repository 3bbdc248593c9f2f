"""The parameter classes: what is published, and that the rest is as before."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from node_bench import image
from sensor_msgs.msg import Image

from upsnet_ros.datasets.taxonomy import CITYSCAPES, COCO
from upsnet_ros.errors import SettingsError
from upsnet_ros.inference.frame import Instance, PanopticFrame, StuffSegment, keep_classes
from upsnet_ros.msg import PanopticInstanceArray, PanopticLabelInfo
from upsnet_ros.node.parameters import NodeSettings
from upsnet_ros.node.topics import label_info_qos


def made_frame() -> PanopticFrame:
    """Rows of road, person, person, car and unknown, each 64 pixels wide."""
    labels = np.zeros((48, 64), np.int32)
    rows = {7: (0, 10), 24001: (10, 20), 24002: (20, 30), 26001: (30, 40)}
    for value, (first, last) in rows.items():
        labels[first:last] = value

    def common(value):
        class_id, (first, last) = value // 1000 or value, rows[value]
        return {
            "id": value,
            "class_id": class_id,
            "class_name": CITYSCAPES.by_id[class_id].name,
            "box": (0, first, 63, last - 1),
            "area": 640,
        }

    things = [Instance(score=0.9, detection_box=(0, 0, 1, 1), **common(v)) for v in [*rows][1:]]
    unknown = labels == 0
    return PanopticFrame(
        labels=labels,
        unknown=unknown,
        instances=tuple(things),
        stuff=(StuffSegment(**common(7)),),
        semantic=np.where(unknown, 255, np.where(labels < 1000, labels, labels // 1000)).astype(
            np.uint8
        ),
        confidence=np.full(labels.shape, 200, np.uint8),
        unknown_score=np.where(unknown, 200, 10).astype(np.uint8),
        taxonomy=CITYSCAPES,
    )


@pytest.mark.parametrize("kept", [{24}, {7}, {7, 26}, {8}, {33}, set(CITYSCAPES.by_id)])
def test_segments_of_other_classes_become_void(kept):
    whole = made_frame()
    frame = keep_classes(whole, kept)
    class_ids = whole.class_ids
    np.testing.assert_array_equal(
        frame.labels, np.where(np.isin(class_ids, [*kept]), whole.labels, 0)
    )
    assert frame.labels.dtype == np.int32 and frame.semantic.dtype == np.uint8
    assert {one.id for one in frame.instances} == {
        one.id for one in whole.instances if one.class_id in kept
    }
    assert {one.id for one in frame.stuff} == {7} & kept
    want = np.where(np.isin(whole.semantic, [*kept]), whole.semantic, 255)
    np.testing.assert_array_equal(frame.semantic, want)
    for name in ("unknown", "confidence", "unknown_score"):
        assert getattr(frame, name) is getattr(whole, name)
    assert keep_classes(replace(whole, semantic=None), kept).semantic is None


@pytest.mark.parametrize(
    ("text", "ids"),
    [
        ("person", {24}),
        (" Person , traffic LIGHT,26,", {24, 19, 26}),
        ("33", {33}),
        (",", None),
        ("", None),
    ],
)
def test_names_and_ids(text, ids):
    assert NodeSettings(classes=text).class_ids(CITYSCAPES) == ids


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("persn", "cityscapes has no class 'persn'; did you mean person"),
        ("road,toaster", "no class 'toaster'"),
        ("0", "no class '0'"),
        ("1", "no class '1'"),
        ("9" * 50, "no class"),
        ("²", "no class"),
        ("\x1b[2J", "no class"),
    ],
)
def test_what_is_no_class_is_named(text, why):
    with pytest.raises(SettingsError, match=rf"^classes: .*{why}") as raised:
        NodeSettings(classes=text).class_ids(CITYSCAPES)
    assert str(raised.value).isprintable()
    assert NodeSettings(classes="1,toaster").class_ids(COCO) == {1, 80}


@pytest.mark.dds
def test_it_may_change_while_frames_are_published(bench):
    one = bench("classes:=person,road")
    camera = one.camera()
    labels, semantic, unknown = (
        one.collect(name) for name in ("labels", "semantic", "unknown_mask")
    )
    instances = one.collect("instances", PanopticInstanceArray)
    label_info = one.collect("label_info", PanopticLabelInfo, label_info_qos())
    assert one.node.start()
    one.answer_by(lambda _: made_frame())

    def answers():
        for heard in (labels, semantic, unknown, instances):
            heard.clear()
        one.until(
            lambda: labels and semantic and unknown and instances,
            "answers",
            again=lambda: camera.publish(image()),
        )
        found = instances[-1]
        return (
            sorted(np.unique(pixels(labels[-1], np.uint16))),
            sorted(np.unique(pixels(semantic[-1], np.uint8))),
            [segment.id for segment in (*found.instances, *found.stuff)],
        )

    assert answers() == ([0, 7, 24001, 24002], [7, 24, 255], [24001, 24002, 7])
    assert one.set(classes="26") == (True, "")
    assert answers() == ([0, 26001], [26, 255], [26001])
    np.testing.assert_array_equal(pixels(unknown[-1], np.uint8) == 255, made_frame().unknown)
    assert len(instances[-1].unknown_regions) == 1
    taken, reason = one.set(classes="lorry", overlay_alpha=0.1)
    assert not taken and "classes: cityscapes has no class 'lorry'" in reason
    assert one.node.settings.overlay_alpha == 0.5
    assert one.set(classes="") == (True, "")
    assert answers() == ([0, 7, 24001, 24002, 26001], [7, 24, 26, 255], [24001, 24002, 26001, 7])
    one.until(lambda: label_info, "label_info")
    assert len(label_info[-1].classes) == 19


@pytest.mark.dds
def test_a_class_that_the_weights_lack_fails_configure(bench, capfd):
    one = bench("classes:=toaster")
    assert not one.node.start()
    assert "configure failed: classes: cityscapes has no class 'toaster'" in capfd.readouterr().err
    assert one.node.model.predictor is None
    assert one.set(classes="car") == (True, "")
    assert one.node.start()


def pixels(message: Image, dtype) -> np.ndarray:
    return np.frombuffer(message.data, dtype).reshape(message.height, message.width)
