"""One image in, one `PanopticFrame` out."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from upsnet_ros.datasets.taxonomy import Taxonomy, get_taxonomy
from upsnet_ros.inference.assemble import Assembly, to_frame
from upsnet_ros.inference.device import resolve_device
from upsnet_ros.inference.frame import PanopticFrame
from upsnet_ros.inference.frame_settings import FrameSettings
from upsnet_ros.inference.graphs import GraphCache
from upsnet_ros.inference.model import Origin, load_model
from upsnet_ros.inference.pipeline import in_order
from upsnet_ros.inference.plain_frames import PlainFrames
from upsnet_ros.inference.precision import PRECISIONS, resolve_precision
from upsnet_ros.inference.preprocess import Geometry, check_image, upload
from upsnet_ros.inference.stage_timer import StageTimer, stage_of
from upsnet_ros.inference.static_frames import StaticFrames
from upsnet_ros.kernels.camera import BYTES_PER_PIXEL
from upsnet_ros.network.panoptic_head import HeadOptions
from upsnet_ros.network.resnet import fold_batch_norm_
from upsnet_ros.network.upsnet import STAGES, Stage, UPSNet, unmeasured
from upsnet_ros.network.variants import Variant

LABEL_RESIZES = ("nearest", "bilinear")
#: All stages that `PanopticFrame.timings` names, in order.
PREDICTOR_STAGES = ("upload", "preprocess", *STAGES, "download")


class Predictor:
    """Runs UPSNet on images of any size.

    Args:
        weights: An official checkpoint (``.pth``) or a ``.safetensors`` file; None for the weights
            that ship, which were made on drawn driving scenes.
        variant: Name of the network the weights belong to; by default told from the weights.
        device: ``auto``, ``cpu``, ``cuda`` or ``cuda:N``.
        precision: ``fp32``, ``bf16`` (on CPUs twice as fast where they multiply it, by AVX512-BF16
            or AMX), or on CUDA ``fp16``; ``auto`` for the fastest: see `resolve_precision`.
        scale: Pixels of the short side the network runs at, for slower machines; by default the
            variant's. The limit of the long side changes with it.
        score_threshold: Class probability an instance must exceed.
        allow_random_weights: Whether to draw meaningless weights when `weights` is None, rather
            than take those that ship.
        seed: Of those weights.
        label_resize: How results come to the image's size where the network runs at another:
            ``nearest`` takes the nearest pixel's label, as the original does; ``bilinear`` brings
            the logits there and decides afterwards, which gives smooth outlines.
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

    Raises:
        CheckpointError: The weights are missing or do not fit.
        ValueError: Another option has an impossible value; the message names it.
    """

    def __init__(
        self,
        weights: str | Path | None = None,
        *,
        variant: str | None = None,
        device: str = "auto",
        precision: str = "fp32",
        scale: int | None = None,
        score_threshold: float = 0.6,
        allow_random_weights: bool = False,
        seed: int = 0,
        label_resize: str = "nearest",
        unknown_threshold: float = 0.5,
        unknown_score: bool = False,
        semantic: bool = False,
        max_logit: bool = False,
        measure: bool = False,
        plain: bool = False,
        graphs: bool = True,
    ) -> None:
        self.device = resolve_device(device)
        #: What `precision` stood for.
        self.precision = resolve_precision(precision, self.device)
        self.dtype = PRECISIONS[self.precision]
        if scale is not None and scale < 32:
            raise ValueError(f"scale {scale} is too small; use at least 32 pixels")
        if label_resize not in LABEL_RESIZES:
            raise ValueError(
                f"unknown label_resize {label_resize!r}; use {', '.join(LABEL_RESIZES)}"
            )
        self._options = HeadOptions(
            unknown_score=unknown_score, confidence=semantic, max_logit=max_logit
        )
        self.set_score_threshold(score_threshold)
        self.set_unknown_threshold(unknown_threshold)
        self._measure = measure

        model = load_model(
            weights, variant=variant, allow_random_weights=allow_random_weights, seed=seed
        )
        self.origin = model.origin
        self.weights = model.path
        self.variant: Variant = model.variant
        self.taxonomy: Taxonomy = get_taxonomy(self.variant.dataset)
        self.scale = self.variant.scale if scale is None else scale
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
            "bilinear": label_resize == "bilinear",
            "public_ids": torch.from_numpy(ids).to(self.device),
        }
        self._frames: PlainFrames | StaticFrames
        if plain:
            self._frames = PlainFrames(self._network, **options)
        else:
            cache = GraphCache(self.device) if graphs and self.device.type == "cuda" else None
            self._frames = StaticFrames(self._network, graphs=cache, **options)

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
        if not 0 <= threshold < 1:
            raise ValueError(f"score threshold {threshold} is not in [0, 1)")
        self.score_threshold = float(threshold)

    def set_unknown_threshold(self, threshold: float) -> None:
        """Change the unknown score a pixel must exceed to be unknown, from the next image on."""
        if not 0 < threshold < 1:
            raise ValueError(f"unknown threshold {threshold} is not in (0, 1)")
        margin = math.log(threshold / (1 - threshold))
        self._options = replace(self._options, unknown_margin=margin)

    def set_outputs(self, *, unknown_score: bool, semantic: bool) -> None:
        """Change which optional images a frame has, from the next image on."""
        self._options = replace(self._options, unknown_score=unknown_score, confidence=semantic)

    def geometry(self, height: int, width: int) -> Geometry:
        """Return how an image of that size is resized and padded."""
        max_size = round(self.variant.max_size * self.scale / self.variant.scale)
        return Geometry.of((height, width), scale=self.scale, max_size=max_size)

    def __call__(self, image: npt.NDArray[np.uint8], encoding: str = "bgr8") -> PanopticFrame:
        """Segment one image.

        Args:
            image: uint8 (H, W, 3) in BGR order, or as the encoding has it.
            encoding: One of `kernels.camera.BYTES_PER_PIXEL`.

        Raises:
            ValueError: The image has another dtype or shape, or no pixels.
        """
        check_image(image, encoding)
        settings, timer = self.settings(), self.timer()
        stage = stage_of(timer)
        with stage("upload"):
            pixels = upload(image, self.device)
        (assembly,) = self.compute_batch([pixels], settings, encoding=encoding, stage=stage)
        with stage("download"):
            frame = self.frame(assembly.to_host())
        return frame if timer is None else replace(frame, timings=timer.milliseconds())

    def stream(self, images: Iterable[npt.NDArray[np.uint8]]) -> Iterator[PanopticFrame]:
        """Segment images one after the other, yielding frames in their order.

        On a GPU it works on the next image while the last frame comes back, through a `Pipeline`:
        up to two images are then read ahead of the frame that is yielded.
        """
        if self.device.type == "cuda":
            yield from in_order(self, images)
        else:
            # The network leaves no core idle, and what could overlap with it is a thousandth of it.
            for image in images:
                yield self(image)

    def takes(self, encoding: str) -> bool:
        """Whether camera bytes of that encoding need not be made BGR for it beforehand.

        Any of `kernels.camera.BYTES_PER_PIXEL` may be given, but on a CPU OpenCV is the faster one.
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
        """
        # Noise, so that there is something to find: of an empty picture most stages do nothing.
        noise = np.random.default_rng(0).integers(0, 256, tuple(shape), np.uint8)
        check_image(noise, encoding)
        pixels = upload(noise, self.device)
        for batch in batches:
            for assembly in self.compute_batch(
                [pixels] * batch, self.settings(), encoding=encoding
            ):
                assembly.to_host()

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
            encoding: One of `kernels.camera.BYTES_PER_PIXEL`.
            stage: Entered with the name of each stage while it runs, to measure it.
        """
        return self._frames.compute(images, settings, encoding=encoding, stage=stage)

    def frame(self, assembly: Assembly) -> PanopticFrame:
        """Turn an assembly in the host's memory into a frame, without timings."""
        return to_frame(assembly, self.taxonomy, self.variant.num_stuff)
