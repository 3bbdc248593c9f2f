"""Joining by equal stamps, and the account of what never came together."""

from __future__ import annotations

from upsnet_ros.ros.stamp_join import StampJoiner


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
