from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest

from upsnet_ros.bags.make import CityscapesDrive, ScenesDrive
from upsnet_ros.errors import BagError
from upsnet_ros.synthetic.dataset import SceneJob, write_scenes

SCENES = ScenesDrive(split="val", seed=3, sequences=2, first=1, frames=3, size=(24, 48))


def test_streets_follow_each_other_with_a_pause():
    frames = list(SCENES)
    assert SCENES.length == len(frames) == 6
    assert [frame.name for frame in frames[:4]] == [
        "drawn3_000001_000000",
        "drawn3_000001_000001",
        "drawn3_000001_000002",
        "drawn3_000002_000000",
    ]
    assert [frame.time_ns // 10**8 for frame in frames] == [0, 1, 2, 12, 13, 14]
    assert 0.8 * 48 < frames[0].focal < 1.2 * 48


def test_a_cityscapes_root_gives_every_frame_and_the_truth_that_there_is(tmp_path: Path):
    job = SceneJob(
        out=tmp_path, split="val", seed=3, sequences=2, first=1, length=3, size=(24, 48), every=2
    )
    list(write_scenes(job))
    drive = CityscapesDrive(tmp_path, "val")
    assert drive.rate_hz == 17
    for frame, drawn in zip(drive, SCENES, strict=True):
        assert frame.name == drawn.name
        assert (frame.image == drawn.image).all()
        if frame.name.endswith("1"):
            assert frame.truth is None
            continue
        assert frame.truth is not None
        assert drawn.truth is not None
        assert (frame.truth.labels == drawn.truth.labels).all()
        assert frame.truth.unknown is not None
        assert drawn.truth.unknown is not None
        assert (frame.truth.unknown == drawn.truth.unknown).all()


def test_a_root_without_the_split_or_labels(tmp_path: Path):
    (tmp_path / "leftImg8bit" / "val" / "a").mkdir(parents=True)
    with pytest.raises(BagError, match="has no split train"):
        CityscapesDrive(tmp_path, "train")
    picture = tmp_path / "leftImg8bit" / "val" / "a" / "a_000000_000000_leftImg8bit.png"
    assert cv2.imwrite(str(picture), np.zeros((8, 8, 3), np.uint8))
    with pytest.raises(BagError, match="has no labels gtFine/val"):
        CityscapesDrive(tmp_path, "val")
