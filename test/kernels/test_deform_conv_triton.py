"""Deformable convolution's kernel against its twin."""

from __future__ import annotations

import gc
import math
from contextlib import nullcontext
from typing import Any

import pytest
import torch
from torch import Tensor

from upsnet_ros.kernels import deform_conv, dispatch
from upsnet_ros.kernels.deform_conv import deform_conv2d, deform_conv2d_reference

deform_conv_triton = pytest.importorskip("upsnet_ros.kernels.deform_conv_triton")

BLOCK = (64, 16, 16)
#: How far the result may be off, in the larger of a unit and the result itself.
TOLERANCE = {torch.float32: 1e-5, torch.float16: 0.02, torch.bfloat16: 0.1}


def make_case(
    device: torch.device,
    *,
    batch: int = 1,
    channels: int = 5,
    outputs: int = 7,
    kernel: tuple[int, int] = (3, 3),
    size: tuple[int, int] = (7, 10),
    stride: int = 1,
    padding: int = 1,
    dilation: int = 1,
    spread: float = 3.0,
    dtype: torch.dtype = torch.float32,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(7)

    def randn(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator).to(device, dtype)

    out = [
        (s + 2 * padding - dilation * (k - 1) - 1) // stride + 1
        for s, k in zip(size, kernel, strict=True)
    ]
    return (
        randn(batch, channels, *size),
        randn(batch, 2 * kernel[0] * kernel[1], *out) * spread,
        randn(outputs, channels, *kernel) / 3,
        randn(outputs),
    )


@pytest.mark.parametrize(
    ("geometry", "dtype"),
    [
        ({"batch": 2}, torch.float32),
        ({"stride": 2, "channels": 17, "outputs": 18}, torch.float16),
        ({"padding": 2, "dilation": 2}, torch.bfloat16),
        ({"kernel": (1, 3), "padding": 0}, torch.float32),
        ({"size": (1, 1), "channels": 1, "outputs": 1}, torch.float32),
        ({"spread": 100.0}, torch.float32),
    ],
    ids=str,
)
def test_kernel_equals_the_twin(
    geometry: dict[str, Any], dtype: torch.dtype, device: torch.device
) -> None:
    input, offset, weight, bias = make_case(device, dtype=dtype, **geometry)
    placement = {k: v for k, v in geometry.items() if k in ("stride", "padding", "dilation")}
    if dtype != torch.float32:
        input = input.contiguous(memory_format=torch.channels_last)
        offset = offset.contiguous(memory_format=torch.channels_last)
    expected = deform_conv2d_reference(input, offset, weight, bias, **placement)
    result = deform_conv_triton.deform_conv2d(input, offset, weight, bias, **placement, block=BLOCK)
    assert result.dtype == dtype and result.stride() == expected.stride()
    tolerance = TOLERANCE[dtype]
    torch.testing.assert_close(result, expected, atol=tolerance, rtol=tolerance)


def test_whole_pixels_and_places_far_outside(device: torch.device) -> None:
    """Samples at exactly -1 and H do not count, nor do those that are not a number."""
    input, offset, weight, _ = make_case(device)
    offset = offset.round()
    for far, channel in ((math.nan, 0), (math.inf, 3), (-1e30, 5)):
        outside = offset.clone()
        outside[:, channel] = far
        tap = channel // 2
        without = weight.clone()
        without[:, :, tap // 3, tap % 3] = 0
        expected = deform_conv2d_reference(input, offset, without)
        result = deform_conv_triton.deform_conv2d(input, outside, weight, block=BLOCK)
        torch.testing.assert_close(result, expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_packed_weight_and_relu(dtype: torch.dtype, device: torch.device) -> None:
    input, offset, weight, bias = make_case(device, dtype=dtype)
    packed = deform_conv_triton.pack_weight(weight)
    result = deform_conv_triton.deform_conv2d(
        input, offset, weight, bias, relu=True, packed=packed, block=BLOCK
    )
    expected = deform_conv2d_reference(input, offset, weight, bias, relu=True)
    assert (expected == 0).any()
    tolerance = TOLERANCE[dtype]
    torch.testing.assert_close(result, expected, atol=tolerance, rtol=tolerance)


def test_a_weight_is_packed_once_until_it_changes(
    device: torch.device, monkeypatch: pytest.MonkeyPatch
) -> None:
    packed = []
    pack = deform_conv_triton.pack_weight
    monkeypatch.setattr(
        deform_conv_triton, "pack_weight", lambda weight: packed.append(1) or pack(weight)
    )
    input, offset, first, _ = make_case(device, size=(3, 4))
    weight = torch.nn.Parameter(first)

    def assert_right(weight: Tensor) -> None:
        with torch.inference_mode():
            result = deform_conv2d(input, offset, weight)
        expected = deform_conv2d_reference(input, offset, weight.detach())
        torch.testing.assert_close(result, expected, atol=1e-4, rtol=1e-5)

    by_kernel = dispatch.interpreted() if device.type == "cpu" else nullcontext()
    with by_kernel, torch.no_grad():
        assert_right(weight)
        assert_right(weight)
        assert len(packed) == 1
        weight.mul_(-2)
        assert_right(weight)
        assert len(packed) == 2
        weight.data = first + 3
        assert_right(weight)
        assert_right(weight)
        assert len(packed) == 3
    number = len(deform_conv._packed_weights)
    del weight
    gc.collect()
    assert len(deform_conv._packed_weights) == number - 1
