"""How long the tracker takes for a frame, beside the plain ways to compare all masks.

    python benchmarks/tracking.py --size 1024x2048 --things 50

Ellipses that move, some in front of others. The plain ways only compare masks: they neither move
them nor pair them, which the tracker's time includes. Processor time, so that a busy machine tells
roughly the same.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable

import cv2
import numpy as np
import numpy.typing as npt

from upsnet_ros.inference.frame import Instance, PanopticFrame
from upsnet_ros.tracking.tracker import Tracker

_CLASSES = (24, 26)


def frames(size: tuple[int, int], things: int, count: int) -> list[PanopticFrame]:
    """Ellipses of all sizes up to a third of the height, each on its own way."""
    rng = np.random.default_rng(0)
    height, width = size
    axes = np.exp(rng.uniform(np.log(height / 100), np.log(height / 6), (things, 2)))
    start = rng.uniform((0, 0), (width, height), (things, 2))
    speed = rng.normal(0, width / 200, (things, 2))
    return [_frame(size, start + n * speed, axes) for n in range(count)]


def _frame(
    size: tuple[int, int], centers: npt.NDArray[np.float64], axes: npt.NDArray[np.float64]
) -> PanopticFrame:
    labels = np.full(size, 7, np.int32)
    for number, (center, radii) in enumerate(zip(centers, axes, strict=True), 1):
        label = _CLASSES[number % 2] * 1000 + number
        cv2.ellipse(
            labels, np.rint(center).astype(int), np.rint(radii).astype(int), 0, 0, 360, label, -1
        )
    instances = []
    for label in np.unique(labels[labels > 1000]).tolist():
        x, y, w, h = cv2.boundingRect((labels == label).view(np.uint8))
        box = (x, y, x + w - 1, y + h - 1)
        area = int(np.count_nonzero(labels == label))
        instances.append(
            Instance(
                id=label, class_id=label // 1000, class_name="", score=1.0, box=box,
                detection_box=box, area=area,
            )
        )  # fmt: skip
    return PanopticFrame(
        labels=labels, unknown=np.zeros(size, bool), instances=tuple(instances), stuff=()
    )


def pairwise(first: PanopticFrame, second: PanopticFrame) -> npt.NDArray[np.float64]:
    """Each mask with each, over the whole image."""
    masks, others = (
        [frame.labels == one.id for one in frame.instances] for frame in (first, second)
    )
    return np.array([[(a & b).sum() / (a | b).sum() for b in others] for a in masks])


def joint_histogram(first: PanopticFrame, second: PanopticFrame) -> npt.NDArray[np.float64]:
    """All pairs of labels that meet at a pixel, counted at once over the whole image."""
    ids, others = (np.array([one.id for one in frame.instances]) for frame in (first, second))
    rank = np.zeros(max(ids.max(), others.max()) + 1, np.int64)
    rank[ids] = np.arange(len(ids)) + 1
    rows = rank[first.labels]
    rank[:] = 0
    rank[others] = np.arange(len(others)) + 1
    columns = len(others) + 1
    keys = rows * columns + rank[second.labels]
    table = np.bincount(keys.reshape(-1), minlength=(len(ids) + 1) * columns).reshape(-1, columns)
    shared = table[1:, 1:]
    return shared / (table[1:].sum(1)[:, None] + table[:, 1:].sum(0) - shared)


def milliseconds(work: Callable[[], object], repeats: int) -> float:
    """Processor time of one call, the median."""
    times = []
    for _ in range(repeats):
        begin = time.process_time()
        work()
        times.append(time.process_time() - begin)
    return 1e3 * float(np.median(times))


def main() -> None:
    """Print the times, and how many times the tracker's each is."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--size", default="1024x2048", help="HEIGHTxWIDTH")
    parser.add_argument("--things", type=int, default=50)
    arguments = parser.parse_args()
    height, width = (int(part) for part in arguments.size.split("x"))
    video = frames((height, width), arguments.things, 20)
    assert np.allclose(pairwise(*video[:2]), joint_histogram(*video[:2]))
    tracker = Tracker()
    tracker(video[0])
    rest = iter(video[1:])
    times = {
        "tracker, all of it": milliseconds(lambda: tracker(next(rest)), len(video) - 1),
        "joint histogram of whole maps": milliseconds(lambda: joint_histogram(*video[:2]), 5),
        "masks pairwise": milliseconds(lambda: pairwise(*video[:2]), 2),
    }
    for name, value in times.items():
        print(f"{name:32} {value:9.1f} ms  {value / times['tracker, all of it']:7.1f} x")


if __name__ == "__main__":
    main()
