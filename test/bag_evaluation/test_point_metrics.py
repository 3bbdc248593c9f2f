"""Labelled points in bags, beside their ground truth."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from upsnet_ros.bag_evaluation.scoring import BagTask, evaluate_bag
from upsnet_ros.bag_evaluation.tasks import decode, encode
from upsnet_ros.bags.index import Role, index_bag
from upsnet_ros.bags.make import BagJob, ScenesDrive, make_bag
from upsnet_ros.bags.messages import IMAGE, POINT_CLOUD, Messages
from upsnet_ros.bags.reader import open_bag
from upsnet_ros.bags.writer import BagWriter
from upsnet_ros.errors import EvaluationError
from upsnet_ros.evaluation.report import Page, headline, headline_lines, points_table, to_json
from upsnet_ros.messages.images import plane
from upsnet_ros.synthetic.lidar import POINT, TRUTH_FIELDS

FRAMES = 4


@pytest.fixture(scope="module")
def drive(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("points") / "drive"
    scenes = ScenesDrive(
        split="val", seed=7, sequences=1, first=0, frames=FRAMES, size=(96, 192), points=True
    )
    list(make_bag(scenes, BagJob(path=path)))
    return path


def answered(drive: Path, path: Path, change=lambda points: points, *, frames=FRAMES) -> Path:
    """A bag of results: the labels of the truth, and its points as ``change`` makes them."""
    roles = {"/ground_truth/labels", "/ground_truth/unknown_mask", "/ground_truth/points"}
    with open_bag(drive) as bag, BagWriter(path=path) as out:
        messages = Messages(out.types, "camera")
        for record in bag:
            if record.topic not in roles:
                continue
            topic = record.topic.replace("/ground_truth", "/panoptic")
            if record.msgtype == IMAGE:
                out.write(topic, record.raw, record.time_ns, IMAGE)
                continue
            if record.time_ns >= 1_700_000_000 * 10**9 + frames * 10**8:
                continue
            kind = np.dtype(POINT.descr + TRUTH_FIELDS.descr)
            points = change(np.frombuffer(record.message.data.tobytes(), kind).copy())
            cloud = messages.cloud(points, "lidar", record.time_ns)
            out.write(topic, cloud, record.time_ns, POINT_CLOUD)
    return path


def figures(outputs: Path, drive: Path) -> dict:
    part = evaluate_bag(BagTask(bag=outputs, truth=drive))
    # As a worker sends it.
    report = to_json(decode(encode(part)).result())
    return json.loads(json.dumps(report)) | {"notes": part.notes}


def test_the_points_of_the_truth_are_perfect(drive: Path, tmp_path: Path) -> None:
    report = figures(answered(drive, tmp_path / "outputs"), drive)
    points = report["points"]
    assert points["mIoU"] == points["coverage"] == 1.0
    assert points["unknown_recall"] in (1.0, None)
    assert points["points"] > 1000
    assert (
        sum(row["known_points"] + row["unknown_points"] for row in points["distances"])
        == (points["points"])
    )
    assert {row["known_points_lost"] for row in points["distances"]} <= {0.0, None}
    assert not report["notes"]


def test_pictures_for_a_report_show_truth_and_prediction_from_above(
    drive: Path, tmp_path: Path
) -> None:
    def lost(points: np.ndarray) -> np.ndarray:
        points["class_id"] = points["unknown"] = 0
        return points

    right, wrong = (
        decode(encode(evaluate_bag(BagTask(bag=bag, truth=drive, pictures=9)))).snapshots(9)
        for bag in (
            answered(drive, tmp_path / "right", frames=3),
            answered(drive, tmp_path / "lost", lost, frames=3),
        )
    )
    for same, other in zip(right[:3], wrong[:3], strict=True):
        assert same.truth_points == same.prediction_points == other.truth_points
        assert same.truth_points is not None
        assert other.prediction_points not in (None, same.truth_points)
    assert right[3].truth_points is right[3].prediction_points is None


def test_lost_labels_lower_the_coverage_and_missing_clouds_are_told(
    drive: Path, tmp_path: Path
) -> None:
    def half(points: np.ndarray) -> np.ndarray:
        points["class_id"][::2] = 0
        points["unknown"] = 0
        return points

    report = figures(answered(drive, tmp_path / "outputs", half, frames=3), drive)
    assert 0.4 < report["points"]["coverage"] < 0.6
    assert report["points"]["unknown_recall"] in (0.0, None)
    assert any("1 of 4 clouds" in note for note in report["notes"])


def test_points_of_another_cloud_are_an_error(drive: Path, tmp_path: Path) -> None:
    def moved(points: np.ndarray) -> np.ndarray:
        points["x"] += 1
        return points

    with pytest.raises(EvaluationError, match="other coordinates"):
        figures(answered(drive, tmp_path / "moved", moved), drive)
    with pytest.raises(EvaluationError, match="labelled points"):
        figures(answered(drive, tmp_path / "fewer", lambda points: points[1:]), drive)


def test_the_cloud_of_a_lidar_is_not_taken_for_labelled_points(drive: Path) -> None:
    index = index_bag(drive)
    assert index.has(Role.TRUTH_POINTS)
    assert not index.has(Role.POINTS)
    assert "/camera/depth" not in index.roles


def test_the_report_and_the_table_show_distances(drive: Path, tmp_path: Path) -> None:
    part = evaluate_bag(BagTask(bag=answered(drive, tmp_path / "outputs"), truth=drive))
    result = part.result()
    assert headline(result)["points_mIoU"] == 1.0
    table = points_table(result)
    assert table is not None
    assert table.row_count == 4
    html = Page(title="points", result=result, snapshots=[]).html()
    assert "Labelled points by distance" in html
    assert "Mean IoU of points" in html
    assert "Points with a label" in html


def test_headline_metrics_are_aligned_and_those_of_points_come_last(
    drive: Path, tmp_path: Path
) -> None:
    part = evaluate_bag(BagTask(bag=answered(drive, tmp_path / "outputs"), truth=drive))
    result = part.result()
    assert result.points is not None
    half = np.array([[2, 0, 0, 0], [1, 0, 0, 0]])
    lines = headline_lines(replace(result, points=replace(result.points, unknown=half)))
    found = [re.match(r"(.+?) +(\d+\.\d|\d+|-)(?: |$)", line) for line in lines]
    values = {match[1]: match[2] for match in found if match}
    assert len(values) == len(lines)
    assert len({match.end(2) for match in found if match}) == 1
    assert values["points unknown recall"] == "50.0"
    assert values["points coverage"] != "-"
    of_points = [name.startswith("points ") for name in values]
    assert of_points == sorted(of_points)


def test_without_points_nothing_is_told_of_them(tmp_path: Path) -> None:
    scenes = ScenesDrive(split="val", seed=7, sequences=1, first=0, frames=1, size=(32, 64))
    list(make_bag(scenes, BagJob(path=tmp_path / "drive")))
    outputs = answered(tmp_path / "drive", tmp_path / "outputs")
    report = figures(outputs, tmp_path / "drive")
    assert "points" not in report
    assert "points_mIoU" not in report


DEPTH_POINT = np.dtype(
    [("x", "<f4"), ("y", "<f4"), ("z", "<f4"), ("class_id", "<u2"), ("unknown", "u1"), ("", "u1")]
)


def answered_depth(drive: Path, path: Path, *, organized: bool, right: bool = True) -> Path:
    """A bag of results of the truth, with a point for each pixel; NaN where there is no depth."""
    with open_bag(drive) as bag, BagWriter(path=path) as out:
        messages = Messages(out.types, "camera")
        at: dict[str, np.ndarray] = {}
        for record in bag:
            if record.topic == "/camera/depth":
                at[record.topic] = record.message.data.view("<f4").reshape(96, 192)
            elif record.topic.startswith("/ground_truth") and record.msgtype == IMAGE:
                at[record.topic] = plane(record.message)
            if record.topic in ("/ground_truth/labels", "/ground_truth/unknown_mask"):
                topic = record.topic.replace("/ground_truth", "/panoptic")
                out.write(topic, record.raw, record.time_ns, IMAGE)
            if record.topic != "/ground_truth/unknown_mask":
                continue
            depth, labels = at["/camera/depth"], at["/ground_truth/labels"].astype(int)
            points = np.zeros(depth.size, DEPTH_POINT)
            seen = np.isfinite(depth.reshape(-1))
            for axis in "xyz":
                points[axis] = np.where(seen, depth.reshape(-1), np.nan)
            if right:
                classes = np.where(labels >= 1000, labels // 1000, labels).reshape(-1)
                points["class_id"] = np.where(seen, classes, 0)
                points["unknown"] = seen & (at["/ground_truth/unknown_mask"].reshape(-1) != 0)
            cloud = messages.cloud(points, "camera", record.time_ns)
            if organized:
                cloud.height, cloud.width = depth.shape
                cloud.row_step = cloud.point_step * cloud.width
            out.write("/panoptic/points", cloud, record.time_ns, POINT_CLOUD)
    return path


def test_points_of_depth_images_have_the_truth_of_their_pixels(drive: Path, tmp_path: Path) -> None:
    report = figures(answered_depth(drive, tmp_path / "right", organized=True), drive)
    points = report["points"]
    assert points["mIoU"] == points["coverage"] == 1.0
    assert points["unknown_recall"] in (1.0, None)
    assert points["IoU"]["sky"] is None, "it has no depth"
    assert not report["notes"]
    sizes = np.prod((96, 192)) * FRAMES
    assert 0.3 * sizes < points["points"] < sizes
    wrong = figures(answered_depth(drive, tmp_path / "wrong", organized=True, right=False), drive)
    assert wrong["points"]["coverage"] == 0.0
    assert wrong["points"]["points"] == points["points"]


def test_points_of_depth_images_are_shown_from_above(drive: Path, tmp_path: Path) -> None:
    bag = answered_depth(drive, tmp_path / "right", organized=True)
    for shot in evaluate_bag(BagTask(bag=bag, truth=drive, pictures=9)).snapshots(9):
        assert shot.truth_points is not None
        assert shot.truth_points == shot.prediction_points


def test_points_of_depth_images_that_are_not_organized_are_told(
    drive: Path, tmp_path: Path
) -> None:
    report = figures(answered_depth(drive, tmp_path / "row", organized=False), drive)
    assert "points" not in report
    (note,) = report["notes"]
    assert f"{FRAMES} clouds" in note
    assert "--organized" in note
