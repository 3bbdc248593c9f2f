"""The first convolution's epilogue: the kernel against its reference implementation."""

from __future__ import annotations

from contextlib import nullcontext

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from upsnet_ros.ops import dispatch
from upsnet_ros.ops.conv_relu import conv_relu_pool, relu_pool_reference

relu_pool_triton = pytest.importorskip("upsnet_ros.ops.triton.conv_relu")

#: The interpreter cuts off what bfloat16 has no room for, where a GPU rounds.
TOLERANCE = {torch.float32: 0, torch.float16: 0, torch.bfloat16: 2**-7}


def make_case(
    shape: tuple[int, ...], device: torch.device | str, dtype: torch.dtype
) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(3)
    x, bias = torch.randn(*shape, generator=generator), torch.randn(shape[1], generator=generator)
    return x.to(device, dtype), bias.to(device, dtype)


@pytest.mark.parametrize("shape", [(2, 5, 8, 10), (1, 16, 7, 9), (1, 1, 1, 1)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("format", [torch.contiguous_format, torch.channels_last])
def test_kernel_equals_the_twin(
    shape: tuple[int, ...], dtype: torch.dtype, format: torch.memory_format, device: torch.device
) -> None:
    x, bias = make_case(shape, device, dtype)
    x = x.contiguous(memory_format=format)
    for b in (bias, None):
        result = relu_pool_triton.relu_pool(x, b, block=16)
        expected = relu_pool_reference(x.clone(), b)
        torch.testing.assert_close(result, expected, atol=0, rtol=TOLERANCE[dtype])
        assert result.dtype == dtype and result.is_contiguous(memory_format=format)


def test_convolution_by_the_kernel_and_with_gradients(device: torch.device) -> None:
    conv = nn.Conv2d(3, 8, 7, stride=2, padding=3).to(device)
    x = torch.randn(2, 3, 18, 26, device=device).contiguous(memory_format=torch.channels_last)
    expected = F.max_pool2d(conv(x).relu(), 3, stride=2, padding=1)
    assert conv_relu_pool(conv, x).requires_grad
    with torch.inference_mode():
        by_kernel = dispatch.interpreted() if device.type == "cpu" else nullcontext()
        with by_kernel:
            result = conv_relu_pool(conv, x)
        plain = conv_relu_pool(conv.cpu(), x.cpu())
    torch.testing.assert_close(result, expected, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(plain, expected.cpu(), atol=1e-5, rtol=1e-5)
