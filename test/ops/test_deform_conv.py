"""Deformable convolution: the reference against the definition, fast form against reference."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from upsnet_ros.ops import deform_conv
from upsnet_ros.ops.deform_conv import deform_conv2d, deform_conv2d_reference


def make_case(
    *,
    batch: int = 1,
    channels: int = 5,
    outputs: int = 7,
    kernel: tuple[int, int] = (3, 3),
    size: tuple[int, int] = (12, 17),
    stride: int = 1,
    padding: int = 1,
    dilation: int = 1,
    spread: float = 3.0,
    dtype: torch.dtype = torch.float32,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(7)

    def randn(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator, dtype=dtype)

    out = [
        (s + 2 * padding - dilation * (k - 1) - 1) // stride + 1
        for s, k in zip(size, kernel, strict=True)
    ]
    return (
        randn(batch, channels, *size),
        randn(batch, 2 * kernel[0] * kernel[1], *out) * spread,
        randn(outputs, channels, *kernel),
        randn(outputs),
    )


def by_definition(input: Tensor, offset: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """One image, stride 1, padding 1, term by term."""
    channels, height, width = input.shape[1:]

    def pixel(channel: int, y: int, x: int) -> float:
        inside = 0 <= y < height and 0 <= x < width
        return input[0, channel, y, x].item() if inside else 0.0

    def sample(channel: int, y: float, x: float) -> float:
        if not (-1 < y < height and -1 < x < width):
            return 0.0
        top, left = math.floor(y), math.floor(x)
        down, right = y - top, x - left
        upper = (1 - right) * pixel(channel, top, left) + right * pixel(channel, top, left + 1)
        lower = (1 - right) * pixel(channel, top + 1, left) + right * pixel(
            channel, top + 1, left + 1
        )
        return (1 - down) * upper + down * lower

    output = bias.view(-1, 1, 1).repeat(1, height, width)
    for i in range(height):
        for j in range(width):
            for tap in range(9):
                dy, dx = offset[0, 2 * tap : 2 * tap + 2, i, j].tolist()
                y, x = i - 1 + tap // 3 + dy, j - 1 + tap % 3 + dx
                values = torch.tensor([sample(c, y, x) for c in range(channels)], dtype=input.dtype)
                output[:, i, j] += weight[:, :, tap // 3, tap % 3] @ values
    return output[None]


@pytest.mark.parametrize("operator", [deform_conv2d_reference, deform_conv2d])
@pytest.mark.parametrize("border", ["random", "whole pixels outside"])
def test_definition(operator: Callable[..., Tensor], border: str) -> None:
    input, offset, weight, bias = make_case(channels=2, outputs=3, size=(5, 6), dtype=torch.float64)
    if border == "whole pixels outside":
        offset = offset.round()  # samples at exactly -1 and H, where they just do not count
    expected = by_definition(input, offset, weight, bias)
    result = operator(input, offset, weight, bias)
    torch.testing.assert_close(result, expected)


@pytest.mark.parametrize("channels_last", [False, True])
@pytest.mark.parametrize(
    "geometry",
    [
        {},
        {"batch": 3},
        {"stride": 2, "size": (13, 18)},
        {"padding": 2, "dilation": 2},
        {"padding": 0},
        {"kernel": (1, 1), "padding": 0},
        {"kernel": (3, 5), "padding": 2},
        {"channels": 1, "outputs": 1},
        {"size": (1, 1)},
        {"spread": 100.0},
    ],
    ids=str,
)
def test_fast_form_equals_the_twin(
    geometry: dict[str, Any], channels_last: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Small blocks and bands, whose borders cut through rows and leave remainders.
    monkeypatch.setattr(deform_conv, "_BAND_PIXELS", 5 * 17)
    monkeypatch.setattr(deform_conv, "_BLOCK_BYTES", 10 * 9 * 5 * 4)
    input, offset, weight, bias = make_case(**geometry)
    if channels_last:
        input = input.to(memory_format=torch.channels_last)
        offset = offset.to(memory_format=torch.channels_last)
    placement = {k: v for k, v in geometry.items() if k in ("stride", "padding", "dilation")}
    for b in (bias, None):
        expected = deform_conv2d_reference(input, offset, weight, b, **placement)
        result = deform_conv2d(input, offset, weight, b, **placement)
        torch.testing.assert_close(result, expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("channels_last", [False, True])
@pytest.mark.parametrize("trains", [False, True])
def test_relu_cuts_off_what_is_below_zero(trains: bool, channels_last: bool) -> None:
    input, offset, weight, bias = make_case()
    if channels_last:
        input = input.to(memory_format=torch.channels_last)
    weight.requires_grad_(trains)
    for operator in (deform_conv2d, deform_conv2d_reference):
        plain = operator(input, offset, weight, bias)
        result = operator(input, offset, weight, bias, relu=True)
        assert (plain < 0).any() and torch.equal(result, plain.relu())
        assert result.stride() == plain.stride()
        assert result.requires_grad == trains


def test_without_displacement_it_is_a_convolution() -> None:
    input, offset, weight, bias = make_case()
    result = deform_conv2d(input, torch.zeros_like(offset), weight, bias)
    torch.testing.assert_close(result, F.conv2d(input, weight, bias, padding=1))


@pytest.mark.parametrize("format", [torch.contiguous_format, torch.channels_last])
def test_memory_format_is_kept(format: torch.memory_format) -> None:
    input, offset, weight, bias = make_case()
    for requires_grad in (False, True):
        weight.requires_grad_(requires_grad)
        result = deform_conv2d(input.contiguous(memory_format=format), offset, weight, bias)
        assert result.is_contiguous(memory_format=format)


@pytest.mark.parametrize("far", [1e9, -1e30, math.inf])
def test_samples_far_outside_are_zero(far: float) -> None:
    input, offset, weight, bias = make_case()
    result = deform_conv2d(input, torch.full_like(offset, far), weight, bias)
    torch.testing.assert_close(result, bias.view(1, -1, 1, 1).expand_as(result))


@pytest.mark.parametrize("operator", [deform_conv2d_reference, deform_conv2d])
def test_half_precision_keeps_positions_exact(operator: Callable[..., Tensor]) -> None:
    # At column 300 bfloat16 has steps of two pixels: positions must not be rounded to them.
    case = make_case(size=(4, 400), spread=1.0, dtype=torch.bfloat16)
    exact = deform_conv2d_reference(*(t.float() for t in case))
    result = operator(*case)
    assert result.dtype == torch.bfloat16
    assert (result.float() - exact).abs().max() < 0.02 * exact.abs().max()


def test_gradients_reach_every_argument() -> None:
    case = make_case(channels=2, outputs=2, size=(4, 3), dtype=torch.float64)
    case = tuple(t.requires_grad_() for t in case)
    assert torch.autograd.gradcheck(deform_conv2d, case)


@pytest.mark.parametrize("channels_last", [False, True])
@pytest.mark.parametrize("geometry", [{"batch": 2}, {"stride": 2, "padding": 0, "dilation": 2}])
def test_gradients_equal_the_twins(geometry: dict[str, Any], channels_last: bool) -> None:
    case = list(make_case(spread=8.0, **geometry))
    if channels_last:
        case[0] = case[0].to(memory_format=torch.channels_last)
    placement = {k: v for k, v in geometry.items() if k in ("stride", "padding", "dilation")}
    results = []
    for operator in (deform_conv2d, deform_conv2d_reference):
        leaves = [t.detach().clone().requires_grad_() for t in case]
        output = operator(*leaves, **placement)
        weights = torch.linspace(-1, 1, output.numel()).view_as(output)
        results.append((output, *torch.autograd.grad((output * weights).sum(), leaves)))
    for result, expected in zip(*results, strict=True):
        torch.testing.assert_close(result, expected, atol=1e-4, rtol=1e-4)


def test_large_inputs_keep_no_samples_for_gradients(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(deform_conv, "LARGEST_SAMPLES", 1000)
    input, offset, weight, bias = make_case()
    result = deform_conv2d(input, offset, weight.requires_grad_(), bias)
    assert result.grad_fn is not None
    assert "_deform_conv2d" in str(result.grad_fn)


def test_inference_mode_gives_the_same() -> None:
    input, offset, weight, bias = make_case()
    weight.requires_grad_()
    expected = deform_conv2d(input, offset, weight, bias)
    with torch.inference_mode():
        result = deform_conv2d(input, offset, weight, bias)
    torch.testing.assert_close(result, expected.detach(), atol=1e-5, rtol=1e-5)


def test_shapes_that_do_not_fit_are_named() -> None:
    input, offset, weight, bias = make_case()
    with pytest.raises(ValueError, match=r"4 channels, but weight takes 5"):
        deform_conv2d(input[:, 1:], offset, weight, bias)
    with pytest.raises(ValueError, match=r"offset has shape \(1, 18, 12, 17\).*\(1, 18, 6, 9\)"):
        deform_conv2d(input, offset, weight, bias, stride=2)
