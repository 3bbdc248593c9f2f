"""From camera bytes to the network's input, and from its grid back to the camera's."""

from __future__ import annotations

import warnings
from dataclasses import dataclass

import cv2
import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from upsnet_ros.kernels.camera import BAYER_RED, BYTES_PER_PIXEL, camera_input, to_bgr

#: Subtracted from blue, green and red; there is no division.
PIXEL_MEANS = np.array([102.9801, 115.9465, 122.7717])
#: The padded size is a multiple of the stride of P5.
PAD_MULTIPLE = 32

# Subtracting in float64 and rounding once, as the published network was trained; 256 values a
# channel, so a table does it.
_MEAN_TABLE = (np.arange(256)[:, None] - PIXEL_MEANS).astype(np.float32)[None]

# A camera's pixels may lie in a message that nobody may write to, and nothing here does.
warnings.filterwarnings("ignore", "The given NumPy array is not writable", UserWarning)


@dataclass(frozen=True, slots=True)
class Geometry:
    """How an image of one size is brought to the network.

    Attributes:
        source: Height and width of the camera image.
        scale: Factor from source to network pixels.
        size: Height and width after resizing.
        padded: `size` rounded up to multiples of 32, padding at the bottom and on the right.
    """

    source: tuple[int, int]
    scale: float
    size: tuple[int, int]
    padded: tuple[int, int]

    @classmethod
    def of(cls, source: tuple[int, int], *, scale: int, max_size: int) -> Geometry:
        """Resize the short side to `scale` unless the long side would exceed `max_size`."""
        short, long = min(source), max(source)
        factor = scale / short
        if round(factor * long) > max_size:
            factor = max_size / long
        return cls._scaled(source, factor)

    def of_part(self, source: tuple[int, int]) -> Geometry:
        """Return the geometry of a part of the image, (height, width), at the same scale."""
        return self._scaled(source, self.scale)

    @classmethod
    def _scaled(cls, source: tuple[int, int], factor: float) -> Geometry:
        # round() is half to even, as OpenCV's own rounding of fx * width.
        height, width = (max(1, round(side * factor)) for side in source)
        padded_h, padded_w = (-(-side // PAD_MULTIPLE) * PAD_MULTIPLE for side in (height, width))
        return cls(source, factor, (height, width), (padded_h, padded_w))

    def source_rows_and_columns(self, device: torch.device) -> tuple[Tensor, Tensor]:
        """Return which network row each source row shows, and likewise columns, int64.

        OpenCV's nearest rule with fx = 1/scale, scale rounded to float32, as in the original.
        """
        inverse = 1 / (1 / float(np.float32(self.scale)))
        index = []
        for source, size in zip(self.source, self.size, strict=True):
            position = torch.arange(source, device=device, dtype=torch.float64) * inverse
            index.append(position.floor().long().clamp(max=size - 1))
        return index[0], index[1]

    def to_source(self, values: Tensor) -> Tensor:
        """Return a map (height, width) at the source size, nearest; one that has it is returned."""
        if values.shape == self.source:
            return values
        rows, columns = self.source_rows_and_columns(values.device)
        return values[rows][:, columns]


def check_image(image: npt.NDArray[np.uint8], encoding: str = "bgr8") -> None:
    """Raise ValueError unless the image is uint8, of the encoding's shape, and not empty.

    Args:
        image: (H, W, 3) for bgr8 and rgb8, (H, W, 2) for yuyv and uyvy, (H, W) for others.
        encoding: One of `kernels.camera.BYTES_PER_PIXEL`.
    """
    depth = BYTES_PER_PIXEL.get(encoding)
    if depth is None:
        raise ValueError(f"unknown encoding {encoding!r}; use {', '.join(BYTES_PER_PIXEL)}")
    trailing = () if depth == 1 else (depth,)
    if image.dtype != np.uint8 or image.shape[2:] != trailing or image.size == 0 or image.ndim < 2:
        shape = ", ".join(("H", "W", *map(str, trailing)))
        raise ValueError(
            f"need an image of uint8 ({shape}), got {image.dtype} {tuple(image.shape)}"
        )
    height, width = image.shape[:2]
    if (depth == 2 and width % 2) or (encoding in BAYER_RED and min(height, width) < 2):
        raise ValueError(f"{width}x{height} pixels cannot be {encoding}")


def _resize(image: Tensor, geometry: Geometry) -> Tensor:
    """Resize float32 (H, W, C) on its device, bilinear: rows and columns each by two gathers."""
    for dim in (1, 0):
        position = torch.arange(geometry.size[dim], device=image.device, dtype=torch.float64)
        position = ((position + 0.5) / geometry.scale - 0.5).clamp(0, image.shape[dim] - 1)
        low = position.floor().long()
        shape = [1, 1, 1]
        shape[dim] = -1
        weight = (position - low).float().view(shape)
        high = (low + 1).clamp(max=image.shape[dim] - 1)
        first = image.index_select(dim, low)
        image = torch.lerp(first, image.index_select(dim, high), weight)
    return image


def upload(image: npt.NDArray[np.uint8], device: torch.device) -> Tensor:
    """Return the camera's bytes uint8 (H, W, 3) on the device; no copy on a CPU if contiguous."""
    return torch.from_numpy(np.ascontiguousarray(image)).to(device)


def preprocess(image: Tensor, geometry: Geometry, *, dtype: torch.dtype) -> Tensor:
    """Turn BGR bytes into the network's input.

    Args:
        image: uint8 (H, W, 3), BGR, on the network's device.
        geometry: For this size.
        dtype: Floating type of the network.

    Returns:
        (1, 3, padded height, padded width), channels-last, less the means, zero in the padding.
    """
    if image.device.type == "cpu":
        values = cv2.LUT(image.numpy(), _MEAN_TABLE)
        thin = round(min(geometry.source) * geometry.scale) < 1  # OpenCV would leave nothing of it
        if geometry.scale != 1.0 and not thin:
            values = cv2.resize(values, None, fx=geometry.scale, fy=geometry.scale)
        centred = torch.from_numpy(values)
        if thin:
            centred = _resize(centred, geometry)
    else:
        means = torch.from_numpy(PIXEL_MEANS).to(image.device)
        centred = (image.double() - means).float()
        if geometry.scale != 1.0:
            centred = _resize(centred, geometry)
    height, width = geometry.size
    padded = centred.new_zeros((*geometry.padded, 3), dtype=dtype)
    padded[:height, :width] = centred
    return padded.permute(2, 0, 1)[None]


def network_input(
    images: Tensor, encoding: str, geometry: Geometry, *, dtype: torch.dtype
) -> Tensor:
    """Turn a batch of camera bytes into the network's input.

    Args:
        images: uint8 (B, H, W), (B, H, W, 2) or (B, H, W, 3), by encoding; on the device.
        encoding: One of `kernels.camera.BYTES_PER_PIXEL`.
        geometry: For this size.
        dtype: Floating type of the network.

    Returns:
        (B, 3, padded height, padded width), channels-last, less the means, zero in the padding.
    """
    if images.device.type != "cpu":
        blue, green, red = PIXEL_MEANS.tolist()
        return camera_input(
            images,
            encoding,
            scale=geometry.scale,
            size=geometry.size,
            padded=geometry.padded,
            means=(blue, green, red),
            dtype=dtype,
        )
    inputs = [preprocess(to_bgr(image, encoding), geometry, dtype=dtype) for image in images]
    if len(inputs) == 1:
        return inputs[0]
    # torch.cat of single images forgets how they lie in memory.
    return torch.cat(inputs).contiguous(memory_format=torch.channels_last)
