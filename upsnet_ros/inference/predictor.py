"""One image in, one `PanopticFrame` out."""

from __future__ import annotations

import logging
import math
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from itertools import groupby, islice
from pathlib import Path
from types import UnionType
from typing import Any, cast, get_args

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from upsnet_ros.datasets.images import AnyImage
from upsnet_ros.datasets.label_map import LabelMap, read_label_map
from upsnet_ros.datasets.taxonomy import Taxonomy, get_taxonomy
from upsnet_ros.errors import DivergedError, ImageError, SettingsError, check_number
from upsnet_ros.inference.assemble import Assembly, FrameSettings, to_frame
from upsnet_ros.inference.cuda_graph import GraphCache
from upsnet_ros.inference.frame import PanopticFrame
from upsnet_ros.inference.host_memory import RecycledMemory
from upsnet_ros.inference.model import (
    PRECISIONS,
    Origin,
    load_model,
    resolve_device,
    resolve_precision,
    sums_in_float32,
)
from upsnet_ros.inference.network_paths import BatchedFrames, ReferenceFrames
from upsnet_ros.inference.pipeline import StageTimer, in_order, stage_of
from upsnet_ros.inference.preprocess import Geometry, check_image, checked_pixels, upload
from upsnet_ros.inference.self_test import ENVIRONMENT, Request, usable_device
from upsnet_ros.network.panoptic_head import HeadOptions
from upsnet_ros.network.resnet import fold_batch_norm_
from upsnet_ros.network.upsnet import STAGES, Stage, UPSNet, unmeasured
from upsnet_ros.network.variants import Merge, Variant
from upsnet_ros.ops.camera_input import BYTES_PER_PIXEL
from upsnet_ros.ops.dispatch import switched_on
from upsnet_ros.ops.segments import ClassMap
from upsnet_ros.processes import SPINNING, threads_spin

_LOG = logging.getLogger(__name__)

#: Smallest and largest short side, in pixels, at which a network runs.
MIN_SCALE, MAX_SCALE = 32, 4096
LABEL_RESIZES = ("nearest", "bilinear")
MERGES = ("auto", *get_args(Merge))
#: All stages that `PanopticFrame.timings` names, in order.
PREDICTOR_STAGES = ("upload", "preprocess", *STAGES, "download")


class Predictor:
    """Runs UPSNet on images of any size.

    Args:
        weights: A name such as ``coco-fpn-r50``, or a file: an official checkpoint (``.pth``) or
            ``.safetensors``; see `upsnet_ros.weights.find_weights`. None for the bundled weights,
            which were trained on synthetic street scenes.
        variant: Name of the network the weights belong to; by default told from the weights.
        device: ``auto``, ``cpu``, ``cuda`` or ``cuda:N``.
        precision: ``fp32``, ``bf16`` (on CPUs twice as fast where they multiply it, by AVX512-BF16
            or AMX), or on CUDA ``fp16``; ``auto`` for the fastest: see `resolve_precision`.
        scale: Pixels of the short side the network runs at, for slower machines; by default the
            variant's. The limit of the long side changes with it.
        score_threshold: Class probability an instance must exceed; by default the variant's.
        allow_random_weights: Whether to draw meaningless weights when `weights` is None, rather
            than take those that ship.
        seed: Of those weights.
        merge: How the two heads' results become one. ``upsnet`` is the parameter-free panoptic
            head, ``heuristic`` the rule of Panoptic FPN: instances by score, then stuff, and
            unknown where the semantic head sees a thing that no instance is. ``auto`` takes that
            with which the variant's published quality was measured: ``heuristic`` for
            ``coco-fpn-*``, for which ``upsnet`` has no published figure, and ``upsnet`` for others.
        label_map: A YAML file that turns the network's classes into those of another taxonomy, or
            the name of one that ships, such as ``coco_to_cityscapes``: see `datasets.label_map`.
        label_resize: How results come to the image's size where the network runs at another:
            ``nearest`` takes the nearest pixel's label, as the original does; ``bilinear`` brings
            the logits there and decides afterwards, which gives smooth outlines. ``coco-fpn-*``
            always work that way.
        unknown_threshold: Unknown score, 0 to 1, that a pixel must exceed to be unknown. 0.5 is
            the paper's argmax; less finds more unknown objects and loses more known pixels.
        unknown_score: Whether to fill `PanopticFrame.unknown_score`.
        semantic: Whether to fill `PanopticFrame.semantic` and ``confidence``.
        max_logit: Whether to fill `PanopticFrame.max_logit`.
        measure: Whether to fill `PanopticFrame.timings`.
        plain: Whether to run the network as it is defined, image by image and without kernels, to
            compare with.
        graphs: Whether on CUDA a frame is captured once as a graph and replayed from then on;
            `PanopticFrame.timings` know it as one stage.
        self_test: Whether a child process tests a GPU's kernels first, once for each GPU, variant,
            precision and size: see `self_test`. The environment variable ``UPSNET_SELF_TEST=0``
            turns it off.
        expected_size: Height and width of the images to test it with; by default the network's own.

    Raises:
        CheckpointError: The weights are missing or do not fit.
        SettingsError: Another option has an impossible value; the message names it.
    """

    def __init__(
        self,
        weights: str | Path | None = None,
        *,
        variant: str | None = None,
        device: str = "auto",
        precision: str = "fp32",
        scale: int | None = None,
        score_threshold: float | None = None,
        allow_random_weights: bool = False,
        seed: int = 0,
        merge: str = "auto",
        label_map: str | Path | None = None,
        label_resize: str = "nearest",
        unknown_threshold: float = 0.5,
        unknown_score: bool = False,
        semantic: bool = False,
        max_logit: bool = False,
        measure: bool = False,
        plain: bool = False,
        graphs: bool = True,
        self_test: bool = True,
        expected_size: tuple[int, int] | None = None,
    ) -> None:
        _check_types({"weights": weights, "label_map": label_map}, str | os.PathLike | None)
        names = {"precision": precision, "merge": merge, "label_resize": label_resize}
        _check_types({"variant": variant or "", **names}, str)
        self.device = resolve_device(str(device))
        if self.device.type == "cpu" and threads_spin():
            _LOG.warning(SPINNING)
        #: What `precision` stood for.
        self.precision = resolve_precision(precision, self.device)
        if scale is not None:
            check_number("scale", scale, whole=True)
            if not MIN_SCALE <= scale <= MAX_SCALE:
                raise SettingsError(
                    f"scale {scale} is not in the range of {MIN_SCALE} to {MAX_SCALE} pixels"
                )
        check_number("seed", seed, whole=True)
        if expected_size is not None:
            _check_size(expected_size)
        if label_resize not in LABEL_RESIZES:
            raise SettingsError(
                f"unknown label_resize {label_resize!r}; use {', '.join(LABEL_RESIZES)}"
            )
        if merge not in MERGES:
            raise SettingsError(f"unknown merge {merge!r}; use {', '.join(MERGES)}")
        #: How classes are renamed and merged; None where they are those of the network.
        self.label_map: LabelMap | None = None if label_map is None else read_label_map(label_map)
        self._options = HeadOptions(
            unknown_score=unknown_score, confidence=semantic, max_logit=max_logit
        )
        if score_threshold is not None:
            self.set_score_threshold(score_threshold)
        self.set_unknown_threshold(unknown_threshold)
        self._measure = measure
        self._memory = RecycledMemory(limit=3)  # as for a pipeline of one frame

        model = load_model(
            weights, variant=variant, allow_random_weights=allow_random_weights, seed=seed
        )
        self.origin = model.origin
        self.weights = model.path
        self.variant: Variant = model.variant
        if score_threshold is None:
            self.set_score_threshold(self.variant.panoptic_score_threshold)
        #: What `merge` stood for.
        self.merge = cast(Merge, self.variant.merge if merge == "auto" else merge)
        if plain and (self.merge, self.variant.family) != ("upsnet", "upsnet"):
            raise SettingsError(
                f"plain is UPSNet's definition, which {self.variant.name} with merge {self.merge}"
                " does not have"
            )
        #: Classes of the frames.
        self.taxonomy: Taxonomy = get_taxonomy(self.variant.dataset)
        if self.label_map is not None:
            self.label_map.check_source(self.taxonomy)
            self.taxonomy = self.label_map.taxonomy
        self.scale = self.variant.scale if scale is None else scale
        tests = self_test and not plain and switched_on(ENVIRONMENT, default=True)
        if tests and self.device.type == "cuda":
            request = Request(
                device=str(self.device),
                variant=self.variant.name,
                precision=self.precision,
                size=expected_size,
                scale=scale,
                # The other merge has other kernels.
                merge="auto" if self.merge == self.variant.merge else self.merge,
            )
            self.device, allowed = usable_device(self.device, wanted=device, request=request)
            graphs = graphs and allowed
            self.precision = resolve_precision(precision, self.device)
        self.dtype = PRECISIONS[self.precision]
        network = model.network
        fold_batch_norm_(network)
        network.requires_grad_(False)
        self._network = network.to(
            device=self.device,
            dtype=self.dtype,
            memory_format=torch.channels_last,  # type: ignore[call-overload]
        )
        ids = np.asarray(self.taxonomy.public_ids, dtype=np.int64)
        options: dict[str, Any] = {
            "geometry": self.geometry,
            "bilinear": label_resize == "bilinear" or self.variant.family == "panoptic_fpn",
            "public_ids": torch.from_numpy(ids).to(self.device),
            "class_map": self._class_map(),
        }
        self._frames: ReferenceFrames | BatchedFrames
        if plain:
            self._frames = ReferenceFrames(self._network, **options)
        else:
            cache = GraphCache(self.device) if graphs and self.device.type == "cuda" else None
            self._frames = BatchedFrames(self._network, graphs=cache, merge=self.merge, **options)

    def _class_map(self) -> ClassMap | None:
        if self.label_map is None:
            return None
        return ClassMap.from_targets(
            self.label_map.targets,
            num_stuff=self.label_map.source.num_stuff,
            new_stuff=self.taxonomy.num_stuff,
            new_classes=self.taxonomy.num_classes,
            device=self.device,
        )

    @property
    def random_weights(self) -> bool:
        """Whether the results mean nothing."""
        return self.origin is Origin.RANDOM

    @property
    def network(self) -> UPSNet:
        """The network that runs, its batch norms folded into the convolutions."""
        return self._network

    def set_score_threshold(self, threshold: float) -> None:
        """Change the class probability an instance must exceed, from the next image on."""
        check_number("score threshold", threshold)
        if not 0 <= threshold < 1:
            raise SettingsError(f"score threshold {threshold} is not in [0, 1)")
        self.score_threshold = float(threshold)

    def set_unknown_threshold(self, threshold: float) -> None:
        """Change the unknown score a pixel must exceed to be unknown, from the next image on."""
        check_number("unknown threshold", threshold)
        if not 0 < threshold < 1:
            raise SettingsError(f"unknown threshold {threshold} is not in (0, 1)")
        margin = math.log(threshold / (1 - threshold))
        self._options = replace(self._options, unknown_margin=margin)

    def set_outputs(self, *, unknown_score: bool, semantic: bool) -> None:
        """Change which optional images a frame has, from the next image on."""
        self._options = replace(self._options, unknown_score=unknown_score, confidence=semantic)

    def geometry(self, height: int, width: int) -> Geometry:
        """Return how an image of that size is resized and padded."""
        family = self.variant.family
        limit = self.variant.max_size * self.scale / self.variant.scale
        max_size = round(limit) if family == "upsnet" else int(limit)
        return Geometry.of((height, width), scale=self.scale, max_size=max_size, family=family)

    def __call__(self, image: AnyImage, encoding: str = "bgr8") -> PanopticFrame:
        """Segment one image.

        Args:
            image: uint8 (H, W, 3) in BGR order, or as the encoding has it; or a path or PIL image,
                which `datasets.images.as_bgr` reads.
            encoding: One of `ops.camera_input.BYTES_PER_PIXEL`, for arrays.

        Raises:
            DatasetError: The path cannot be read as an image.
            DivergedError: The network's outputs are not finite.
            ImageError: The image is None, or has another type, dtype or shape, or no pixels.
        """
        return self._together([checked_pixels(image, encoding)], encoding)[0]

    def batch(self, images: Iterable[AnyImage], *, size: int | None = None) -> list[PanopticFrame]:
        """Segment several images; neighbours of the same size are computed together.

        All images are read and checked before the first is segmented. For more images than fit
        into memory, use `stream`.

        Args:
            images: As for `__call__`; they may differ in size.
            size: Largest number of images computed together. By default 4 on a GPU, and 1 on a
                CPU, where computing them together takes more memory and no less time.

        Returns:
            A frame for each image, in their order.

        Raises:
            DatasetError: A path cannot be read as an image.
            ImageError: As `__call__`; the message starts with the position of the image.
        """
        if size is None:
            size = 4 if self.device.type == "cuda" else 1
        check_number("size of a batch", size, whole=True)
        if size < 1:
            raise SettingsError(f"size of a batch is {size}, but must be at least 1")
        _check_list(images, of="batch")
        pixels = []
        for index, image in enumerate(images):
            try:
                pixels.append(checked_pixels(image))
            except ImageError as error:
                raise ImageError(f"images[{index}]: {error}") from error
        frames: list[PanopticFrame] = []
        for _, neighbours in groupby(pixels, key=lambda one: one.shape):
            while together := list(islice(neighbours, size)):
                frames += self._together(together, "bgr8")
        return frames

    def stream(self, images: Iterable[AnyImage]) -> Iterator[PanopticFrame]:
        """Segment images one after the other, yielding frames in their order.

        On a GPU it works on the next image while the last frame comes back, through a `Pipeline`:
        up to two images are then read ahead of the frame that is yielded.

        Args:
            images: As for `__call__`.

        Raises:
            ImageError: It is one path rather than a list, or an image is not one; see `__call__`.
        """
        _check_list(images, of="stream")
        if self.device.type == "cuda":
            yield from in_order(self, images)
        else:
            # The network leaves no core idle, and what could overlap with it is a thousandth of it.
            for image in images:
                yield self(image)

    def __repr__(self) -> str:
        names = {Origin.SHIPPED: "bundled weights", Origin.RANDOM: "random weights"}
        return (
            f"Predictor({self.variant.name}, {names.get(self.origin, self.weights)},"
            f" {self.device}, {self.precision}, scale {self.scale})"
        )

    def _together(
        self, images: Sequence[npt.NDArray[np.uint8]], encoding: str
    ) -> list[PanopticFrame]:
        """Segment images of one size in one computation."""
        settings, timer = self.settings(), self.timer()
        stage = stage_of(timer)
        with stage("upload"):
            uploaded = [upload(image, self.device) for image in images]
        assemblies = self.compute_batch(uploaded, settings, encoding=encoding, stage=stage)
        with stage("download"):
            if self.device.type != "cpu":
                assemblies = [self._memory.hold(assembly) for assembly in assemblies]
            frames = [self.frame(assembly) for assembly in assemblies]
        if timer is None:
            return frames
        timings = timer.milliseconds()  # those of the computation that a frame was part of
        return [replace(frame, timings=timings) for frame in frames]

    def takes(self, encoding: str) -> bool:
        """Return whether camera bytes of that encoding need no conversion to BGR beforehand.

        All of `ops.camera_input.BYTES_PER_PIXEL` are accepted, but on a CPU OpenCV is faster.
        """
        on_device = self.device.type == "cuda" and encoding in BYTES_PER_PIXEL
        return on_device or encoding == "bgr8"

    def prepare(
        self, shape: Sequence[int], *, encoding: str = "bgr8", batches: Iterable[int] = (1,)
    ) -> None:
        """Segment noise, so that the first images of that shape are no slower than later ones.

        Libraries choose their algorithms, kernels are compiled, graphs captured and memory taken
        with the first frames of a size.

        Args:
            shape: Of the images, (H, W, 3) for bgr8.
            encoding: Of the images.
            batches: Numbers of images that will be computed together.

        Raises:
            DivergedError: The network's outputs are not finite.
        """
        # Noise, so that there are detections: without any, most stages do nothing.
        noise = np.random.default_rng(0).integers(0, 256, tuple(shape), np.uint8)
        check_image(noise, encoding)
        pixels = upload(noise, self.device)
        for batch in batches:
            for assembly in self.compute_batch(
                [pixels] * batch, self.settings(), encoding=encoding
            ):
                self.frame(assembly.to_host())

    def settings(self) -> FrameSettings:
        """Return what an image is to be segmented by that comes now."""
        return FrameSettings(score_threshold=self.score_threshold, head=self._options)

    def timer(self) -> StageTimer | None:
        """Return what measures the stages of one image, where that is asked for."""
        return StageTimer(self.device) if self._measure else None

    def compute_batch(
        self,
        images: Sequence[Tensor],
        settings: FrameSettings,
        *,
        encoding: str = "bgr8",
        stage: Stage = unmeasured,
    ) -> list[Assembly]:
        """Segment several images of one size at once: what comes between upload and download.

        On CUDA nothing waits for the device, but the first time for a size, encoding and batch.

        Args:
            images: uint8 (H, W, 3) each, or as the encoding has it, on the predictor's device.
            settings: By which they are segmented.
            encoding: One of `ops.camera_input.BYTES_PER_PIXEL`.
            stage: Entered with the name of each stage while it runs, to measure it.

        Raises:
            DivergedError: The network's outputs are not finite. On a GPU `frame` raises it instead,
                where no wait is needed for that.
        """
        with self._named(), sums_in_float32() if self.device.type == "cuda" else nullcontext():
            return self._frames.compute(images, settings, encoding=encoding, stage=stage)

    def frame(self, assembly: Assembly) -> PanopticFrame:
        """Turn an assembly in the host's memory into a frame, without timings.

        Raises:
            DivergedError: The network's outputs are not finite.
        """
        with self._named():
            return to_frame(assembly, self.taxonomy)

    @contextmanager
    def _named(self) -> Iterator[None]:
        """Name the weights in a `DivergedError`."""
        try:
            yield
        except DivergedError as error:
            others = "" if self.precision == "fp32" else f", or {self.precision} is too coarse"
            raise DivergedError(
                f"{self.weights or 'random weights'}: {error}: training diverged{others}"
            ) from error


def _check_types(values: Mapping[str, object], kind: type | UnionType) -> None:
    """Raise `SettingsError` if a value is not a name or, unless ``kind`` is str, a path."""
    what = "a name" if kind is str else "a name or the path of a file"
    for name, value in values.items():
        if not isinstance(value, kind):
            raise SettingsError(f"{name} must be {what}, not {value!r}")


def _check_list(images: object, *, of: str) -> None:
    """Raise `ImageError` if ``images`` is a path, whose letters Python would iterate over."""
    if isinstance(images, str | os.PathLike) or not isinstance(images, Iterable):
        raise ImageError(f"{of} needs a list of images; call the predictor for a single one")


def _check_size(size: Any) -> None:
    """Raise `SettingsError` unless it is a height and a width."""
    try:
        height, width = size
        for side in (height, width):
            check_number("a side of expected_size", side, whole=True)
        possible = height > 0 and width > 0
    except (TypeError, ValueError) as error:
        if isinstance(error, SettingsError):
            raise
        possible = False
    if not possible:
        raise SettingsError(f"expected_size must be a height and a width, not {size!r}")
