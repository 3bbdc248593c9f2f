"""What a camera's image is on its way through the node: the message, its pixels, and its times."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from upsnet_ros.messages.images import read_pixels, to_bgr


class ImageKind(NamedTuple):
    """Properties of an image for which the network prepares (warm-up, CUDA graphs).

    Attributes:
        shape: (H, W, 3) for bgr8; see `messages.images.read_pixels`.
        encoding: Encoding of the pixels.
    """

    shape: tuple[int, ...]
    encoding: str = "bgr8"


@dataclass(frozen=True, slots=True)
class Arrival:
    """An image message and its arrival time.

    Attributes:
        message: A sensor_msgs Image or CompressedImage, or a message read by `messages.cdr_image`.
        at: Arrival time, monotonic seconds.
    """

    message: Any
    at: float


@dataclass(frozen=True, kw_only=True)
class CameraImage:
    """A decoded image for the network.

    Attributes:
        message: The image's message.
        pixels: uint8; BGR (H, W, 3), or the camera's own bytes.
        encoding: Encoding of the pixels.
        arrived: Arrival time of the message, monotonic seconds.
        started: Start of decoding, monotonic seconds.
        decoded: End of decoding, monotonic seconds.
    """

    message: Any
    pixels: npt.NDArray[np.uint8]
    encoding: str
    arrived: float
    started: float
    decoded: float

    @classmethod
    def read(cls, arrival: Arrival, *, takes: Callable[[str], bool]) -> CameraImage:
        """Decode a camera's message; see `messages.images.read_pixels`.

        Raises:
            ImageError: If the message is malformed or of an unknown encoding.
        """
        started = time.monotonic()
        pixels, encoding = read_pixels(arrival.message, takes=takes)
        return cls(
            message=arrival.message,
            pixels=pixels,
            encoding=encoding,
            arrived=arrival.at,
            started=started,
            decoded=time.monotonic(),
        )

    @property
    def header(self) -> Any:
        """Header of the camera's message, which every result carries unchanged."""
        return self.message.header

    @property
    def kind(self) -> ImageKind:
        """Shape and encoding of the image."""
        return ImageKind(self.pixels.shape, self.encoding)

    @cached_property
    def bgr(self) -> npt.NDArray[np.uint8]:
        """uint8 (H, W, 3), BGR: the image to draw on; converted on first use."""
        return self.pixels if self.encoding == "bgr8" else to_bgr(self.message)
