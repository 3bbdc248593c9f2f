from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest

from upsnet_ros.bags.make import FolderDrive, read_classes
from upsnet_ros.errors import BagError


def test_a_folder_with_label_maps(tmp_path: Path):
    labels = np.full((20, 30), 1, np.uint8)
    labels[5:15, 2:12] = labels[5:15, 18:28] = 2
    for name in ("images", "labels"):
        (tmp_path / name).mkdir()
    image = np.full((20, 30, 3), 9, np.uint8)
    assert cv2.imwrite(str(tmp_path / "images" / "b.png"), image)
    assert cv2.imwrite(str(tmp_path / "labels" / "b.png"), labels)
    classes = {1: "road", 2: "car", 3: None}
    drive = FolderDrive(
        tmp_path / "images", tmp_path / "labels", taxonomy="cityscapes", classes=classes
    )
    frame = next(iter(drive))
    assert (frame.name, drive.length) == ("b", 1)
    assert frame.truth is not None
    assert frame.truth.unknown is None
    assert np.unique(frame.truth.labels).tolist() == [7, 26001, 26002]


def test_what_values_mean_comes_from_a_file(tmp_path: Path):
    path = tmp_path / "classes.yaml"
    path.write_text("1: road\n2: car\n3: null\n")
    assert read_classes(path) == {1: "road", 2: "car", 3: None}
    for text, reason in (
        ("road: 1", "must map values"),
        ("- road", "must map values"),
        ("1: road\n2: [", r"classes.yaml, line 2: expected .*'$"),
        ("\0", r"classes.yaml cannot be read: "),
        ("1: 2000-13-01", r"classes.yaml cannot be read: "),
        ("\xff", r"classes.yaml is not a text file"),
    ):
        path.write_text(text, encoding="latin-1")
        with pytest.raises(BagError, match=reason):
            read_classes(path)
    with pytest.raises(BagError, match="cannot read"):
        read_classes(tmp_path / "none")


def test_pictures_are_in_natural_order(tmp_path: Path):
    for number in range(1, 13):
        for folder in ("images", "labels"):
            (tmp_path / folder).mkdir(exist_ok=True)
            cv2.imwrite(str(tmp_path / folder / f"{number}.png"), np.full((4, 6), 0, np.uint8))
    drive = FolderDrive(
        tmp_path / "images", tmp_path / "labels", taxonomy="cityscapes", classes={0: "road"}
    )
    assert [Path(frame.name).stem for frame in drive] == [str(number) for number in range(1, 13)]
