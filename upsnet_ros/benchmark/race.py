"""The fast path, the plain one, and Mask R-CNN, frame by frame in turn."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import cycle, islice
from typing import Any

import numpy as np
from torch import nn

from upsnet_ros.benchmark.clock import timed
from upsnet_ros.benchmark.frames import Image
from upsnet_ros.benchmark.rival import MaskRCNN
from upsnet_ros.benchmark.summary import PairedRatio, Summary
from upsnet_ros.inference.frame import PanopticFrame
from upsnet_ros.inference.pipeline import Pipeline
from upsnet_ros.inference.predictor import Predictor

__all__ = ["RaceFigures", "race"]


@dataclass(frozen=True, slots=True, kw_only=True)
class RaceFigures:
    """Milliseconds of a lone frame, host image in to host labels out.

    Attributes:
        fast_ms: Of the fast path, through a pipeline.
        plain_ms: Of this project's plain eager path in fp32.
        maskrcnn_ms: Of Mask R-CNN.
        plain_over_fast: How many times as long the plain path takes.
        maskrcnn_over_fast: How many times as long Mask R-CNN takes.
        instances: Median number in the fast path's answers.
        boxes: Median number that the plain path's mask head segmented, and so Mask R-CNN's.
        maskrcnn_instances: Median number in Mask R-CNN's answers.
    """

    fast_ms: Summary
    plain_ms: Summary
    maskrcnn_ms: Summary
    plain_over_fast: PairedRatio
    maskrcnn_over_fast: PairedRatio
    instances: float
    boxes: float
    maskrcnn_instances: float


@dataclass(frozen=True, slots=True)
class _Sample:
    fast: float
    plain: float
    rival: float
    instances: int
    boxes: int
    rival_instances: int


def race(
    pipeline: Pipeline,
    plain: Predictor,
    rival: MaskRCNN,
    images: Sequence[Image],
    *,
    warmup: int,
    iterations: int,
    progress: Callable[[], None] = lambda: None,
) -> RaceFigures:
    """Time the three on each frame before the next one, so that a load slows all of them.

    Args:
        pipeline: The fast path, with nothing in flight.
        plain: The same network's plain path.
        rival: On as many boxes as `plain` segments.
        images: uint8 (H, W, 3), BGR, taken in turn.
        warmup: Frames before those that count.
        iterations: Frames that count.
        progress: Called after each frame.
    """
    boxes = 0

    def count_boxes(_: nn.Module, args: tuple[Any, ...]) -> None:
        nonlocal boxes
        boxes = len(args[1])

    samples = []
    hook = plain.network.mask_branch.register_forward_pre_hook(count_boxes)
    try:
        for image in islice(cycle(images), warmup + iterations):
            fast_ms, frame = timed(partial(_through, pipeline, image))
            plain_ms, _ = timed(partial(plain, image))
            rival_ms, found = timed(partial(rival, image, detections=boxes))
            samples.append(_Sample(fast_ms, plain_ms, rival_ms, len(frame.instances), boxes, found))
            progress()
    finally:
        hook.remove()
    return _figures(samples[warmup:])


def _through(pipeline: Pipeline, image: Image) -> PanopticFrame:
    return pipeline.submit(image).result()


def _figures(samples: Sequence[_Sample]) -> RaceFigures:
    fast = [sample.fast for sample in samples]
    slow = [sample.plain for sample in samples]
    rival = [sample.rival for sample in samples]
    return RaceFigures(
        fast_ms=Summary.of(fast),
        plain_ms=Summary.of(slow),
        maskrcnn_ms=Summary.of(rival),
        plain_over_fast=PairedRatio.of(slow, fast),
        maskrcnn_over_fast=PairedRatio.of(rival, fast),
        instances=float(np.median([sample.instances for sample in samples])),
        boxes=float(np.median([sample.boxes for sample in samples])),
        maskrcnn_instances=float(np.median([sample.rival_instances for sample in samples])),
    )
