"""The pyramid's top-down step: the kernel against its reference implementation."""

from __future__ import annotations

from contextlib import nullcontext

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from upsnet_ros.ops import dispatch
from upsnet_ros.ops.pyramid import add_coarse_reference, merge

merge_triton = pytest.importorskip("upsnet_ros.ops.triton.pyramid")

#: The interpreter cuts off what bfloat16 has no room for, where a GPU rounds.
TOLERANCE = {torch.float32: 1e-6, torch.float16: 0, torch.bfloat16: 2**-7}


def make_levels(
    shape: tuple[int, int, int, int], device: torch.device | str, dtype: torch.dtype
) -> tuple[Tensor, Tensor, Tensor]:
    batch, channels, rows, columns = shape
    generator = torch.Generator().manual_seed(6)
    own = torch.randn(batch, channels, 2 * rows, 2 * columns, generator=generator)
    coarse = torch.randn(shape, generator=generator)
    bias = torch.randn(channels, generator=generator)
    return own.to(device, dtype), coarse.to(device, dtype), bias.to(device, dtype)


@pytest.mark.parametrize("shape", [(2, 5, 3, 4), (1, 40, 1, 1), (3, 16, 2, 5)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_kernel_equals_the_twin(
    shape: tuple[int, int, int, int], dtype: torch.dtype, device: torch.device
) -> None:
    own, coarse, bias = make_levels(shape, device, dtype)
    for b in (bias, None):
        result = merge_triton.add_coarse(own, coarse, b, block=(8, 16))
        # In float32, since the reference rounds after each step.
        exact = (None if x is None else x.float() for x in (own, coarse, b))
        expected = add_coarse_reference(*exact).to(dtype)
        torch.testing.assert_close(result, expected, atol=0, rtol=TOLERANCE[dtype])
        assert result.is_contiguous(memory_format=torch.channels_last)


def test_result_may_lie_in_the_finer_level(device: torch.device) -> None:
    own, coarse, bias = make_levels((2, 8, 3, 4), device, torch.float32)
    own = own.contiguous(memory_format=torch.channels_last)
    expected = add_coarse_reference(own, coarse, bias)
    result = merge_triton.add_coarse(own, coarse, bias, in_place=True)
    assert result is own
    torch.testing.assert_close(own, expected)


def test_convolution_by_the_kernel_and_with_gradients(device: torch.device) -> None:
    conv = nn.Conv2d(6, 8, 1).to(device)
    x, coarse = torch.randn(1, 6, 4, 6, device=device), torch.randn(1, 8, 2, 3, device=device)
    expected = conv(x) + F.interpolate(coarse, scale_factor=2.0)
    assert merge(conv, x, coarse).requires_grad
    with torch.inference_mode():
        by_kernel = dispatch.interpreted() if device.type == "cpu" else nullcontext()
        with by_kernel:
            result = merge(conv, x, coarse)
        plain = merge(conv.cpu(), x.cpu(), coarse.cpu())
    torch.testing.assert_close(result, expected, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(plain, expected.cpu(), atol=1e-5, rtol=1e-5)


def test_levels_that_do_not_fit_are_named(device: torch.device) -> None:
    own, coarse, bias = make_levels((1, 4, 3, 4), device, torch.float32)
    with pytest.raises(ValueError, match="half as many rows"):
        merge_triton.add_coarse(own[:, :, 1:], coarse, bias)
