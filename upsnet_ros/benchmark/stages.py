"""Where a frame's time goes, stage by stage, without a graph; and how long its graph takes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from importlib.util import find_spec
from itertools import cycle, islice
from typing import TYPE_CHECKING

import numpy as np

from upsnet_ros.benchmark.clock import device_ms, timed
from upsnet_ros.benchmark.frames import Image
from upsnet_ros.benchmark.summary import PairedRatio, Summary
from upsnet_ros.inference.predictor import PREDICTOR_STAGES, Predictor
from upsnet_ros.inference.preprocess import upload

if TYPE_CHECKING:
    from upsnet_ros.benchmark.ros_ends import RosEnds
    from upsnet_ros.datasets.taxonomy import Taxonomy

__all__ = ["STAGES", "StageFigures", "graph_ms", "measure_stages"]

#: All stages of a report, in order; the first and the last need ROS.
STAGES = ("decode", *PREDICTOR_STAGES, "publish")


@dataclass(frozen=True, slots=True, kw_only=True)
class StageFigures:
    """Milliseconds by stage.

    Attributes:
        stages_ms: Of each of `STAGES`; None for those that need ROS where it is not.
        frame_ms: Upload to download.
        panoptic_share: Panoptic head, and the download that makes the table of segments, of that.
        instances: Median number in the answers.
    """

    stages_ms: dict[str, Summary | None]
    frame_ms: Summary
    panoptic_share: float
    instances: float


@dataclass(frozen=True, slots=True)
class _Sample:
    stages: dict[str, float]
    frame: float
    instances: int


def measure_stages(
    predictor: Predictor,
    images: Sequence[Image],
    *,
    warmup: int,
    iterations: int,
    progress: Callable[[], None] = lambda: None,
) -> StageFigures:
    """Segment images in turn, and time each stage.

    Args:
        predictor: Measures its stages, and so runs without graphs.
        images: uint8 (H, W, 3), BGR.
        warmup: Frames before those that count.
        iterations: Frames that count.
        progress: Called after each frame.
    """
    ends = _ros_ends(predictor.taxonomy)
    samples = []
    for image in islice(cycle(images), warmup + iterations):
        samples.append(_sample(predictor, ends, image))
        progress()
    samples = samples[warmup:]
    whole = [sample.frame for sample in samples]
    return StageFigures(
        stages_ms={
            name: Summary.of([sample.stages[name] for sample in samples])
            if name in samples[0].stages
            else None
            for name in STAGES
        },
        frame_ms=Summary.of(whole),
        panoptic_share=PairedRatio.of(
            # On a CPU nothing is downloaded: that stage makes the table of segments.
            [sample.stages["panoptic"] + sample.stages["download"] for sample in samples],
            whole,
        ).median,
        instances=float(np.median([sample.instances for sample in samples])),
    )


def graph_ms(predictor: Predictor, image: Image, *, warmup: int, iterations: int) -> Summary | None:
    """Time from bytes on the GPU to labels there, through the graph; None on a CPU, without one."""
    if predictor.device.type != "cuda":
        return None
    pixels, settings = upload(image, predictor.device), predictor.settings()
    function = partial(predictor.compute_batch, [pixels], settings)
    return Summary.of(device_ms(function, predictor.device, warmup=warmup, iterations=iterations))


def _sample(predictor: Predictor, ends: RosEnds | None, image: Image) -> _Sample:
    stages: dict[str, float] = {}
    if ends:
        message = ends.camera_message(image)
        stages["decode"], image = timed(partial(ends.decode, message))
    frame_ms, frame = timed(partial(predictor, image))
    stages |= frame.timings
    if ends:
        stages["publish"], _ = timed(partial(ends.publish, frame, message))
    return _Sample(stages, frame_ms, len(frame.instances))


def _ros_ends(taxonomy: Taxonomy) -> RosEnds | None:
    if not all(find_spec(name) for name in ("rclpy", "sensor_msgs", "upsnet_ros.msg")):
        return None
    from upsnet_ros.benchmark.ros_ends import RosEnds

    return RosEnds(taxonomy)
