from __future__ import annotations

import numpy as np
import pytest
import torch

from upsnet_ros.inference.ring import Buffer


@pytest.mark.parametrize("dtype", [torch.uint8, torch.bool, torch.int32, torch.float64])
@pytest.mark.parametrize("shape", [(3, 5), (0, 7), (1,)])
def test_any_tensor_fits_into_a_buffer(dtype: torch.dtype, shape: tuple[int, ...]) -> None:
    tensor = Buffer().take(shape, dtype)
    assert tensor.shape == shape and tensor.dtype == dtype and tensor.is_contiguous()


def test_its_memory_is_used_again_and_grows() -> None:
    buffer = Buffer()
    large = buffer.take((100,), torch.int64)
    assert buffer.take((40, 5), torch.int32).data_ptr() == large.data_ptr()
    assert buffer.take((101,), torch.int64).data_ptr() != large.data_ptr()


def test_it_holds_images_of_any_strides() -> None:
    image = np.arange(4 * 6 * 3, dtype=np.uint8).reshape(4, 6, 3)
    image.setflags(write=False)
    for view in (image, image[1:3, ::2], image[::-1, :, ::-1]):
        np.testing.assert_array_equal(Buffer().hold(view).numpy(), view)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_pinned_memory_is_pinned() -> None:
    assert Buffer(pinned=True).take((3, 5), torch.int32).is_pinned()
