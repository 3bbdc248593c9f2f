"""One image in, one `PanopticFrame` out."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch

from upsnet_ros.datasets.taxonomy import Taxonomy, get_taxonomy
from upsnet_ros.inference.assemble import assemble, to_frame
from upsnet_ros.inference.frame import PanopticFrame
from upsnet_ros.inference.model import Origin, load_model
from upsnet_ros.inference.preprocess import Geometry, check_image, preprocess, upload
from upsnet_ros.inference.stage_timer import StageTimer
from upsnet_ros.network.panoptic_head import Grid, HeadOptions
from upsnet_ros.network.resnet import fold_batch_norm_
from upsnet_ros.network.upsnet import STAGES, UPSNet
from upsnet_ros.network.variants import Variant

PRECISIONS = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}
LABEL_RESIZES = ("nearest", "bilinear")
#: All stages that `PanopticFrame.timings` names, in order.
PREDICTOR_STAGES = ("upload", "preprocess", *STAGES, "download")


def resolve_device(device: str) -> torch.device:
    """Return the device of that name; ``auto`` is the GPU where there is one.

    Raises:
        ValueError: No such device here.
    """
    if device == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        resolved = torch.device(device)
    except RuntimeError:
        raise ValueError(f"unknown device {device!r}; use auto, cpu, cuda or cuda:N") from None
    if resolved.type == "cuda" and (resolved.index or 0) >= torch.cuda.device_count():
        raise ValueError(
            f"device {device!r} is not here: torch sees {torch.cuda.device_count()} GPUs; use cpu"
        )
    if resolved.type not in ("cpu", "cuda"):
        raise ValueError(f"device {device!r} is not supported; use auto, cpu, cuda or cuda:N")
    return resolved


class Predictor:
    """Runs UPSNet on images of any size.

    Args:
        weights: An official checkpoint (``.pth``) or a ``.safetensors`` file; None for the weights
            that ship, which were made on drawn driving scenes.
        variant: Name of the network the weights belong to; by default told from the weights.
        device: ``auto``, ``cpu``, ``cuda`` or ``cuda:N``.
        precision: ``fp32``, ``bf16`` (on CPUs twice as fast where they multiply it, by AVX512-BF16
            or AMX), or on CUDA ``fp16``.
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
    ) -> None:
        self.device = resolve_device(device)
        if precision not in PRECISIONS:
            raise ValueError(f"unknown precision {precision!r}; use {', '.join(PRECISIONS)}")
        if precision == "fp16" and self.device.type != "cuda":
            raise ValueError("precision fp16 needs a CUDA device; a CPU has fp32 and bf16")
        self.dtype = PRECISIONS[precision]
        if scale is not None and scale < 32:
            raise ValueError(f"scale {scale} is too small; use at least 32 pixels")
        if label_resize not in LABEL_RESIZES:
            raise ValueError(
                f"unknown label_resize {label_resize!r}; use {', '.join(LABEL_RESIZES)}"
            )
        self._bilinear = label_resize == "bilinear"
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
        self._public_ids = torch.from_numpy(
            np.asarray(self.taxonomy.public_ids, dtype=np.int64)
        ).to(self.device)

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

    @torch.inference_mode()
    def __call__(self, image: npt.NDArray[np.uint8]) -> PanopticFrame:
        """Segment one image, uint8 (H, W, 3) in BGR order.

        Raises:
            ValueError: The image has another dtype or shape, or no pixels.
        """
        check_image(image)
        timer = StageTimer(self.device) if self._measure else None
        options = self._options  # of this image, whatever another thread sets meanwhile

        def stage(name: str) -> AbstractContextManager[object]:
            return nullcontext() if timer is None else timer(name)

        with stage("upload"):
            pixels = upload(image, self.device)
        geometry = self.geometry(*image.shape[:2])
        with stage("preprocess"):
            data = preprocess(pixels, geometry, dtype=self.dtype)
        result = self._network(
            data,
            geometry.size,
            score_threshold=self.score_threshold,
            grid=Grid(geometry.source, geometry.scale) if self._bilinear else None,
            options=options,
            stage=stage,
        )
        with stage("panoptic"):
            assembly = assemble(
                result,
                geometry,
                variant=self.variant,
                public_ids=self._public_ids,
                semantic=options.confidence,
            )
        with stage("download"):
            frame = to_frame(assembly, self.taxonomy, self.variant.num_stuff)
        return frame if timer is None else replace(frame, timings=timer.milliseconds())

    def stream(self, images: Iterable[npt.NDArray[np.uint8]]) -> Iterator[PanopticFrame]:
        """Segment images one after the other, yielding frames in their order."""
        for image in images:
            yield self(image)
