"""What cityscapesscripts make of written scenes."""

from __future__ import annotations

import json
from pathlib import Path

import cv2
import numpy as np
import pytest
from cityscapesscripts.preparation.createPanopticImgs import convert2panoptic
from official_panoptic import official_panoptic_quality
from typer.testing import CliRunner

from upsnet_ros.cli.commands import app
from upsnet_ros.synthetic.dataset import SceneJob, output_folder, scene_frame, write_scenes

SIZE = (96, 192)


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("scenes")
    for seed in (3, 4):
        job = SceneJob(
            out=folder, split="val", seed=seed, sequences=2, length=3, size=SIZE, every=2
        )
        assert len(list(write_scenes(job))) == job.total == 6
    return folder


def test_files_lie_where_cityscapes_has_them(root: Path) -> None:
    def count(pattern: str) -> int:
        return len(list(root.glob(pattern)))

    name = "val/drawn3/drawn3_000001_00000?"
    assert count(f"leftImg8bit_sequence/{name}_leftImg8bit.png") == 3
    assert count(f"leftImg8bit/{name}_leftImg8bit.png") == 2
    for kind in ("labelIds", "instanceIds", "unknownMask"):
        assert count(f"gtFine/{name}_gtFine_{kind}.png") == 2


def test_files_hold_the_frame(root: Path) -> None:
    frame, name = scene_frame("val", 1, 2, SIZE, seed=4), "drawn4_000001_000002"
    truth = root / "gtFine/val/drawn4"

    def read(path: Path) -> np.ndarray:
        return cv2.imread(str(path), cv2.IMREAD_UNCHANGED)

    assert (read(root / f"leftImg8bit/val/drawn4/{name}_leftImg8bit.png") == frame.image).all()
    assert (read(truth / f"{name}_gtFine_labelIds.png") == frame.semantic).all()
    assert (read(truth / f"{name}_gtFine_instanceIds.png") == frame.instances).all()
    assert (read(truth / f"{name}_gtFine_unknownMask.png") == frame.unknown * 255).all()


def test_the_panoptic_truth_is_what_the_official_tool_makes(root: Path, tmp_path: Path) -> None:
    convert2panoptic(str(root / "gtFine"), str(tmp_path), False, ["val"])
    name = "cityscapes_panoptic_val"
    ours = json.loads((root / "gtFine" / f"{name}.json").read_text())
    official = json.loads((tmp_path / f"{name}.json").read_text())

    assert ours == official
    assert len(ours["images"]) == 8
    for path in (tmp_path / name).iterdir():
        drawn = cv2.imread(str(root / "gtFine" / name / path.name))
        assert (cv2.imread(str(path)) == drawn).all()


def test_the_official_evaluation_finds_the_truth_perfect(root: Path, tmp_path: Path) -> None:
    truth = root / "gtFine/cityscapes_panoptic_val"
    table = truth.with_suffix(".json")
    results = official_panoptic_quality(
        table, truth, table, truth, results=tmp_path / "results.json"
    )
    qualities = [row["pq"] for row in results["per_class"].values()]

    assert max(qualities) == 1.0
    assert all(quality in (0.0, 1.0) for quality in qualities)  # 0: a class that is not seen


def test_several_processes_write_what_one_does(root: Path, tmp_path: Path) -> None:
    arguments = ["scenes", "--out", str(tmp_path), "--seed", "3", "--sequences", "2"]
    arguments += ["--length", "3", "--size", "96x192", "--every", "2", "--workers", "2"]
    result = CliRunner().invoke(app, arguments, obj=[])

    assert result.exit_code == 0, result.output
    assert "6 frames of drawn3" in result.output
    for path in tmp_path.rglob("*.png"):
        assert path.read_bytes() == (root / path.relative_to(tmp_path)).read_bytes()


@pytest.mark.parametrize(
    ("option", "value", "message"),
    [
        ("--split", "demo", "unknown split 'demo'"),
        ("--size", "512", "size '512' is not HEIGHTxWIDTH"),
        ("--size", "8x16", "at least 16x16"),
    ],
)
def test_a_wrong_option_is_named(tmp_path: Path, option: str, value: str, message: str) -> None:
    result = CliRunner().invoke(app, ["scenes", "--out", str(tmp_path), option, value], obj=[])

    assert result.exit_code == 1
    assert message in result.output


def test_depth_and_camera_lie_beside_the_labels_if_asked_for(root: Path, tmp_path: Path) -> None:
    job = SceneJob(
        out=tmp_path, split="val", seed=4, sequences=1, length=2, size=SIZE, every=2, depth=True
    )
    with output_folder(job):
        assert len(list(write_scenes(job))) == 2
    frame, name = scene_frame("val", 0, 0, SIZE, seed=4), "drawn4_000000_000000"
    depth = cv2.imread(
        str(tmp_path / f"gtFine/val/drawn4/{name}_gtFine_depth.tiff"), cv2.IMREAD_UNCHANGED
    )
    camera = json.loads((tmp_path / f"camera/val/drawn4/{name}_camera.json").read_text())

    assert depth.dtype == np.float32
    assert np.array_equal(depth, frame.depth)
    assert camera["intrinsic"] == {
        "fx": frame.camera.focal,
        "fy": frame.camera.focal,
        "u0": 95.5,
        "v0": 47.5,
    }
    assert len(list(tmp_path.rglob("*_depth.tiff"))) == 1  # of annotated frames only
    assert not list(root.rglob("*_depth.tiff"))
    assert not (root / "camera").exists()
