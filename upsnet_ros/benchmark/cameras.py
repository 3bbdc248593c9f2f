"""Frames a second with frames in flight: one camera, and several that share the network."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from itertools import cycle, islice

from upsnet_ros.benchmark.frames import Image
from upsnet_ros.benchmark.summary import PairedRatio, Summary
from upsnet_ros.inference.frame import PanopticFrame
from upsnet_ros.inference.pipeline import Pipeline
from upsnet_ros.inference.predictor import Predictor

__all__ = ["CameraFigures", "measure_cameras"]


@dataclass(frozen=True, slots=True, kw_only=True)
class CameraFigures:
    """Frames a second, all cameras together.

    Attributes:
        cameras: How many shared the network.
        frames: Frames of a round.
        one_hz: Of one camera, through a pipeline without batches.
        all_hz: Of all, through one pipeline whose batches take a frame of each.
        gain: `all_hz` by `one_hz`, round by round.
    """

    cameras: int
    frames: int
    one_hz: Summary
    all_hz: Summary
    gain: PairedRatio


def measure_cameras(
    predictor: Predictor,
    images: Sequence[Image],
    *,
    cameras: int,
    frames: int,
    rounds: int,
    progress: Callable[[], None] = lambda: None,
) -> CameraFigures:
    """Let one camera, and then several, hand in frames as fast as they are taken, in rounds.

    Args:
        predictor: What segments.
        images: uint8 (H, W, 3), BGR, all of one size, taken in turn.
        cameras: How many share the network.
        frames: Of a round; each camera's share of it is the same.
        rounds: That count, after one that does not.
        progress: Called after each round.
    """
    each = -(-frames // cameras)
    one, every = [], []
    predictor.prepare(images[0].shape, batches=range(1, cameras + 1))
    with Pipeline(predictor) as alone, Pipeline(predictor, batch=cameras) as together:
        for _ in range(1 + rounds):
            one.append(_frames_a_second(alone, images, cameras=1, each=each * cameras))
            every.append(_frames_a_second(together, images, cameras=cameras, each=each))
            progress()
    return CameraFigures(
        cameras=cameras,
        frames=each * cameras,
        one_hz=Summary.of(one[1:]),
        all_hz=Summary.of(every[1:]),
        gain=PairedRatio.of(every[1:], one[1:]),
    )


def _frames_a_second(
    pipeline: Pipeline, images: Sequence[Image], *, cameras: int, each: int
) -> float:
    """Return how fast cameras, a thread each, get so many frames each answered."""
    answers: list[list[Future[PanopticFrame]]] = [[] for _ in range(cameras)]
    start = threading.Barrier(cameras + 1)

    def camera(number: int) -> None:
        start.wait()
        for image in islice(cycle(images), number, number + each):
            answers[number].append(pipeline.submit(image))  # waits while too many are in flight

    threads = [threading.Thread(target=camera, args=(number,)) for number in range(cameras)]
    for thread in threads:
        thread.start()
    start.wait()
    begin = time.perf_counter()
    for thread in threads:
        thread.join()
    done = [answer.result() for of_one in answers for answer in of_one]
    if len(done) < cameras * each:
        raise RuntimeError("a camera's thread ended before it had handed in all of its frames")
    return len(done) / (time.perf_counter() - begin)
