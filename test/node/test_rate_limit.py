from __future__ import annotations

import numpy as np
import pytest

from upsnet_ros.node.statistics import RateLimit


def taken(limit, camera_rate, seconds, jitter=0.0, first=100.0):
    count = int(camera_rate * seconds)
    noise = np.random.default_rng(0).normal(0, jitter / camera_rate, count)
    times = first + np.arange(count) / camera_rate + noise
    return [at for at in times if limit.take(at)]


@pytest.mark.parametrize("rate", [1.0, 7.0, 10.0, 15.0, 29.0, 30.0])
@pytest.mark.parametrize("jitter", [0.0, 0.05])
def test_the_mean_rate_is_the_one_asked_for(rate, jitter):
    found = len(taken(RateLimit(rate), 30.0, 60.0, jitter)) / 60.0
    assert found == pytest.approx(rate, rel=0.03)


def test_a_camera_slower_than_the_limit_loses_nothing():
    assert len(taken(RateLimit(30.0), 10.0, 10.0, jitter=0.1)) == 100


def test_no_limit():
    assert len(taken(RateLimit(0.0), 1000.0, 1.0)) == 1000


def test_after_a_pause_frames_do_not_come_in_a_burst():
    limit = RateLimit(10.0)
    taken(limit, 30.0, 1.0)
    after = taken(limit, 30.0, 1.0, first=200.0)
    assert len(after) <= 11


def test_a_new_rate_holds_at_once():
    limit = RateLimit(0.01)
    assert limit.take(0.0)
    assert not limit.take(1.0)
    limit.rate = 10.0
    assert len(taken(limit, 30.0, 2.0, first=1.1)) == pytest.approx(20, abs=1)
    limit.rate = 0.01
    assert len(taken(limit, 30.0, 10.0, first=3.1)) <= 1
