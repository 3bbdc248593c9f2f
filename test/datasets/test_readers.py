"""The data sets' readers, on small files made here in the layouts of the originals."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from upsnet_ros.datasets.base import VOID, Dataset
from upsnet_ros.datasets.readers import Cityscapes, CocoPanoptic, Folder
from upsnet_ros.datasets.taxonomy import CITYSCAPES, COCO
from upsnet_ros.errors import DatasetError
from upsnet_ros.evaluation.datasets import ModelFrames
from upsnet_ros.inference.frame import PanopticFrame

SIZE = (24, 32)
LABELS = "_000001_000019_gtFine_instanceIds.png"
STREET = {0: "sky", 1: "road", 2: "car", 3: None}


def write(path: Path, pixels: np.ndarray) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    assert cv2.imwrite(str(path), pixels)
    return path


def picture(value: int = 90) -> np.ndarray:
    image = np.zeros((*SIZE, 3), np.uint8)
    image[..., 0] = value  # blue
    return image


def cityscapes(root: Path, ids: np.ndarray, images: str = "leftImg8bit") -> Path:
    (root / "gtFine" / "train" / "aachen").mkdir(parents=True, exist_ok=True)
    (root / f"gtFine/train/aachen/._bonn{LABELS}").touch()  # as macOS leaves them
    for city, value in (("bonn", 200), ("aachen", 90)):
        frame = f"{city}_000001_000019"
        write(root / images / "train" / city / f"{frame}_leftImg8bit.png", picture(value))
        labels = root / "gtFine" / "train" / city / f"{frame}_gtFine_instanceIds.png"
        write(labels, ids.astype(np.uint16))
    return labels


def instance_ids() -> np.ndarray:
    ids = np.full(SIZE, 7)  # road
    ids[:8] = 23  # sky
    ids[10:14, 2:8] = 26001  # two cars
    ids[12:18, 20:30] = 26002
    ids[2:4, 2:6] = 24  # a group of persons
    ids[20:] = 3  # out of roi
    return ids


@pytest.mark.parametrize("images", ["leftImg8bit", "leftImg8bit_sequence"])
def test_cityscapes(tmp_path: Path, images: str) -> None:
    cityscapes(tmp_path, instance_ids(), images)
    dataset: Dataset = Cityscapes(tmp_path, split="train", images=images)
    assert len(dataset) == 2
    sample = dataset[0]
    assert "aachen_000001_000019" in sample.name
    assert sample.image[0, 0].tolist() == [90, 0, 0]
    assert sample.semantic[9, 0] == 0
    assert sample.semantic[0, 0] == 10
    assert sample.semantic[12, 4] == 13
    assert sample.semantic[23, 0] == VOID
    assert [(t.semantic_id, t.crowd, t.box) for t in sample.things] == [
        (11, True, (2.0, 2.0, 5.0, 3.0)),
        (13, False, (2.0, 10.0, 7.0, 13.0)),
        (13, False, (20.0, 12.0, 29.0, 17.0)),
    ]
    assert [t.number for t in sample.things] == [None, 1, 2]
    assert sample.unknown is None


def test_unknown_objects_of_driving_scenes(tmp_path: Path) -> None:
    labels = cityscapes(tmp_path, instance_ids())
    mask = np.zeros(SIZE, np.uint8)
    mask[20:22, 5:9] = 255
    write(labels.with_name("aachen_000001_000019_gtFine_unknownMask.png"), mask)
    sample = Cityscapes(tmp_path, split="train")[0]
    assert sample.unknown is not None
    np.testing.assert_array_equal(sample.unknown, mask > 0)


def test_cityscapes_files_are_named(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match=r"no labels .*gtFine/train/<city>"):
        Cityscapes(tmp_path, split="train")
    labels = cityscapes(tmp_path, np.full(SIZE, 99))
    dataset = Cityscapes(tmp_path, split="train")
    with pytest.raises(DatasetError, match=r"aachen.*instanceIds.png: ids .*: 99"):
        dataset[0]
    write(labels, np.zeros((10, 10), np.uint16))
    with pytest.raises(DatasetError, match=r"aachen.* 10x10 .* 32x24"):
        dataset[0]
    (tmp_path / "leftImg8bit/train/aachen/aachen_000001_000019_leftImg8bit.png").unlink()
    with pytest.raises(DatasetError, match=r"no file .*aachen_000001_000019_leftImg"):
        dataset[0]


def coco(root: Path, category: int = 1) -> tuple[Path, Path]:
    ids = np.zeros((*SIZE, 3), np.uint8)  # BGR on disk as RGB: id = R + 256 G + 65536 B
    ids[:8] = (0, 0, 5)
    ids[8:16, :10] = (0, 2, 1)
    ids[8:16, 20:] = (1, 0, 0)
    write(root / "annotations" / "panoptic_val" / "000007.png", ids)
    write(root / "val" / "000007.jpg", picture())
    segments = [
        {"id": 5, "category_id": 187, "iscrowd": 0},
        {"id": 513, "category_id": category, "iscrowd": 0},
        {"id": 65536, "category_id": 3, "iscrowd": 1},
    ]
    annotation = {"image_id": 7, "file_name": "000007.png", "segments_info": segments}
    content = {
        "images": [{"id": 7, "file_name": "000007.jpg"}],
        "annotations": [annotation],
        "categories": [
            {"id": info.id, "name": info.name, "isthing": int(info.is_thing)}
            for info in COCO.classes
        ],
    }
    path = root / "annotations" / "panoptic_val.json"
    path.write_text(json.dumps(content))
    return root / "val", path


def test_coco_panoptic(tmp_path: Path) -> None:
    dataset: Dataset = CocoPanoptic(*coco(tmp_path))
    assert len(dataset) == 1
    sample = dataset[0]
    classes = dataset.taxonomy.classes
    assert classes[sample.semantic[0, 0]].name == "sky-other-merged"
    assert classes[sample.semantic[9, 0]].name == "person"
    assert sample.semantic[20, 0] == VOID
    assert [(classes[t.semantic_id].name, t.crowd, t.box) for t in sample.things] == [
        ("person", False, (0.0, 8.0, 9.0, 15.0)),
        ("car", True, (20.0, 8.0, 31.0, 15.0)),
    ]


def test_coco_files_are_named(tmp_path: Path) -> None:
    images, path = coco(tmp_path, category=12)  # there is no such category
    with pytest.raises(DatasetError, match=r"panoptic_val.json: .* categories lacks ids: 12"):
        CocoPanoptic(images, path)
    content = json.loads(path.read_text())
    del content["annotations"][0]["segments_info"][0]
    content["annotations"][0]["segments_info"][0]["category_id"] = 1
    path.write_text(json.dumps(content))
    with pytest.raises(DatasetError, match=r"000007.png: ids .*: 5"):
        CocoPanoptic(images, path)[0]
    content["images"] = []
    path.write_text(json.dumps(content))
    with pytest.raises(DatasetError, match=r"panoptic_val.json: images has no file_name of id 7"):
        CocoPanoptic(images, path)
    path.write_text("{}")
    with pytest.raises(DatasetError, match=r"panoptic_val.json .* is not a panoptic file"):
        CocoPanoptic(images, path)
    with pytest.raises(DatasetError, match=r"cannot read .*none.json: No such file"):
        CocoPanoptic(images, tmp_path / "none.json")


def edit_categories(path: Path, edit: Callable[[list[dict[str, Any]]], object]) -> None:
    content = json.loads(path.read_text())
    edit(content["categories"])
    path.write_text(json.dumps(content))


def test_coco_categories_of_other_ids_are_taken_by_name(tmp_path: Path) -> None:
    images, path = coco(tmp_path, category=12)
    names = {187: "sky-other-merged", 12: "person", 3: "car"}
    things = {"person", "car"}
    edit_categories(
        path,
        lambda rows: rows.__setitem__(
            slice(None),
            # The name that COCO has under 12 instead, which nothing uses, does no harm.
            [{"id": i, "name": n, "isthing": n in things} for i, n in names.items()]
            + [{"id": 99, "name": "pallet", "isthing": 1}],
        ),
    )
    sample = CocoPanoptic(images, path)[0]
    assert [COCO.classes[t.semantic_id].name for t in sample.things] == ["person", "car"]
    edit_categories(path, lambda rows: rows[2].update(name="bicycle"))
    sample = CocoPanoptic(images, path)[0]
    assert [COCO.classes[t.semantic_id].name for t in sample.things] == ["person", "bicycle"]


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"name": "pallet"}, "categories that are not COCO's: pallet;"),
        ({"name": "road", "isthing": 1}, "category road is a thing, but stuff in COCO"),
        ({"isthing": 0}, "category person is stuff, but a thing in COCO"),
        ({"isthing": "1"}, r'categories\[80\].isthing is "1", not 0 or 1'),
    ],
)
def test_categories_of_its_own_are_refused_by_name(
    tmp_path: Path, row: dict[str, Any], message: str
) -> None:
    images, path = coco(tmp_path)
    place = [info.name for info in COCO.classes].index("person")
    edit_categories(path, lambda rows: rows[place].update(row))
    message = message.replace("80", str(place))
    with pytest.raises(DatasetError, match=f"panoptic_val.json.* {message}"):
        CocoPanoptic(images, path)
    edit_categories(path, list.clear)
    with pytest.raises(DatasetError, match=r"categories lacks ids: 1, 3, 187"):
        CocoPanoptic(images, path)


def test_coco_images_of_one_name_are_told_apart_by_their_folders(tmp_path: Path) -> None:
    images, path = coco(tmp_path)
    content = json.loads(path.read_text())
    row = content["annotations"][0]
    content["annotations"] = [{**row, "image_id": name} for name in "ab"]
    content["images"] = [{"id": name, "file_name": f"{name}/000007.jpg"} for name in "ab"]
    path.write_text(json.dumps(content))
    for name in "ab":
        write(images / name / "000007.jpg", picture())
    dataset = CocoPanoptic(images, path)
    frames = list(ModelFrames(dataset, answer_of))
    assert [frame.name for frame in frames] == ["a/000007", "b/000007"]


def answer_of(image: np.ndarray) -> PanopticFrame:
    """Nothing found."""
    return PanopticFrame(
        labels=np.zeros(image.shape[:2], np.int32),
        unknown=np.zeros(image.shape[:2], bool),
        instances=(),
        stuff=(),
    )


@pytest.mark.parametrize("absolute", [False, True])
@pytest.mark.parametrize("what", ["image", "segments"])
def test_coco_reads_nothing_outside_its_folders(tmp_path: Path, what: str, absolute: bool) -> None:
    images, path = coco(tmp_path / "set")
    folder = images if what == "image" else path.with_suffix("")
    name = "000007.jpg" if what == "image" else "000007.png"
    outside = tmp_path / "secret" / name
    outside.parent.mkdir()
    (folder / name).rename(outside)
    content = json.loads(path.read_text())
    row = content["images"][0] if what == "image" else content["annotations"][0]
    row["file_name"] = str(outside) if absolute else f"../../secret/{name}"
    if what == "segments" and not absolute:
        row["file_name"] = f"../{row['file_name']}"
    path.write_text(json.dumps(content))
    with pytest.raises(DatasetError, match=rf"{name} lies outside {folder}"):
        CocoPanoptic(images, path)[0]
    # What the user linked is the user's; and an absolute name may lead inside.
    (folder / "linked").symlink_to(outside.parent)
    row["file_name"] = str(folder / "linked" / name) if absolute else f"x/../linked/{name}"
    path.write_text(json.dumps(content))
    assert len(CocoPanoptic(images, path)[0].things) == 2


def folder(root: Path, labels: np.ndarray) -> Folder:
    write(root / "images" / "b.jpg", picture())
    write(root / "images" / "a.png", picture())
    for name in ("a", "b"):
        write(root / "labels" / f"{name}.png", labels)
    return Folder(
        root / "images", root / "labels", taxonomy="cityscapes", classes=STREET, min_area=6
    )


def test_folder(tmp_path: Path) -> None:
    labels = np.ones(SIZE, np.uint8)
    labels[:8] = 0
    labels[10:14, 2:8] = 2
    labels[10:14, 20:25] = 2
    labels[20, 20] = 2  # a speck
    labels[23] = 3
    dataset: Dataset = folder(tmp_path, labels)
    assert len(dataset) == 2
    sample = dataset[0]
    assert sample.name.endswith("a.png")
    assert sorted(t.box for t in sample.things) == [
        (2.0, 10.0, 7.0, 13.0),
        (20.0, 10.0, 24.0, 13.0),
    ]
    assert {t.semantic_id for t in sample.things} == {13}
    assert sample.semantic[20, 20] == VOID
    assert sample.semantic[23, 0] == VOID
    assert np.unique(sample.semantic).tolist() == [0, 10, 13, VOID]


def test_folder_names_a_missing_label_map_when_it_is_opened(tmp_path: Path) -> None:
    for name in ("a", "b10", "b9", "c"):
        write(tmp_path / "images" / f"{name}.png", picture())
    for name in ("a", "c"):
        write(tmp_path / "labels" / f"{name}.png", np.zeros(SIZE, np.uint8))
    with pytest.raises(DatasetError, match=r"no label map .*/labels/b9\.png; .*: 2 of 4"):
        Folder(tmp_path / "images", tmp_path / "labels", taxonomy="cityscapes", classes=STREET)


def test_folder_is_in_natural_order(tmp_path: Path) -> None:
    for number in range(1, 13):
        write(tmp_path / "images" / f"{number}.png", picture(number))
        write(tmp_path / "labels" / f"{number}.png", np.zeros(SIZE, np.uint8))
    write(tmp_path / "images" / "._1.png", picture())
    samples = Folder(
        tmp_path / "images", tmp_path / "labels", taxonomy="cityscapes", classes=STREET
    )
    assert [samples[i].image[0, 0, 0] for i in range(len(samples))] == list(range(1, 13))


def test_folder_finds_label_maps_of_other_endings_and_kinds(tmp_path: Path) -> None:
    labels = np.zeros(SIZE, np.uint8)
    labels[3] = 1
    for name, ending in (("a", "PNG"), ("b", "tif"), ("c", "bmp"), ("d", "png")):
        write(tmp_path / "images" / f"{name}.JPG", picture())
        if ending == "bmp":
            cv2.imwrite(str(tmp_path / "labels" / "c.png"), labels)  # rather than c.bmp
            labels_of_bmp = np.ones(SIZE, np.uint8)
            write(tmp_path / "labels" / "c.bmp", labels_of_bmp)
        else:
            write(tmp_path / "labels" / f"{name}.{ending}", labels)
    (tmp_path / "linked").symlink_to(tmp_path / "labels")
    dataset = Folder(
        tmp_path / "images", tmp_path / "linked", taxonomy="cityscapes", classes=STREET
    )
    for index in range(4):
        np.testing.assert_array_equal(
            dataset[index].semantic == CITYSCAPES.classes[0].semantic_id, labels == 1
        )


def test_folder_refuses_images_of_one_name(tmp_path: Path) -> None:
    write(tmp_path / "images" / "a.jpg", picture())
    with pytest.raises(DatasetError, match=r"a.jpg and .*a.png .*same label map a"):
        folder(tmp_path, np.zeros(SIZE, np.uint8))


def test_folder_complaints(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match=r"no images in"):
        Folder(tmp_path, tmp_path, taxonomy="cityscapes", classes=STREET)
    with pytest.raises(DatasetError, match=r"labels/a.png: values that `classes` .*: 4, 9"):
        labels = np.full(SIZE, 4, np.uint8)
        labels[0] = 9
        folder(tmp_path, labels)[0]
    with pytest.raises(DatasetError, match=r"a.png has 3 channels"):
        folder(tmp_path, picture())[0]
    with pytest.raises(DatasetError, match=r"'lorry' .*cityscapes; .*road"):
        Folder(tmp_path / "images", tmp_path, taxonomy="cityscapes", classes={0: "lorry"})
