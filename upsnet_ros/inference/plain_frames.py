"""The plain path of a frame: the network as it is defined, image by image."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from upsnet_ros.inference.assemble import Assembly, assemble
from upsnet_ros.inference.frame_settings import FrameSettings
from upsnet_ros.inference.preprocess import Geometry, preprocess
from upsnet_ros.kernels import dispatch
from upsnet_ros.kernels.camera import to_bgr
from upsnet_ros.network.panoptic_head import Grid
from upsnet_ros.network.upsnet import Stage, UPSNet


class PlainFrames:
    """Computes frames by `UPSNet.forward`, in shapes as they come; to compare with.

    Args:
        network: In evaluation mode, on its device.
        geometry: Of an image's height and width.
        bilinear: Whether the panoptic head works on the image's own pixels.
        public_ids: int64 (S,), public id of each semantic id, on the device.
    """

    def __init__(
        self,
        network: UPSNet,
        *,
        geometry: Callable[[int, int], Geometry],
        bilinear: bool,
        public_ids: Tensor,
    ) -> None:
        self._network = network
        self._geometry = geometry
        self._bilinear = bilinear
        self._public_ids = public_ids
        self._dtype = network.rpn.cls_score.weight.dtype

    @torch.inference_mode()
    def compute(
        self, images: Sequence[Tensor], settings: FrameSettings, *, encoding: str, stage: Stage
    ) -> list[Assembly]:
        """Segment images on the device, one after the other; see `StaticFrames.compute`."""
        with dispatch.twins_only():
            return [self._one(to_bgr(image, encoding), settings, stage) for image in images]

    def _one(self, pixels: Tensor, settings: FrameSettings, stage: Stage) -> Assembly:
        height, width = pixels.shape[:2]
        geometry = self._geometry(height, width)
        with stage("preprocess"):
            data = preprocess(pixels, geometry, dtype=self._dtype)
        result = self._network(
            data,
            geometry.size,
            score_threshold=settings.score_threshold,
            grid=Grid(geometry.source, geometry.scale) if self._bilinear else None,
            options=settings.head,
            stage=stage,
        )
        with stage("panoptic"):
            return assemble(
                result,
                geometry,
                variant=self._network.variant,
                public_ids=self._public_ids,
                semantic=settings.head.confidence,
            )
