"""Time UPSNet frame by frame, in turn with Mask R-CNN where that is asked for."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from importlib.util import find_spec
from itertools import cycle, islice
from typing import TYPE_CHECKING, Any, TypeVar

import cv2
import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from upsnet_ros.benchmark.machine import describe_machine
from upsnet_ros.benchmark.rival import MaskRCNN
from upsnet_ros.benchmark.summary import PairedRatio, Summary
from upsnet_ros.datasets.scenes import DrivingScenes
from upsnet_ros.inference.predictor import PRECISIONS, PREDICTOR_STAGES, Predictor

if TYPE_CHECKING:
    from upsnet_ros.benchmark.ros_ends import RosEnds
    from upsnet_ros.datasets.taxonomy import Taxonomy

#: All stages of a report, in order; the first and the last need ROS.
STAGES = ("decode", *PREDICTOR_STAGES, "publish")

# Distinct frames, taken in turn.
_FRAMES = 4

_T = TypeVar("_T")


@dataclass(frozen=True, slots=True, kw_only=True)
class BenchSettings:
    """What to measure.

    Attributes:
        variant: Network to run.
        height: Rows of the frames, and with `width` what the network runs at.
        width: Columns of the frames.
        device: As in `Predictor`.
        precision: As in `Predictor`.
        threads: Of torch and OpenCV on the CPU; None leaves them as they are.
        iterations: Frames to measure.
        warmup: Frames before those.
        weights: File of weights; None draws them at random.
        image: Picture to segment, resized; None draws driving scenes.
        compare: Whether to measure Mask R-CNN too.
    """

    variant: str
    height: int
    width: int
    device: str
    precision: str
    threads: int | None
    iterations: int
    warmup: int
    weights: str | None
    image: str | None
    compare: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class _Sample:
    """One frame's measurements; times in milliseconds."""

    stages: dict[str, float]
    frame: float
    instances: int
    segmented: int
    rival: float
    rival_instances: int


class _Bench:
    def __init__(self, settings: BenchSettings) -> None:
        self.predictor = Predictor(
            settings.weights,
            variant=settings.variant,
            device=settings.device,
            precision=settings.precision,
            scale=min(settings.height, settings.width),
            allow_random_weights=settings.weights is None,
            measure=True,
        )
        self.size = self.predictor.geometry(settings.height, settings.width).size
        self._ros = _ros_ends(self.predictor.taxonomy)
        self._rival: MaskRCNN | None = None
        if settings.compare:
            self._rival = MaskRCNN(
                size=self.size,
                device=self.predictor.device,
                dtype=PRECISIONS[settings.precision],
            )
        # Boxes that the mask branch saw last: each network is to segment as many.
        self._segmented = 0
        self.predictor.network.mask_branch.register_forward_pre_hook(self._count_segmented)

    def sample(self, image: npt.NDArray[np.uint8]) -> _Sample:
        stages: dict[str, float] = {}
        if self._ros:
            message = self._ros.camera_message(image)
            stages["decode"], image = _timed(partial(self._ros.decode, message))
        frame_ms, frame = _timed(partial(self.predictor, image))
        stages |= frame.timings
        if self._ros:
            stages["publish"], _ = _timed(partial(self._ros.publish, frame, message))
        rival_ms, rival_instances = 0.0, 0
        if self._rival:
            rival_ms, rival_instances = _timed(
                partial(self._rival, image, detections=self._segmented)
            )
        return _Sample(
            stages=stages,
            frame=frame_ms,
            instances=len(frame.instances),
            segmented=self._segmented,
            rival=rival_ms,
            rival_instances=rival_instances,
        )

    def _count_segmented(self, _: nn.Module, args: tuple[Any, ...]) -> None:
        _, boxes, _ = args
        self._segmented = len(boxes)


def run(settings: BenchSettings, *, progress: Callable[[], None] = lambda: None) -> dict[str, Any]:
    """Measure and return a report fit for JSON; docs/performance.md describes its keys.

    Args:
        settings: What to measure.
        progress: Called after each of ``warmup + iterations`` frames.

    Raises:
        ValueError: A setting is not possible, `CheckpointError` among them.
    """
    if settings.threads is not None:
        torch.set_num_threads(settings.threads)
        cv2.setNumThreads(settings.threads)
    images = frames(settings.image, height=settings.height, width=settings.width)
    bench = _Bench(settings)
    machine = describe_machine(bench.predictor.device)
    samples = []
    for image in islice(cycle(images), settings.warmup + settings.iterations):
        samples.append(bench.sample(image))
        progress()
    samples = samples[settings.warmup :]
    return {
        "settings": {
            **asdict(settings),
            "device": str(bench.predictor.device),
            "threads": torch.get_num_threads(),
            "weights": settings.weights or "random",
            "network_size": list(bench.size),
        },
        "machine": machine,
        **_results(samples, compare=settings.compare),
        **_gpu_memory(bench.predictor.device),
    }


def _results(samples: Sequence[_Sample], *, compare: bool) -> dict[str, Any]:
    whole = [sample.frame for sample in samples]
    results: dict[str, Any] = {
        "stages_ms": {
            name: asdict(Summary.of([sample.stages[name] for sample in samples]))
            if name in samples[0].stages
            else None
            for name in STAGES
        },
        "frame_ms": asdict(Summary.of(whole)),
        "panoptic_share": PairedRatio.of(
            # On a CPU nothing is downloaded: that stage makes the table of segments.
            [sample.stages["panoptic"] + sample.stages["download"] for sample in samples],
            whole,
        ).median,
        "instances": float(np.median([sample.instances for sample in samples])),
        "segmented_boxes": float(np.median([sample.segmented for sample in samples])),
    }
    if compare:
        rivals = [sample.rival for sample in samples]
        ratio = PairedRatio.of(whole, rivals)
        results |= {
            "maskrcnn_ms": asdict(Summary.of(rivals)),
            "maskrcnn_instances": float(np.median([s.rival_instances for s in samples])),
            "ratio_to_maskrcnn": ratio.median,
            "ratio_to_maskrcnn_spread": asdict(ratio),
        }
    return results


def _gpu_memory(device: torch.device) -> dict[str, float]:
    if device.type != "cuda":
        return {}
    return {"gpu_memory_mib": round(torch.cuda.max_memory_allocated(device) / 2**20, 1)}


def frames(picture: str | None, *, height: int, width: int) -> list[npt.NDArray[np.uint8]]:
    """What is segmented: a picture, resized, or by default driving scenes; uint8 (H, W, 3), BGR.

    Raises:
        ValueError: The picture cannot be read.
    """
    if picture is None:
        return [scene.image for scene in DrivingScenes("test", 0, _FRAMES, (height, width))]
    image = cv2.imread(picture, cv2.IMREAD_COLOR)
    if image is None:
        raise ValueError(f"{picture} is no image that OpenCV can read")
    return [cv2.resize(image, (width, height))]  # type: ignore[list-item]


def _ros_ends(taxonomy: Taxonomy) -> RosEnds | None:
    if not all(find_spec(name) for name in ("rclpy", "sensor_msgs", "upsnet_ros.msg")):
        return None
    from upsnet_ros.benchmark.ros_ends import RosEnds

    return RosEnds(taxonomy)


def _timed(function: Callable[[], _T]) -> tuple[float, _T]:
    begin = time.perf_counter()
    result = function()
    return 1e3 * (time.perf_counter() - begin), result
