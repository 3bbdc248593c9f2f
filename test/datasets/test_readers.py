"""The data sets' readers, on small files made here in the layouts of the originals."""

from __future__ import annotations

import json
from pathlib import Path

import cv2
import numpy as np
import pytest

from upsnet_ros.datasets.base import VOID, Dataset, DatasetError
from upsnet_ros.datasets.cityscapes import Cityscapes
from upsnet_ros.datasets.coco_panoptic import CocoPanoptic
from upsnet_ros.datasets.folder import Folder

SIZE = (24, 32)
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
    with pytest.raises(DatasetError, match=r"there are no labels .*gtFine/train/<city>"):
        Cityscapes(tmp_path, split="train")
    labels = cityscapes(tmp_path, np.full(SIZE, 99))
    dataset = Cityscapes(tmp_path, split="train")
    with pytest.raises(DatasetError, match=r"aachen.*instanceIds.png: ids outside .*: 99"):
        dataset[0]
    write(labels, np.zeros((10, 10), np.uint16))
    with pytest.raises(DatasetError, match=r"aachen.* is 10x10 pixels, but its image is 32x24"):
        dataset[0]
    (tmp_path / "leftImg8bit/train/aachen/aachen_000001_000019_leftImg8bit.png").unlink()
    with pytest.raises(DatasetError, match=r"there is no file .*aachen_000001_000019_leftImg"):
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
    content = {"images": [{"id": 7, "file_name": "000007.jpg"}], "annotations": [annotation]}
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
    with pytest.raises(DatasetError, match=r"000007.png: category outside the taxonomy: 12"):
        CocoPanoptic(images, path)[0]
    content = json.loads(path.read_text())
    del content["annotations"][0]["segments_info"][0]
    content["annotations"][0]["segments_info"][0]["category_id"] = 1
    path.write_text(json.dumps(content))
    with pytest.raises(DatasetError, match=r"000007.png: ids without an entry .*: 5"):
        CocoPanoptic(images, path)[0]
    path.write_text("{}")
    with pytest.raises(DatasetError, match=r"panoptic_val.json is no panoptic annotation file"):
        CocoPanoptic(images, path)
    with pytest.raises(DatasetError, match=r"there is no file .*none.json"):
        CocoPanoptic(images, tmp_path / "none.json")


def folder(root: Path, labels: np.ndarray) -> Folder:
    write(root / "images" / "b.jpg", picture())
    write(root / "images" / "a.png", picture())
    write(root / "labels" / "a.png", labels)
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
    with pytest.raises(DatasetError, match=r"there is no file .*labels/b.png"):
        dataset[1]


def test_folder_complaints(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match=r"there are no images in"):
        Folder(tmp_path, tmp_path, taxonomy="cityscapes", classes=STREET)
    with pytest.raises(DatasetError, match=r"a.png: ids outside the taxonomy: 4, 9"):
        labels = np.full(SIZE, 4, np.uint8)
        labels[0] = 9
        folder(tmp_path, labels)[0]
    with pytest.raises(DatasetError, match=r"a.png has 3 channels; labels need one"):
        folder(tmp_path, picture())[0]
    with pytest.raises(DatasetError, match=r"'lorry' is no class of cityscapes; choose from road"):
        Folder(tmp_path / "images", tmp_path, taxonomy="cityscapes", classes={0: "lorry"})
