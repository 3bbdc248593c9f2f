"""Random and adversarial pairs of panoptic maps, and their files, for the official tools."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from upsnet_ros.datasets.taxonomy import CITYSCAPES
from upsnet_ros.evaluation.maps import Categories, PanopticMap, Segments

CATEGORIES = Categories.from_taxonomy(CITYSCAPES)
_LARGEST_ID = 2**24 - 1


@dataclass(frozen=True)
class Pair:
    name: str
    truth: PanopticMap
    prediction: PanopticMap


@pytest.fixture(scope="session")
def categories() -> Categories:
    return CATEGORIES


@pytest.fixture(scope="session")
def random_pairs() -> Callable[[int, int], Iterator[Pair]]:
    """(count, seed) -> pairs, every kind of adversarial one among them in turn."""
    return _random_pairs


def _random_pairs(count: int, seed: int) -> Iterator[Pair]:
    rng = np.random.default_rng(seed)
    kinds = (
        _random, _near, _empty_truth, _empty_prediction, _only_crowd, _one_pixel, _crowds, _far_ids,
        _half_void, _missed_and_unlisted, _exactly_half, _stripes,
    )  # fmt: skip
    for number in range(count):
        kind = kinds[number % len(kinds)]
        yield Pair(f"{kind.__name__[1:]}-{number}", *kind(rng))


def make_map(pixels, rng, *, crowd_share=0.0, classes=None, extra=0, hidden=0) -> PanopticMap:
    """A table for a map's ids, with classes drawn; `extra` segments lack pixels, `hidden` a row."""
    ids = np.unique(pixels[pixels > 0])
    ids = rng.permutation(ids)[hidden:]
    ids = np.concatenate((ids, _fresh_ids(rng, ids, extra)))
    if classes is None:
        classes = rng.choice(CITYSCAPES.public_ids, len(ids))
    crowd = rng.random(len(ids)) < crowd_share
    return PanopticMap(pixels=pixels, segments=Segments.from_arrays(ids, classes, crowd=crowd))


def _fresh_ids(rng, taken, count):
    fresh = rng.choice(np.setdiff1d(np.arange(1, 5000), taken), count, replace=False)
    return fresh.astype(np.int64)


def _blocks(rng, *, segments=8, void=0.2, low=1, high=40_000):
    """Rectangles over each other: (H, W) ids, some 0."""
    height, width = rng.integers(1, 48, 2)
    ids = rng.choice(np.arange(low, high), segments, replace=False)
    pixels = np.zeros((height, width), np.uint32)
    for _ in range(segments * 2):
        y, x = rng.integers(height), rng.integers(width)
        h, w = rng.integers(1, height + 1), rng.integers(1, width + 1)
        pixels[y : y + h, x : x + w] = 0 if rng.random() < void else rng.choice(ids)
    return pixels


def _random(rng):
    pixels = _blocks(rng)
    other = np.resize(_blocks(rng), pixels.shape)
    return make_map(pixels, rng, crowd_share=0.2), make_map(other, rng)


def _near(rng):
    """A prediction that is mostly right, so that most segments match."""
    pixels = _blocks(rng, segments=12)
    truth = make_map(pixels, rng, crowd_share=0.1)
    moved = np.roll(pixels, rng.integers(0, 3), axis=int(rng.integers(2)))
    moved[rng.random(moved.shape) < 0.1] = 0
    class_of = dict(zip(truth.segments.ids.tolist(), truth.segments.classes.tolist(), strict=True))
    ids = np.unique(moved[moved > 0])
    classes = [class_of[number] for number in ids.tolist()]
    renamed = np.searchsorted(ids, moved).astype(np.uint32) + 7
    renamed[moved == 0] = 0
    return truth, PanopticMap(
        pixels=renamed, segments=Segments.from_arrays(np.arange(len(ids)) + 7, classes)
    )


def _empty_truth(rng):
    pixels = _blocks(rng)
    return make_map(np.zeros_like(pixels), rng), make_map(pixels, rng)


def _empty_prediction(rng):
    pixels = _blocks(rng)
    return make_map(pixels, rng, crowd_share=0.2), make_map(np.zeros_like(pixels), rng)


def _only_crowd(rng):
    pixels = _blocks(rng, segments=4)
    truth = make_map(pixels, rng, crowd_share=2, classes=None)
    return truth, make_map(np.resize(_blocks(rng), pixels.shape), rng)


def _one_pixel(rng):
    """Each pixel a segment of its own, most of them right."""
    height, width = rng.integers(1, 9, 2)
    pixels = rng.permutation(height * width).reshape(height, width).astype(np.uint32) + 1
    classes = rng.choice(CITYSCAPES.public_ids, height * width)
    guess = np.where(rng.random(height * width) < 0.7, classes, 7)
    ids = np.arange(height * width) + 1
    return (
        PanopticMap(pixels=pixels, segments=Segments.from_arrays(ids, classes)),
        PanopticMap(pixels=pixels, segments=Segments.from_arrays(ids, guess)),
    )


def _crowds(rng):
    """Several crowds of one class, of which the official tools see one."""
    pixels = _blocks(rng, segments=10)
    ids = np.unique(pixels[pixels > 0])
    truth = make_map(pixels, rng, crowd_share=0.7, classes=rng.choice([24, 26], len(ids)))
    other = np.resize(_blocks(rng), pixels.shape)
    ids = np.unique(other[other > 0])
    return truth, make_map(other, rng, classes=rng.choice([24, 26], len(ids)))


def _far_ids(rng):
    pixels = _blocks(rng, low=_LARGEST_ID - 60, high=_LARGEST_ID + 1)
    truth = make_map(pixels, rng)
    other = pixels.copy()
    other[:, : other.shape[1] // 3] = _LARGEST_ID
    return truth, make_map(other, rng, classes=None)


def _half_void(rng):
    """Predicted segments that lie on void with exactly half, or a pixel more or less."""
    length = 2 * int(rng.integers(2, 30))
    truth, prediction = np.zeros((2, 1, length), np.uint32)
    split = length // 2 + int(rng.integers(-1, 2))
    truth[0, :split] = 26_001
    prediction[:] = 9
    classes = rng.choice([24, 26], 2)
    return (
        PanopticMap(pixels=truth, segments=Segments.from_arrays([26_001], classes[:1])),
        PanopticMap(pixels=prediction, segments=Segments.from_arrays([9], classes[1:])),
    )


def _missed_and_unlisted(rng):
    """A listed segment of the truth without pixels, and pixels whose id is not listed."""
    pixels = _blocks(rng)
    hidden = int(rng.integers(0, 2)) if (pixels > 0).any() else 0
    truth = make_map(pixels, rng, crowd_share=0.1, extra=2, hidden=hidden)
    return truth, make_map(np.roll(pixels, 1, axis=1), rng)


def _exactly_half(rng):
    """IoU of exactly one half, which is no match, and one pixel to either side."""
    base = int(rng.integers(1, 20))
    truth, prediction = np.zeros((2, 1, 3 * base + 3), np.uint32)
    truth[0, : 2 * base] = 1
    prediction[0, : base + int(rng.integers(0, 2))] = 5
    return (
        PanopticMap(pixels=truth, segments=Segments.from_arrays([1], [26])),
        PanopticMap(pixels=prediction, segments=Segments.from_arrays([5], [26])),
    )


def _stripes(rng):
    """No two neighbours alike: runs of one pixel."""
    height, width = rng.integers(2, 40, 2)
    pixels = rng.integers(0, 5, (height, width)).astype(np.uint32)
    other = np.where(rng.random((height, width)) < 0.8, pixels, 0).astype(np.uint32)
    return make_map(pixels, rng, crowd_share=0.1), make_map(other, rng)


@dataclass(frozen=True)
class Files:
    """A folder of panoptic JSON and PNG files, as the official tools read them."""

    gt_json: Path
    gt_dir: Path
    pred_json: Path
    pred_dir: Path
    truth: list[dict[str, Any]]
    prediction: list[dict[str, Any]]
    names: dict[int, dict[str, Any]]


@pytest.fixture(scope="session")
def write_pairs() -> Callable[[Path, list[Pair]], Files]:
    """(folder, pairs) -> their files."""
    return _write_pairs


def _write_pairs(folder: Path, pairs: list[Pair]) -> Files:
    rows = [
        {"id": info.id, "name": info.name, "isthing": int(info.is_thing), "color": info.color}
        for info in CITYSCAPES.classes
    ]
    sides = {}
    for side in ("truth", "prediction"):
        (folder / side).mkdir(parents=True)
        annotations = [_write(folder / side, pair.name, getattr(pair, side)) for pair in pairs]
        images = [{"id": pair.name, "file_name": f"{pair.name}.jpg"} for pair in pairs]
        content = {"images": images, "annotations": annotations, "categories": rows}
        (folder / f"{side}.json").write_text(json.dumps(content))
        sides[side] = annotations
    return Files(
        gt_json=folder / "truth.json",
        gt_dir=folder / "truth",
        pred_json=folder / "prediction.json",
        pred_dir=folder / "prediction",
        names={row["id"]: row for row in rows},
        **sides,
    )


def _write(folder: Path, name: str, side: PanopticMap) -> dict[str, Any]:
    ids = side.pixels.astype(np.int64)
    bgr = np.stack([ids >> 16, ids >> 8, ids], axis=-1).astype(np.uint8)
    assert cv2.imwrite(str(folder / f"{name}.png"), bgr)
    segments = side.segments
    return {
        "image_id": name,
        "file_name": f"{name}.png",
        "segments_info": [
            {
                "id": number,
                "category_id": class_id,
                "iscrowd": int(crowd),
                "area": int((ids == number).sum()),
            }
            for number, class_id, crowd in zip(
                segments.ids.tolist(), segments.classes.tolist(), segments.crowd, strict=True
            )
        ],
    }
