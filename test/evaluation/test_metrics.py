from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest

from upsnet_ros.errors import EvaluationError
from upsnet_ros.evaluation.maps import PanopticMap, Segments, frame_name, sequence_position
from upsnet_ros.evaluation.metrics import EvaluationFrame, Metrics, evaluate, measure, summarise
from upsnet_ros.evaluation.panoptic_files import PanopticFiles
from upsnet_ros.evaluation.report import headline, to_json
from upsnet_ros.evaluation.run import Evaluator


@pytest.fixture(scope="module")
def frames(random_pairs) -> list[EvaluationFrame]:
    return [
        EvaluationFrame(
            name=pair.name,
            truth=pair.truth,
            prediction=pair.prediction,
            sequence=f"drive-{number % 10}",
            number=number,
        )
        for number, pair in enumerate(random_pairs(240, 7))
    ]


def test_order_and_grouping_change_no_digit(frames, categories) -> None:
    measures = [measure(frame, categories) for frame in frames]
    forwards = to_json(summarise(measures, categories))
    backwards = to_json(summarise(measures[::-1], categories))
    assert forwards == backwards
    assert forwards["PQ"] > 0.1


def test_processes_give_what_one_process_gives(random_pairs, write_pairs, tmp_path) -> None:
    files = write_pairs(tmp_path, list(random_pairs(24, 8)))
    source = PanopticFiles(
        truth_json=files.gt_json,
        truth_folder=files.gt_dir,
        prediction_json=files.pred_json,
        prediction_folder=files.pred_dir,
    )
    evaluator = Evaluator(metrics=Metrics(boundary=True), snapshots=True)
    results = []
    for processes in (1, 2):
        evaluated = list(evaluator.spread(source, processes))
        assert [item.snapshot.name for item in evaluated] == [
            row["image_id"] for row in files.truth
        ]
        results.append(to_json(summarise([i.measures for i in evaluated], source.categories)))
    assert results[0] == results[1]


def test_an_error_in_a_process_arrives(random_pairs, write_pairs, tmp_path) -> None:
    files = write_pairs(tmp_path, list(random_pairs(12, 9)))
    source = PanopticFiles(
        truth_json=files.gt_json,
        truth_folder=files.gt_dir,
        prediction_json=files.pred_json,
        prediction_folder=files.pred_dir,
    )
    broken = files.gt_dir / files.truth[-1]["file_name"]
    broken.write_bytes(broken.read_bytes()[:40])
    with pytest.raises(EvaluationError, match=str(broken)):
        list(Evaluator(metrics=Metrics()).spread(source, 2))


def test_intervals_are_of_sequences(frames, categories) -> None:
    result = evaluate(frames, categories)
    assert result.intervals == evaluate(frames, categories).intervals
    low, high = result.intervals["PQ"]
    assert low < result.pq < high
    assert high - low < 0.5
    assert result.intervals.keys() >= {"PQ", "SQ", "RQ", "PQ_things", "PQ_stuff", "mIoU"}
    drive = [frame for frame in frames if frame.sequence == "drive-0"]
    assert evaluate(drive, categories).intervals == {}


def test_intervals_grow_when_frames_of_a_drive_agree(categories) -> None:
    """Ten frames that repeat one drive say as much as one."""
    right = PanopticMap(
        pixels=np.array([[26001] * 4]), segments=Segments.from_arrays([26001], [26])
    )
    wrong = PanopticMap(pixels=np.array([[7] * 4]), segments=Segments.from_arrays([7], [7]))

    def width(drives: int, repeats: int) -> float:
        frames = [
            EvaluationFrame(
                name=f"{drive}-{n}",
                truth=right,
                prediction=right if drive % 2 else wrong,
                sequence=str(drive),
                number=n,
            )
            for drive in range(drives)
            for n in range(repeats)
        ]
        low, high = evaluate(frames, categories).intervals["RQ"]
        return high - low

    assert width(4, 25) == pytest.approx(width(4, 1))
    assert width(100, 1) < 0.5 * width(4, 25)


def test_json_has_the_promised_keys_and_no_nan(categories) -> None:
    void = PanopticMap(
        pixels=np.zeros((2, 2), int), segments=Segments.from_arrays([], [], scores=[])
    )
    none = np.zeros((2, 2), bool)
    frame = EvaluationFrame(
        name="a", truth=void, prediction=void, truth_unknown=none, prediction_unknown=none
    )
    metrics = Metrics(boundary=True, instances=True, video=True)
    frames = [frame, replace(frame, name="b", number=1)]
    figures = to_json(evaluate([replace(f, sequence="s") for f in frames], categories, metrics))
    for key in ("PQ", "SQ", "RQ", "PQ_things", "PQ_stuff"):
        assert figures[key] is None
    assert figures["unknown"]["recall"] is None
    assert figures["unknown"]["known_pixels_lost"] is None
    assert len(figures["classes"]) == len(categories)
    assert figures["video"]["VPQ"] is None
    assert headline(evaluate([frame], categories, metrics)) == {}


def test_errors_name_the_frame(categories) -> None:
    bad = PanopticMap(pixels=np.array([[1]]), segments=Segments.from_arrays([1], [26]))
    other = PanopticMap(pixels=np.array([[1, 1]]), segments=Segments.from_arrays([1], [26]))
    with pytest.raises(EvaluationError, match=r"^a_000001: .*2x1"):
        evaluate([EvaluationFrame(name="a_000001", truth=other, prediction=bad)], categories)
    frame = EvaluationFrame(name="a", truth=bad, prediction=bad)
    with pytest.raises(EvaluationError, match="frame a occurs twice"):
        evaluate([frame, frame], categories)
    with pytest.raises(EvaluationError, match="no frames"):
        evaluate([], categories)


def test_headline_has_numbers_only(frames, categories) -> None:
    figures = headline(evaluate(frames[:24], categories, Metrics(boundary=True)))
    assert {"PQ", "mIoU", "boundary_PQ"} <= figures.keys()
    assert all(isinstance(value, float) and math.isfinite(value) for value in figures.values())


@pytest.mark.parametrize(
    ("file", "name", "place"),
    [
        ("val/a/a_000001_000019_leftImg8bit.png", "a_000001_000019", ("a_000001", 19)),
        ("b_000002_000003_gtFine_unknownMask.png", "b_000002_000003", ("b_000002", 3)),
        ("000000142238.jpg", "000000142238", ("000000142238", 0)),
        ("ADE_val_00000001.png", "ADE_val_00000001", ("ADE_val_00000001", 0)),
        ("b1c66a42-6f7d68ca.jpg", "b1c66a42-6f7d68ca", ("b1c66a42-6f7d68ca", 0)),
        ("0002_000019.png", "0002_000019", ("0002", 19)),
    ],
)
def test_names_tell_sequences(file, name, place) -> None:
    assert frame_name(file) == name
    assert sequence_position(name) == place
