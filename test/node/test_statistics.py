from __future__ import annotations

import pytest

from upsnet_ros.node.statistics import CameraState, CameraStatistics, StageTimes


def report(camera, now, stale_after=2.0):
    return camera.report(now=now, stale_after=stale_after)


def receive(camera, now, stamp_ns=1, idle=True):
    return camera.received(now=now, stamp_ns=stamp_ns, delay_ms=5.0, idle=idle)


def test_a_camera_waits_is_active_and_grows_stale():
    camera = CameraStatistics()
    assert report(camera, 100.0).state is CameraState.WAITING
    assert report(camera, 100.0).age is None
    receive(camera, 100.0)
    assert report(camera, 101.0).state is CameraState.ACTIVE
    assert report(camera, 103.0).state is CameraState.STALE
    assert report(camera, 103.0, stale_after=5.0).state is CameraState.ACTIVE
    receive(camera, 103.5)
    assert report(camera, 103.6).state is CameraState.ACTIVE


def test_a_rejected_or_failed_frame_shows_until_the_next_good_one():
    camera = CameraStatistics()
    receive(camera, 1.0)
    camera.rejected("step 3 is smaller than a row's 9 bytes")
    assert report(camera, 1.1).state is CameraState.REJECTED
    camera.failed("OutOfMemoryError: CUDA out of memory")
    assert report(camera, 1.2).state is CameraState.FAILED
    receive(camera, 1.3)
    assert report(camera, 1.4).state is CameraState.FAILED, "it came, but was not answered yet"
    camera.answered(latency_ms=20.0)
    counts = report(camera, 1.5).counts
    assert report(camera, 1.5).state is CameraState.ACTIVE
    assert (counts.received, counts.rejected, counts.failed, counts.answered) == (2, 1, 1, 1)
    assert counts.last_rejection == "step 3 is smaller than a row's 9 bytes"
    assert counts.last_failure == "OutOfMemoryError: CUDA out of memory"


def test_rates_by_arrival_and_by_stamp():
    camera = CameraStatistics()
    for number in range(31):
        receive(camera, 50 + number / 20, stamp_ns=10**9 * 1_700_000_000 + number * 10**8)
    now = report(camera, 51.6)
    assert now.arrival_rate == pytest.approx(20)
    assert now.stamp_rate == pytest.approx(10)
    assert now.delay_ms == 5.0
    assert report(camera, 60.0).arrival_rate == 0, "old frames make no rate"


def test_a_burst_is_no_rate_of_hundreds():
    camera = CameraStatistics()
    for second in (0.0, 0.001, 20.0, 20.001, 40.0, 40.001, 40.002):
        receive(camera, 100 + second, stamp_ns=10**18 + round(second * 1e9))
    for now in (140.01, 141.0, 144.0):
        told = report(camera, now, stale_after=60.0)
        assert 0 < told.arrival_rate < 1
        assert 0 < told.stamp_rate < 1
    told = report(camera, 142.5)
    assert told.state is CameraState.STALE
    assert (told.arrival_rate, told.stamp_rate) == (0, 0)


def test_a_camera_that_comes_back_soon_has_its_rate_again():
    camera = CameraStatistics()
    for second in (0.0, *(60 + number / 10 for number in range(60))):
        receive(camera, 100 + second, stamp_ns=10**18 + round(second * 1e9))
    told = report(camera, 166.0)
    assert told.arrival_rate == pytest.approx(10)
    assert told.stamp_rate == pytest.approx(10)


def test_a_camera_whose_frames_wait_for_results_loses_none():
    camera = CameraStatistics()
    stamp = 10**18
    for number in range(60):
        seconds = 0.1 if number % 6 else 0.2
        receive(camera, stamp / 1e9, stamp_ns=stamp)
        camera.answered(latency_ms=950 * seconds)
        stamp += round(seconds * 1e9)
    assert report(camera, stamp / 1e9).counts.lost == 0


def test_stamps_that_stand_still_or_go_backwards_make_no_rate():
    camera = CameraStatistics()
    receive(camera, 1.0, stamp_ns=0)
    receive(camera, 1.1, stamp_ns=0)
    assert report(camera, 1.2).stamp_rate == 0
    assert report(camera, 1.2).counts.zero_stamps == 2
    camera.forget_frames()
    receive(camera, 2.0, stamp_ns=5 * 10**9)
    receive(camera, 2.1, stamp_ns=10**9)
    assert report(camera, 2.2).stamp_rate == 0


def test_a_bag_that_begins_anew_is_counted_and_rates_begin_anew():
    camera = CameraStatistics()
    for number in range(20):
        receive(camera, 1 + number / 10, stamp_ns=10**9 + number * 10**8)
    assert receive(camera, 3.0, stamp_ns=10**9).backwards
    receive(camera, 3.1, stamp_ns=10**9 + 10**8)
    now = report(camera, 3.1)
    assert now.counts.backward_stamps == 1
    assert now.stamp_rate == pytest.approx(10)
    assert now.counts.lost == 0


def test_frames_that_never_came_are_counted():
    camera = CameraStatistics()
    for number in range(60):
        if number % 4 or number < 20:
            receive(camera, 1 + number / 10, stamp_ns=10**9 + number * 10**8)
    now = report(camera, 7.0)
    assert now.counts.lost == 10
    assert now.lost_share == pytest.approx(10 / 59)
    assert now.loses_frames
    assert camera.loses_frames
    assert now.counts.received == 50


def test_a_message_that_cannot_be_read_at_all():
    camera = CameraStatistics()
    receive(camera, 1.0, stamp_ns=5)
    camera.unreadable("the message is cut off", now=2.0)
    now = report(camera, 2.0)
    assert (now.state, now.age) == (CameraState.REJECTED, 0.0)
    assert (now.counts.received, now.counts.rejected, now.counts.zero_stamps) == (2, 1, 0)


def test_a_camera_slowed_down_on_purpose_is_well():
    camera = CameraStatistics()
    receive(camera, 1.0)
    camera.rejected("step 3")
    camera.skipped()
    assert report(camera, 1.0).state is CameraState.ACTIVE
    assert report(camera, 1.0).counts.skipped == 1


def test_latency_percentiles():
    camera = CameraStatistics()
    assert report(camera, 0.0).latency_ms is None
    for latency in range(1, 102):
        camera.answered(latency_ms=float(latency))
    assert report(camera, 0.0).latency_ms == (51.0, 100.0)


def test_forgetting_frames_keeps_the_counts():
    camera = CameraStatistics()
    receive(camera, 1.0)
    camera.dropped(3)
    camera.answered(latency_ms=1.0)
    camera.forget_frames()
    now = report(camera, 9.0)
    assert now.state is CameraState.WAITING
    assert (now.age, now.delay_ms, now.latency_ms, now.arrival_rate) == (None, None, None, 0.0)
    assert (now.counts.received, now.counts.dropped, now.counts.answered) == (1, 3, 1)


def test_stage_times():
    stages = StageTimes()
    assert stages.percentiles() == {}
    for time in (1.0, 2.0, 3.0):
        stages.add({"backbone": time, "box": 10 * time})
    assert list(stages.percentiles()) == ["backbone", "box"]
    assert stages.percentiles()["box"][0] == 20.0
    stages.clear()
    assert stages.percentiles() == {}
