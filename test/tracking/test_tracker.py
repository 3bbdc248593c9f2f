"""Things that move, hide, come and go keep their numbers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest

from upsnet_ros.errors import ImageError, SettingsError
from upsnet_ros.inference.frame import Instance, PanopticFrame
from upsnet_ros.tracking.tracker import MAX_TRACK_ID, Tracker, TrackerSettings

CAR, PERSON = 26, 24
#: (class, x, y, width, height) of a rectangle; those that come later lie in front.
Rect = tuple[int, int, int, int, int]


def frame_of(*rects: Rect, size: tuple[int, int] = (120, 200)) -> PanopticFrame:
    """The rectangles as things, numbered within their class in the order given, where visible."""
    labels = np.full(size, 7, np.int32)
    for place, (class_id, x, y, width, height) in enumerate(rects, 1):
        labels[max(y, 0) : max(y + height, 0), max(x, 0) : max(x + width, 0)] = (
            class_id * 1000 + place
        )
    things = []
    for value in np.unique(labels[labels >= 1000]).tolist():
        rows, columns = np.nonzero(labels == value)
        box = (int(columns.min()), int(rows.min()), int(columns.max()), int(rows.max()))
        things.append(
            Instance(
                id=value,
                class_id=value // 1000,
                class_name="",
                score=0.9,
                box=box,
                detection_box=box,
                area=rows.size,
            )
        )
    return PanopticFrame(
        labels=labels, unknown=np.zeros(size, bool), instances=tuple(things), stuff=()
    )


def numbers(frame: PanopticFrame) -> dict[int, int]:
    """Track ids by place of the rectangle in `frame_of`, from 1."""
    return {thing.id % 1000: thing.track_id for thing in frame.instances}


def follow(tracker: Tracker, frames: Sequence[Sequence[Rect]]) -> list[dict[int, int]]:
    return [numbers(tracker(frame_of(*rects), time=0.1 * n)) for n, rects in enumerate(frames)]


def test_only_the_track_ids_of_a_frame_change() -> None:
    frame = frame_of((CAR, 10, 10, 30, 20), (PERSON, 60, 10, 10, 40))
    tracked = Tracker()(frame)
    assert tracked.labels is frame.labels
    assert [(one.id, one.box, one.area) for one in tracked.instances] == [
        (one.id, one.box, one.area) for one in frame.instances
    ]
    assert sorted(numbers(tracked).values()) == [1, 2]
    assert all(one.track_id == 0 for one in frame.instances)


def test_numbers_stay_while_the_order_of_ids_changes() -> None:
    left, right = (CAR, 20, 40, 30, 20), (CAR, 100, 40, 30, 20)
    first, second = follow(Tracker(), [[left, right], [right, left]])
    assert (second[2], second[1]) == (first[1], first[2])


def test_what_is_no_frame_or_time_is_named() -> None:
    with pytest.raises(ImageError, match="need a PanopticFrame"):
        Tracker()("x")
    with pytest.raises(SettingsError, match="time must be a number"):
        Tracker()(frame_of(), time="x")


def test_two_that_cross_keep_their_numbers() -> None:
    # 8 px a frame each way: where they meet, each one's mask lies on the other's old place.
    frames = [[(CAR, 20 + 8 * n, 40, 24, 20), (CAR, 140 - 8 * n, 44, 24, 20)] for n in range(16)]
    seen = follow(Tracker(), frames)
    assert seen[-1] == seen[0]
    assert all(one.items() <= seen[0].items() for one in seen)


def test_a_thing_hidden_for_some_frames_is_found_where_it_went() -> None:
    # A person walks behind a coach that is wider than 6 of the steps.
    coach = (CAR, 70, 10, 50, 90)
    frames = [[(PERSON, 20 + 9 * n, 40, 10, 30), coach] for n in range(16)]
    seen = follow(Tracker(), frames)
    hidden = [n for n, one in enumerate(seen) if 1 not in one]
    assert len(hidden) >= 3
    assert {one[1] for one in seen if 1 in one} == {seen[0][1]}


@pytest.mark.parametrize(("gap", "kept"), [(3, True), (4, False)])
def test_a_number_is_lost_after_so_many_misses(gap: int, kept: bool) -> None:
    still = (CAR, 50, 50, 30, 20)
    frames = [[still], *([[]] * gap), [still]]
    seen = follow(Tracker(TrackerSettings(max_misses=3)), frames)
    assert (seen[-1][1] == seen[0][1]) is kept


def test_who_comes_is_new_and_who_leaves_takes_no_number_along() -> None:
    frames = [[(CAR, 150 + 12 * n, 20, 30, 20), (CAR, -30 + 12 * n, 70, 30, 20)] for n in range(6)]
    seen = follow(Tracker(), frames)
    assert 1 not in seen[-1]
    assert 2 not in seen[0]
    assert {one[1] for one in seen if 1 in one} == {1}
    assert {one[2] for one in seen if 2 in one} == {2}


def test_small_things_that_move_farther_than_they_are_wide() -> None:
    frames = [[(PERSON, 20 + 6 * n, 50, 4, 9), (PERSON, 20 + 6 * n, 90, 4, 9)] for n in range(12)]
    seen = follow(Tracker(), frames)
    assert all(one == seen[0] for one in seen)


def test_a_row_of_things_that_all_move_by_their_distance() -> None:
    # The camera turns at once by as much as they are apart. Alone, each takes its neighbour's
    # place; the large car that still meets itself, and two more things, tell how far it turned.
    persons = [(PERSON, 20 + 12 * n, 20, 8, 20) for n in range(4)]
    cars = [(CAR, 30, 60, 60, 50), (CAR, 110, 60, 60, 50), (28, 90, 5, 60, 10)]
    moved = [(c, x + 12, *rest) for c, x, *rest in (*persons, *cars)]
    first, second = follow(Tracker(), [[*persons, *cars], moved])
    assert second == first


def test_empty_frames_and_frames_without_pixels() -> None:
    tracker = Tracker()
    assert tracker(frame_of()).instances == ()
    assert tracker(frame_of(size=(0, 0))).instances == ()
    assert numbers(tracker(frame_of((CAR, 5, 5, 20, 20)))) == {1: 1}
    assert tracker(frame_of()).instances == ()
    assert numbers(tracker(frame_of((CAR, 5, 5, 20, 20)))) == {1: 1}


def test_a_thing_that_claims_pixels_it_has_not_is_numbered_too() -> None:
    frame = frame_of((CAR, 5, 5, 20, 20))
    (car,) = frame.instances
    absent = replace(car, id=26099, area=0, box=(300, 300, 310, 310))
    tracker = Tracker()
    for _ in range(3):
        with np.errstate(all="raise"):
            tracked = tracker(replace(frame, instances=(car, absent)))
        assert tracked.instances[0].track_id == 1
        assert tracked.instances[1].track_id > 1


def test_a_class_has_numbers_of_its_own_and_comes_back_to_them() -> None:
    place = (50, 50, 30, 20)
    seen = follow(Tracker(), [[(c, *place)] for c in (CAR, CAR, 27, CAR)])
    assert seen[0] == seen[1] == seen[3] == {1: 1}
    assert seen[2] == {1: 2}


def test_a_thing_at_the_edge_does_not_come_round_to_the_other() -> None:
    frames = [[(CAR, 180, 50, 20, 20)], [(CAR, 195, 50, 5, 20)], [(CAR, 0, 50, 20, 20)]]
    seen = follow(Tracker(), frames)
    assert seen[0] == seen[1]
    assert seen[2] != seen[0]


@pytest.mark.parametrize(
    ("times", "kept"),
    [((5.0, 5.1), True), ((5.0, 5.0), True), ((5.0, 4.9), False), ((5.0, 8.5), False)],
)
def test_time_that_goes_back_or_jumps_ends_all(times: tuple[float, float], kept: bool) -> None:
    tracker = Tracker()
    frame = frame_of((CAR, 50, 50, 30, 20))
    first, second = (numbers(tracker(frame, time=time)) for time in times)
    assert (first == second) is kept


def test_another_size_of_image_or_a_reset_ends_all() -> None:
    tracker = Tracker()
    car = (CAR, 50, 50, 30, 20)
    assert numbers(tracker(frame_of(car))) == {1: 1}
    assert numbers(tracker(frame_of(car, size=(120, 201)))) == {1: 2}
    tracker.reset()
    assert numbers(tracker(frame_of(car, size=(120, 201)))) == {1: 3}


def test_numbers_begin_anew_after_the_largest_and_pass_over_those_in_use() -> None:
    tracker = Tracker()
    first, second, third = ((CAR, 40 * n, 50, 20, 20) for n in range(3))
    assert numbers(tracker(frame_of(first))) == {1: 1}
    tracker._last_id = MAX_TRACK_ID - 1
    assert numbers(tracker(frame_of(first, second, third))) == {1: 1, 2: MAX_TRACK_ID, 3: 2}


@pytest.mark.parametrize(
    "wrong",
    [{"min_mask_iou": 0}, {"min_box_iou": 1.1}, {"smoothing": float("nan")}, {"max_misses": -1},
     {"max_gap": float("nan")}, {"points": 0}],
)  # fmt: skip
def test_settings_out_of_range_are_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(ValueError, match=next(iter(wrong))):
        TrackerSettings(**wrong)  # type: ignore[arg-type]
