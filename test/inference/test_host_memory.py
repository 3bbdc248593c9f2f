from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import pytest
import torch

from upsnet_ros.inference.host_memory import Buffer


@pytest.mark.parametrize("dtype", [torch.uint8, torch.bool, torch.int32, torch.float64])
@pytest.mark.parametrize("shape", [(3, 5), (0, 7), (1,)])
def test_any_tensor_fits_into_a_buffer(dtype: torch.dtype, shape: tuple[int, ...]) -> None:
    tensor = Buffer().empty(shape, dtype)
    assert tensor.shape == shape and tensor.dtype == dtype and tensor.is_contiguous()


def test_its_memory_is_used_again_and_grows() -> None:
    buffer = Buffer()
    large = buffer.empty((100,), torch.int64)
    assert buffer.empty((40, 5), torch.int32).data_ptr() == large.data_ptr()
    assert buffer.empty((101,), torch.int64).data_ptr() != large.data_ptr()


def test_it_holds_images_of_any_strides() -> None:
    image = np.arange(4 * 6 * 3, dtype=np.uint8).reshape(4, 6, 3)
    image.setflags(write=False)
    for view in (image, image[1:3, ::2], image[::-1, :, ::-1]):
        np.testing.assert_array_equal(Buffer().hold(view).numpy(), view)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_pinned_memory_is_pinned() -> None:
    buffer = Buffer(pinned_for=torch.device("cuda", torch.cuda.current_device()))
    assert buffer.empty((3, 5), torch.int32).is_pinned()


def test_memory_is_pinned_for_the_gpu_that_uses_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """Else the thread's own GPU gets a context, some hundred MB, and pins it."""
    current = [torch.device("cuda", 0)]
    pinned: list[torch.device] = []
    empty = torch.empty

    @contextmanager
    def guard(device: torch.device) -> Iterator[None]:
        current.append(device)
        yield
        current.pop()

    def noting(*args: Any, pin_memory: bool = False, **options: Any) -> torch.Tensor:
        if pin_memory:
            pinned.append(current[-1])
        return empty(*args, **options)

    monkeypatch.setattr(torch.cuda, "device", guard)
    monkeypatch.setattr(torch, "empty", noting)
    Buffer(pinned_for=torch.device("cuda", 1)).empty((3, 5), torch.int32)
    assert pinned == [torch.device("cuda", 1)]
