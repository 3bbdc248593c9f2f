"""Predictors with a label map: the reference and the batched path, and what the frames say."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from upsnet_ros import Predictor, Tracker, to_coco
from upsnet_ros.datasets.taxonomy import CITYSCAPES, COCO
from upsnet_ros.errors import SettingsError
from upsnet_ros.inference.frame import PanopticFrame
from upsnet_ros.synthetic.dataset import DrivingScenes

#: The bundled weights' classes, some merged, some turned into stuff, and with unlisted ones.
MAP = """
from: cityscapes
to: depot
unmapped: {unmapped}
classes:
  verge: {{from: [sidewalk, terrain], id: 100}}
  built: {{from: [building, wall, fence], id: 101}}
  parked: {{from: [car, bus], kind: stuff, id: 102}}
  living: {{from: [person, rider], id: 103}}
  sky: [sky]
"""


@pytest.fixture(scope="module")
def image() -> np.ndarray:
    return DrivingScenes("test", 0, 2, (180, 360))[1].image


def _label_map(folder: Path, unmapped: str = "void") -> Path:
    path = folder / f"{unmapped}.yaml"
    path.write_text(MAP.format(unmapped=unmapped))
    return path


def _predictor(**options: object) -> Predictor:
    settings = {"device": "cpu", "scale": 192, "semantic": True, "unknown_score": True} | options
    return Predictor(**settings)  # type: ignore[arg-type]


def _check(frame: PanopticFrame, predictor: Predictor) -> None:
    """The frame's parts agree with each other and with the predictor's classes."""
    by_id = predictor.taxonomy.by_id
    segments = {one.id: one for one in (*frame.instances, *frame.stuff)}
    assert {*np.unique(frame.labels).tolist()} - {0} == {*segments}
    for one in segments.values():
        assert (frame.labels == one.id).sum() == one.area
        assert by_id[one.class_id].name == one.class_name
    assert all(not by_id[one.class_id].is_thing for one in frame.stuff)
    assert all(by_id[one.class_id].is_thing for one in frame.instances)
    assert frame.semantic is not None
    assert {*np.unique(frame.semantic).tolist()} <= {*by_id, 255}
    assert not frame.labels[frame.unknown].any()
    assert frame.taxonomy is predictor.taxonomy
    # What is drawn and exported has the same classes.
    names = {one["name"] for one in to_coco(frame, image_id=1, file_name="a.png").categories}
    assert names == {one.name for one in predictor.taxonomy.classes}


@pytest.mark.parametrize(("unmapped", "label_resize"), [("void", "bilinear"), ("keep", "nearest")])
def test_both_paths_give_the_same_frames(
    image: np.ndarray, tmp_path: Path, unmapped: str, label_resize: str
) -> None:
    label_map = _label_map(tmp_path, unmapped)
    plain, batched = (
        _predictor(label_map=label_map, label_resize=label_resize, plain=plain)
        for plain in (True, False)
    )
    frame, want = batched(image), plain(image)
    for name in ("labels", "unknown", "semantic", "confidence", "unknown_score"):
        np.testing.assert_array_equal(getattr(frame, name), getattr(want, name), err_msg=name)
    assert (frame.instances, frame.stuff) == (want.instances, want.stuff)
    _check(frame, batched)
    one, other = batched.compute_batch([torch.from_numpy(image)] * 2, batched.settings())
    assert torch.equal(one.table, other.table)


ALL = [one.name for one in CITYSCAPES.classes]
#: Label maps at the edges: without a class of stuff, without things, with one class of either kind.
EDGES = {
    "no stuff": "veh: [car, truck]\n  who: {from: [person], id: 99}",
    "no things": "way: [road, sidewalk]\n  top: [sky]",
    "things as stuff": "veh: {from: [car, truck, person, rider], kind: stuff}",
    "one thing": "veh: [car]",
    "one class of stuff": "way: [road]",
    "all in one": f"all: {{from: [{', '.join(ALL)}], kind: stuff}}",
}


@pytest.mark.parametrize("unmapped", ["void", "keep"])
@pytest.mark.parametrize("kind", EDGES)
def test_maps_without_a_kind_of_class(
    image: np.ndarray, tmp_path: Path, kind: str, unmapped: str
) -> None:
    path = tmp_path / "edge.yaml"
    path.write_text(f"from: cityscapes\nto: x\nunmapped: {unmapped}\nclasses:\n  {EDGES[kind]}\n")
    plain, batched = (_predictor(label_map=path, plain=plain) for plain in (True, False))
    frame, want = batched(image), plain(image)
    for name in ("labels", "unknown", "semantic", "confidence", "unknown_score"):
        np.testing.assert_array_equal(getattr(frame, name), getattr(want, name), err_msg=name)
    assert (frame.instances, frame.stuff) == (want.instances, want.stuff)
    _check(frame, batched)
    before = _predictor()(image)
    np.testing.assert_array_equal(frame.unknown, before.unknown)
    things, stuff = ({info.is_thing for info in batched.taxonomy.classes} >= {x} for x in (1, 0))
    assert bool(frame.stuff) == stuff
    assert things or not frame.instances
    if unmapped == "void":
        assert bool(frame.instances) == things
    blank = np.zeros((60, 90, 3), np.uint8)  # where nothing is found
    np.testing.assert_array_equal(batched(blank).labels, plain(blank).labels)


def test_merged_classes_are_counted_together(image: np.ndarray, tmp_path: Path) -> None:
    before = _predictor()(image)
    predictor = _predictor(label_map=_label_map(tmp_path))
    frame = predictor(image)
    assert predictor.taxonomy.name == "depot" and frame.semantic is not None
    # A car became stuff, of which there is one segment.
    cars = [one for one in before.instances if one.class_name in ("car", "bus")]
    assert cars and {one.class_name for one in frame.instances} <= {"living"}
    parked = next(one for one in frame.stuff if one.class_name == "parked")
    assert parked.id == 102
    pixels = np.isin(before.labels, [one.id for one in cars])
    assert (frame.labels[pixels] == 102).all()
    # What is not listed is void, but not unknown.
    np.testing.assert_array_equal(frame.unknown, before.unknown)
    vegetation = before.labels == 21
    assert vegetation.any() and not frame.labels[vegetation].any()
    assert (frame.semantic[before.semantic == 21] == 255).all()


@pytest.mark.parametrize("merge", ["upsnet", "heuristic"])
@pytest.mark.parametrize(
    "classes",
    ["{a: [person, car]}", "{a: {from: [car, road], kind: stuff}}"],
    ids=["things", "stuff"],
)
def test_things_or_stuff_alone(image: np.ndarray, tmp_path: Path, classes: str, merge: str) -> None:
    """The rest is void; instances keep their track."""
    path = tmp_path / "map.yaml"
    path.write_text(f"from: cityscapes\nto: mine\nclasses: {classes}")
    predictor = _predictor(label_map=path, merge=merge)
    tracker = Tracker()
    first, second = (tracker(predictor(image)) for _ in range(2))
    _check(first, predictor)
    assert {one.class_name for one in (*first.instances, *first.stuff)} == {"a"}
    np.testing.assert_array_equal(first.labels, second.labels)


def test_the_area_limit_is_of_merged_classes(image: np.ndarray, tmp_path: Path) -> None:
    """Classes too small for a segment of their own make one together."""
    limit = 1500  # the pavement has 1187 pixels and the grass 681
    frames = []
    for predictor in (_predictor(), _predictor(label_map=_label_map(tmp_path))):
        network = predictor.network
        network.variant = replace(network.variant, stuff_area_limit=limit)
        frames.append(predictor(image))
    before, after = frames
    assert not {"sidewalk", "terrain"} & {one.class_name for one in before.stuff}
    assert next(one for one in after.stuff if one.class_name == "verge").area >= limit


def test_photographs_in_a_cityscapes_stack() -> None:
    settings = {
        "variant": "coco-fpn-r50",
        "allow_random_weights": True,
        "scale": 64,
        "score_threshold": 0.1,
    }
    image = np.random.default_rng(0).integers(0, 256, (60, 90, 3), np.uint8)
    before = _predictor(**settings)(image)
    predictor = _predictor(**settings, label_map="coco_to_cityscapes")
    assert predictor.taxonomy is CITYSCAPES
    frame = predictor(image)
    _check(frame, predictor)
    np.testing.assert_array_equal(frame.unknown, before.unknown)
    assert before.semantic is not None and frame.semantic is not None
    label_map = predictor.label_map
    assert label_map is not None
    new = np.full(256, 255)
    for info, target in zip(COCO.classes, label_map.targets, strict=True):
        if target is not None:
            new[info.id] = CITYSCAPES.classes[target].id
    np.testing.assert_array_equal(frame.semantic, new[before.semantic])


def test_mistakes_are_told_before_the_network_is_loaded(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="no such file"):
        _predictor(weights="none.pth", label_map=tmp_path / "none.yaml")
    with pytest.raises(SettingsError, match="classes of coco, but the weights"):
        _predictor(label_map="coco_to_cityscapes")
