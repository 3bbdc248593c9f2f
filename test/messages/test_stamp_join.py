"""Joining by stamps, equal or nearest, and the account of what never came together."""

from __future__ import annotations

from upsnet_ros.messages.frames import NearestJoiner, StampJoiner


def test_a_set_is_complete_when_every_topic_has_sent_it() -> None:
    joiner = StampJoiner(["image", "labels"])
    assert joiner.add("image", 5, "an image", received=1.0) is None
    assert joiner.add("image", 6, "the next", received=1.1) is None
    joined = joiner.add("labels", 5, "its labels", received=1.5)
    assert joined is not None
    assert joined.stamp_ns == 5
    assert joined.messages == {"image": "an image", "labels": "its labels"}
    assert joined.received == {"image": 1.0, "labels": 1.5}


def test_order_of_arrival_does_not_matter() -> None:
    joiner = StampJoiner(["a", "b", "c"])
    for stamp in (2, 1):
        joiner.add("c", stamp, "c", received=0)
        joiner.add("a", stamp, "a", received=0)
    complete = [joiner.add("b", stamp, "b", received=0) for stamp in (1, 2)]
    assert [joined.stamp_ns for joined in complete if joined] == [1, 2]
    assert joiner.given_up == 0


def test_a_nanosecond_apart_is_another_stamp() -> None:
    joiner = StampJoiner(["a", "b"])
    assert joiner.add("a", 1_000_000_000, "a", received=0) is None
    assert joiner.add("b", 1_000_000_001, "b", received=0) is None


def test_the_oldest_gives_way_and_what_it_lacked_is_counted() -> None:
    joiner = StampJoiner(["image", "labels", "instances"], limit=2)
    joiner.add("image", 1, "", received=0)
    joiner.add("image", 2, "", received=0)
    joiner.add("labels", 2, "", received=0)
    assert joiner.given_up == 0
    joiner.add("image", 3, "", received=0)
    assert (joiner.given_up, joiner.missing) == (1, {"labels": 1, "instances": 1})
    assert joiner.add("instances", 2, "", received=0) is not None, "the wrong one gave way"
    joiner.finish()
    assert joiner.given_up == 2
    assert joiner.missing == {"labels": 2, "instances": 2}


def test_a_stamp_sent_twice_replaces_the_first() -> None:
    joiner = StampJoiner(["a", "b"])
    joiner.add("a", 1, "old", received=0)
    joiner.add("a", 1, "new", received=1)
    joined = joiner.add("b", 1, "b", received=2)
    assert joined is not None
    assert joined.messages["a"] == "new"


def joiner(*, max_offset: int, limit: int = 10) -> NearestJoiner:
    return NearestJoiner(max_offset_ns=max_offset, limit=limit)


def test_a_message_gets_the_nearest_reference_before_or_after() -> None:
    one = joiner(max_offset=50)
    assert one.add_reference(100, "first") == []
    assert one.add(120, "near the first") == []
    assert one.add(160, "near the second") == []
    assert one.waiting == 2
    assert one.add_reference(200, "second") == [
        ("near the first", "first"),
        ("near the second", "second"),
    ]
    assert one.add(190, "late") == [("late", "second")]
    assert (one.waiting, one.dropped) == (0, 0)


def test_an_equal_stamp_needs_no_waiting() -> None:
    one = joiner(max_offset=0)
    one.add_reference(100, "labels")
    assert one.add(100, "depth") == [("depth", "labels")]
    assert one.add(200, "depth") == []
    assert one.add_reference(200, "labels") == [("depth", "labels")]


def test_messages_that_no_reference_is_near_to_are_dropped_and_counted() -> None:
    one = joiner(max_offset=0)
    for stamp in (100, 101, 102):
        one.add(stamp, "depth")
    assert one.add_reference(102, "labels") == [("depth", "labels")]
    assert (one.dropped, one.dropped_in_a_row) == (2, 0)
    assert one.add(99, "depth") == []
    assert (one.dropped, one.dropped_in_a_row, one.last_offset_ns) == (3, 1, 3)


def test_the_oldest_message_gets_what_there_is() -> None:
    one = joiner(max_offset=50, limit=2)
    one.add_reference(100, "labels")
    assert [one.add(stamp, stamp) for stamp in (140, 180, 220)] == [[], [], [(140, "labels")]]
    assert one.add(260, 260) == []
    assert (one.dropped, one.waiting, one.last_offset_ns) == (1, 2, -80)


def test_without_a_reference_the_oldest_is_dropped() -> None:
    one = joiner(max_offset=50, limit=1)
    assert one.add(1, 1) == one.add(2, 2) == []
    assert (one.dropped, one.waiting, one.last_offset_ns) == (1, 1, None)


def test_old_references_are_forgotten() -> None:
    one = NearestJoiner(max_offset_ns=0, limit=10, references=2)
    for stamp in (100, 200, 300):
        one.add_reference(stamp, stamp)
    assert one.add(100, "late") == []
    assert one.add(200, "in time") == [("in time", 200)]
    assert one.dropped == 1


def test_references_from_before_a_restart_are_forgotten() -> None:
    one = joiner(max_offset=50)
    one.add_reference(10_000, "old")
    assert one.add_reference(100, "new") == []
    assert one.add(90, "message") == [("message", "new")]
    assert one.add(9_990, "of before") == []
    assert one.waiting == 1
