"""Results come back from bytes as they were, and nothing else does."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path

import msgspec
import pytest

from upsnet_ros import Predictor
from upsnet_ros.bag_evaluation.scoring import BagTask, evaluate_bag
from upsnet_ros.bag_evaluation.tasks import decode, encode
from upsnet_ros.errors import ResultError
from upsnet_ros.evaluation.metrics import Metrics
from upsnet_ros.evaluation.report import to_json
from upsnet_ros.evaluation.run import PartialResult, Series


@pytest.fixture(scope="module")
def whole(bags: list[Path]) -> PartialResult:
    """A result with everything that a result can have."""
    predictor = Predictor(
        None,
        variant="cityscapes-r18",
        allow_random_weights=True,
        device="cpu",
        scale=64,
        score_threshold=0.1,  # random weights are not sure of much
        unknown_score=True,
        semantic=True,
        max_logit=True,
    )
    metrics = Metrics(boundary=True, instances=True, video=True)
    part = evaluate_bag(BagTask(bag=bags[0], metrics=metrics, pictures=4), predictor)
    series = Series(title="Latency, ms", times=(0.1, 0.2), values=(1 / 3, math.nan))
    part = replace(part, notes=("left out: nothing",), series=(series,))
    for frame in part.frames:
        assert frame.boundary and frame.unknown and frame.unknown.scores
        assert frame.instances and frame.instances.prediction and frame.overlaps
    assert len(part.pictures) == 2
    return part


def figures(part: PartialResult) -> str:
    return json.dumps(to_json(part.result()))


def test_all_comes_back_to_the_bit(whole: PartialResult):
    data = encode(whole)
    again = decode(data)
    assert encode(again) == data
    assert figures(again) == figures(whole)
    assert again.categories == whole.categories
    assert again.notes == whole.notes
    assert again.pictures == whole.pictures
    counts, others = again.frames[0].panoptic, whole.frames[0].panoptic
    assert counts.iou_sums == others.iou_sums
    assert counts.tp.dtype == others.tp.dtype
    assert (counts.tp == others.tp).all()


def test_parts_from_bytes_merge_with_others(whole: PartialResult, bags: list[Path]):
    other = evaluate_bag(BagTask(bag=bags[1], prefix="other"))
    read = [decode(encode(part)) for part in (whole, other)]
    assert figures(PartialResult.merged(read)) == figures(PartialResult.merged([whole, other]))


def test_damaged_bytes_are_no_result(whole: PartialResult):
    data = encode(whole)
    for damaged in (b"", data[:-1], data[: len(data) // 2], b"\x80", data + b"\0"):
        with pytest.raises(ResultError):
            decode(damaged)


@pytest.mark.parametrize(
    ("pixels", "reason"),
    [
        (("<f8", (2, 19), bytes(8 * 38)), "an array has dtype <f8, not <i8"),
        (("<i8", (2, 19), bytes(8)), "cannot reshape|buffer size"),
        (("nonsense", (2, 19), bytes(8 * 38)), "nonsense"),
        (("|O", (2, 19), bytes(8 * 38)), "an array has dtype"),
        (7, "array"),
    ],
)
def test_fields_are_checked(whole: PartialResult, pixels, reason):
    content = msgspec.msgpack.decode(encode(whole))
    content["frames"][0]["pixels"] = pixels
    with pytest.raises(ResultError, match=rf"(?s){reason}.*frames.*pixels"):
        decode(msgspec.msgpack.encode(content))
