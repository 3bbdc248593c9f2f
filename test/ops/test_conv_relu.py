from __future__ import annotations

from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any
from unittest import mock

import pytest
import torch
from benchmark_script import load
from torch import Tensor, nn

from upsnet_ros.ops import conv_relu as module
from upsnet_ros.ops import dispatch
from upsnet_ros.ops.conv_relu import bias_relu_reference, conv_relu, conv_relu_reference

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
def test_on_a_gpu_it_is_the_same(
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


@pytest.mark.parametrize("shape", [(2, 5, 3, 4), (1, 40, 1, 1), (3, 16, 2, 5)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_the_kernel_equals_the_twin(
    shape: tuple[int, int, int, int], dtype: torch.dtype, device: torch.device
) -> None:
    triton_form = pytest.importorskip("upsnet_ros.ops.triton.conv_relu")
    generator = torch.Generator().manual_seed(3)
    x = torch.randn(shape, generator=generator).to(device, dtype)
    for bias in (x[0, :, 0, 0].clone(), None):
        expected = bias_relu_reference(x.float(), None if bias is None else bias.float())
        result = triton_form.bias_relu(x, bias, block=(8, 16))
        # The interpreter cuts off what bfloat16 has no room for, where a GPU rounds.
        rtol = 2**-7 if dtype == torch.bfloat16 else 0
        torch.testing.assert_close(result, expected.to(dtype), atol=0, rtol=rtol)
        assert result.is_contiguous(memory_format=torch.channels_last)
        own = x.contiguous(memory_format=torch.channels_last).clone()
        assert triton_form.bias_relu(own, bias, in_place=True) is own
        torch.testing.assert_close(own, expected.to(dtype), atol=0, rtol=rtol)


@dataclass(frozen=True)
class Kind:
    """What tells one convolution from another to cuDNN."""

    channels: tuple[int, int]
    kernel: int
    stride: int
    shape: tuple[int, ...]
    added: bool
    form: str


def kinds_of_a_frame() -> list[Kind]:
    """Every kind of `conv_relu` in a frame of cityscapes-r50 at 1024x2048, and its shapes."""
    kinds: dict[Kind, None] = {}
    launches = load("launches")

    def note(conv: nn.Conv2d, x: Tensor, add: Tensor | None, form: str) -> Tensor:
        (rows, columns), (stride, _) = conv.kernel_size, conv.stride
        assert rows == columns
        channels = (conv.in_channels, conv.out_channels)
        kinds[Kind(channels, rows, stride, tuple(x.shape), add is not None, form)] = None
        return conv_relu_reference(conv, x, add=add)

    def by_cudnn(conv: nn.Conv2d, x: Tensor, add: Tensor | None = None) -> Tensor:
        return note(conv, x, add, "cudnn")

    def by_kernel(conv: nn.Conv2d, x: Tensor) -> Tensor:
        return note(conv, x, None, "kernel")

    with launches.pretended_gpu(lambda name: nullcontext()):
        network = launches.network_on_gpu("cityscapes-r50", torch.float16)
        with (
            torch.inference_mode(),
            mock.patch.object(module, "_by_cudnn", by_cudnn),
            mock.patch.object(module, "_by_kernel", by_kernel),
        ):
            image = torch.empty(1, 3, 1024, 2048, dtype=torch.float16, device="cuda")
            network.rpn(network.fpn(network.resnet_backbone(image)))
            network.mask_branch.features(image.new_empty(112, 256, 14, 14))
    return list(kinds)


@pytest.mark.filterwarnings("ignore:Accessing the data pointer of FakeTensor")
def test_cudnn_is_never_left_to_find_what_to_add() -> None:
    """Its operator without a tensor to add reads memory that nobody has written."""
    pytest.importorskip("triton")
    kinds = kinds_of_a_frame()
    assert {(kind.form, kind.added) for kind in kinds} == {("cudnn", True), ("kernel", False)}
    assert len(kinds) > 20


@pytest.mark.gpu
@needs_gpu
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("timed", [False, True])
def test_what_lay_in_its_memory_does_not_count(
    dtype: torch.dtype, timed: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At every real shape, in a graph whose memory holds what is not a number."""
    pytest.importorskip("triton")
    monkeypatch.setattr(dispatch, "_failures", {})
    monkeypatch.setattr(torch.backends.cudnn, "benchmark", timed)
    monkeypatch.setattr(torch.backends.cudnn, "benchmark_limit", 2)
    kinds = kinds_of_a_frame()
    torch.manual_seed(0)
    options: dict[str, Any] = {"device": "cuda", "dtype": dtype}
    last = torch.channels_last
    with torch.inference_mode():
        for kind in kinds:
            padding = kind.kernel // 2
            conv = nn.Conv2d(*kind.channels, kind.kernel, kind.stride, padding, **options)
            conv = conv.to(memory_format=last)  # type: ignore[call-overload]
            x = torch.randn(kind.shape, **options).contiguous(memory_format=last)
            add = torch.randn_like(conv(x)) if kind.added else None
            expected = conv_relu_reference(conv, x, add=add)

            def poisoned(conv: nn.Conv2d = conv, x: Tensor = x, add: Any = add) -> Tensor:
                given = None if add is None else add.clone()
                junk = torch.full_like(conv(x), torch.nan)
                del junk  # whose memory the output gets
                return conv_relu(conv, x, add=given)

            stream = torch.cuda.Stream()
            with torch.cuda.stream(stream):
                poisoned()
                graph = torch.cuda.CUDAGraph()
                with torch.cuda.graph(graph, stream=stream):
                    got = poisoned()
                graph.replay()
            stream.synchronize()
            torch.testing.assert_close(got, expected, atol=3e-2, rtol=3e-2, msg=str(kind))
    assert dispatch.failures() == {}
