from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from upsnet_ros.kernels import dispatch
from upsnet_ros.kernels.conv_relu import conv_relu, conv_relu_reference

needs_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")


def example(dtype: torch.dtype, stride: int, device: str) -> tuple[nn.Conv2d, Tensor, Tensor]:
    torch.manual_seed(0)
    conv = nn.Conv2d(64, 128, 3, padding=1, stride=stride).to(device, dtype).requires_grad_(False)
    conv = conv.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    x = torch.randn(2, 64, 17, 30, device=device, dtype=dtype)
    x = x.contiguous(memory_format=torch.channels_last)
    return conv, x, torch.randn_like(conv(x))


@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("added", [False, True])
def test_is_what_its_name_says(stride: int, added: bool) -> None:
    conv, x, add = example(torch.float32, stride, "cpu")
    expected = (conv(x) + (add if added else 0)).clamp(min=0)
    torch.testing.assert_close(conv_relu(conv, x, add=add if added else None), expected)


def test_has_gradients() -> None:
    conv, x, add = example(torch.float32, 1, "cpu")
    conv.requires_grad_(True)
    conv_relu(conv, x, add=add).sum().backward()
    assert conv.weight.grad is not None and conv.weight.grad.any()


@pytest.mark.gpu
@needs_gpu
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("added", [False, True])
def test_cudnn_does_it_at_once(
    dtype: torch.dtype, stride: int, added: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dispatch, "_failures", {})
    conv, x, add = example(dtype, stride, "cuda")
    given = add if added else None
    expected = conv_relu_reference(conv, x, add=given)
    got = conv_relu(conv, x, add=given)
    assert dispatch.failures() == {}
    assert got.is_contiguous(memory_format=torch.channels_last)
    torch.testing.assert_close(got, expected, atol=2e-2, rtol=2e-2)


@pytest.mark.gpu
@needs_gpu
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("timed", [False, True])
def test_what_lay_in_its_memory_does_not_count(
    dtype: torch.dtype, timed: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without a tensor to add, torch lets cuDNN add the output as it finds it, times zero."""
    monkeypatch.setattr(dispatch, "_failures", {})
    monkeypatch.setattr(torch.backends.cudnn, "benchmark", timed)
    conv, x, _ = example(dtype, 1, "cuda")
    expected = conv_relu_reference(conv, x)
    # What `conv_relu` asks cuDNN for, but with a tensor of its own in the output's place.
    junk = torch.full_like(expected, torch.nan)
    by_name = torch.cudnn_convolution_add_relu(
        x, conv.weight, junk, 0.0, conv.bias, conv.stride, conv.padding, conv.dilation, 1
    )
    torch.testing.assert_close(by_name, expected, atol=2e-2, rtol=2e-2)
    del by_name, junk  # whose memory the output gets
    got = conv_relu(conv, x)
    assert dispatch.failures() == {}
    torch.testing.assert_close(got, expected, atol=2e-2, rtol=2e-2)
