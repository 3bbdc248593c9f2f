"""Images sent, answered and missed, with their latencies."""

from __future__ import annotations

import numpy as np
import pytest

from upsnet_ros.playback.replayer import ReplayTally, histogram, latency_statistics

MS = 1_000_000


def send(tally, stamp):
    return tally.send(stamp_ns=stamp, bag_ns=1000 + stamp, sent_ns=stamp * 100 * MS)


def answer(tally, output, stamp, after_ms=5.0):
    return tally.answer(output, stamp, received_ns=stamp * 100 * MS + round(after_ms * MS))


def test_an_image_is_answered_when_every_output_came():
    tally = ReplayTally(["labels", "instances"])
    image = send(tally, 1)
    assert tally.missing_outputs(image) == ["instances", "labels"]
    assert answer(tally, "labels", 1, 30) is image
    assert tally.missing_outputs(image) == ["instances"]
    assert (tally.answered, tally.missed) == (0, 1)
    assert answer(tally, "instances", 1, 20) is image
    assert tally.missing_outputs(image) == []
    report = tally.report()
    assert (report["sent"], report["answered"], report["missed"]) == (1, 1, 0)
    assert report["latency_ms"]["mean"] == 30.0, "an answer has come when its last part has"


def test_what_nobody_asked_for_and_what_comes_twice_counts_for_nothing():
    tally = ReplayTally(["labels", "instances"])
    assert answer(tally, "labels", 7) is None
    send(tally, 1)
    answer(tally, "labels", 1, 30)
    assert answer(tally, "labels", 1, 40) is None
    answer(tally, "instances", 1)
    assert answer(tally, "labels", 1) is None
    assert tally.report()["latency_ms"]["max"] == 30.0


def test_missed_and_partly_answered_images():
    tally = ReplayTally(["labels", "instances"])
    for stamp in range(4):
        send(tally, stamp)
    answer(tally, "labels", 1)
    answer(tally, "labels", 3)
    answer(tally, "instances", 3)
    report = tally.report()
    assert (report["sent"], report["answered"], report["missed"]) == (4, 1, 3)
    assert report["missed_share"] == 0.75
    assert report["partly_answered"] == 1


def test_images_that_share_a_stamp_are_told():
    tally = ReplayTally(["labels"])
    send(tally, 0)
    answer(tally, "labels", 0)
    second, third = send(tally, 0), send(tally, 0)
    assert answer(tally, "labels", 0) is third
    assert tally.missing_outputs(second) == ["labels"]
    report = tally.report()
    assert (report["sent"], report["answered"], report["repeated_stamps"]) == (3, 2, 1)


def test_images_that_were_dropped_do_not_pile_up():
    tally = ReplayTally(["labels", "instances"])
    for stamp in range(3000):
        send(tally, stamp)
        answer(tally, "labels", stamp)
    assert len(tally._outstanding) == 1000
    assert tally.report()["partly_answered"] == 3000
    assert answer(tally, "instances", 0) is None
    assert answer(tally, "instances", 2999) is not None


def test_nothing_sent():
    report = ReplayTally(["labels"]).report()
    assert report["missed_share"] == 0.0
    assert report["latency_ms"] is None
    assert report["histogram"] == {"edges_ms": [], "counts": []}


def test_latency_statistics():
    statistics = latency_statistics([float(value) for value in range(101)])
    assert statistics == {"mean": 50, "min": 0, "p50": 50, "p90": 90, "p99": 99, "max": 100}


@pytest.mark.parametrize("seed", range(30))
def test_a_histogram_holds_every_latency_in_round_bins(seed):
    generator = np.random.default_rng(seed)
    size, spread = generator.integers(1, 500), 10 ** generator.uniform(-4, 4)
    values = generator.uniform(0, 1000) + spread * generator.random(size)
    result = histogram(values.tolist())
    edges, counts = result["edges_ms"], result["counts"]
    assert sum(counts) == size
    assert len(edges) == len(counts) + 1 <= 21
    assert counts[0] > 0
    assert counts[-1] > 0
    width = edges[1] - edges[0]
    assert f"{width:.0e}"[0] in "125"
    np.testing.assert_allclose(np.diff(edges), width, rtol=1e-3, atol=1e-4)


def test_a_histogram_of_one_value_and_of_values_on_edges():
    assert histogram([12.0])["counts"] == [1]
    assert sum(histogram([0.0, 10.0, 20.0])["counts"]) == 3
