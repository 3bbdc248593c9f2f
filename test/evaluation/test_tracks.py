"""Id switches, MOTSA and sMOTSA; and the tracker, evaluated on masks without a fault."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest

from upsnet_ros.datasets.taxonomy import CITYSCAPES
from upsnet_ros.errors import EvaluationError
from upsnet_ros.evaluation.datasets import SequenceTrackers
from upsnet_ros.evaluation.maps import (
    Categories,
    Overlaps,
    PanopticMap,
    Segments,
    map_from_frame,
    map_from_labels,
)
from upsnet_ros.evaluation.metrics import EvaluationFrame, Metrics, evaluate
from upsnet_ros.evaluation.panoptic_quality import id_switches
from upsnet_ros.evaluation.report import headline, headline_lines, to_json
from upsnet_ros.inference.frame import Instance, PanopticFrame, StuffSegment
from upsnet_ros.synthetic.dataset import scene_frame

ROAD, PERSON, CAR = 7, 24, 26
VIDEO = Metrics(video=True)
CATEGORIES = Categories.from_taxonomy(CITYSCAPES)


def _map(row: list[int], classes: dict[int, int]) -> PanopticMap:
    pixels = np.array([row])
    ids = np.unique(pixels[pixels > 0])
    return PanopticMap(
        pixels=pixels, segments=Segments.from_arrays(ids, [classes[i] for i in ids.tolist()])
    )


def _switches(rows: list[list[int]], answers: list[list[int]], numbers: list[int]) -> np.ndarray:
    """Of ids whose tens tell the class: 1 road, 2 person, 3 car."""
    classes = {i: {1: ROAD, 2: PERSON, 3: CAR}[i // 10] for i in range(10, 40)}
    frames = [
        Overlaps.from_maps(_map(row, classes), _map(answer, classes))
        for row, answer in zip(rows, answers, strict=True)
    ]
    return id_switches(numbers, frames, CATEGORIES, max_gap=15)


@pytest.mark.parametrize(
    ("answers", "switches"),
    [
        ([[11, 30, 30], [11, 30, 30], [11, 30, 30]], 0),
        ([[11, 30, 30], [11, 31, 31], [11, 31, 31]], 1),
        ([[11, 30, 30], [11, 31, 31], [11, 30, 30]], 2),
        ([[11, 30, 30], [11, 0, 0], [11, 31, 31]], 1),  # not found in between
        ([[11, 30, 30], [11, 20, 20], [11, 30, 30]], 0),  # nor as another class
        ([[11, 0, 0], [11, 31, 31], [11, 31, 31]], 0),  # found late
        ([[12, 30, 30], [13, 30, 30], [14, 30, 30]], 0),  # stuff
    ],
)
def test_a_switch_is_another_id_than_when_it_was_found_last(answers, switches) -> None:
    found = _switches([[10, 35, 35]] * 3, answers, [0, 1, 2])
    assert found.sum() == switches
    assert found[CATEGORIES.indices(np.array([CAR]))[0]] == switches


def test_frames_far_apart_need_no_lasting_ids() -> None:
    rows, answers = [[35, 35]] * 2, [[30, 30], [31, 31]]
    assert _switches(rows, answers, [4, 19]).sum() == 1
    assert _switches(rows, answers, [4, 20]).sum() == 0


def _random_video(seed: int, length: int) -> list[tuple[np.ndarray, np.ndarray]]:
    """Blocks of things of one class that are found, missed, merged and renamed."""
    rng = np.random.default_rng(seed)
    truth = rng.integers(30, 36, (6, 6)).repeat(2, axis=0).repeat(2, axis=1)
    renamed = np.arange(40)
    video = []
    for _ in range(length):
        if rng.random() < 0.4:
            renamed[30:36] = rng.permutation(np.arange(30, 36))
        answer = renamed[truth].copy()
        answer[rng.random(truth.shape) < 0.2] = renamed[rng.integers(30, 36)]
        video.append((truth, answer))
    return video


@pytest.mark.parametrize("seed", range(5))
def test_figures_are_those_of_the_definition(seed) -> None:
    video = _random_video(seed, 12)
    found: dict[int, int] = {}
    hits = invented = switches = things = 0
    overlap = 0.0
    for truth, answer in video:
        things += len(np.unique(truth))
        invented += len(np.unique(answer))
        for thing in np.unique(truth).tolist():
            for guess in np.unique(answer).tolist():
                a, b = truth == thing, answer == guess
                iou = (a & b).sum() / (a | b).sum()
                if iou > 0.5:
                    hits, invented, overlap = hits + 1, invented - 1, overlap + iou
                    switches += found.get(thing, guess) != guess
                    found[thing] = guess
    assert hits > 0 and invented > 0 and switches > 0
    classes = dict.fromkeys(range(30, 36), CAR)
    frames = [
        EvaluationFrame(
            name=f"a_{number}",
            sequence="a",
            number=number,
            truth=_map_2d(truth, classes),
            prediction=_map_2d(answer, classes),
        )
        for number, (truth, answer) in enumerate(video)
    ]
    result = evaluate(frames, CATEGORIES, VIDEO)
    figures = to_json(result)
    assert figures["tracks"]["id_switches"] == switches
    assert figures["tracks"]["MOTSA"] == pytest.approx((hits - invented - switches) / things)
    assert figures["tracks"]["sMOTSA"] == pytest.approx((overlap - invented - switches) / things)
    car = next(row for row in figures["classes"] if row["id"] == CAR)
    assert car["MOTSA"] == figures["tracks"]["MOTSA"]
    person = next(row for row in figures["classes"] if row["id"] == PERSON)
    assert (person["id_switches"], person["MOTSA"]) == (0, None)
    assert f"{'id switches':18} {switches:6}" in headline_lines(result)


def _map_2d(pixels: np.ndarray, classes: dict[int, int]) -> PanopticMap:
    ids = np.unique(pixels)
    return PanopticMap(
        pixels=pixels, segments=Segments.from_arrays(ids, [classes[i] for i in ids.tolist()])
    )


def test_track_ids_take_the_place_of_the_frames_own() -> None:
    labels = np.array([[7, 26001, 24001, 0]], np.int32)
    box = (0, 0, 0, 0)
    things = tuple(
        Instance(
            id=class_id * 1000 + 1, class_id=class_id, class_name="", score=0.5, box=box,
            detection_box=box, area=1, track_id=track,
        )
        for class_id, track in ((PERSON, 2**32 - 1), (CAR, 7))
    )  # fmt: skip
    road = StuffSegment(id=7, class_id=7, class_name="road", box=box, area=1)
    frame = PanopticFrame(labels=labels, unknown=labels == 0, instances=things, stuff=(road,))
    found = map_from_frame(frame, tracks=True)
    assert found.pixels.tolist() == [[7, 1007, 1000 + 2**32 - 1, 0]]
    assert found.segments.ids.tolist() == [7, 1000 + 2**32 - 1, 1007]
    assert found.segments.classes.tolist() == [7, PERSON, CAR]
    assert map_from_frame(frame).pixels is labels
    off = PanopticFrame(
        labels=labels,
        unknown=labels == 0,
        instances=(Instance(id=26001, class_id=CAR, class_name="", score=0.5, box=box,
                            detection_box=box, area=1),),
        stuff=(road,),
    )  # fmt: skip
    with pytest.raises(EvaluationError, match="tracking was off"):
        map_from_frame(off, tracks=True)


def _shuffled(truth: PanopticMap, rng: np.random.Generator) -> PanopticFrame:
    """The truth as a frame whose things are numbered in some order, as a network would."""
    labels = np.zeros(truth.pixels.shape, np.int32)
    things, stuff, numbers = [], [], dict.fromkeys(CITYSCAPES.public_ids.tolist(), 0)
    for place in rng.permutation(len(truth.segments)):
        class_id = int(truth.segments.classes[place])
        mask = truth.pixels == truth.segments.ids[place]
        rows, columns = np.nonzero(mask)
        box = (int(columns.min()), int(rows.min()), int(columns.max()), int(rows.max()))
        common = {"class_id": class_id, "class_name": "", "box": box, "area": rows.size}
        if not CITYSCAPES.by_id[class_id].is_thing:
            labels[mask] = class_id
            stuff.append(StuffSegment(id=class_id, **common))
        elif not truth.segments.crowd[place]:
            numbers[class_id] += 1
            labels[mask] = class_id * 1000 + numbers[class_id]
            things.append(
                Instance(
                    id=class_id * 1000 + numbers[class_id], score=1.0, detection_box=box, **common
                )
            )
    things.sort(key=lambda thing: thing.id)
    return PanopticFrame(
        labels=labels, unknown=labels == 0, instances=tuple(things), stuff=tuple(stuff)
    )


def test_the_tracker_keeps_the_ids_of_masks_without_a_fault() -> None:
    rng, trackers = np.random.default_rng(0), SequenceTrackers()

    def frames() -> Iterator[tuple[EvaluationFrame, EvaluationFrame]]:
        for sequence in range(2):
            for number in range(20):
                scene = scene_frame("val", sequence, number, (192, 384), seed=1)
                truth = map_from_labels(scene.instances, CITYSCAPES)
                shuffled = _shuffled(truth, rng)
                tracked = trackers(shuffled, str(sequence), number)
                place = {"name": f"{sequence}_{number}", "sequence": str(sequence)}
                place |= {"number": number, "truth": truth}
                yield (
                    EvaluationFrame(prediction=map_from_frame(tracked, tracks=True), **place),
                    EvaluationFrame(prediction=map_from_frame(shuffled), **place),
                )

    tracked, shuffled = (evaluate(side, CATEGORIES, VIDEO) for side in zip(*frames(), strict=True))
    assert tracked.pq == shuffled.pq == 1
    things = tracked.counts.tp[CATEGORIES.is_thing].sum()
    assert things > 400
    switches, without = (int(side.tracks.switches.sum()) for side in (tracked, shuffled))
    assert switches < 0.06 * things
    assert 5 * switches < without
    assert headline(tracked)["VPQ"] > 0.95
    assert headline(shuffled)["VPQ"] < 0.85
