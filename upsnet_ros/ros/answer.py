"""One frame's answer, and what each topic's message is made of it."""

from __future__ import annotations

import array
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
from sensor_msgs.msg import CompressedImage

from upsnet_ros.datasets.taxonomy import Taxonomy
from upsnet_ros.inference.frame import PanopticFrame
from upsnet_ros.inference.overlay import draw_overlay
from upsnet_ros.msg import PanopticInstanceArray
from upsnet_ros.ros import messages
from upsnet_ros.ros.camera_image import CameraImage
from upsnet_ros.ros.cdr_image import write_image
from upsnet_ros.ros.settings import NodeSettings

__all__ = [
    "Answer",
    "Maker",
    "compressed_overlay",
    "instances",
    "labels",
    "mono8",
    "overlay",
    "unknown_mask",
]

#: Makes a message, serialised or not, of an answer; None where the answer has nothing to say.
Maker = Callable[["Answer"], Any]


@dataclass(frozen=True, kw_only=True)
class Answer:
    """All that outputs are made of.

    Attributes:
        image: The camera's.
        frame: Its segmentation.
        taxonomy: Of the frame's classes.
        settings: The node's, of this moment.
    """

    image: CameraImage
    frame: PanopticFrame
    taxonomy: Taxonomy
    settings: NodeSettings

    @property
    def header(self) -> Any:
        """The camera's, which every output carries unchanged."""
        return self.image.header

    @cached_property
    def overlay(self) -> npt.NDArray[np.uint8]:
        """The image with the segments drawn on it, BGR; drawn when first asked for."""
        return draw_overlay(
            self.image.bgr, self.frame, self.taxonomy, alpha=self.settings.overlay_alpha
        )


def labels(encoding: str) -> Maker:
    """Makes `labels` in an encoding."""
    return lambda answer: write_image(
        messages.labels_pixels(answer.frame, encoding=encoding), encoding, answer.header
    )


def instances(answer: Answer) -> PanopticInstanceArray:
    """Makes `instances`."""
    return messages.instances_message(
        answer.frame, answer.header, unknown_min_area=answer.settings.unknown_min_area
    )


def unknown_mask(answer: Answer) -> bytes:
    """Makes `unknown_mask`."""
    return write_image(messages.unknown_mask_pixels(answer.frame), "mono8", answer.header)


def mono8(attribute: str) -> Maker:
    """Makes an image of a frame's attribute of that name."""

    def make(answer: Answer) -> bytes | None:
        pixels = getattr(answer.frame, attribute)
        # None of a frame that was begun before the output was asked for.
        return None if pixels is None else write_image(pixels, "mono8", answer.header)

    return make


def overlay(answer: Answer) -> bytes:
    """Makes `overlay`."""
    return write_image(cv2.cvtColor(answer.overlay, cv2.COLOR_BGR2RGB), "rgb8", answer.header)


def compressed_overlay(answer: Answer) -> CompressedImage:
    """Makes `overlay/compressed`."""
    _, encoded = cv2.imencode(".jpg", answer.overlay)
    return CompressedImage(
        header=answer.header,
        format="rgb8; jpeg compressed bgr8",
        data=array.array("B", encoded.tobytes()),
    )
