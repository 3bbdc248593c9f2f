"""What is exported of a frame is what the tools of COCO and Cityscapes read."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt
import pytest
from cityscapesscripts.evaluation.instances2dict import instances2dict
from PIL import Image
from pycocotools import coco as pycocotools_coco
from pycocotools import mask as coco_mask

import upsnet_ros
from upsnet_ros.datasets.coco_format import read_panoptic_file, read_segment_ids
from upsnet_ros.datasets.taxonomy import CITYSCAPES, COCO, Taxonomy
from upsnet_ros.drawing.overlay import draw_overlay
from upsnet_ros.errors import ImageError, OutputError, SettingsError
from upsnet_ros.inference.frame import Instance, PanopticFrame, StuffSegment

pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")


def frame_of(
    labels: npt.NDArray[np.int32], taxonomy: Taxonomy | None = CITYSCAPES
) -> PanopticFrame:
    """A frame whose segments are those of a label map."""
    things, stuff = [], []
    for value in np.unique(labels[labels > 0]).tolist():
        rows, columns = np.nonzero(labels == value)
        class_id = value // 1000 if value >= 1000 else value
        common = {
            "id": value,
            "class_id": class_id,
            "class_name": (taxonomy or CITYSCAPES).by_id[class_id].name,
            "box": (int(columns.min()), int(rows.min()), int(columns.max()), int(rows.max())),
            "area": int(rows.size),
        }
        if value >= 1000:
            things.append(Instance(score=0.75, detection_box=common["box"], **common))
        else:
            stuff.append(StuffSegment(**common))
    return PanopticFrame(
        labels=labels,
        unknown=labels == 0,
        instances=tuple(things),
        stuff=tuple(stuff),
        taxonomy=taxonomy,
    )


def patchwork(values: list[int], *, seed: int, size: tuple[int, int] = (23, 31)):
    """Ragged regions that touch all edges of the image, whose runs wrap from column to column."""
    rng = np.random.default_rng(seed)
    coarse = rng.choice(values, (size[0] // 3 + 1, size[1] // 4 + 1))
    labels = np.kron(coarse, np.ones((3, 4), int))[: size[0], : size[1]]
    noise = rng.random(size) < 0.2
    return np.where(noise, rng.choice(values, size), labels).astype(np.int32)


CITY = [0, 7, 11, 23, 24001, 24002, 26001, 26002, 33001]
PHOTO = [0, 149, 187, 200, 1001, 1002, 3001, 90001]
CASES = pytest.mark.parametrize(
    ("values", "taxonomy"), [(CITY, CITYSCAPES), (PHOTO, COCO)], ids=["cityscapes", "coco"]
)


@CASES
@pytest.mark.parametrize("seed", range(3))
def test_masks_and_class_ids_are_those_of_the_labels(values, taxonomy, seed) -> None:
    labels = patchwork(values, seed=seed)
    frame = frame_of(labels, taxonomy)
    assert frame.masks.dtype == np.bool_
    assert frame.masks.shape == (len(frame.instances), *labels.shape)
    for mask, instance in zip(frame.masks, frame.instances, strict=True):
        np.testing.assert_array_equal(mask, labels == instance.id)
    want = np.vectorize(lambda value: value // 1000 if value >= 1000 else value)(labels)
    np.testing.assert_array_equal(frame.class_ids, want)


def test_a_frame_without_things_has_no_masks() -> None:
    assert frame_of(np.full((4, 5), 7, np.int32)).masks.shape == (0, 4, 5)


@CASES
@pytest.mark.parametrize("seed", range(3))
def test_coco_files_are_read_back(tmp_path: Path, values, taxonomy, seed) -> None:
    labels = patchwork(values, seed=seed)
    frame = frame_of(labels, taxonomy)
    coco = upsnet_ros.to_coco(frame, image_id=39)
    content = {
        "images": [{"id": 39, "file_name": "39.jpg", "height": 23, "width": 31}],
        "annotations": [coco.annotation],
        "categories": coco.categories,
    }
    (tmp_path / "panoptic.json").write_text(json.dumps(content))
    Image.fromarray(coco.png).save(tmp_path / coco.annotation["file_name"])

    read = read_panoptic_file(tmp_path / "panoptic.json", areas=True)
    (annotation,) = read.annotations
    np.testing.assert_array_equal(read_segment_ids(tmp_path / annotation.file_name), labels)
    assert annotation.file_name == "000000000039.png"
    assert {s.id: (s.category_id, s.area) for s in annotation.segments} == {
        s.id: (s.class_id, s.area) for s in (*frame.instances, *frame.stuff)
    }
    assert {s.id: s.score for s in annotation.segments if s.score is not None} == {
        s.id: s.score for s in frame.instances
    }
    assert [category.id for category in read.categories] == taxonomy.public_ids.tolist()
    for info in coco.annotation["segments_info"]:
        x, y, width, height = info["bbox"]
        inside = labels == info["id"]
        assert inside[y : y + height, x : x + width].sum() == inside.sum() == info["area"]
        assert inside[y].any() and inside[:, x + width - 1].any()
        assert info["isthing"] == taxonomy.by_id[info["category_id"]].is_thing


@CASES
@pytest.mark.parametrize("seed", range(3))
def test_coco_results_are_those_of_pycocotools(values, taxonomy, seed, capsys) -> None:
    labels = patchwork(values, seed=seed)
    frame = frame_of(labels, taxonomy)
    coco = upsnet_ros.to_coco(frame, image_id=39)
    assert len(coco.instances) == len(frame.instances) > 2
    for result, instance in zip(coco.instances, frame.instances, strict=True):
        mask = np.asfortranarray(labels == instance.id, np.uint8)
        want = coco_mask.encode(mask)
        assert result["segmentation"]["counts"] == want["counts"].decode()
        assert result["bbox"] == coco_mask.toBbox(want).tolist()
        assert result["category_id"] == instance.class_id

    index = pycocotools_coco.COCO()
    index.dataset = {"images": [{"id": 39}], "categories": coco.categories, "annotations": []}
    index.createIndex()
    loaded = index.loadRes(json.loads(json.dumps(coco.instances)))
    index.imgs[39] |= {"height": 23, "width": 31}
    masks = [loaded.annToMask(annotation) for annotation in loaded.loadAnns(loaded.getAnnIds())]
    np.testing.assert_array_equal(masks, frame.masks)


def test_run_lengths_of_every_magnitude_and_sign() -> None:
    """One instance in an image so wide and high that runs need up to four groups."""
    labels = np.zeros((700, 900), np.int32)
    labels[3:690, 5] = labels[:, 100:600] = labels[699, 899] = 26001
    (result,) = upsnet_ros.to_coco(frame_of(labels)).instances
    want = coco_mask.encode(np.asfortranarray(labels == 26001, np.uint8))
    assert result["segmentation"] == {"size": [700, 900], "counts": want["counts"].decode()}


def test_names_of_coco_files() -> None:
    frame = frame_of(np.full((4, 5), 7, np.int32))
    assert upsnet_ros.to_coco(frame, image_id="a_1").annotation["file_name"] == "a_1.png"
    assert upsnet_ros.to_coco(frame, file_name="b.png").annotation["file_name"] == "b.png"
    assert repr(upsnet_ros.to_coco(frame)) == "CocoFrame(5x4, image_id 0, 1 segments, 0 instances)"


def test_cityscapes_scripts_read_the_png(tmp_path: Path) -> None:
    labels = patchwork(CITY, seed=1)
    frame = frame_of(labels)
    path = tmp_path / "a_instanceIds.png"
    upsnet_ros.save_cityscapes_png(frame, path)
    written = cv2.imread(str(path), cv2.IMREAD_UNCHANGED)
    assert written.dtype == np.uint16
    np.testing.assert_array_equal(written, labels)
    (found,) = instances2dict([str(path)], verbose=False).values()
    pixels = {one["instID"]: one["pixelCount"] for rows in found.values() for one in rows}
    assert {thing.id: thing.area for thing in frame.instances} == {
        key: count for key, count in pixels.items() if key >= 1000
    }
    assert {len(found[name]) for name in ("person", "car")} == {2}


def test_a_file_of_the_user_stays(tmp_path: Path) -> None:
    frame = frame_of(np.full((4, 5), 7, np.int32))
    path = tmp_path / "a.png"
    path.write_text("mine")
    with pytest.raises(OutputError, match=r"a\.png exists: overwrite=True"):
        upsnet_ros.save_cityscapes_png(frame, path)
    assert path.read_text() == "mine"
    upsnet_ros.save_cityscapes_png(frame, str(path), overwrite=True)
    assert cv2.imread(str(path), cv2.IMREAD_UNCHANGED).dtype == np.uint16
    with pytest.raises(OutputError, match="is a folder"):
        (tmp_path / "b.png").mkdir()
        upsnet_ros.save_cityscapes_png(frame, tmp_path / "b.png", overwrite=True)


def test_a_missing_folder_is_not_made(tmp_path: Path) -> None:
    path = tmp_path / "nonexist" / "a.png"
    with pytest.raises(OutputError, match=r"a\.png: there is no folder .*nonexist"):
        upsnet_ros.save_cityscapes_png(frame_of(np.full((4, 5), 7, np.int32)), path)
    assert list(tmp_path.iterdir()) == []


def test_what_is_no_frame_or_path_is_named(tmp_path: Path) -> None:
    image, frame = np.zeros((4, 5, 3), np.uint8), frame_of(np.full((4, 5), 7, np.int32))
    for function in (
        lambda: upsnet_ros.draw(image, "x"),
        lambda: upsnet_ros.to_coco(None),
        lambda: upsnet_ros.save_cityscapes_png(image, tmp_path / "a.png"),
    ):
        with pytest.raises(ImageError, match="need a PanopticFrame"):
            function()
    with pytest.raises(SettingsError, match="need the path"):
        upsnet_ros.save_cityscapes_png(frame, 3)
    with pytest.raises(SettingsError, match="taxonomy must be"):
        upsnet_ros.draw(image, frame, taxonomy="cityscapes")


def test_what_no_cityscapes_png_holds_is_refused(tmp_path: Path) -> None:
    small = np.full((4, 5), 1001, np.int32)  # fits, but means something else in Cityscapes
    with pytest.raises(SettingsError, match=r"coco labels do not fit.*to_coco"):
        upsnet_ros.save_cityscapes_png(frame_of(small, COCO), tmp_path / "a.png")
    large = replace(frame_of(np.full((4, 5), 90001, np.int32), COCO), taxonomy=None)
    with pytest.raises(SettingsError, match="do not fit"):
        upsnet_ros.save_cityscapes_png(large, tmp_path / "a.png")
    with pytest.raises(SettingsError, match=r"a\.jpg must end in \.png"):
        upsnet_ros.save_cityscapes_png(frame_of(small * 0 + 7), tmp_path / "a.jpg")
    assert list(tmp_path.iterdir()) == []


def test_draw_takes_an_image_in_each_form(tmp_path: Path) -> None:
    labels = patchwork(CITY, seed=2)
    frame = frame_of(labels)
    image = np.random.default_rng(0).integers(0, 256, (*labels.shape, 3)).astype(np.uint8)
    before = image.copy()
    cv2.imwrite(str(tmp_path / "a.png"), image)
    want = draw_overlay(image, frame, CITYSCAPES, alpha=0.3)
    assert (want != image).any()
    forms = [image, tmp_path / "a.png", str(tmp_path / "a.png"), Image.fromarray(image[..., ::-1])]
    for form in forms:
        np.testing.assert_array_equal(upsnet_ros.draw(form, frame, alpha=0.3), want)
    np.testing.assert_array_equal(image, before)


def test_a_frame_that_does_not_name_its_classes() -> None:
    frame = replace(frame_of(np.full((4, 5), 26001, np.int32)), taxonomy=None)
    image = np.zeros((4, 5, 3), np.uint8)
    for function in (
        lambda **k: upsnet_ros.draw(image, frame, **k),
        lambda **k: upsnet_ros.to_coco(frame, **k),
    ):
        with pytest.raises(SettingsError, match="taxonomy="):
            function()
        function(taxonomy=CITYSCAPES)
    with pytest.raises(ValueError, match="uint8"):
        upsnet_ros.draw(np.zeros((5, 5, 3), np.uint8), frame, taxonomy=CITYSCAPES)
    with pytest.raises(ValueError, match="image is None"):
        upsnet_ros.draw(None, frame)


def test_reprs_are_short() -> None:
    frame = frame_of(patchwork(CITY, seed=3))
    assert len(repr(frame)) < 100 and "31x23" in repr(frame) and "cityscapes" in repr(frame)
    for segment in (*frame.instances, *frame.stuff):
        assert len(repr(segment)) < 100
        assert segment.class_name in repr(segment) and str(segment.id) in repr(segment)
    assert "track 7" in repr(replace(frame.instances[0], track_id=7))
    assert "track" not in repr(frame.instances[0])
