"""A camera's image between its arrival and its answer."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from upsnet_ros.ros.image_codec import read_pixels, to_bgr

__all__ = ["Arrival", "CameraImage", "ImageKind"]


class ImageKind(NamedTuple):
    """What images have in common that a network prepares for.

    Attributes:
        shape: (H, W, 3) for bgr8; see `image_codec.read_pixels`.
        encoding: Of the pixels.
    """

    shape: tuple[int, ...]
    encoding: str = "bgr8"


@dataclass(frozen=True, slots=True)
class Arrival:
    """An image, and the monotonic second at which it came.

    Attributes:
        message: A sensor_msgs Image or CompressedImage, or what `cdr_image` reads of one.
        at: Monotonic seconds.
    """

    message: Any
    at: float


@dataclass(frozen=True, kw_only=True)
class CameraImage:
    """An image as the network takes it.

    Attributes:
        message: It came as.
        pixels: uint8; BGR (H, W, 3), or the camera's own bytes.
        encoding: Of the pixels.
        arrived: Monotonic second at which the message came.
        begun: At which its turn came.
        decoded: At which the pixels were there.
    """

    message: Any
    pixels: npt.NDArray[np.uint8]
    encoding: str
    arrived: float
    begun: float
    decoded: float

    @classmethod
    def read(cls, arrival: Arrival, *, takes: Callable[[str], bool]) -> CameraImage:
        """Reads a camera's message now; see `image_codec.read_pixels`.

        Raises:
            ImageError: Where the message is malformed or of an unknown encoding.
        """
        begun = time.monotonic()
        pixels, encoding = read_pixels(arrival.message, takes=takes)
        return cls(
            message=arrival.message,
            pixels=pixels,
            encoding=encoding,
            arrived=arrival.at,
            begun=begun,
            decoded=time.monotonic(),
        )

    @property
    def header(self) -> Any:
        """The camera's, which every answer carries unchanged."""
        return self.message.header

    @property
    def kind(self) -> ImageKind:
        """Its shape and encoding."""
        return ImageKind(self.pixels.shape, self.encoding)

    @cached_property
    def bgr(self) -> npt.NDArray[np.uint8]:
        """uint8 (H, W, 3), BGR: the picture to draw on; converted when first asked for."""
        return self.pixels if self.encoding == "bgr8" else to_bgr(self.message)
