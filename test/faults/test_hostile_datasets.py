"""Data sets that others made, or damaged: each command reads them, or names what is wrong."""

from __future__ import annotations

import copy
import json
import random
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from faults import fault, repeats

from upsnet_ros.datasets.coco_format import read_segment_ids
from upsnet_ros.datasets.images import read_image, read_labels
from upsnet_ros.datasets.readers import CocoPanoptic
from upsnet_ros.errors import DatasetError, EvaluationError
from upsnet_ros.evaluation.metrics import Metrics, evaluate
from upsnet_ros.evaluation.panoptic_files import Extras, PanopticFiles

VALUES: tuple[Any, ...] = (
    None, True, False, 0, 1, 2, -1, 7, 26, 255, 256, 1 << 24, 1 << 31, 1 << 63, 10**30, 1e400,
    -1e400, float("nan"), 0.5, 1.0, 1e300, "", "0", "1", "1.png", "../1.png", "/etc/passwd", "a\0b",
    "\ud800", "x" * 5000, "[/red]\x1b[2J", [], [[]], {}, [None], {"id": 1}, [1, 2, 3], "..", ".",
    "//", "~",
)  # fmt: skip


def _content() -> dict[str, Any]:
    infos = [
        {"id": 1, "category_id": 149, "iscrowd": 0, "area": 8, "score": 1.0},
        {"id": 2, "category_id": 1, "iscrowd": 0, "area": 4, "score": 0.5},
        {"id": 3, "category_id": 1, "iscrowd": 1, "area": 4, "score": 0.5},
    ]
    return {
        "images": [
            {"id": n, "file_name": f"{n}.jpg", "video_id": 1, "frame_id": n} for n in (1, 2)
        ],
        "annotations": [
            {"image_id": n, "file_name": f"{n}.png", "segments_info": copy.deepcopy(infos)}
            for n in (1, 2)
        ],
        "categories": [
            {"id": 1, "name": "person", "isthing": 1, "color": [1, 2, 3]},
            {"id": 149, "name": "road", "isthing": 0, "color": None},
        ],
    }


@pytest.fixture
def root(tmp_path: Path) -> Path:
    for name in ("images", "truth", "prediction"):
        (tmp_path / name).mkdir()
    ids = np.array([[1, 1, 1, 1], [1, 1, 1, 1], [2, 2, 2, 2], [3, 3, 3, 3]])
    for n in (1, 2):
        for side in ("truth", "prediction"):
            bgr = np.stack([ids * 0, ids * 0, ids], axis=-1).astype(np.uint8)
            cv2.imwrite(str(tmp_path / side / f"{n}.png"), bgr)
        cv2.imwrite(str(tmp_path / "images" / f"{n}.jpg"), np.zeros((4, 4, 3), np.uint8))
    return tmp_path


def _mutated(content: dict[str, Any], dice: random.Random) -> dict[str, Any]:
    """One or two values anywhere in the file replaced, removed or doubled."""
    content = copy.deepcopy(content)
    for _ in range(dice.choice((1, 1, 2))):
        node: Any = content
        while True:
            keys = list(node) if isinstance(node, dict) else list(range(len(node)))
            if not keys:
                break
            key = dice.choice(keys)
            inner = node[key]
            if isinstance(inner, dict | list) and inner and dice.random() < 0.85:
                node = inner
                continue
            action = dice.random()
            if action < 0.15:
                del node[key]
            elif action < 0.25 and isinstance(node, list):
                node.append(copy.deepcopy(inner))
            else:
                node[key] = copy.deepcopy(dice.choice(VALUES))
            break
    return content


def _read_all(root: Path) -> tuple[int, list[str]]:
    """How often the files could be read, and what was said where not."""
    good, messages = 0, []
    try:
        dataset = CocoPanoptic(root / "images", root / "truth.json", segments=root / "truth")
        for index in range(len(dataset)):
            dataset[index]
        good += 1
    except DatasetError as error:
        messages.append(str(error))
    try:
        frames = PanopticFiles(
            truth_json=root / "truth.json",
            truth_folder=root / "truth",
            prediction_json=root / "prediction.json",
            prediction_folder=root / "prediction",
            extras=Extras(images=root / "images"),
            video=True,
        )
        every = [frames[index] for index in range(len(frames))]
        evaluate(every, frames.categories, Metrics(video=True, boundary=True))
        good += 1
    except EvaluationError as error:
        messages.append(str(error))
    return good, messages


@fault(
    tried="A panoptic JSON file with values replaced by others of any type and size, removed or"
    " doubled, in the truth or in the prediction, evaluated and read for training",
    often="{count} files",
    happens="It is read, or one line names the file and the field; nothing outside its folders is"
    " opened",
)
@pytest.mark.parametrize("count", repeats(150, 20_000))
def test_panoptic_files_that_may_hold_anything(root, count):
    dice = random.Random(0)
    refused = read = 0
    for _ in range(count):
        side = dice.choice(("truth", "prediction"))
        for name in ("truth", "prediction"):
            content = _mutated(_content(), dice) if name == side else _content()
            (root / f"{name}.json").write_text(json.dumps(content))
        good, messages = _read_all(root)
        read += good
        refused += len(messages)
        for message in messages:
            assert "\n" not in message, message
            assert "\x1b" not in message, message
            assert len(message) < 1500, message
    assert refused > count / 4
    assert read > count / 4


@fault(
    tried="An image, label map or PNG of segment ids (PNG, JPEG, BMP, TIFF, WebP, PPM) with bytes"
    " flipped, cut out, doubled or overwritten",
    often="{count} files",
    happens="It is read, or one line names it",
)
@pytest.mark.parametrize("count", repeats(400, 20_000))
def test_pictures_that_may_be_anything(tmp_path, count, monkeypatch):
    monkeypatch.setenv("UPSNET_MAX_PIXELS", "1000000")
    dice = random.Random(0)
    noise = np.random.default_rng(0).integers(0, 256, (30, 40, 3)).astype(np.uint8)
    files = []
    for ending in ("png", "jpg", "bmp", "tiff", "webp", "ppm"):
        for pixels in (noise, noise[..., 0]):
            coded = ".pgm" if ending == "ppm" and pixels.ndim == 2 else f".{ending}"
            _, data = cv2.imencode(coded, pixels)
            files.append((ending, data.tobytes()))
    refused = 0
    for number in range(count):
        ending, whole = files[number % len(files)]
        data = bytearray(whole)
        reach = dice.choice((40, 200, len(data)))
        for _ in range(dice.choice((1, 3))):
            at = dice.randrange(min(reach, len(data)))
            end = at + dice.choice((1, 2, 4, 50))
            action = dice.randrange(4)
            if action == 0:
                data[at] ^= 1 << dice.randrange(8)
            elif action == 1:
                data[at:end] = dice.randbytes(end - at)
            elif action == 2:
                data[at:end] = data[at:end] * 2
            else:
                del data[at:end]
        path = tmp_path / f"a.{ending}"
        path.write_bytes(data)
        for read in (read_image, read_labels, read_segment_ids):
            try:
                assert read(path).size <= 3_000_000
            except DatasetError as error:
                refused += 1
                assert str(error).startswith(str(path)), error
                assert "\n" not in str(error), error
    assert refused > count
