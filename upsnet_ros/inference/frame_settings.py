"""What may change from image to image."""

from __future__ import annotations

from dataclasses import dataclass

from upsnet_ros.network.panoptic_head import HeadOptions


@dataclass(frozen=True, slots=True, kw_only=True)
class FrameSettings:
    """By what one image is segmented, as it was when the image came.

    Attributes:
        score_threshold: Class probability an instance must exceed.
        head: What is asked of the panoptic head.
    """

    score_threshold: float
    head: HeadOptions
