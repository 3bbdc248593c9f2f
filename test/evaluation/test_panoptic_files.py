from __future__ import annotations

import json

import cv2
import numpy as np
import pytest
from cityscapesscripts.evaluation import evalPanopticSemanticLabeling

from upsnet_ros.datasets.taxonomy import CITYSCAPES
from upsnet_ros.evaluation.errors import EvaluationError
from upsnet_ros.evaluation.evaluation import evaluate
from upsnet_ros.evaluation.maps import map_of_labels
from upsnet_ros.evaluation.panoptic_files import Extras, PanopticFiles
from upsnet_ros.evaluation.png import read_segment_ids


@pytest.fixture
def files(random_pairs, write_pairs, tmp_path):
    return write_pairs(tmp_path, list(random_pairs(12, 6)))


def _open(files, **options) -> PanopticFiles:
    return PanopticFiles(
        truth_json=files.gt_json,
        truth_folder=files.gt_dir,
        prediction_json=files.pred_json,
        prediction_folder=files.pred_dir,
        **options,
    )


def _change(path, edit) -> None:
    content = json.loads(path.read_text())
    edit(content)
    path.write_text(json.dumps(content))


def test_maps_come_back_as_written(files, random_pairs) -> None:
    frames = _open(files)
    pairs = list(random_pairs(12, 6))
    assert len(frames) == len(pairs)
    for index, pair in enumerate(pairs):
        frame = frames[index]
        assert frame.name == pair.name
        for side in ("truth", "prediction"):
            read, written = getattr(frame, side), getattr(pair, side)
            np.testing.assert_array_equal(read.pixels, written.pixels)
            np.testing.assert_array_equal(read.segments.ids, written.segments.ids)
            np.testing.assert_array_equal(read.segments.crowd, written.segments.crowd)


def test_missing_frames_are_named_on_both_sides(files) -> None:
    _change(files.pred_json, lambda content: content["annotations"].pop(3))
    name = files.truth[3]["image_id"]
    with pytest.raises(EvaluationError, match=f"prediction.json lacks frames of the truth: {name}"):
        _open(files)
    frames = _open(files, allow_missing=True)
    assert len(frames) == 11
    assert name in frames.notes[0]

    _change(files.gt_json, lambda content: content["annotations"].pop(0))
    other = files.truth[0]["image_id"]
    with pytest.raises(EvaluationError, match="lacks frames"):
        _open(files)
    frames = _open(files, allow_missing=True)
    assert len(frames) == 10
    assert any(other in note for note in frames.notes)


def test_a_missing_png_is_named(files) -> None:
    (files.pred_dir / files.prediction[2]["file_name"]).unlink()
    name = files.truth[2]["image_id"]
    with pytest.raises(EvaluationError, match=f"prediction lacks files: {name}"):
        _open(files)
    assert len(_open(files, allow_missing=True)) == 11


def test_unknown_categories_are_named(files) -> None:
    def edit(content):
        row = next(row for row in content["annotations"] if row["segments_info"])
        row["segments_info"][0]["category_id"] = 777

    _change(files.pred_json, edit)
    with pytest.raises(EvaluationError, match=r"prediction\.json: unknown categories: 777"):
        _open(files, allow_missing=True)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "is no JSON file"),
        ("[]", "has no list of annotations"),
        ('{"annotations": [{"image_id": "a"}]}', "an annotation needs image_id, file_name"),
    ],
)
def test_other_files_are_refused(files, text, message) -> None:
    files.pred_json.write_text(text)
    with pytest.raises(EvaluationError, match=message):
        _open(files)


def test_a_frame_may_not_occur_twice(files) -> None:
    _change(
        files.pred_json, lambda content: content["annotations"].append(content["annotations"][0])
    )
    with pytest.raises(EvaluationError, match="two annotations of frame"):
        _open(files)


def test_annotated_areas_are_trusted_as_the_official_tools_do(files, tmp_path) -> None:
    def enlarge(content):
        for row in content["annotations"]:
            for info in row["segments_info"]:
                info["area"] = round(info["area"] * 1.3)

    _change(files.gt_json, enlarge)
    frames = _open(files)
    ours = evaluate((frames[index] for index in range(len(frames))), frames.categories)
    theirs = evalPanopticSemanticLabeling.evaluatePanoptic(
        files.gt_json, files.gt_dir, files.pred_json, files.pred_dir, tmp_path / "result.json"
    )
    assert ours.pq == pytest.approx(theirs["All"]["pq"], abs=1e-9)
    assert ours.pq > 0


def test_impossible_areas_are_named(files) -> None:
    def empty(content):
        for row in content["annotations"]:
            for info in row["segments_info"]:
                info["area"] = 0

    _change(files.gt_json, empty)
    frames = _open(files)
    with pytest.raises(EvaluationError, match=r"pixels, but its annotation says 0"):
        evaluate((frames[index] for index in range(len(frames))), frames.categories)


def test_masks_belong_to_frames_by_name(files, tmp_path) -> None:
    masks = tmp_path / "masks"
    masks.mkdir()
    for row in files.truth:
        shape = cv2.imread(str(files.gt_dir / row["file_name"])).shape[:2]
        mask = np.zeros(shape, np.uint8)
        mask[0, 0] = 255
        cv2.imwrite(str(masks / f"{row['image_id']}_gtFine_unknownMask.png"), mask)
        cv2.imwrite(str(masks / f"{row['image_id']}_gtFine_labelIds.png"), mask * 0)
    frames = _open(files, extras=Extras(truth_unknown=masks))
    assert frames[0].truth_unknown.sum() == 1
    assert frames[0].prediction_unknown is None
    next(masks.glob("*_unknownMask.png")).unlink()
    frames = _open(files, extras=Extras(truth_unknown=masks))
    with pytest.raises(EvaluationError, match=f"there is no file for it in {masks}"):
        [frames[index] for index in range(len(frames))]


def test_pngs_of_other_forms_are_refused(tmp_path) -> None:
    path = tmp_path / "a.png"
    with pytest.raises(EvaluationError, match="No such file"):
        read_segment_ids(path)
    cv2.imwrite(str(path), np.zeros((4, 4), np.uint8))
    with pytest.raises(EvaluationError, match="no RGB PNG of 8 bits"):
        read_segment_ids(path)
    cv2.imwrite(str(path), np.random.default_rng(0).integers(0, 256, (40, 40, 3)).astype(np.uint8))
    path.write_bytes(path.read_bytes()[:-500])
    with pytest.raises(EvaluationError, match="cannot be read"):
        read_segment_ids(path)


def test_label_images_become_maps() -> None:
    labels = np.array([[7, 26, 26000, 26001, 4, 0]])
    side = map_of_labels(labels, CITYSCAPES)
    assert side.pixels.tolist() == [[7, 26, 26000, 26001, 0, 0]]
    assert side.segments.classes.tolist() == [7, 26, 26, 26]
    assert side.segments.crowd.tolist() == [False, True, False, False]
