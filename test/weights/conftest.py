from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import pytest
from dds_fixtures import domain, probe, run, start
from typer.testing import CliRunner
from zoo_file import ZooFile, write_zoo_file

from upsnet_ros.cli.commands import app
from upsnet_ros.datasets.taxonomy import COCO

__all__ = ["cache", "coco", "domain", "got", "named", "probe", "run", "start", "zoo_file"]


@pytest.fixture(scope="session")
def zoo_file(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ZooFile]:
    """Weights of coco-fpn-r50: the one large file of these tests."""
    file = write_zoo_file(tmp_path_factory.mktemp("zoo"))
    yield file
    file.path.unlink()


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache folder, which is not there yet."""
    folder = tmp_path / "cache"
    monkeypatch.setenv("UPSNET_WEIGHTS", str(folder))
    for name in ("http_proxy", "https_proxy", "all_proxy", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)
    return folder


@dataclass(frozen=True)
class Got:
    """A cache folder with coco-fpn-r50, and what the command that got it printed."""

    folder: Path
    out: str
    err: str


@pytest.fixture(scope="session")
def got(zoo_file: ZooFile, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Got]:
    """`upsnet weights get coco-fpn-r50 --file`, done once; change nothing in the folder."""
    folder = tmp_path_factory.mktemp("got")
    command = ["weights", "get", "coco-fpn-r50", "--file", str(zoo_file.path), "--yes"]
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("UPSNET_WEIGHTS", str(folder))
        done = CliRunner().invoke(app, command)
    assert done.exit_code == 0, done.output
    yield Got(folder, done.stdout, done.stderr)
    for path in folder.iterdir():
        path.unlink()


@pytest.fixture
def named(got: Got, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The cache folder that has coco-fpn-r50, for this test's process and those it starts."""
    monkeypatch.setenv("UPSNET_WEIGHTS", str(got.folder))
    return got.folder


@pytest.fixture
def coco(tmp_path: Path) -> Path:
    """Three images of noise, half sky and half road."""
    root = tmp_path / "coco"
    annotations = root / "annotations"
    for folder in (root / "val2017", annotations / "panoptic_val2017"):
        folder.mkdir(parents=True)
    ids = {info.name: info.id for info in COCO.classes}
    rows = []
    for number in range(3):
        noise = np.random.default_rng(number).integers(0, 256, (48, 64, 3), np.uint8)
        cv2.imwrite(str(root / f"val2017/{number}.jpg"), noise)
        segments = np.full((48, 64, 3), (0, 0, 1), np.uint8)  # BGR; the id is R + 256 G + ...
        segments[24:] = (0, 0, 2)
        cv2.imwrite(str(annotations / f"panoptic_val2017/{number}.png"), segments)
        infos = [
            {"id": 1, "category_id": ids["sky-other-merged"], "iscrowd": 0, "area": 1536},
            {"id": 2, "category_id": ids["road"], "iscrowd": 0, "area": 1536},
        ]
        rows.append({"image_id": number, "file_name": f"{number}.png", "segments_info": infos})
    content = {
        "images": [{"id": number, "file_name": f"{number}.jpg"} for number in range(3)],
        "annotations": rows,
        "categories": [
            {"id": info.id, "name": info.name, "isthing": int(info.is_thing)}
            for info in COCO.classes
        ],
    }
    (annotations / "panoptic_val2017.json").write_text(json.dumps(content))
    return root
