"""Track ids as the node publishes them, frame by frame."""

from __future__ import annotations

import numpy as np
import pytest
from node_bench import Bench, image

from upsnet_ros.inference.frame import Instance, PanopticFrame
from upsnet_ros.msg import PanopticInstanceArray

pytestmark = pytest.mark.dds

CAR = 26


def cars(*lefts):
    """One car at each left edge, numbered in the order given."""
    labels = np.full((48, 64), 7, np.int32)
    things = []
    for k, left in enumerate(lefts, 1):
        labels[20:30, left : left + 12] = CAR * 1000 + k
        box = (left, 20, left + 11, 29)
        things.append(
            Instance(
                id=CAR * 1000 + k, class_id=CAR, class_name="car", score=0.9, box=box,
                detection_box=box, area=120,
            )
        )  # fmt: skip
    unknown = np.zeros(labels.shape, bool)
    return PanopticFrame(labels=labels, unknown=unknown, instances=tuple(things), stuff=())


class Drive:
    """Shows the node's cameras one frame after the other, each until it is answered."""

    def __init__(self, bench, *cameras):
        self._bench = bench
        self._publishers = {name: bench.camera(f"{name}/image") for name in cameras}
        self._answers = {
            name: bench.collect(f"{name}/instances", PanopticInstanceArray) for name in cameras
        }
        bench.answer_by(lambda _: self._frame)

    def ids(self, camera, frame, stamp_ns):
        """Track ids by the left edge of each thing."""
        self._frame = frame
        answers, shown = self._answers[camera], image(stamp_ns)
        answers.clear()
        self._bench.until(
            lambda: [one for one in answers if one.header.stamp == shown.header.stamp],
            f"an answer of {camera} at {stamp_ns}",
            again=lambda: self._publishers[camera].publish(shown),
        )
        return {one.roi.x_offset: one.track_id for one in answers[-1].instances}


@pytest.fixture
def bench(domain):
    bench = Bench(domain, "tracking:=true", "cameras:=[front, rear]", "publish_detections:=false")
    yield bench
    bench.close()


def test_things_keep_their_ids_by_camera_until_stamps_go_back_or_the_node_begins_anew(bench):
    assert bench.node.start()
    drive = Drive(bench, "front", "rear")
    second = 1_000_000_000
    for n in range(4):
        left, right = 2 + 3 * n, 45 - 2 * n
        lefts = (left, right) if n % 2 else (right, left)  # the network's order means nothing
        ids = drive.ids("front", cars(*lefts), 100 * second + n * second // 10)
        assert ids == {left: 2, right: 1}
    # The other camera has numbers of its own, and does not hold up the first one's.
    assert drive.ids("rear", cars(30), 100 * second) == {30: 1}
    assert drive.ids("front", cars(14), 100 * second + 4 * second // 10) == {14: 2}
    bench.until(
        lambda: any(
            "track_ms_p50" in {pair.key for pair in one.values} for one in bench.statuses()
        ),
        "the tracker's time in diagnostics",
    )

    assert drive.ids("front", cars(14), 99 * second) == {14: 3}
    assert bench.set(tracking=False) == (True, "")
    assert drive.ids("front", cars(14), 99 * second + 1) == {14: 0}
    assert bench.set(tracking=True) == (True, "")
    assert drive.ids("front", cars(14), 99 * second + 2) == {14: 3}

    bench.node.trigger_deactivate()
    bench.node.trigger_activate()
    assert drive.ids("front", cars(14), 99 * second + 3) == {14: 1}
