"""Measures the time of each stage of a frame, and the GPU memory it takes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from importlib.util import find_spec
from itertools import cycle, islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np
import numpy.typing as npt
import torch

from upsnet_ros.benchmark.measure import Summary, captured, describe_machine, device_ms, timed
from upsnet_ros.benchmark.settings import BenchSettings
from upsnet_ros.datasets.images import read_image
from upsnet_ros.inference.frame import PanopticFrame
from upsnet_ros.inference.pipeline import StageTimer
from upsnet_ros.inference.predictor import PREDICTOR_STAGES, Predictor
from upsnet_ros.inference.preprocess import upload
from upsnet_ros.synthetic.dataset import DrivingScenes

if TYPE_CHECKING:
    from upsnet_ros.benchmark.ros_ends import RosEnds
    from upsnet_ros.datasets.taxonomy import Taxonomy

Image = npt.NDArray[np.uint8]

#: Seed of the synthetic scenes.
SEED = 0
# Number of distinct frames, used cyclically.
_FRAMES = 4


def frames(picture: str | None, *, height: int, width: int) -> list[Image]:
    """Return the frames to segment, uint8 (H, W, 3) BGR: an image file or synthetic scenes.

    Args:
        picture: Image file, which is resized; None renders synthetic driving scenes.
        height: Height of the frames, pixels.
        width: Width of the frames, pixels.

    Raises:
        DatasetError: If the image file cannot be read.
    """
    if picture is None:
        return [scene.image for scene in DrivingScenes("test", SEED, _FRAMES, (height, width))]
    image = cv2.resize(read_image(Path(picture)), (width, height))
    return [image.astype(np.uint8, copy=False)]


def make_predictor(
    settings: BenchSettings,
    *,
    precision: str | None = None,
    plain: bool = False,
    graphs: bool = True,
    measure: bool = False,
) -> Predictor:
    """Make the predictor that the settings describe.

    Args:
        settings: What to measure.
        precision: Another than that of the settings.
        plain: As in `Predictor`.
        graphs: As in `Predictor`.
        measure: As in `Predictor`.

    Raises:
        ValueError: A setting is not possible, `CheckpointError` among them.
    """
    return Predictor(
        settings.weights,
        variant=settings.variant,
        device=settings.device,
        precision=precision or settings.precision,
        scale=min(settings.height, settings.width),
        allow_random_weights=settings.weights is None,
        plain=plain,
        graphs=graphs,
        measure=measure,
        self_test=False,  # it would take GPU time, and no node depends on this process
    )


def set_threads(threads: int | None) -> None:
    """Set the number of CPU threads of torch and OpenCV; None keeps the defaults."""
    if threads is not None:
        torch.set_num_threads(threads)
        cv2.setNumThreads(threads)


_MIB = 2**20


@dataclass(frozen=True, slots=True, kw_only=True)
class MemoryFigures:
    """MiB on the GPU. All but the first are beyond the weights.

    The first frame of a size takes more than later ones: cuDNN tries algorithms with workspaces as
    large as there is room. torch keeps that memory until `torch.cuda.empty_cache`.

    Attributes:
        weights_mib: Tensors before the first frame.
        tensors_peak_mib: Peak of tensors.
        reserved_peak_mib: Peak of torch's pools, the first frame of a size included.
        reserved_mib: torch's pools once warm and without unused blocks, graphs included.
        driver_mib: All of the GPU's memory in use at that time: pools, contexts of libraries, code
            of kernels. What other processes took since then counts too.
    """

    weights_mib: float
    tensors_peak_mib: float
    reserved_peak_mib: float
    reserved_mib: float
    driver_mib: float

    @property
    def steady_mib(self) -> float:
        """What the goal is about: the larger of torch's and the driver's figure, once warm."""
        return max(self.reserved_mib, self.driver_mib)


class MemoryMeter:
    """Compares a GPU's memory with that at construction, when only weights should be in it.

    Args:
        device: On a CPU there is nothing to read.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        if device.type != "cuda":
            return
        torch.cuda.synchronize(device)
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats(device)
        self._allocated = torch.cuda.memory_allocated(device)
        self._reserved = torch.cuda.memory_reserved(device)
        self._free, _ = torch.cuda.mem_get_info(device)

    def read(self) -> MemoryFigures | None:
        """Return the peak since construction and what is in use now; None on a CPU.

        Unused blocks of torch's pools are returned to the driver.
        """
        device = self._device
        if device.type != "cuda":
            return None
        torch.cuda.synchronize(device)
        tensors_peak = torch.cuda.max_memory_allocated(device)
        reserved_peak = torch.cuda.max_memory_reserved(device)
        torch.cuda.empty_cache()
        free, _ = torch.cuda.mem_get_info(device)
        return MemoryFigures(
            weights_mib=round(self._allocated / _MIB, 1),
            tensors_peak_mib=round((tensors_peak - self._allocated) / _MIB, 1),
            reserved_peak_mib=round((reserved_peak - self._reserved) / _MIB, 1),
            reserved_mib=round((torch.cuda.memory_reserved(device) - self._reserved) / _MIB, 1),
            driver_mib=round((self._free - free) / _MIB, 1),
        )


def frame_memory(
    predictor: Predictor,
    images: Sequence[Image],
    *,
    segment: Callable[[Image], PanopticFrame] | None = None,
) -> MemoryFigures | None:
    """Return what the first frames take of a GPU; None on a CPU, where none is computed.

    Args:
        predictor: On its device, with nothing computed yet.
        images: uint8 (H, W, 3), BGR.
        segment: What the images go through; by default the predictor.
    """
    if predictor.device.type != "cuda":
        return None
    meter = MemoryMeter(predictor.device)
    for image in images:
        (segment or predictor)(image)
    return meter.read()


#: All stages of a report, in order; the first and the last need ROS.
STAGES = ("decode", *PREDICTOR_STAGES, "publish")


@dataclass(frozen=True, slots=True, kw_only=True)
class StageFigures:
    """Milliseconds by stage.

    Attributes:
        stages_ms: Of each of `STAGES`; None for those that need ROS where it is not. On CUDA those
            of the network are measured by the GPU's clock inside a graph: launched one by one,
            their launches would take longer than what they launch.
        frame_ms: Upload to download.
        graph_ms: On CUDA the frame's graph, bytes on the GPU to labels there, by the GPU's clock.
        panoptic_share: Medians of the panoptic head and of the download, which makes the table of
            segments, divided by the median of `frame_ms`.
        instances: Median number in the results.
    """

    stages_ms: dict[str, Summary | None]
    frame_ms: Summary
    graph_ms: Summary | None
    panoptic_share: float
    instances: float


@dataclass(frozen=True, slots=True)
class _Sample:
    stages: dict[str, float]
    frame: float
    instances: int


def measure_stages(
    predictor: Predictor,
    settings: BenchSettings,
    images: Sequence[Image],
    *,
    progress: Callable[[], None] = lambda: None,
) -> StageFigures:
    """Segment the images cyclically and time each stage.

    Args:
        predictor: Predictor made from the settings with ``measure=True``.
        settings: What to measure.
        images: uint8 (H, W, 3), BGR.
        progress: Called after each frame.

    Raises:
        RuntimeError: If the frame cannot be captured in a graph.
    """
    ends = _ros_ends(predictor.taxonomy)
    samples = []
    for image in islice(cycle(images), settings.warmup + settings.iterations):
        samples.append(_sample(predictor, ends, image))
        progress()
    samples = samples[settings.warmup :]
    stages = {
        name: Summary.of([sample.stages[name] for sample in samples])
        for name in STAGES
        if name in samples[0].stages
    }
    graph = None
    if predictor.device.type == "cuda":
        network, graph = graph_stages(settings, images[0])
        stages |= network
    whole = [sample.frame for sample in samples]
    frame_ms = Summary.of(whole)
    # On a CPU nothing is downloaded: that stage makes the table of segments.
    panoptic_ms = stages["panoptic"].p50 + stages["download"].p50
    return StageFigures(
        stages_ms={name: stages.get(name) for name in STAGES},
        frame_ms=frame_ms,
        graph_ms=graph,
        panoptic_share=panoptic_ms / frame_ms.p50,
        instances=float(np.median([sample.instances for sample in samples])),
    )


@torch.inference_mode()
def graph_stages(settings: BenchSettings, image: Image) -> tuple[dict[str, Summary], Summary]:
    """Time the stages between upload and download inside a graph, and a graph without events.

    Args:
        settings: What to measure; ``warmup`` and ``iterations`` count replays.
        image: uint8 (H, W, 3), BGR.

    Returns:
        Milliseconds by stage, and of the whole graph, by the device's clock. On a CPU, which has
        no graphs, those of calls.

    Raises:
        RuntimeError: The frame cannot be captured.
    """
    predictor = make_predictor(settings, graphs=False)
    device, timers = predictor.device, list[StageTimer]()
    pixels, frame_settings = upload(image, device), predictor.settings()
    compute = partial(predictor.compute_batch, [pixels], frame_settings)
    with captured(compute, device) as replay:
        times = device_ms(replay, device, warmup=settings.warmup, iterations=settings.iterations)
        graph = Summary.of(times)

    def compute_in_stages() -> object:
        timers.append(StageTimer(device))
        return compute(stage=timers[-1])

    samples = []
    with captured(compute_in_stages, device) as replay:
        for _ in range(settings.warmup + settings.iterations):
            replay()
            if device.type == "cuda":
                torch.cuda.synchronize(device)
            samples.append(timers[-1].milliseconds())  # of the capture, or of this call
    samples = samples[settings.warmup :]
    return {name: Summary.of([sample[name] for sample in samples]) for name in samples[0]}, graph


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


def run(settings: BenchSettings, *, progress: Callable[[], None] = lambda: None) -> dict[str, Any]:
    """Measure and return a JSON-ready report; docs/performance.md describes its keys.

    Args:
        settings: What to measure.
        progress: Called after each of ``warmup + iterations`` frames.

    Raises:
        ValueError: If a setting is invalid; `CheckpointError` if the weights are.
    """
    set_threads(settings.threads)
    images = frames(settings.image, height=settings.height, width=settings.width)
    predictor = make_predictor(settings, measure=True)
    machine = describe_machine(predictor.device)
    memory = frame_memory(predictor, images)
    figures = measure_stages(predictor, settings, images, progress=progress)
    return {
        "settings": {
            **asdict(settings),
            "variant": predictor.variant.name,
            "device": str(predictor.device),
            "precision": predictor.precision,
            "threads": torch.get_num_threads(),
            "weights": settings.weights or "random",
            "seed": SEED,
            "network_size": list(predictor.geometry(settings.height, settings.width).size),
        },
        "machine": machine,
        **asdict(figures),
        "memory": memory and asdict(memory),
    }
