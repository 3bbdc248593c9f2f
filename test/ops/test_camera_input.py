"""Camera bytes to network input: the reference against OpenCV, the kernel against the reference."""

from __future__ import annotations

from typing import Any

import cv2
import numpy as np
import pytest
import torch
from torch import Tensor

from upsnet_ros.inference.preprocess import PIXEL_MEANS, Geometry, preprocess
from upsnet_ros.ops.camera_input import (
    BAYER_RED,
    BYTES_PER_PIXEL,
    camera_input,
    camera_input_reference,
    to_bgr,
)

camera_triton = pytest.importorskip("upsnet_ros.ops.triton.camera_input")

HEIGHT, WIDTH = 8, 22
MEANS = tuple(PIXEL_MEANS.tolist())
OPENCV = {
    # OpenCV names a pattern after the second row's second and third pixel.
    "bayer_rggb8": cv2.COLOR_BayerBG2BGR,
    "bayer_bggr8": cv2.COLOR_BayerRG2BGR,
    "bayer_gbrg8": cv2.COLOR_BayerGR2BGR,
    "bayer_grbg8": cv2.COLOR_BayerGB2BGR,
    "yuyv": cv2.COLOR_YUV2BGR_YUYV,
    "uyvy": cv2.COLOR_YUV2BGR_UYVY,
    "mono8": cv2.COLOR_GRAY2BGR,
    "rgb8": cv2.COLOR_RGB2BGR,
}


def make_images(
    encoding: str, *, batch: int = 1, size: tuple[int, int] = (HEIGHT, WIDTH)
) -> Tensor:
    generator = torch.Generator().manual_seed(len(encoding))
    last = BYTES_PER_PIXEL[encoding]
    shape = (batch, *size) if last == 1 else (batch, *size, last)
    return torch.randint(0, 256, shape, generator=generator).to(torch.uint8)


def options_of(scale: float) -> dict[str, Any]:
    size = (round(HEIGHT * scale), round(WIDTH * scale))
    return {"scale": scale, "size": size, "padded": (11, 30), "means": MEANS}


@pytest.mark.parametrize("encoding", OPENCV)
def test_colours_are_those_of_opencv(encoding: str) -> None:
    images = make_images(encoding, batch=2)
    expected = np.stack([cv2.cvtColor(image, OPENCV[encoding]) for image in images.numpy()])
    difference = np.abs(to_bgr(images, encoding).numpy().astype(int) - expected)
    if encoding in BAYER_RED:  # the border is another matter
        difference = difference[:, 1:-1, 1:-1]
    assert difference.max() <= 1
    assert torch.equal(to_bgr(images[1], encoding), to_bgr(images, encoding)[1])


@pytest.mark.parametrize("scale", [1.0, 0.5, 1.3])
def test_the_twin_is_what_prepares_frames_today(scale: float) -> None:
    images = make_images("bgr8", batch=2)
    options = options_of(scale)
    geometry = Geometry((HEIGHT, WIDTH), scale, options["size"], options["padded"])
    expected = torch.cat([preprocess(image, geometry, dtype=torch.float32) for image in images])
    result = camera_input_reference(images, "bgr8", dtype=torch.float32, **options)
    # OpenCV's positions are float32.
    torch.testing.assert_close(result, expected, atol=0.02, rtol=0)
    assert result.is_contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize(
    ("encoding", "scale", "dtype"),
    [
        ("bgr8", 1.0, torch.float32),
        ("rgb8", 0.6, torch.float16),
        ("mono8", 1.3, torch.bfloat16),
        ("yuyv", 1.0, torch.float32),
        ("uyvy", 0.6, torch.float16),
        ("bayer_rggb8", 1.0, torch.float32),
        ("bayer_bggr8", 0.6, torch.bfloat16),
        ("bayer_gbrg8", 1.3, torch.float32),
        ("bayer_grbg8", 1.0, torch.float16),
    ],
)
def test_kernel_equals_the_twin(
    encoding: str, scale: float, dtype: torch.dtype, device: torch.device
) -> None:
    images = make_images(encoding, batch=2).to(device)
    options = options_of(scale)
    expected = camera_input_reference(images, encoding, dtype=dtype, **options)
    result = camera_triton.camera_input(images, encoding, dtype=dtype, **options, block=32)
    assert result.dtype == dtype and result.stride() == expected.stride()
    exact = dtype == torch.float32
    torch.testing.assert_close(
        result, expected, atol=1e-3 if exact else 0.25, rtol=0 if exact else 8e-3
    )
    height, width = options["size"]
    assert not result[:, :, height:].any() and not result[:, :, :, width:].any()


@pytest.mark.parametrize("encoding", ["bayer_rggb8", "yuyv", "mono8"])
def test_smallest_images(encoding: str, device: torch.device) -> None:
    images = make_images(encoding, size=(2, 2)).to(device)
    options = {"scale": 1.5, "size": (3, 3), "padded": (4, 4), "means": MEANS}
    expected = camera_input_reference(images, encoding, dtype=torch.float32, **options)
    result = camera_triton.camera_input(images, encoding, dtype=torch.float32, **options, block=4)
    torch.testing.assert_close(result, expected, atol=1e-3, rtol=0)


@pytest.mark.parametrize(
    ("shape", "encoding", "message"),
    [
        ((1, 4, 4), "bayer_rggb16", "encoding 'bayer_rggb16' is not known; known are bgr8, rgb8"),
        ((1, 4, 4), "bgr8", r"bgr8 needs uint8 \(B, H, W, 3\), got torch.uint8 \(1, 4, 4\)"),
        ((4, 4, 3), "bgr8", r"bgr8 needs uint8 \(B, H, W, 3\), got torch.uint8 \(4, 4, 3\)"),
        ((1, 4, 4, 3), "yuyv", r"yuyv needs uint8 \(B, H, W, 2\), got torch.uint8 \(1, 4, 4, 3\)"),
        ((1, 4, 3, 2), "uyvy", "3x4 pixels cannot be uyvy"),
        ((1, 1, 4), "bayer_grbg8", "4x1 pixels cannot be bayer_grbg8"),
    ],
)
def test_other_images_are_refused(shape: tuple[int, ...], encoding: str, message: str) -> None:
    images = torch.zeros(shape, dtype=torch.uint8)
    with pytest.raises(ValueError, match=message):
        camera_input(images, encoding, dtype=torch.float32, **options_of(1.0))
