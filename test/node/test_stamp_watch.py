from __future__ import annotations

import numpy as np
import pytest

from upsnet_ros.node.statistics import StampWatch

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


@pytest.mark.parametrize(("rate", "pause"), [(10, 1.2), (5, 3.0), (30, 2.0), (2, 1.4)])
def test_a_video_that_is_played_again_and_again_loses_none(rate, pause):
    watch, period, first = StampWatch(), NS // rate, NS
    for _ in range(10):
        assert feed(watch, range(15), period=period, first=first) == 0
        first += 15 * period + int(pause * NS)
    assert watch.lost_share == 0.0


def test_a_slower_video_after_a_faster_one_loses_none():
    watch = StampWatch()
    feed(watch, range(100))
    assert feed(watch, range(60), period=NS // 10, first=6 * NS) == 0


def test_frames_sent_after_each_result_have_no_period():
    watch, stamp = StampWatch(), NS
    rng = np.random.default_rng(0)
    lost = 0
    for _ in range(300):
        stamp += int(0.2 * NS * rng.lognormal(0, 0.4))
        lost += watch.add(stamp, idle=True).lost
    assert lost == 0


def test_a_slow_result_that_the_sender_waits_for_is_no_loss():
    watch, stamp, lost = StampWatch(), NS, 0
    for number in range(100):
        step = NS // 10 if number % 10 else NS // 5
        stamp += step
        lost += watch.add(stamp, idle=True, busy_ns=9 * step // 10).lost
    assert lost == 0


def test_losses_are_counted_while_the_node_computes_a_short_time():
    watch = StampWatch()
    for number in [*range(20), *range(20, 80, 2)]:
        watch.add(NS + number * NS // 10, idle=True, busy_ns=NS // 50)
    assert watch.lost_share > 0.3
