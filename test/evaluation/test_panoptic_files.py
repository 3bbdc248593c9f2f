from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
from official_panoptic import official_panoptic_quality
from PIL import Image

from upsnet_ros.datasets.taxonomy import CITYSCAPES
from upsnet_ros.errors import EvaluationError
from upsnet_ros.evaluation.maps import PanopticMap, Segments, map_from_labels
from upsnet_ros.evaluation.metrics import EvaluationFrame, EvaluationResult, Metrics, evaluate
from upsnet_ros.evaluation.panoptic_files import Extras, PanopticFiles


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
    with pytest.raises(EvaluationError, match=f"prediction.json lacks .*: {name}"):
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
        ("{", "is not a JSON file"),
        ("[]", "has no list of annotations"),
        ('{"annotations": [{"image_id": "a"}]}', r"annotations\[0\] has no segments_info"),
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
    with pytest.raises(EvaluationError, match="two annotations of image_id"):
        _open(files)


def test_annotated_areas_are_trusted_as_the_official_tools_do(files, tmp_path) -> None:
    def enlarge(content):
        for row in content["annotations"]:
            for info in row["segments_info"]:
                info["area"] = round(info["area"] * 1.3)

    _change(files.gt_json, enlarge)
    frames = _open(files)
    ours = evaluate((frames[index] for index in range(len(frames))), frames.categories)
    theirs = official_panoptic_quality(
        files.gt_json,
        files.gt_dir,
        files.pred_json,
        files.pred_dir,
        results=tmp_path / "result.json",
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
    with pytest.raises(EvaluationError, match=r"annotation says 0"):
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
    with pytest.raises(EvaluationError, match=f"no file for it in {masks}"):
        [frames[index] for index in range(len(frames))]


def _evaluated(frames: PanopticFiles, **metrics) -> EvaluationResult:
    every = (frames[index] for index in range(len(frames)))
    return evaluate(every, frames.categories, Metrics(**metrics))


def _rename(files, side: str, name: Callable[[int], str]) -> None:
    """Give the PNGs of one side other names, and their images numbers for ids."""
    folder, json_file = (
        (files.gt_dir, files.gt_json) if side == "truth" else (files.pred_dir, files.pred_json)
    )
    (folder / "x").mkdir()
    content = json.loads(json_file.read_text())
    for number, (row, image) in enumerate(
        zip(content["annotations"], content["images"], strict=True)
    ):
        image["id"] = row["image_id"] = 100 + number
        new = name(number).replace("FOLDER", str(folder))
        (folder / new).parent.mkdir(parents=True, exist_ok=True)
        (folder / row["file_name"]).rename(folder / new)
        row["file_name"] = new
    json_file.write_text(json.dumps(content))


NAMES = {
    "equal": ("{0}.png", "{0}.png"),
    "predictions with a suffix": ("{0:06d}.png", "{0:06d}_pred.png"),
    "predictions with other numbers": ("{0:06d}.png", "out{1:03d}.png"),
    "clips of equal names": ("clip_{0}/000001.png", "clip_{0}/000001.png"),
    "clips on one side": ("clip_{0}/000001.png", "p{0}.png"),
    "a dot in front": ("./{0}.png", "{0}.png"),
    "two dots on the way": ("x/../{0}.png", "./{0}.png"),
    "endings in upper case": ("{0}.PNG", "{0}.Png"),
    "absolute": ("FOLDER/{0}.png", "FOLDER/deep/{0}.png"),
}


@pytest.mark.parametrize("linked", [False, True])
@pytest.mark.parametrize("names", NAMES)
def test_files_of_any_names_are_joined_as_the_official_tool_joins_them(
    random_pairs, write_pairs, tmp_path, names, linked
) -> None:
    files = write_pairs(tmp_path, list(random_pairs(6, 3)))
    for side, pattern in zip(("truth", "prediction"), NAMES[names], strict=True):
        _rename(files, side, lambda n, pattern=pattern: pattern.format(n, 9 - n))
    if linked:  # whatever lies in the folders is a link to elsewhere
        for folder in (files.gt_dir, files.pred_dir):
            target = folder.rename(folder.with_name(f"{folder.name}_target"))
            folder.mkdir()
            for path in target.iterdir():
                (folder / path.name).symlink_to(path)
    ours = _evaluated(_open(files))
    theirs = official_panoptic_quality(
        files.gt_json,
        files.gt_dir,
        files.pred_json,
        files.pred_dir,
        results=tmp_path / "result.json",
    )
    assert ours.pq == pytest.approx(theirs["All"]["pq"], abs=1e-9)
    assert ours.pq > 0
    assert len({frame.name for frame in ours.frames}) == 6


def test_ids_with_an_alpha_channel_are_as_the_official_tool_reads_them(files, tmp_path) -> None:
    for folder in (files.gt_dir, files.pred_dir):
        for path in folder.iterdir():
            image = Image.open(path).convert("RGBA")
            image.putalpha(100)
            image.save(path)
    theirs = official_panoptic_quality(
        files.gt_json,
        files.gt_dir,
        files.pred_json,
        files.pred_dir,
        results=tmp_path / "result.json",
    )
    assert _evaluated(_open(files)).pq == pytest.approx(theirs["All"]["pq"], abs=1e-9)


def test_files_without_a_common_image_id_are_joined_by_name(files) -> None:
    before = _evaluated(_open(files)).pq

    def renumber(content):
        for number, row in enumerate(content["annotations"]):
            row["image_id"] = number

    _change(files.pred_json, renumber)
    frames = _open(files)
    assert _evaluated(frames).pq == before
    assert "has other image ids than the truth: joined by file names" in frames.notes[0]
    (files.pred_dir / "random-0.png").rename(files.pred_dir / "other.png")
    _change(
        files.pred_json, lambda content: content["annotations"][0].update(file_name="other.png")
    )
    with pytest.raises(EvaluationError, match="lacks frames of the truth: random-0 "):
        _open(files)


def test_files_outside_their_folder_are_refused(files, tmp_path) -> None:
    name = files.prediction[0]["file_name"]
    (files.pred_dir / name).rename(tmp_path / name)
    for outside in (f"../{name}", str(tmp_path / name)):
        _change(
            files.pred_json,
            lambda content, outside=outside: content["annotations"][0].update(file_name=outside),
        )
        with pytest.raises(EvaluationError, match=rf"{name} lies outside {files.pred_dir}"):
            _open(files)
    images = tmp_path / "images"
    images.mkdir()
    _change(files.gt_json, lambda content: content["images"][1].update(file_name="/etc/x.jpg"))
    (tmp_path / name).rename(files.pred_dir / name)
    _change(files.pred_json, lambda content: content["annotations"][0].update(file_name=name))
    with pytest.raises(EvaluationError, match=rf"/etc/x.jpg lies outside {images}"):
        _open(files, extras=Extras(images=images))[1]


VIDEO_NAMES = {
    "Cityscapes": "aachen_000000_{0:06d}",
    "Cityscapes-VPS": "0005_{1:04d}_frankfurt_000000_{0:06d}",
    "KITTI-STEP": "0002_{0:06d}",
    "KITTI-STEP in folders": "0002/{0:06d}",
    "VIPER": "001_{0:05d}",
    "VIPER in folders": "001/001_{0:05d}",
    "BDD": "b1c66a42-6f7d68ca-{0:07d}",
    "BDD in folders": "b1c66a42-6f7d68ca/b1c66a42-6f7d68ca-{0:07d}",
    "frame": "frame_{0:04d}",
    "frame without zeros": "frame{0}",
    "clip": "clip/{0:05d}",
    "clip and frame": "val/clip-3/img{0:05d}",
    "counter": "{0:06d}",
    "number": "{0}",
    "video_id": None,
    "video_id and frame_id": None,
    "video_id of images": None,
    "none": "{2}",
}


def _car_with_a_new_id_in_each_frame(folder: Path, pattern: str | None, style: str, write):
    """A street of 20 frames, and in them one car, which is found under 20 ids."""
    pixels = np.ones((2, 6), np.uint32)
    pixels[:, 4:] = 26001
    pairs = []
    for number in range(20):
        other = np.where(pixels == 1, 1, 500 + number).astype(np.uint32)
        word = "".join(chr(ord("a") + (7 * number + k * k) % 26) for k in range(8))
        name = f"{word}" if pattern is None else pattern.format(number + 3, number, word)
        pairs.append(
            EvaluationFrame(
                name=name.replace("/", "-"),
                truth=PanopticMap(
                    pixels=pixels, segments=Segments.from_arrays([1, 26001], [7, 26])
                ),
                prediction=PanopticMap(
                    pixels=other, segments=Segments.from_arrays([1, 500 + number], [7, 26])
                ),
            )
        )
    files = write(folder, pairs)
    for side in ("truth", "prediction"):
        json_file = folder / f"{side}.json"
        content = json.loads(json_file.read_text())
        for number, (row, image) in enumerate(
            zip(content["annotations"], content["images"], strict=True)
        ):
            if pattern is not None:
                new = f"{pattern.format(number + 3, number, row['image_id'])}.png"
                (folder / side / new).parent.mkdir(parents=True, exist_ok=True)
                (folder / side / row["file_name"]).rename(folder / side / new)
                row["file_name"], row["image_id"] = new, new.removesuffix(".png")
            if style.startswith("video_id"):
                row["image_id"] = image["id"] = 1000 - number
                (image if style.endswith("images") else row)["video_id"] = 4
                if style.endswith("frame_id"):
                    row["frame_id"] = 5 + number
        json_file.write_text(json.dumps(content))
    return files


@pytest.mark.parametrize("numbers", [False, True])
@pytest.mark.parametrize("style", VIDEO_NAMES)
def test_sequences_are_told_by_names_of_any_style(write_pairs, tmp_path, style, numbers) -> None:
    files = _car_with_a_new_id_in_each_frame(tmp_path, VIDEO_NAMES[style], style, write_pairs)
    if numbers:

        def renumber(content):
            for number, row in enumerate(content["annotations"]):
                row["image_id"] = number
            for number, row in enumerate(content["images"]):
                row["id"] = number

        _change(files.gt_json, renumber)
        _change(files.pred_json, renumber)
    result = _evaluated(_open(files, video=True), video=True)
    assert result.pq == 1
    if style == "none":
        assert result.video is None
        assert result.tracks is None
        assert any("no two frames of one sequence" in note for note in result.notes)
        return
    assert [float(result.video[k].all[0]) for k in (0, 5, 10, 15)] == [1, 0.5, 0.5, 0.5]
    assert result.tracks.switches.sum() == 19
    assert len({frame.sequence for frame in result.frames}) == 1
    assert not result.notes


def test_stills_that_end_in_a_number_are_no_sequence(write_pairs, random_pairs, tmp_path) -> None:
    pairs = [replace(pair, name=f"ADE_val_{n:08d}") for n, pair in enumerate(random_pairs(4, 1))]
    frames = _open(write_pairs(tmp_path, pairs))
    assert len({frames[index].sequence for index in range(4)}) == 4


@pytest.mark.parametrize("orientation", [1, 3, 6, 8])
@pytest.mark.parametrize("ending", ["jpg", "JPG", "jpeg", "png", "webp", "tif"])
@pytest.mark.parametrize("linked", [False, True])
def test_pictures_for_the_report_come_as_stored(
    write_pairs, random_pairs, tmp_path, ending, orientation, linked
) -> None:
    files = write_pairs(tmp_path, list(random_pairs(2, 1)))
    images = tmp_path / "images"
    folder = images / "deep"
    folder.mkdir(parents=True)
    if linked:
        folder.rmdir()
        (tmp_path / "elsewhere").mkdir()
        folder.symlink_to(tmp_path / "elsewhere")
    exif = Image.Exif()
    exif[274] = orientation
    pixels = np.zeros((32, 48, 3), np.uint8)
    pixels[:16, :16] = 255
    for row in files.truth:
        Image.fromarray(pixels).save(folder / f"{row['image_id']}.{ending}", exif=exif, quality=95)
        (folder / f"._{row['image_id']}.{ending}").write_bytes(b"\0\5\26\7")
    frames = _open(files, extras=Extras(images=images))
    for index in range(2):
        image = frames[index].image
        assert image.shape == pixels.shape
        assert np.abs(image.astype(int) - pixels).mean() < 4


def test_further_files_are_found_by_the_frames_folder(random_pairs, write_pairs, tmp_path) -> None:
    files = write_pairs(tmp_path, list(random_pairs(2, 3)))
    for side in ("truth", "prediction"):
        _rename(files, side, lambda n: f"clip_{n}/000001.png")
    for number in range(2):
        shape = cv2.imread(str(files.gt_dir / f"clip_{number}/000001.png")).shape[:2]
        (tmp_path / f"masks/clip_{number}").mkdir(parents=True)
        mask = np.full(shape, number, np.uint8)
        cv2.imwrite(str(tmp_path / f"masks/clip_{number}/000001.tif"), mask)
    extras = Extras(prediction_unknown=tmp_path / "masks", unknown_score=tmp_path / "masks")
    frames = _open(files, extras=extras)
    assert [bool(frames[n].prediction_unknown.all()) for n in range(2)] == [False, True]
    assert [int(frames[n].unknown_scores["unknown_score"].max()) for n in range(2)] == [0, 1]
    (tmp_path / "masks/clip_0/000001.tif").unlink()
    with pytest.raises(EvaluationError, match="clip_0/000001: there is no file for it"):
        _open(files, extras=extras)[0]


def test_masks_have_one_channel_and_scores_eight_bits(files, tmp_path) -> None:
    shape = cv2.imread(str(files.gt_dir / files.truth[0]["file_name"])).shape[:2]
    path = tmp_path / "m" / f"{files.truth[0]['image_id']}.png"
    path.parent.mkdir()
    cv2.imwrite(str(path), np.full(shape, 256, np.uint16))
    assert _open(files, extras=Extras(truth_unknown=path.parent))[0].truth_unknown.all()
    with pytest.raises(EvaluationError, match=r"random-0\.png has values above 255"):
        _open(files, extras=Extras(unknown_score=path.parent))[0]
    cv2.imwrite(str(path), np.zeros((*shape, 3), np.uint8))
    with pytest.raises(EvaluationError, match=r"random-0\.png has 3 channels"):
        _open(files, extras=Extras(truth_unknown=path.parent))[0]


def test_a_category_without_a_color_is_given_one(files) -> None:
    def edit(content):
        content["categories"][0]["color"] = None
        del content["categories"][1]["color"]

    _change(files.gt_json, edit)
    colors = [info.color for info in _open(files).categories.classes]
    assert len({*colors[:2]}) == 2
    assert colors[2] == CITYSCAPES.classes[2].color


def test_other_names_for_the_same_categories_are_told(files) -> None:
    used = files.prediction[0]["segments_info"][0]["category_id"]

    def edit(content):
        row = next(row for row in content["categories"] if row["id"] == used)
        row["name"] = "pallet"

    _change(files.pred_json, edit)
    (note,) = _open(files).notes
    assert f"other categories than {files.gt_json}: {used} is 'pallet', not" in note


def test_label_images_become_maps() -> None:
    labels = np.array([[7, 26, 26000, 26001, 4, 0]])
    side = map_from_labels(labels, CITYSCAPES)
    assert side.pixels.tolist() == [[7, 26, 26000, 26001, 0, 0]]
    assert side.segments.classes.tolist() == [7, 26, 26, 26]
    assert side.segments.crowd.tolist() == [False, True, False, False]
