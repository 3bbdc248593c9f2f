"""Compares the batched path with the reference path and Mask R-CNN; several cameras; agreement."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from functools import partial
from itertools import cycle, islice
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn
from torchvision.models.detection import maskrcnn_resnet50_fpn

from upsnet_ros.benchmark.measure import PairedRatio, Summary, timed
from upsnet_ros.benchmark.stages import Image
from upsnet_ros.datasets.base import Dataset
from upsnet_ros.evaluation.datasets import evaluation_frame
from upsnet_ros.evaluation.maps import Categories
from upsnet_ros.evaluation.metrics import FrameMeasures, measure, summarise
from upsnet_ros.inference.frame import LABEL_DIVISOR, PanopticFrame
from upsnet_ros.inference.pipeline import Pipeline
from upsnet_ros.inference.predictor import Predictor


class MaskRCNN:
    """torchvision's Mask R-CNN at the input size of UPSNet, on the same images.

    Args:
        size: Height and width of the network input before padding, pixels.
        device: Device to run on.
        dtype: float32 or a half precision. Weights are converted once, because autocast would
            otherwise convert them in every call.
        seed: Seed of the random weights.
    """

    def __init__(
        self,
        *,
        size: tuple[int, int],
        device: torch.device,
        dtype: torch.dtype,
        seed: int = 0,
    ) -> None:
        self._device = device
        self._dtype = dtype
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.network = maskrcnn_resnet50_fpn(
                weights=None,
                weights_backbone=None,
                min_size=min(size),
                max_size=max(size),
            )
        self.network.eval().to(device, dtype, memory_format=torch.channels_last)

    @torch.inference_mode()
    def __call__(self, image: npt.NDArray[np.uint8], *, detections: int) -> int:
        """Segment an image, including full-size masks.

        Args:
            image: uint8 (H, W, 3), BGR.
            detections: Maximum number of detections. With random weights more than a hundred pass
                torchvision's score threshold of 0.05, so this is the actual number.

        Returns:
            Number of detections.
        """
        self.network.roi_heads.detections_per_img = detections
        pixels = torch.from_numpy(image).to(self._device)
        pixels = pixels.flip(2).permute(2, 0, 1).float() / 255
        half = self._dtype != torch.float32
        with torch.autocast(self._device.type, dtype=self._dtype, enabled=half):
            result: dict[str, Tensor] = self.network([pixels])[0]
        if self._device.type == "cuda":
            torch.cuda.synchronize(self._device)
        return len(result["masks"])


Predict = Callable[[Image], PanopticFrame]
Labels = npt.NDArray[np.integer[Any]]


@dataclass(frozen=True, slots=True)
class Agreement:
    """Percentages of an image's pixels on which two predictions agree.

    Attributes:
        label: Same label, including the instance index within the class.
        segment: Same segment, regardless of its index: instances of a class are matched by shared
            pixels.
        category: Same class, or void in both.
    """

    label: float
    segment: float
    category: float

    @classmethod
    def of(cls, one: Labels, other: Labels) -> Agreement:
        """Compare two label maps (H, W) as in `PanopticFrame`."""
        span = 1 + int(max(one.max(), other.max()))
        pairs, counts = np.unique(one.astype(np.int64) * span + other, return_counts=True)
        first, second = np.divmod(pairs, span)
        same_class = _classes(first) == _classes(second)
        shares = (
            counts[first == second].sum(),
            _paired(first[same_class], second[same_class], counts[same_class]),
            counts[same_class].sum(),
        )
        return cls(*(100 * float(share) / one.size for share in shares))


@dataclass(frozen=True, slots=True, kw_only=True)
class AgreementFigures:
    """Agreement over several images, percent of pixels.

    Attributes:
        pictures: Number of images.
        mean: Mean over the images, which is that of all their pixels where they have one size.
        median: Median over the images.
        minimum: Minimum over the images.
    """

    pictures: int
    mean: Agreement
    median: Agreement
    minimum: Agreement

    @classmethod
    def of(cls, pictures: Sequence[Agreement]) -> AgreementFigures:
        """Summarise at least one image."""
        shares = np.array([(one.label, one.segment, one.category) for one in pictures])
        mean, median, minimum = (
            Agreement(*(round(float(share), 3) for share in row))
            for row in (shares.mean(axis=0), np.median(shares, axis=0), shares.min(axis=0))
        )
        return cls(pictures=len(pictures), mean=mean, median=median, minimum=minimum)


@dataclass(frozen=True, slots=True, kw_only=True)
class SceneFigures:
    """Comparison of two predictors on labelled images.

    Attributes:
        agreement: Agreement of their predictions.
        fast_pq: PQ of the batched path, percent.
        exact_pq: PQ of the reference path in fp32, percent.
    """

    agreement: AgreementFigures
    fast_pq: float
    exact_pq: float

    @property
    def difference(self) -> float:
        """PQ of the batched path minus PQ of the reference path, percentage points."""
        return round(self.fast_pq - self.exact_pq, 3)


def exactly(predict: Predict) -> Predict:
    """Return a function that predicts without TF32, whose mantissa is not longer than fp16's.

    On CUDA, torch uses TF32 in float32 convolutions by default.
    """

    def predict_exactly(image: Image) -> PanopticFrame:
        cudnn, matmul = torch.backends.cudnn, torch.backends.cuda.matmul
        allowed = cudnn.allow_tf32, matmul.allow_tf32
        cudnn.allow_tf32 = matmul.allow_tf32 = False
        try:
            return predict(image)
        finally:
            cudnn.allow_tf32, matmul.allow_tf32 = allowed

    return predict_exactly


def compare_frames(
    fast: Predict,
    exact: Predict,
    images: Iterable[Image],
    *,
    progress: Callable[[], None] = lambda: None,
) -> list[Agreement]:
    """Return the agreement of two predictors on each image, uint8 (H, W, 3) BGR."""
    found = []
    for image in images:
        found.append(Agreement.of(fast(image).labels, exact(image).labels))
        progress()
    return found


def compare_on_scenes(
    fast: Predict,
    exact: Predict,
    dataset: Dataset,
    *,
    progress: Callable[[], None] = lambda: None,
) -> SceneFigures:
    """Return the agreement and PQ of two predictors on a labelled dataset.

    Raises:
        EvaluationError: If a prediction does not match the ground truth's size or classes.
    """
    categories = Categories.from_taxonomy(dataset.taxonomy)
    measures: tuple[list[FrameMeasures], list[FrameMeasures]] = ([], [])
    found = []
    for index in range(len(dataset)):
        sample = dataset[index]
        predictions = fast(sample.image), exact(sample.image)
        found.append(Agreement.of(*(prediction.labels for prediction in predictions)))
        for kept, prediction in zip(measures, predictions, strict=True):
            kept.append(measure(evaluation_frame(sample, prediction, dataset.taxonomy), categories))
        progress()
    fast_pq, exact_pq = (round(100 * summarise(kept, categories).pq, 3) for kept in measures)
    return SceneFigures(agreement=AgreementFigures.of(found), fast_pq=fast_pq, exact_pq=exact_pq)


def _classes(labels: Labels) -> Labels:
    """Return the class id of each label."""
    return np.where(labels >= LABEL_DIVISOR, labels // LABEL_DIVISOR, labels)


def _paired(first: Labels, second: Labels, counts: npt.NDArray[np.int64]) -> int:
    """Match labels one to one, most shared pixels first; return the number of shared pixels."""
    shared, matched = 0, (set[int](), set[int]())
    for index in np.argsort(-counts, kind="stable"):
        pair = int(first[index]), int(second[index])
        if pair[0] not in matched[0] and pair[1] not in matched[1]:
            shared += int(counts[index])
            for side, label in zip(matched, pair, strict=True):
                side.add(label)
    return shared


@dataclass(frozen=True, slots=True, kw_only=True)
class RaceFigures:
    """Latency of single frames from host image to host labels, milliseconds.

    Attributes:
        fast_ms: Batched path, through a pipeline.
        plain_ms: Reference path (eager, fp32).
        maskrcnn_ms: Mask R-CNN.
        plain_over_fast: Ratio of reference path to batched path.
        maskrcnn_over_fast: Ratio of Mask R-CNN to batched path.
        instances: Median number of instances predicted by the batched path.
        boxes: Median number of boxes segmented by the reference path, and so by Mask R-CNN.
        maskrcnn_instances: Median number of instances predicted by Mask R-CNN.
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
    """Time the three on each frame in turn, so that other load slows down all of them.

    Args:
        pipeline: The batched path, with no frame in flight.
        plain: The reference path of the same network.
        rival: Mask R-CNN, run on as many boxes as `plain` segments.
        images: uint8 (H, W, 3), BGR, used cyclically.
        warmup: Number of frames before the measured ones.
        iterations: Number of measured frames.
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


@dataclass(frozen=True, slots=True, kw_only=True)
class CameraFigures:
    """Throughput in frames per second, over all cameras.

    Attributes:
        cameras: Number of cameras that share the network.
        frames: Number of frames per round.
        one_hz: One camera, through a pipeline without batching.
        all_hz: All cameras, through one pipeline that batches one frame of each.
        gain: Ratio of `all_hz` to `one_hz`, round by round.
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
    """Measure the throughput of one camera and of several, alternately.

    Args:
        predictor: Predictor to measure.
        images: uint8 (H, W, 3), BGR, all of the same size, used cyclically.
        cameras: Number of cameras.
        frames: Frames per round, divided equally among the cameras.
        rounds: Number of measured rounds, after one warm-up round.
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
    """Return the throughput in Hz of cameras (one thread each) that submit ``each`` frames."""
    futures: list[list[Future[PanopticFrame]]] = [[] for _ in range(cameras)]
    start = threading.Barrier(cameras + 1)

    def camera(number: int) -> None:
        start.wait()
        for image in islice(cycle(images), number, number + each):
            futures[number].append(pipeline.submit(image))  # blocks while too many are in flight

    threads = [threading.Thread(target=camera, args=(number,)) for number in range(cameras)]
    for thread in threads:
        thread.start()
    start.wait()
    begin = time.perf_counter()
    for thread in threads:
        thread.join()
    done = [future.result() for of_camera in futures for future in of_camera]
    if len(done) < cameras * each:
        raise RuntimeError("a camera thread ended before it had submitted all of its frames")
    return len(done) / (time.perf_counter() - begin)
