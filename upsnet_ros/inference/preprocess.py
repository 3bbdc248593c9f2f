"""From camera bytes to the network's input, and from its grid back to the camera's."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from upsnet_ros.datasets.images import AnyImage, as_bgr
from upsnet_ros.errors import ImageError
from upsnet_ros.network.panoptic_head import Grid
from upsnet_ros.network.variants import Family
from upsnet_ros.ops.boxes import CONTINUOUS
from upsnet_ros.ops.camera_input import (
    BAYER_RED,
    BYTES_PER_PIXEL,
    ResizeTables,
    camera_input,
    resize_bytes,
    to_bgr,
)
from upsnet_ros.ops.dispatch import is_interpreted

#: Subtracted from blue, green and red; there is no division.
PIXEL_MEANS = np.array([102.9801, 115.9465, 122.7717])
#: The same for Panoptic FPN, as float32: bytes less these are rounded once.
FPN_PIXEL_MEANS = (103.52999877929688, 116.27999877929688, 123.67500305175781)
#: The padded size is a multiple of the stride of P5.
PAD_MULTIPLE = 32

# Subtracting in float64 and rounding once, as the published network was trained; 256 values a
# channel, so a table does it.
_MEAN_TABLE = (np.arange(256)[:, None] - PIXEL_MEANS).astype(np.float32)[None]


@dataclass(frozen=True, slots=True)
class Geometry:
    """How an image of one size is brought to the network.

    Attributes:
        source: Height and width of the camera image.
        scale: Factor from source to network pixels.
        size: Height and width after resizing.
        padded: `size` rounded up to multiples of 32, padding at the bottom and on the right.
        family: Whose way it is: ``upsnet`` resizes centred values with one scale for both
            directions, ``panoptic_fpn`` bytes as Pillow does, where rounding the sides makes two.
    """

    source: tuple[int, int]
    scale: float
    size: tuple[int, int]
    padded: tuple[int, int]
    family: Family = "upsnet"

    @classmethod
    def of(
        cls, source: tuple[int, int], *, scale: int, max_size: int, family: Family = "upsnet"
    ) -> Geometry:
        """Resize the short side to `scale` unless the long side would exceed `max_size`."""
        if family == "panoptic_fpn":
            return cls._of_fpn(source, scale=scale, max_size=max_size)
        short, long = min(source), max(source)
        factor = scale / short
        if round(factor * long) > max_size:
            factor = max_size / long
        return cls._scaled(source, factor)

    def of_part(self, source: tuple[int, int]) -> Geometry:
        """Return the geometry of a part of the image, (height, width), at the same scale."""
        return self._scaled(source, self.scale)

    @classmethod
    def _of_fpn(cls, source: tuple[int, int], *, scale: int, max_size: int) -> Geometry:
        factor = scale / min(source)
        sides = [float(scale) if side == min(source) else factor * side for side in source]
        if max(sides) > max_size:
            excess = max_size / max(sides)
            factor, sides = factor * excess, [excess * side for side in sides]
        height, width = (max(1, int(side + 0.5)) for side in sides)
        padded_h, padded_w = (-(-side // PAD_MULTIPLE) * PAD_MULTIPLE for side in (height, width))
        return cls(source, factor, (height, width), (padded_h, padded_w), "panoptic_fpn")

    @property
    def scales(self) -> tuple[float, float]:
        """Factors from source to network pixels, down and across."""
        if self.family == "upsnet":
            return self.scale, self.scale
        return self.size[0] / self.source[0], self.size[1] / self.source[1]

    def resize_tables(self, device: torch.device) -> ResizeTables:
        """Return how Panoptic FPN's bytes are resized."""
        return ResizeTables.of(self.source, self.size, device)

    def camera_grid(self) -> Grid:
        """Return the camera's pixels as the panoptic head's grid."""
        if self.family == "upsnet":
            return Grid(self.source, self.scale)
        return Grid(self.source, self.scales, edge=CONTINUOUS, via=self.size)

    def boxes_to_source(self, boxes: Tensor) -> Tensor:
        """Bring boxes (..., 4) of the network to the camera's pixels, with inclusive corners."""
        return boxes / self.scale if self.family == "upsnet" else self.camera_grid().boxes(boxes)

    @classmethod
    def _scaled(cls, source: tuple[int, int], factor: float) -> Geometry:
        # round() is half to even, as OpenCV's own rounding of fx * width.
        height, width = (max(1, round(side * factor)) for side in source)
        padded_h, padded_w = (-(-side // PAD_MULTIPLE) * PAD_MULTIPLE for side in (height, width))
        return cls(source, factor, (height, width), (padded_h, padded_w))

    def source_rows_and_columns(self, device: torch.device) -> tuple[Tensor, Tensor]:
        """Return which network row each source row shows, and which column, int64.

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


def checked_pixels(image: AnyImage, encoding: str = "bgr8") -> npt.NDArray[np.uint8]:
    """Return the pixels of an image: array, path or PIL image.

    Args:
        image: An image as for `datasets.images.as_bgr`.
        encoding: Encoding of an array; files and PIL images are read as bgr8.

    Raises:
        DatasetError: The path cannot be read as an image.
        ImageError: It is not an image, or not of the encoding; see `check_image`.
    """
    if encoding != "bgr8" and not isinstance(image, np.ndarray | None):
        raise ImageError(f"encoding {encoding!r} is for arrays; files and PIL images become bgr8")
    pixels = as_bgr(image)
    check_image(pixels, encoding)
    return pixels


def check_image(image: npt.NDArray[np.uint8], encoding: str = "bgr8") -> None:
    """Raise ImageError unless the image is uint8, of the encoding's shape, and not empty.

    Args:
        image: (H, W, 3) for bgr8 and rgb8, (H, W, 2) for yuyv and uyvy, (H, W) for others.
        encoding: One of `ops.camera_input.BYTES_PER_PIXEL`.
    """
    depth = BYTES_PER_PIXEL.get(encoding) if isinstance(encoding, str) else None
    if depth is None:
        raise ImageError(f"unknown encoding {encoding!r}; use {', '.join(BYTES_PER_PIXEL)}")
    trailing = () if depth == 1 else (depth,)
    if image.dtype != np.uint8 or image.shape[2:] != trailing or image.size == 0 or image.ndim < 2:
        shape = ", ".join(("H", "W", *map(str, trailing)))
        raise ImageError(
            f"need an image of uint8 ({shape}), got {image.dtype} {tuple(image.shape)}"
        )
    height, width = image.shape[:2]
    if (depth == 2 and width % 2) or (encoding in BAYER_RED and min(height, width) < 2):
        raise ImageError(f"{width}x{height} pixels cannot be {encoding}")


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
    """Return the camera's bytes uint8 (H, W, 3) on the device.

    On a CPU they are copied only where they are not contiguous or may not be written to, as a
    message's: torch has no tensors for reading only, and warns of each.
    """
    return torch.from_numpy(np.require(image, requirements=("C", "W"))).to(device)


def preprocess(image: Tensor, geometry: Geometry, *, dtype: torch.dtype) -> Tensor:
    """Turn BGR bytes into the network's input.

    Args:
        image: uint8 (H, W, 3), BGR, on the network's device.
        geometry: For this size.
        dtype: Floating type of the network.

    Returns:
        (1, 3, padded height, padded width), channels-last, less the means, zero in the padding.
    """
    if geometry.family == "panoptic_fpn":
        return network_input(image[None], "bgr8", geometry, dtype=dtype)
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


def _fpn_input(
    images: Tensor, encoding: str, geometry: Geometry, tables: ResizeTables, *, dtype: torch.dtype
) -> Tensor:
    """Do what `network_input` does for Panoptic FPN: resize bytes, subtract, pad."""
    if encoding == "mono8":
        images = images[..., None]
    elif BYTES_PER_PIXEL[encoding] != 3:
        images, encoding = _colours(images, encoding), "bgr8"
    resized = resize_bytes(images, tables)
    return camera_input(
        resized[..., 0] if encoding == "mono8" else resized,
        encoding,
        scale=1.0,
        size=geometry.size,
        padded=geometry.padded,
        means=FPN_PIXEL_MEANS,
        dtype=dtype,
    )


def _colours(images: Tensor, encoding: str) -> Tensor:
    """Return BGR bytes (B, H, W, 3), by the kernel if it runs."""
    if images.device.type == "cpu" and not is_interpreted():
        return to_bgr(images, encoding)
    height, width = images.shape[1:3]
    colours = camera_input(
        images,
        encoding,
        scale=1.0,
        size=(height, width),
        padded=(height, width),
        means=(0.0, 0.0, 0.0),
        dtype=torch.uint8,
    )
    return colours.permute(0, 2, 3, 1)


def network_input(
    images: Tensor,
    encoding: str,
    geometry: Geometry,
    *,
    dtype: torch.dtype,
    tables: ResizeTables | None = None,
) -> Tensor:
    """Turn a batch of camera bytes into the network's input.

    Args:
        images: uint8 (B, H, W), (B, H, W, 2) or (B, H, W, 3), by encoding; on the device.
        encoding: One of `ops.camera_input.BYTES_PER_PIXEL`.
        geometry: For this size.
        dtype: Floating type of the network.
        tables: The geometry's `resize_tables`, where they are kept: to make them waits for a GPU.

    Returns:
        (B, 3, padded height, padded width), channels-last, less the means, zero in the padding.
    """
    if geometry.family == "panoptic_fpn":
        tables = tables or geometry.resize_tables(images.device)
        return _fpn_input(images, encoding, geometry, tables, dtype=dtype)
    if images.device.type != "cpu" or is_interpreted():
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
