"""Bytes resized as Pillow resizes them, and Panoptic FPN's way from camera bytes to its input."""

from __future__ import annotations

import itertools
from contextlib import nullcontext

import numpy as np
import PIL
import pytest
import torch
from PIL import Image
from torch import Tensor

from upsnet_ros.inference.preprocess import Geometry, network_input
from upsnet_ros.ops import dispatch
from upsnet_ros.ops.camera_input import (
    BYTES_PER_PIXEL,
    ResizeTables,
    resize_bytes,
    resize_line_reference,
    to_bgr,
)

camera_triton = pytest.importorskip("upsnet_ros.ops.triton.camera_input")

SOURCES = [(48, 64), (64, 48), (37, 53), (91, 40), (7, 120), (120, 7), (1, 9), (30, 30), (1, 1)]
# Halves and wholes, and 0.37 of what a camera gives.
FACTORS = [0.37, 0.5, 0.9333, 1.0, 1.7, 4.03]


#: Which takes columns first also where the height shrinks much more than the width.
_OLD_PILLOW = int(PIL.__version__.split(".")[0]) < 13


def _pillow(image: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    return np.asarray(Image.fromarray(image).resize(size[::-1], Image.Resampling.BILINEAR))


def _resized(images: Tensor, size: tuple[int, int]) -> Tensor:
    height, width = images.shape[1:3]
    return resize_bytes(images, ResizeTables.of((height, width), size, images.device))


def _noise(*shape: int, extreme: bool = False) -> np.ndarray:
    values = np.random.default_rng(sum(shape)).integers(0, 256, shape, np.uint8)
    return (values // 128 * 255).astype(np.uint8) if extreme else values


@pytest.mark.parametrize("extreme", [False, True])
@pytest.mark.parametrize("factor", FACTORS)
@pytest.mark.parametrize("source", SOURCES)
def test_every_byte_is_pillow_s(source: tuple[int, int], factor: float, extreme: bool) -> None:
    image = _noise(*source, 3, extreme=extreme)
    height, width = (max(1, int(factor * side + 0.5)) for side in source)
    # As rounding the sides makes it, one side alone, and other factors for each.
    wide, narrow = 2 * width, max(1, width // 2)
    for size in (
        (height, width),
        (height, source[1]),
        (source[0], width),
        (height, wide),
        (height, narrow),
    ):
        loses = source[0] - size[0] > max(0, 2 * (source[1] - size[1])) and size[1] != source[1]
        if loses and _OLD_PILLOW:
            continue
        got = _resized(torch.from_numpy(image)[None], size)[0].numpy()
        np.testing.assert_array_equal(got, _pillow(image, size), err_msg=str(size))


def test_images_of_a_batch_are_resized_each() -> None:
    images = torch.from_numpy(_noise(3, 20, 31, 3))
    got = _resized(images, (11, 17))
    assert torch.equal(got, torch.cat([_resized(one[None], (11, 17)) for one in images]))


@pytest.mark.parametrize(
    ("source", "size"),
    [
        ((24, 32), (9, 12)),
        ((40, 13), (11, 5)),  # rows first
        ((5, 31), (8, 50)),
        ((1, 9), (3, 2)),
        ((7, 1), (2, 1)),
        ((6, 10), (6, 4)),
    ],
    ids=str,
)
@pytest.mark.parametrize("block", [64, 512])
def test_kernel_equals_the_reference(
    source: tuple[int, int], size: tuple[int, int], block: int, device: torch.device
) -> None:
    tables = ResizeTables.of(source, size, device)
    for channels in (3, 1):
        images = torch.from_numpy(_noise(2, *source, channels)).to(device)
        for dim, line in ((1, tables.rows), (2, tables.columns)):
            if line is None:
                continue
            got = camera_triton.resize_line(images, dim, line, block=block)
            want = resize_line_reference(images, dim, line)
            assert got.dtype == torch.uint8 and torch.equal(got, want)


@pytest.mark.parametrize(
    ("encoding", "source", "scale"),
    [
        *((encoding, (12, 20), 9) for encoding in BYTES_PER_PIXEL),
        ("bgr8", (20, 12), 20),
        ("yuyv", (1, 8), 4),
        ("mono8", (9, 1), 2),
        ("bayer_grbg8", (2, 30), 5),
    ],
)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_the_kernels_of_a_gpu_give_the_input_of_a_cpu(
    encoding: str, source: tuple[int, int], scale: int, dtype: torch.dtype, device: torch.device
) -> None:
    """Colours, both passes of resizing, means and padding, bit for bit."""
    depth = BYTES_PER_PIXEL[encoding]
    images = torch.from_numpy(_noise(2, *source, *(() if depth == 1 else (depth,))))
    geometry = Geometry.of(source, scale=scale, max_size=32, family="panoptic_fpn")
    want = network_input(images, encoding, geometry, dtype=dtype)
    with dispatch.interpreted() if device.type == "cpu" else nullcontext():
        got = network_input(images.to(device), encoding, geometry, dtype=dtype)
    assert dispatch.failures() == {}
    assert got.dtype == dtype and torch.equal(got.cpu(), want)
    assert got.is_contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize(
    ("encoding", "source", "scale"),
    [
        *itertools.product(BYTES_PER_PIXEL, [(72, 96), (96, 72)], [27, 64, 100]),
        ("bgr8", (270, 480), 100),
        ("bgr8", (96, 128), 96),
    ],
)
def test_input_is_resized_bytes_less_the_means(
    encoding: str, source: tuple[int, int], scale: int
) -> None:
    depth = BYTES_PER_PIXEL[encoding]
    images = torch.from_numpy(_noise(2, *source, *(() if depth == 1 else (depth,))))
    geometry = Geometry.of(source, scale=scale, max_size=160, family="panoptic_fpn")
    height, width = geometry.size
    got = network_input(images, encoding, geometry, dtype=torch.float32)
    assert got.shape == (2, 3, *geometry.padded)
    assert not got[:, :, height:].any() and not got[..., width:].any()
    means = np.array((103.53, 116.28, 123.675), np.float32)
    for image, one in zip(to_bgr(images, encoding).numpy(), got, strict=True):
        want = _pillow(image, geometry.size).astype(np.float32) - means
        np.testing.assert_array_equal(one[:, :height, :width].numpy(), want.transpose(2, 0, 1))


@pytest.mark.parametrize(
    ("source", "scale", "max_size", "size"),
    [
        # The short side; rounded; the long side's limit, which both sides are multiplied by.
        ((480, 640), 800, 1333, (800, 1067)),
        ((640, 480), 800, 1333, (1067, 800)),
        ((300, 420), 256, 426, (256, 358)),
        ((1080, 1920), 800, 1333, (750, 1333)),
        ((240, 400), 256, 426, (256, 426)),
        ((480, 640), 448, 800, (448, 597)),
        ((500, 500), 800, 1333, (800, 800)),
        ((1, 4000), 800, 1333, (1, 1333)),
    ],
)
def test_sides_are_rounded_each_on_its_own(
    source: tuple[int, int], scale: int, max_size: int, size: tuple[int, int]
) -> None:
    geometry = Geometry.of(source, scale=scale, max_size=max_size, family="panoptic_fpn")
    assert geometry.size == size
    assert geometry.scales == (size[0] / source[0], size[1] / source[1])
    assert all(padded % 32 == 0 for padded in geometry.padded)


def test_boxes_come_back_by_the_scale_of_each_side_with_inclusive_corners() -> None:
    geometry = Geometry.of((300, 420), scale=256, max_size=426, family="panoptic_fpn")
    height, width = geometry.size
    boxes = torch.tensor([[0, 0, width, height], [width / 2, height / 4, width, height / 2]])
    got = geometry.boxes_to_source(boxes.float())
    want = torch.tensor([[0, 0, 419, 299], [210, 75, 419, 149]])
    torch.testing.assert_close(got, want.float(), rtol=0, atol=1e-4)
