from __future__ import annotations

import subprocess
import sys
import warnings

import cv2
import numpy as np
import pytest
import torch

from upsnet_ros.inference.preprocess import (
    PIXEL_MEANS,
    Geometry,
    _resize,
    check_image,
    preprocess,
    upload,
)

CPU = torch.device("cpu")


def _image(height: int, width: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)


@pytest.mark.parametrize(
    ("source", "size", "padded"),
    [
        ((1024, 2048), (1024, 2048), (1024, 2048)),
        ((720, 1280), (1024, 1820), (1024, 1824)),
        ((480, 1920), (512, 2048), (512, 2048)),  # the long side decides
        ((375, 1242), (618, 2048), (640, 2048)),
    ],
)
def test_geometry(source: tuple[int, int], size: tuple[int, int], padded: tuple[int, int]) -> None:
    geometry = Geometry.of(source, scale=1024, max_size=2048)
    assert (geometry.size, geometry.padded) == (size, padded)


@pytest.mark.parametrize("scale", [64, 100, 37])
def test_input_is_opencvs_resize_of_what_is_left_of_the_means(scale: int) -> None:
    image = _image(64, 90)
    geometry = Geometry.of((64, 90), scale=scale, max_size=2048)
    data = preprocess(upload(image, CPU), geometry, dtype=torch.float32)
    values = (image.astype(np.float64) - PIXEL_MEANS).astype(np.float32)
    if scale != 64:
        values = cv2.resize(values, None, fx=scale / 64, fy=scale / 64)
    height, width = geometry.size
    assert data.shape == (1, 3, *geometry.padded)
    assert data.is_contiguous(memory_format=torch.channels_last)
    np.testing.assert_array_equal(data[0, :, :height, :width].permute(1, 2, 0), values)
    assert not data[..., height:, :].any() and not data[..., width:].any()


@pytest.mark.parametrize("scale", [37, 100, 211])
def test_the_devices_resize_is_opencvs(scale: int) -> None:
    """The CPU takes OpenCV's; a GPU takes ours."""
    values = _image(64, 90).astype(np.float32)
    geometry = Geometry.of((64, 90), scale=scale, max_size=2048)
    want = cv2.resize(values, None, fx=geometry.scale, fy=geometry.scale)
    np.testing.assert_allclose(_resize(torch.from_numpy(values), geometry), want, atol=2e-3)


@pytest.mark.parametrize("scale", [32, 50, 64, 80, 123])
def test_back_to_the_source_is_opencvs_nearest(scale: int) -> None:
    geometry = Geometry.of((64, 90), scale=scale, max_size=2048)
    grid = torch.arange(geometry.size[0] * geometry.size[1]).view(geometry.size)
    factor = 1 / float(np.float32(geometry.scale))
    want = cv2.resize(
        grid.numpy().astype(np.float64), None, fx=factor, fy=factor, interpolation=cv2.INTER_NEAREST
    )
    got = geometry.to_source(grid).numpy()
    assert got.shape == (64, 90)
    height, width = want.shape
    assert abs(height - 64) <= 1 and abs(width - 90) <= 1
    np.testing.assert_array_equal(got[:height, :width], want[:64, :90])


@pytest.mark.parametrize("shape", [(700, 2), (2, 700), (8192, 1)])
def test_of_a_thin_image_a_row_of_pixels_is_left(shape: tuple[int, int]) -> None:
    geometry = Geometry.of(shape, scale=64, max_size=128)
    assert sorted(geometry.size) == [1, 128]
    image = torch.full((*shape, 3), 200, dtype=torch.uint8)
    data = preprocess(image, geometry, dtype=torch.float32)
    height, width = geometry.size
    want = torch.from_numpy(200 - PIXEL_MEANS).float()[:, None, None].expand(3, height, width)
    torch.testing.assert_close(data[0, :, :height, :width], want)


@pytest.mark.parametrize(
    "image",
    [
        np.zeros((4, 4, 3), np.float32),
        np.zeros((4, 4), np.uint8),
        np.zeros((4, 4, 4), np.uint8),
        np.zeros((0, 4, 3), np.uint8),
    ],
)
def test_other_arrays_are_refused(image: np.ndarray) -> None:
    with pytest.raises(ValueError, match="uint8"):
        check_image(image)


def test_pixels_that_may_not_be_written_to_are_copied_without_a_warning() -> None:
    image = _image(6, 8)
    assert upload(image, CPU).data_ptr() == image.ctypes.data
    image.setflags(write=False)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for pixels in (image, image[::-1], image[:, ::2]):
            np.testing.assert_array_equal(upload(pixels, CPU).numpy(), pixels)


def test_importing_the_library_leaves_the_users_warnings_alone() -> None:
    code = """
import warnings
import cv2, safetensors.torch, torch, torchvision
before = list(warnings.filters)
import upsnet_ros.inference.pipeline, upsnet_ros.inference.predictor
print(warnings.filters == before)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert done.stdout == "True\n", done.stdout + done.stderr
