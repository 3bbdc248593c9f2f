"""A model on a Cityscapes root: the same figures as through files and cityscapesscripts."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
from cityscapesscripts.preparation import createPanopticImgs
from official_panoptic import official_panoptic_quality

from upsnet_ros import Predictor
from upsnet_ros.datasets.base import Bitmask, Sample, Thing
from upsnet_ros.datasets.taxonomy import CITYSCAPES
from upsnet_ros.errors import EvaluationError
from upsnet_ros.evaluation.datasets import (
    ModelFrames,
    evaluate_dataset,
    map_from_sample,
    open_dataset,
)
from upsnet_ros.evaluation.maps import frame_name, sequence_position
from upsnet_ros.evaluation.metrics import Metrics, summarise
from upsnet_ros.evaluation.panoptic_files import Extras, PanopticFiles
from upsnet_ros.evaluation.report import headline
from upsnet_ros.evaluation.run import Evaluator
from upsnet_ros.inference.frame import Instance, PanopticFrame, StuffSegment
from upsnet_ros.synthetic.dataset import DrivingScenes

SCENES = DrivingScenes("val", 0, 3, (128, 256))


@pytest.fixture(scope="module")
def predictor() -> Predictor:
    return Predictor(
        None,
        variant="cityscapes-r18",
        allow_random_weights=True,
        scale=128,
        score_threshold=0.1,  # random weights are not sure of much
        unknown_score=True,
        semantic=True,
    )


@pytest.fixture(scope="module")
def answers(predictor: Predictor) -> dict[str, PanopticFrame]:
    return {f"aachen_{n % 2:06d}_{n:06d}": predictor(scene.image) for n, scene in enumerate(SCENES)}


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory, answers: dict[str, PanopticFrame]) -> Path:
    """Street frames; their truth are the model's own answers, spoilt."""
    folder = tmp_path_factory.mktemp("cityscapes")
    truth, images = folder / "gtFine" / "val" / "aachen", folder / "leftImg8bit" / "val" / "aachen"
    truth.mkdir(parents=True)
    images.mkdir(parents=True)
    rng = np.random.default_rng(0)
    for scene, (name, answer) in zip(SCENES, answers.items(), strict=True):
        assert cv2.imwrite(str(images / f"{name}_leftImg8bit.png"), scene.image)
        labels = np.roll(answer.labels, 2, axis=1)
        segments = np.unique(labels)
        for spoilt, new in zip(rng.choice(segments, 4), (0, 4, 26, 26012), strict=True):
            labels[labels == spoilt] = new  # void, a void class, a crowd of cars, a car
        labels[labels >= 1000] -= 1  # Cityscapes counts from 0
        assert cv2.imwrite(str(truth / f"{name}_gtFine_instanceIds.png"), labels.astype(np.uint16))
        unknown = (labels == 0).astype(np.uint8) * 255
        assert cv2.imwrite(str(truth / f"{name}_gtFine_unknownMask.png"), unknown)
    return folder


@pytest.fixture(scope="module")
def files(
    tmp_path_factory: pytest.TempPathFactory, root: Path, answers: dict[str, PanopticFrame]
) -> dict[str, Path]:
    """Truth as cityscapesscripts converts it, and the answers in the same form."""
    folder = tmp_path_factory.mktemp("panoptic")
    createPanopticImgs.convert2panoptic(str(root / "gtFine"), str(folder), setNames=["val"])
    (folder / "prediction").mkdir()
    (folder / "unknown").mkdir()
    annotations = []
    for name, answer in answers.items():
        ids = answer.labels
        bgr = np.stack([ids >> 16, ids >> 8, ids], axis=-1).astype(np.uint8)
        assert cv2.imwrite(str(folder / "prediction" / f"{name}.png"), bgr)
        mask = answer.unknown.astype(np.uint8) * 255
        assert cv2.imwrite(str(folder / "unknown" / f"{name}.png"), mask)
        infos = [
            {"id": part.id, "category_id": part.class_id, "score": getattr(part, "score", 1.0)}
            for part in (*answer.stuff, *answer.instances)
        ]
        row = {"image_id": name, "file_name": f"{name}.png", "segments_info": infos}
        annotations.append(row)
    (folder / "prediction.json").write_text(json.dumps({"annotations": annotations}))
    return {
        "truth_json": folder / "cityscapes_panoptic_val.json",
        "truth_folder": folder / "cityscapes_panoptic_val",
        "prediction_json": folder / "prediction.json",
        "prediction_folder": folder / "prediction",
    }


@pytest.fixture(scope="module")
def result(root: Path, predictor: Predictor):
    dataset = open_dataset("cityscapes", root, "val")
    return evaluate_dataset(dataset, predictor, metrics=Metrics(boundary=True, instances=True))


def test_equals_cityscapesscripts_on_real_predictions(result, files, tmp_path) -> None:
    theirs = official_panoptic_quality(*files.values(), results=tmp_path / "result.json")
    quality = result.quality
    for name, values in (
        ("All", quality.all),
        ("Things", quality.things),
        ("Stuff", quality.stuff),
    ):
        expected = [theirs[name][key] for key in ("pq", "sq", "rq")]
        np.testing.assert_allclose(values, expected, atol=1e-9)
    assert 0.05 < result.pq < 0.95
    assert result.counts.fp.sum() > 0
    for place, info in enumerate(CITYSCAPES.classes):
        expected_class = [theirs["per_class"][info.id][key] for key in ("pq", "sq", "rq")]
        found = np.nan_to_num(quality.classes[place])  # the official tool says 0 for absent ones
        np.testing.assert_allclose(found, expected_class, atol=1e-9)


def test_files_give_the_same_figures_as_the_model(result, files, root) -> None:
    extras = Extras(
        truth_unknown=root / "gtFine" / "val",
        prediction_unknown=files["prediction_json"].with_name("unknown"),
    )
    frames = PanopticFiles(**files, extras=extras)
    evaluator = Evaluator(metrics=Metrics(boundary=True, instances=True))
    again = summarise((item.measures for item in evaluator.spread(frames, 1)), frames.categories)
    expected = headline(result)
    assert headline(again) == pytest.approx(expected, abs=1e-12)
    assert {
        "PQ",
        "mIoU",
        "boundary_PQ",
        "AP",
        "unknown_recall",
        "known_pixels_lost",
    } <= expected.keys()
    assert 0 < expected["known_pixels_lost"] < 1
    assert result.unknown is not None
    assert result.unknown.scores.keys() == {"unknown_channel", "max_softmax"}


def test_a_missing_image_is_named_and_may_be_left_out(root, predictor, tmp_path) -> None:
    copy = tmp_path / "root"
    (copy / "leftImg8bit" / "val" / "aachen").mkdir(parents=True)
    (copy / "gtFine").symlink_to(root / "gtFine")
    for image in sorted((root / "leftImg8bit" / "val" / "aachen").iterdir())[1:]:
        (copy / "leftImg8bit" / "val" / "aachen" / image.name).symlink_to(image)
    dataset = open_dataset("cityscapes", copy, None)
    with pytest.raises(EvaluationError, match=r"aachen_000000_000000_leftImg8bit\.png"):
        evaluate_dataset(dataset, predictor)
    frames = ModelFrames(dataset, predictor, allow_missing=True)
    names = [frame.name for frame in frames]
    assert names == ["aachen_000000_000002", "aachen_000001_000001"]
    assert "aachen_000000_000000_leftImg8bit.png" in frames.notes[0]


def _sample(*things: tuple[int, int | None, bool]) -> Sample:
    """One column for each thing: its semantic id, number, and whether it is a group."""
    size = (4, 2 * len(things))
    return Sample(
        name="a_000000_000003_leftImg8bit.png",
        image=np.zeros((*size, 3), np.uint8),
        semantic=np.zeros(size, np.uint8),
        things=tuple(
            Thing(
                semantic_id=semantic_id,
                box=(2.0 * place, 0.0, 2.0 * place, 3.0),
                shape=Bitmask(np.ones((4, 1), bool), 2 * place, 0),
                crowd=crowd,
                number=number,
            )
            for place, (semantic_id, number, crowd) in enumerate(things)
        ),
    )


def test_truth_ids_last_where_things_are_numbered() -> None:
    person, car = 11, 13
    numbered = _sample((car, 5, False), (car, None, True), (person, 0, False))
    ids = map_from_sample(numbered, CITYSCAPES).segments
    assert ids.ids.tolist() == [7, 26005, 26, 24000]
    assert ids.crowd.tolist() == [False, False, True, False]
    # COCO has no numbers, and several groups of a class.
    counted = _sample((car, None, False), (car, None, True), (car, None, True), (car, None, False))
    assert map_from_sample(counted, CITYSCAPES).segments.ids.tolist() == [
        7,
        26001,
        26,
        26002,
        26003,
    ]


def test_video_quality_has_a_model_tracked_and_needs_numbered_things() -> None:
    class Dataset(list[Sample]):
        taxonomy = CITYSCAPES

    labels = np.array([[7, 7, 26002, 7]] * 4, np.int32)
    box = (2, 0, 2, 3)
    car = Instance(
        id=26002, class_id=26, class_name="car", score=1, box=box, detection_box=box, area=4
    )
    road = StuffSegment(id=7, class_id=7, class_name="road", box=(0, 0, 3, 3), area=12)
    answer = PanopticFrame(
        labels=labels, unknown=np.zeros((4, 4), bool), instances=(car,), stuff=(road,)
    )
    sample = _sample((11, None, True), (13, 5, False))
    frames = [replace(sample, name=f"a_00000{n // 2}_{n:06d}.png") for n in range(4)]
    result = evaluate_dataset(Dataset(frames), lambda image: answer, metrics=Metrics(video=True))
    assert result.tracks is not None
    assert result.tracks.switches.sum() == 0
    ids = [frame.overlaps.prediction.ids.tolist() for frame in result.frames if frame.overlaps]
    assert ids == [[7, 1001]] * 4  # each sequence counts from 1

    with pytest.raises(EvaluationError, match=r"a_000000_000003.*numbers that persist"):
        evaluate_dataset(
            Dataset([_sample((11, None, False), (13, 5, False))]),
            lambda image: answer,
            metrics=Metrics(video=True),
        )


def test_unknown_kinds_and_empty_roots_are_named(tmp_path) -> None:
    with pytest.raises(ValueError, match="unknown dataset 'kitti'"):
        open_dataset("kitti", tmp_path, None)
    with pytest.raises(ValueError, match="coco needs its folder"):
        open_dataset("coco", None, None)
    with pytest.raises(ValueError, match="split"):
        open_dataset("scenes", None, "minival")
    with pytest.raises(ValueError, match="there are no labels"):
        open_dataset("cityscapes", tmp_path, None)


def test_drawn_scenes_need_no_folder_and_tell_unknown_objects() -> None:
    dataset = open_dataset("scenes", None, "test")
    assert len(dataset) == 100
    sample = dataset[0]
    assert sample.size == (512, 1024)
    assert sample.unknown is not None
    assert sequence_position(frame_name(sample.name))[0] == "test0_000000"
