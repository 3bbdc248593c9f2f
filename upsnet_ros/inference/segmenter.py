"""What a pipeline needs of that which segments."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import torch
from torch import Tensor

from upsnet_ros.inference.assemble import Assembly
from upsnet_ros.inference.frame import PanopticFrame
from upsnet_ros.inference.frame_settings import FrameSettings
from upsnet_ros.inference.stage_timer import StageTimer
from upsnet_ros.network.upsnet import Stage


class Segmenter(Protocol):
    """A frame's way in steps, of which a pipeline takes each where it fits; `Predictor` is one."""

    @property
    def device(self) -> torch.device:
        """Where frames are computed."""
        ...

    def settings(self) -> FrameSettings:
        """Return what an image is to be segmented by that comes now."""
        ...

    def timer(self) -> StageTimer | None:
        """Return what measures the stages of one image, where that is asked for."""
        ...

    def compute_batch(
        self, images: Sequence[Tensor], settings: FrameSettings, *, encoding: str, stage: Stage
    ) -> list[Assembly]:
        """Segment images of one size on the device, without a wait for it."""
        ...

    def frame(self, assembly: Assembly) -> PanopticFrame:
        """Turn an assembly in the host's memory into a frame, without timings."""
        ...
