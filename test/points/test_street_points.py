"""A synthetic street through replay, node and points node over DDS, beside its ground truth."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import point_scene as scene
import pytest

from upsnet_ros.bags.make import BagJob, DriveFrame, ScenesDrive, make_bag
from upsnet_ros.bags.reader import open_bag
from upsnet_ros.messages.images import plane

pytestmark = pytest.mark.dds

SIZE = (256, 512)
SECONDS = 280


@pytest.fixture(scope="module")
def frames(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[DriveFrame]]:
    """A bag of a street with points, and its frames."""
    path = tmp_path_factory.mktemp("street") / "drive"
    drive = ScenesDrive(split="val", seed=7, sequences=1, first=0, frames=2, size=SIZE, points=True)
    return path, list(make_bag(drive, BagJob(path=path)))


@pytest.fixture(scope="module")
def replayed(domain: int, frames: tuple[Path, list[DriveFrame]]) -> Path:
    """What replay, with a points node and the bundled weights, wrote of the street."""
    return replay_street(frames[0], "--points")


@pytest.fixture(scope="module")
def replayed_depth(domain: int, frames: tuple[Path, list[DriveFrame]]) -> Path:
    """The same of its depth images."""
    return replay_street(frames[0], "--points-input", "depth")


def replay_street(drive: Path, *options: str) -> Path:
    out = drive.parent / options[-1].strip("-")
    command = [sys.executable, "-m", "upsnet_ros.cli", "replay", str(drive), "--out", str(out)]
    command += [*options, "--evaluate", "--device", "cpu", "--timeout", "200"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=SECONDS)
    assert done.returncode == 0, done.stderr
    return out


def test_labels_of_points_are_those_of_their_pixels(
    replayed: Path, frames: tuple[Path, list[DriveFrame]]
) -> None:
    with open_bag(replayed / "bag") as bag:
        recorded: dict[str, list] = {topic.name: [] for topic in bag.topics}
        for record in bag:
            recorded[record.topic].append(record.message)
    clouds, labels, masks = (
        recorded[f"/panoptic/{name}"] for name in ("points", "labels", "unknown_mask")
    )
    assert len(clouds) == len(labels) == len(masks) == len(frames[1]) == 2
    assert len(recorded["/panoptic/objects"]) == len(recorded["/panoptic/unknown_points"]) == 2
    for cloud, unknown in zip(clouds, recorded["/panoptic/unknown_points"], strict=True):
        assert unknown.width == (scene.records(cloud)["unknown"] != 0).sum()
    agreeing = 0
    for frame, cloud, image, mask in zip(frames[1], clouds, labels, masks, strict=True):
        assert frame.points is not None
        swept = frame.points.swept
        found = scene.records(cloud)
        assert len(found) == len(swept.points) > 2000
        assert np.array_equal(found["ring"], swept.points["ring"])
        values = plane(image).reshape(-1)[swept.pixels].astype(int)
        unknown = plane(mask).reshape(-1)[swept.pixels] != 0
        classes = np.where(unknown, 0, np.where(values >= 1000, values // 1000, values))
        # Those that the occlusion test left without a label have none at all.
        labelled = (found["class_id"] != 0) | (found["unknown"] != 0)
        assert labelled.mean() > 0.85
        assert (found["class_id"][labelled] == classes[labelled]).all()
        assert (found["unknown"][labelled] == unknown[labelled]).all()
        # Where the image's labels agree with the truth, so do the points'.
        truth = swept.truth["class_id"]
        right = labelled & ~unknown & (classes == truth) & (truth != 0)
        assert (found["class_id"][right] == truth[right]).all()
        things = right & (values >= 1000)
        assert (found["instance_id"][things] == values[things] % 1000).all()
        agreeing += int(right.sum())
    assert agreeing > 1000, "the bundled weights know roads"


def test_the_evaluation_counts_the_same_points(
    replayed: Path, frames: tuple[Path, list[DriveFrame]]
) -> None:
    report = json.loads((replayed / "evaluation.json").read_text())
    points = report["points"]
    truths = [frame.points.swept.truth for frame in frames[1] if frame.points is not None]
    assert points["points"] == sum(
        int(((truth["class_id"] != 0) | (truth["unknown"] != 0)).sum()) for truth in truths
    )
    assert 0.85 < points["coverage"] <= 1.0
    assert points["IoU"]["road"] > 0.1
    assert json.loads((replayed / "replay.json").read_text())["answered"] == 2


def test_points_of_depth_have_the_labels_of_their_pixels(
    replayed_depth: Path, frames: tuple[Path, list[DriveFrame]]
) -> None:
    with open_bag(replayed_depth / "bag") as bag:
        recorded: dict[str, list] = {topic.name: [] for topic in bag.topics}
        for record in bag:
            recorded[record.topic].append(record.message)
    names = ("points", "labels", "unknown_mask")
    messages = zip(*(recorded[f"/panoptic/{name}"] for name in names), strict=True)
    for frame, (cloud, image, mask) in zip(frames[1], messages, strict=True):
        assert frame.points is not None
        assert (cloud.height, cloud.width) == SIZE
        depth, found = frame.points.depth.reshape(-1), scene.records(cloud)
        seen = np.isfinite(depth)
        assert (np.isfinite(found["z"]) == seen).all()
        assert (found["z"][seen] == depth[seen]).all()
        values = plane(image).reshape(-1).astype(int)
        unknown = plane(mask).reshape(-1) != 0
        classes = np.where(unknown, 0, np.where(values >= 1000, values // 1000, values))
        assert (found["class_id"][seen] == classes[seen]).all()
        assert (found["unknown"][seen] == unknown[seen]).all()
    report = json.loads((replayed_depth / "evaluation.json").read_text())
    truths = [frame.truth for frame in frames[1] if frame.truth is not None]
    depths = [frame.points.depth for frame in frames[1] if frame.points is not None]
    assert report["points"]["points"] == sum(
        int((np.isfinite(depth) & ((truth.labels != 0) | truth.unknown)).sum())
        for truth, depth in zip(truths, depths, strict=True)
    )
    assert report["points"]["IoU"]["road"] > 0.1
    page = (replayed_depth / "report.html").read_text()
    assert page.count('"truthPoints": "data:image/png') == 2
