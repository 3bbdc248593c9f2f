from __future__ import annotations

import numpy as np
import pytest

from upsnet_ros.ros.stamp_watch import StampWatch

NS = 1_000_000_000


def feed(watch, numbers, period=NS // 30, idle=True, jitter=0.0, first=NS):
    """The stamps of these frames of a camera; how many frames were lost, by the watch."""
    noise = np.random.default_rng(0).normal(0, jitter * period, 10_000)
    return sum(
        watch.add(first + number * period + int(noise[number]), idle=idle).lost
        for number in numbers
    )


def test_a_camera_that_sends_all_its_frames_loses_none():
    watch = StampWatch()
    assert feed(watch, range(300), jitter=0.05) == 0
    assert watch.lost_share == 0.0


@pytest.mark.parametrize("jitter", [0.0, 0.05])
def test_lost_frames_are_counted_even_where_most_are_lost(jitter):
    came = [number for number in range(1000) if np.random.default_rng(number).random() < 0.3]
    watch = StampWatch()
    known = feed(watch, came, jitter=jitter)
    assert known == pytest.approx(1000 - len(came), rel=0.1), "but for the first few"
    assert watch.lost_share == pytest.approx(0.7, abs=0.1)


def test_nothing_is_said_while_the_node_computes():
    watch = StampWatch()
    feed(watch, range(30))
    assert feed(watch, range(30, 300, 3), idle=False) == 0
    assert watch.lost_share == 0.0


def test_a_pause_is_no_loss():
    watch = StampWatch()
    feed(watch, range(30))
    assert feed(watch, range(300, 330)) == 0


def test_a_slower_camera_is_known_again_after_a_while():
    watch = StampWatch()
    feed(watch, range(200))
    feed(watch, range(200, 400, 2))
    assert feed(watch, range(400, 600, 2)) == 0
    assert watch.lost_share == 0.0


def test_time_that_runs_backwards_begins_anew():
    watch = StampWatch()
    feed(watch, range(30))
    news = watch.add(NS, idle=True)
    assert news.backwards and not news.lost
    assert not watch.add(NS + NS // 30, idle=True).backwards
    assert feed(watch, range(2, 28, 3)) == 0, "its period is not known yet"


def test_frames_without_stamps_say_nothing():
    watch = StampWatch()
    feed(watch, range(30))
    assert watch.add(0, idle=True) == watch.add(0, idle=True)
    assert feed(watch, range(30, 60)) == 0
