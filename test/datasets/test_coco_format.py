"""COCO's panoptic files: each malformed field and PNG is told in one line that names it."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from PIL import Image

from upsnet_ros.datasets.coco_format import (
    Category,
    PanopticFile,
    Segment,
    file_inside,
    read_panoptic_file,
    read_segment_ids,
)
from upsnet_ros.errors import DatasetError

SEGMENT = {"id": 9, "category_id": 2, "iscrowd": 1, "area": 24, "score": 0.5}
CONTENT: dict[str, Any] = {
    "images": [{"id": 1, "file_name": "1.jpg"}],
    "annotations": [{"image_id": 1, "file_name": "1.png", "segments_info": [SEGMENT]}],
    "categories": [
        {"id": 1, "name": "floor", "isthing": 0, "color": [1, 2, 3]},
        {"id": 2, "name": "pallet", "isthing": True},
    ],
}
MISSING = object()
NO_INTEGERS = (None, "5", 1.5, True, [], {}, float("nan"), float("inf"), MISSING)
NO_TEXTS = (None, 5, True, [], {}, "x" * 600, MISSING)
WHERE = {
    "image_id": ("annotations", 0),
    "file_name": ("annotations", 0),
    "segments_info": ("annotations", 0),
    "id": ("annotations", 0, "segments_info", 0),
    "category_id": ("annotations", 0, "segments_info", 0),
    "iscrowd": ("annotations", 0, "segments_info", 0),
    "area": ("annotations", 0, "segments_info", 0),
    "score": ("annotations", 0, "segments_info", 0),
    "name": ("categories", 1),
    "isthing": ("categories", 1),
    "color": ("categories", 0),
}
BAD = {
    "image_id": (None, 1.5, True, "x" * 600, 1 << 63, 1e300, [], {}, float("nan"), MISSING),
    "file_name": (*NO_TEXTS, "", "a\0b", "\ud800", "x" * 300, "x/" * 600),
    "segments_info": (None, 5, "x", {}, [None], [5], [[]], MISSING),
    "id": (*NO_INTEGERS, 0, -1, 1 << 24, 10**30),
    "category_id": (*NO_INTEGERS, 1 << 31, -(10**30)),
    "iscrowd": (None, "0", 2, -1, [], float("nan")),
    "area": (*NO_INTEGERS[:-1], -1, 1 << 60),
    "score": (None, "0.5", True, [], float("nan"), float("inf"), 10**400),
    "name": NO_TEXTS,
    "isthing": (None, "0", "false", 2, [], MISSING),
    "color": ("red", 5, [1, 2], [1, 2, 256], [1, 2, -1], [1, 2, "3"], [1, 2, None], {}),
}


def write(path: Path, content: Any) -> Path:
    # Python reads integers of up to 4300 digits, and writes them too.
    path.write_text(json.dumps(content))
    return path


def read(tmp_path: Path, content: Any) -> PanopticFile:
    return read_panoptic_file(write(tmp_path / "p.json", content), areas=True)


def test_a_file_is_read_as_it_is(tmp_path: Path) -> None:
    file = read(tmp_path, CONTENT)
    (annotation,) = file.annotations
    assert annotation.segments == (Segment(9, 2, crowd=True, area=24, score=0.5),)
    assert (annotation.image_id, annotation.file_name) == (1, "1.png")
    assert (annotation.video, annotation.number) == (None, None)
    assert file.images == {1: "1.jpg"}
    assert file.categories == (
        Category(id=1, name="floor", is_thing=False, color=(1, 2, 3)),
        Category(id=2, name="pallet", is_thing=True, color=None),
    )
    content = copy.deepcopy(CONTENT)
    content["annotations"][0]["segments_info"] = [{"id": 9.0, "category_id": 2.0}]
    content["categories"][0]["color"] = None
    del content["images"]
    file = read(tmp_path, content)
    assert file.annotations[0].segments == (Segment(9, 2, crowd=False, area=None, score=None),)
    assert file.categories[0].color is None


@pytest.mark.parametrize(
    ("key", "value"), [(key, value) for key, values in BAD.items() for value in values]
)
def test_a_malformed_field_is_named_in_one_line(tmp_path: Path, key: str, value: Any) -> None:
    content = copy.deepcopy(CONTENT)
    row = content
    for step in WHERE[key]:
        row = row[step]
    if value is MISSING:
        del row[key]
    else:
        row[key] = value
    with pytest.raises(DatasetError, match=rf"p\.json: (annotations|categories)\[.*{key}") as info:
        read(tmp_path, content)
    assert "\n" not in str(info.value)
    assert len(str(info.value)) < len(str(tmp_path)) + 160


@pytest.mark.parametrize("key", ["images", "annotations", "categories"])
@pytest.mark.parametrize("value", [None, 5, "x", {}, [None], [5], [[]]])
def test_lists_of_other_things_are_refused(tmp_path: Path, key: str, value: Any) -> None:
    content = copy.deepcopy(CONTENT)
    content[key] = value
    if key == "images":  # only who needs an image looks for it
        assert read(tmp_path, content).images == {}
        return
    with pytest.raises(DatasetError, match=rf"p\.json.*{key}"):
        read(tmp_path, content)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "not a JSON file"),
        (b"{", "not a JSON file"),
        (b"\xff\xfe\x00", "not a JSON file"),
        (b'{"annotations": ' + b"9" * 5000 + b"}", "not a JSON file: Exceeds"),
        (b"[" * 100_000, "nested too deeply"),
        (b'{"annotations": [' + b'{"a":' * 100_000, "nested too deeply"),
        (b"[]", "no list of annotations"),
        (b'{"annotations": {}}', "no list of annotations"),
    ],
)
def test_other_files_are_refused(tmp_path: Path, data: bytes, message: str) -> None:
    (tmp_path / "p.json").write_bytes(data)
    with pytest.raises(DatasetError, match=rf"p\.json .*{message}"):
        read_panoptic_file(tmp_path / "p.json")
    with pytest.raises(DatasetError, match=r"cannot read .*none\.json: No such file"):
        read_panoptic_file(tmp_path / "none.json")


@pytest.mark.parametrize(
    ("key", "message"),
    [
        ("annotations", "two annotations of image_id 1"),
        ("categories", "two categories of id 1"),
        ("segments_info", r"annotations\[0\].segments_info lists segment id 9 twice"),
    ],
)
def test_what_occurs_twice_is_named(tmp_path: Path, key: str, message: str) -> None:
    content = copy.deepcopy(CONTENT)
    rows = content["annotations"][0][key] if key == "segments_info" else content[key]
    rows.append(rows[0])
    with pytest.raises(DatasetError, match=rf"p\.json: .*{message}"):
        read(tmp_path, content)


def test_names_lose_what_a_terminal_would_obey(tmp_path: Path) -> None:
    content = copy.deepcopy(CONTENT)
    content["categories"][0]["name"] = "\x1b[31mfl\noor\ud800\x07"
    assert read(tmp_path, content).categories[0].name == "[31mfl oor"
    content["categories"][0]["isthing"] = "\x1b[31m\n"
    with pytest.raises(DatasetError) as info:
        read(tmp_path, content)
    assert str(info.value).isprintable()


@pytest.mark.parametrize("source", ["images", "annotations"])
@pytest.mark.parametrize("key", ["frame_id", "frame_index"])
@pytest.mark.parametrize("number", [7, "000007"])
@pytest.mark.parametrize("video", [3, "street-3"])
def test_videos_are_told_by_annotations_or_images(
    tmp_path: Path, source: str, key: str, number: Any, video: Any
) -> None:
    content = copy.deepcopy(CONTENT)
    content[source][0] |= {"video_id": video, key: number}
    (annotation,) = read(tmp_path, content).annotations
    assert (annotation.video, annotation.number) == (video, 7)
    content[source][0] |= {"video_id": [], key: number}
    with pytest.raises(DatasetError, match=r"p\.json: .*video_id is a list"):
        read(tmp_path, content)


@pytest.mark.parametrize("name", ["a.png", "./a.png", "b/../a.png", "b/a.png", "ABSOLUTE/a.png"])
@pytest.mark.parametrize("linked", [False, True])
def test_files_are_found_inside_their_folder(tmp_path: Path, name: str, linked: bool) -> None:
    folder = tmp_path / "set"
    (folder / "b").mkdir(parents=True)
    for file in (folder / "a.png", folder / "b" / "a.png"):
        file.touch()
    name = name.replace("ABSOLUTE", str(folder))
    if linked:
        (tmp_path / "link").symlink_to(folder)
        folder = tmp_path / "link"
    found = file_inside(folder, name)
    assert found.is_relative_to(folder)
    assert found.samefile(folder / "b" / "a.png" if name == "b/a.png" else folder / "a.png")


@pytest.mark.parametrize(
    "name", ["../x.png", "b/../../x.png", "/etc/x.png", "ABSOLUTEx/x.png", "link/../x.png/../../y"]
)
def test_files_outside_their_folder_are_refused(tmp_path: Path, name: str) -> None:
    folder = tmp_path / "set"
    folder.mkdir()
    with pytest.raises(DatasetError, match=rf" lies outside {folder}"):
        file_inside(folder, name.replace("ABSOLUTE", str(folder)))


def test_two_dots_after_a_link_do_not_lead_out(tmp_path: Path) -> None:
    folder, other = tmp_path / "set", tmp_path / "other" / "deep"
    folder.mkdir()
    other.mkdir(parents=True)
    (folder / "link").symlink_to(other)
    (tmp_path / "other" / "secret.png").touch()
    assert not file_inside(folder, "link/../secret.png").exists()


IDS = np.random.default_rng(0).integers(0, 1 << 24, (5, 7)).astype(np.uint32)
CHANNELS = np.stack([IDS & 255, IDS >> 8 & 255, IDS >> 16], axis=-1).astype(np.uint8)


@pytest.mark.parametrize("alpha", [None, 0, 255])
@pytest.mark.parametrize("shape", [(5, 7), (1, 1), (1, 7), (5, 1)])
def test_ids_are_read_from_rgb_with_or_without_alpha(
    tmp_path: Path, alpha: int | None, shape: tuple[int, int]
) -> None:
    pixels = CHANNELS[: shape[0], : shape[1]]
    if alpha is not None:
        pixels = np.dstack([pixels, np.full(shape, alpha, np.uint8)])
    Image.fromarray(pixels).save(tmp_path / "a.png")
    ids = read_segment_ids(tmp_path / "a.png")
    np.testing.assert_array_equal(ids, IDS[: shape[0], : shape[1]])


@pytest.mark.parametrize(
    ("ending", "pixels", "form"),
    [
        ("png", np.zeros((4, 4), np.uint8), "gray, 8 bits"),
        ("png", np.zeros((4, 4), np.uint16), "gray, 16 bits"),
        ("png", np.zeros((4, 4, 3), np.uint16), "RGB, 16 bits"),
        ("png", "P", "palette, 8 bits"),
        ("png", "1", "gray, 1 bits"),
        ("png", "LA", "gray and alpha, 8 bits"),
        ("jpg", np.zeros((4, 4, 3), np.uint8), "a JPEG"),
        ("bmp", np.zeros((4, 4, 3), np.uint8), "a BMP"),
    ],
)
def test_pngs_of_other_forms_are_refused(
    tmp_path: Path, ending: str, pixels: Any, form: str
) -> None:
    path = tmp_path / f"a.{ending}"
    if isinstance(pixels, str):
        Image.fromarray(np.arange(200, dtype=np.uint8).reshape(10, 20)).convert(pixels).save(path)
    else:
        assert cv2.imwrite(str(path), pixels)
    with pytest.raises(DatasetError, match=rf"a\.{ending} is {form}; .* need an RGB PNG of 8 bits"):
        read_segment_ids(path)


def test_damaged_pngs_are_named(tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    with pytest.raises(DatasetError, match=r"there is no file .*a\.png"):
        read_segment_ids(path)
    noise = np.random.default_rng(0).integers(0, 256, (40, 40, 3)).astype(np.uint8)
    cv2.imwrite(str(path), noise)
    whole = path.read_bytes()
    path.write_bytes(whole[:-500])
    with pytest.raises(DatasetError, match=r"a\.png is not an image, or it is damaged"):
        read_segment_ids(path)
    path.write_bytes(whole[:2000] + b"\0" * 100 + whole[2100:])
    with pytest.raises(DatasetError, match=r"a\.png is damaged: \w+"):
        read_segment_ids(path)
