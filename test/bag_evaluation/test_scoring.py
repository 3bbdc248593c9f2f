"""Frames of bags are evaluated exactly as those of files."""

from __future__ import annotations

import pickle
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from bag_messages import IMAGE, make_image
from output_bag import write_outputs

from upsnet_ros import Predictor
from upsnet_ros.bag_evaluation.scoring import BagFrames, BagTask, evaluate_bag
from upsnet_ros.bag_evaluation.workers import evaluate_bags
from upsnet_ros.bags.make import BagJob, ScenesDrive, make_bag
from upsnet_ros.bags.messages import Messages
from upsnet_ros.bags.reader import open_bag
from upsnet_ros.bags.writer import BagWriter
from upsnet_ros.datasets.taxonomy import CITYSCAPES, COCO
from upsnet_ros.errors import EvaluationError
from upsnet_ros.evaluation.datasets import SequenceTrackers, evaluate_dataset, open_dataset
from upsnet_ros.evaluation.metrics import EvaluationResult, Metrics
from upsnet_ros.evaluation.report import to_json
from upsnet_ros.evaluation.run import PartialResult
from upsnet_ros.inference.frame import PanopticFrame
from upsnet_ros.messages.images import to_bgr
from upsnet_ros.synthetic.dataset import SceneJob, write_scenes

SIZE = (64, 128)
FRAMES = 3
METRICS = Metrics(boundary=True, instances=True)
START = 1_700_000_000 * 10**9


@pytest.fixture(scope="module")
def predictor() -> Predictor:
    return Predictor(
        None,
        variant="cityscapes-r18",
        allow_random_weights=True,
        scale=64,
        score_threshold=0.1,  # random weights are not sure of much
        unknown_score=True,
    )


@pytest.fixture(scope="module")
def drive(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("bags") / "drive"
    scenes = ScenesDrive(split="val", seed=3, sequences=2, first=0, frames=FRAMES, size=SIZE)
    list(make_bag(scenes, BagJob(path=path)))
    return path


@pytest.fixture(scope="module")
def answers(drive: Path, predictor: Predictor) -> dict[int, PanopticFrame]:
    with open_bag(drive, topics=["/camera/image_raw"]) as bag:
        return {record.time_ns: predictor(to_bgr(record.message).copy()) for record in bag}


@pytest.fixture(scope="module")
def outputs(drive: Path, answers: dict[int, PanopticFrame]) -> Path:
    return write_outputs(drive.parent / "outputs", answers)


@pytest.fixture(scope="module")
def from_files(tmp_path_factory: pytest.TempPathFactory, predictor: Predictor) -> dict:
    root = tmp_path_factory.mktemp("files")
    job = SceneJob(out=root, split="val", seed=3, sequences=2, length=FRAMES, size=SIZE)
    list(write_scenes(job))
    dataset = open_dataset("cityscapes", root, "val")
    return figures(evaluate_dataset(dataset, predictor, metrics=METRICS))


def figures(result: EvaluationResult) -> dict:
    return to_json(result)


def outputs_task(outputs: Path, drive: Path, **options) -> BagTask:
    return BagTask(bag=outputs, truth=drive, metrics=METRICS, **options)


def test_a_model_on_a_bag_is_evaluated_as_on_files(drive, predictor, from_files):
    part = evaluate_bag(BagTask(bag=drive, metrics=METRICS), predictor)
    assert figures(part.result()) == from_files
    assert part.notes == ()
    assert from_files["sequences"] == 2
    assert from_files["unknown"]["unknown_pixels"] > 0


def test_recorded_outputs_are_evaluated_as_the_model(outputs, drive, from_files):
    part = evaluate_bag(outputs_task(outputs, drive))
    assert figures(part.result()) == from_files


def test_tracked_outputs_are_evaluated_as_a_tracked_model(drive, answers, predictor, tmp_path):
    metrics = Metrics(video=True)
    expected = evaluate_bag(BagTask(bag=drive, metrics=metrics), predictor).result()
    trackers = SequenceTrackers()
    tracked = {
        stamp: trackers(frame, str(place // FRAMES), place % FRAMES)
        for place, (stamp, frame) in enumerate(sorted(answers.items()))
    }
    path = write_outputs(tmp_path / "tracked", tracked)
    result = evaluate_bag(BagTask(bag=path, truth=drive, metrics=metrics)).result()
    assert figures(result) == figures(expected)
    assert "video" in figures(result)
    path = write_outputs(tmp_path / "untracked", answers)
    with pytest.raises(EvaluationError, match="without a track id"):
        evaluate_bag(BagTask(bag=path, truth=drive, metrics=metrics))


def test_outputs_without_instances_are_evaluated_by_their_labels(
    answers, drive, from_files, tmp_path
):
    path = write_outputs(tmp_path / "outputs", answers, instances=False)
    result = evaluate_bag(BagTask(bag=path, truth=drive)).result()
    assert figures(result)["frames"] == from_files["frames"]
    with pytest.raises(EvaluationError, match="no scores"):
        evaluate_bag(outputs_task(path, drive))


def test_one_bag_with_truth_and_outputs_out_of_order(outputs, drive, from_files, tmp_path):
    records = []
    for path in (outputs, drive):
        with open_bag(path) as bag:
            records += [(r.topic, r.raw, r.time_ns, r.msgtype) for r in bag]
    np.random.default_rng(0).shuffle(records)  # type: ignore[arg-type]
    with BagWriter(path=tmp_path / "both") as bag:
        for place, (topic, raw, _, msgtype) in enumerate(records):
            bag.write(topic, raw, START + place, msgtype)
    part = evaluate_bag(BagTask(bag=tmp_path / "both", metrics=METRICS))
    assert figures(part.result()) == from_files
    assert part.series == ()  # these arrivals tell nothing


def test_parts_merge_exactly_however_they_are_grouped(outputs, drive, from_files, tmp_path):
    whole = evaluate_bag(outputs_task(outputs, drive, pictures=20))
    parts = []
    for street in range(2):
        path = tmp_path / f"part{street}"
        with open_bag(outputs) as bag, BagWriter(path=path) as out:
            for record in bag:
                later = (record.time_ns - START) > 10**9
                if later == bool(street) or record.topic.endswith("label_info"):
                    out.write(record.topic, record.raw, record.time_ns, record.msgtype)
        task = outputs_task(path, drive, allow_missing=True, pictures=20)
        parts.append(pickle.loads(pickle.dumps(evaluate_bag(pickle.loads(pickle.dumps(task))))))
    assert [len(part.frames) for part in parts] == [FRAMES, FRAMES]
    merged = PartialResult.merged(parts[::-1])
    assert figures(merged.result()) == figures(whole.result()) == from_files
    assert len(merged.snapshots(20)) == len(whole.snapshots(20)) == 2 * FRAMES
    assert 2 <= len(merged.snapshots(4)) <= 4
    assert sum("lacks labels of frames" in note for note in merged.notes) == 2


def test_several_bags_in_processes(outputs, drive):
    tasks = [outputs_task(outputs, drive, prefix=name) for name in ("a", "b")]
    parts = list(evaluate_bags(tasks, processes=2))
    result = PartialResult.merged(parts).result()
    assert len({frame.name for frame in result.frames}) == 4 * FRAMES
    assert {frame.sequence[:2] for frame in result.frames} == {"a/", "b/"}
    single = evaluate_bag(tasks[0]).result()
    assert result.pq == single.pq
    assert (result.counts.tp == 2 * single.counts.tp).all()


def test_parts_of_other_classes_or_none_are_refused(outputs, drive):
    part = evaluate_bag(outputs_task(outputs, drive))
    other = replace(part, categories=type(part.categories).from_taxonomy(COCO))
    with pytest.raises(EvaluationError, match="different classes"):
        PartialResult.merged([part, other])
    with pytest.raises(EvaluationError, match="nothing to evaluate"):
        PartialResult.merged([])


def test_latency_and_drops(answers, drive, tmp_path):
    kept = {stamp: answers[stamp] for stamp in sorted(answers)[1:]}
    path = write_outputs(tmp_path / "outputs", kept, delay_ns=70_000_000)
    frames = BagFrames(outputs_task(path, drive, allow_missing=True))
    (series,) = frames.series
    assert series.title == "Latency from image to labels, both as received by the recorder, ms"
    assert list(series.values) == [70.0] * (2 * FRAMES - 1)
    assert list(series.marks) == [0.0]
    assert list(series.times)[:2] == [0.1, 0.2]
    assert f"1 of {2 * FRAMES} images have no result in {path}" in frames.notes


def test_missing_frames_are_named(answers, drive, tmp_path):
    kept = {stamp: answers[stamp] for stamp in sorted(answers)[1:]}
    path = write_outputs(tmp_path / "outputs", kept)
    with pytest.raises(EvaluationError, match=r"labels of .*drawn3_000000_000000 \("):
        evaluate_bag(outputs_task(path, drive))
    part = evaluate_bag(outputs_task(path, drive, allow_missing=True))
    assert len(part.frames) == 2 * FRAMES - 1
    assert any("lacks unknown_mask of frames" in note for note in part.notes)


def test_frames_without_truth_are_told(answers, drive, tmp_path):
    more = {**answers, START - 10**8: answers[START]}
    path = write_outputs(tmp_path / "outputs", more)
    part = evaluate_bag(outputs_task(path, drive))
    assert part.notes == (f"1 frames of {path} have no ground truth: not evaluated",)


def test_ids_of_no_class_are_named(answers, drive, tmp_path):
    labels = np.where(answers[START].labels == 0, 40, answers[START].labels)
    labels[:4] = 35_001
    spoilt = {**answers, START: replace(answers[START], labels=labels.astype(np.int32))}
    path = write_outputs(tmp_path / "outputs", spoilt, instances=False)
    with pytest.raises(EvaluationError, match=r"drawn3_000000_000000: .*35001"):
        evaluate_bag(BagTask(bag=path, truth=drive))


def test_sizes_that_differ_are_told(answers, drive, tmp_path):
    frame = answers[START]
    small = replace(frame, labels=frame.labels[:-1], unknown=frame.unknown[:-1])
    path = write_outputs(tmp_path / "outputs", {**answers, START: small}, instances=False)
    with pytest.raises(EvaluationError, match=r"drawn3_000000_000000: .*128x64"):
        evaluate_bag(BagTask(bag=path, truth=drive))


def test_what_has_nothing_in_common(answers, outputs, drive, tmp_path):
    other = write_outputs(tmp_path / "other", answers, frame_id="left")
    with pytest.raises(EvaluationError, match="frame_id is 'left'"):
        evaluate_bag(outputs_task(other, drive))
    later = write_outputs(tmp_path / "later", {START + 5: answers[START]})
    with pytest.raises(EvaluationError, match=r"camera@1700000000\.000000005 and"):
        evaluate_bag(outputs_task(later, drive))
    with pytest.raises(EvaluationError, match="has no ground truth"):
        evaluate_bag(BagTask(bag=outputs))
    with pytest.raises(EvaluationError, match="no topic with labels"):
        evaluate_bag(BagTask(bag=drive))
    with pytest.raises(EvaluationError, match="there is no bag"):
        evaluate_bag(BagTask(bag=tmp_path / "none"))


def test_two_cameras_with_the_same_stamps(answers, drive, tmp_path):
    truth = tmp_path / "truth"
    with open_bag(drive, topics=["/ground_truth/labels"]) as bag, BagWriter(path=truth) as out:
        for record in bag:
            for camera in ("left", "right"):
                record.message.header.frame_id = camera
                topic = f"/ground_truth/{camera}/labels"
                out.write(topic, record.message, record.time_ns, record.msgtype)
    both = tmp_path / "both"
    with BagWriter(path=both) as out:
        for camera in ("left", "right"):
            space = f"/panoptic/{camera}"
            write_outputs(tmp_path / camera, answers, frame_id=camera, space=space)
            with open_bag(tmp_path / camera) as bag:
                for record in bag:
                    out.write(record.topic, record.raw, record.time_ns, record.msgtype)
    result = evaluate_bag(BagTask(bag=both, truth=truth)).result()
    assert {frame.sequence for frame in result.frames} == {"truth/left", "truth/right"}
    assert [frame.number for frame in result.frames][:4] == [0, 1, 2, 12]
    # Without frame_ids of their own they cannot be told apart.
    with BagWriter(path=tmp_path / "twice") as out:
        for topic in ("/a/labels", "/b/labels"):
            out.write(topic, make_image(START), START, IMAGE)
    with pytest.raises(EvaluationError, match="twice, on /a/labels and /b/labels"):
        evaluate_bag(BagTask(bag=tmp_path / "twice", truth=truth))


def test_classes_have_to_be_named_and_to_agree(outputs, drive, tmp_path):
    truth = tmp_path / "truth"
    with open_bag(drive) as bag, BagWriter(path=truth) as out:
        messages = Messages(out.types, "camera")
        info = messages.label_info(COCO, START)
        out.write("/ground_truth/label_info", info, START, "upsnet_ros/msg/PanopticLabelInfo")
        for record in bag.select(["/ground_truth/labels"]):
            out.write(record.topic, record.raw, record.time_ns, record.msgtype)
    with pytest.raises(EvaluationError, match="classes of coco"):
        evaluate_bag(BagTask(bag=outputs, truth=truth))
    bare = tmp_path / "bare"
    with open_bag(drive) as bag, BagWriter(path=bare) as out:
        for record in bag.select(["/ground_truth/labels"]):
            out.write(record.topic, record.raw, record.time_ns, record.msgtype)
            out.write("/labels", record.raw, record.time_ns, record.msgtype)
    with pytest.raises(EvaluationError, match="pass --taxonomy"):
        evaluate_bag(BagTask(bag=bare))
    assert evaluate_bag(BagTask(bag=bare, taxonomy=CITYSCAPES)).result().pq == 1.0


def test_a_limit_spreads_the_frames(drive, predictor):
    frames = BagFrames(BagTask(bag=drive, limit=2), predictor)
    assert [frame.name[-13:] for frame in frames] == ["000000_000000", "000001_000000"]
