"""RoIAlign: the reference against the definition, the fast form against the reference."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from upsnet_ros.ops.roi_align import roi_align, roi_align_reference

HEIGHT, WIDTH, SCALE = 11, 14, 0.25

#: Boxes in image pixels: inside, over each border, wholly outside, without extent, inside out.
BOXES = [
    (3.0, 5.0, 30.5, 22.25),
    (-25.0, -13.0, 12.0, 9.0),
    (40.0, 30.0, 90.0, 70.0),
    (-300.0, -200.0, -100.0, -90.0),
    (500.0, 10.0, 600.0, 20.0),
    (8.0, 8.0, 8.0, 8.0),
    (20.0, 20.0, 10.0, 12.0),
    (-4.0, -4.0, 56.0, 44.0),
]


def make_case(*, batch: int = 1, channels: int = 3, dtype: torch.dtype = torch.float32) -> Tensor:
    generator = torch.Generator().manual_seed(3)
    feature = torch.randn(batch, channels, HEIGHT, WIDTH, generator=generator)
    boxes = torch.tensor(BOXES)
    image = torch.arange(len(boxes))[:, None] % batch
    return feature.to(dtype), torch.cat((image.float(), boxes), dim=1)


def by_definition(feature: Tensor, rois: Tensor, bins: int, samples: int) -> Tensor:
    def sample(image: int, y: float, x: float) -> Tensor:
        if not (-1 <= y <= HEIGHT and -1 <= x <= WIDTH):
            return torch.zeros(feature.shape[1], dtype=feature.dtype)
        y, x = min(max(y, 0.0), HEIGHT - 1.0), min(max(x, 0.0), WIDTH - 1.0)
        top, left = math.floor(y), math.floor(x)
        bottom, right = min(top + 1, HEIGHT - 1), min(left + 1, WIDTH - 1)
        grid = feature[image]
        upper = (left + 1 - x) * grid[:, top, left] + (x - left) * grid[:, top, right]
        lower = (left + 1 - x) * grid[:, bottom, left] + (x - left) * grid[:, bottom, right]
        return (top + 1 - y) * upper + (y - top) * lower

    output = feature.new_zeros(len(rois), feature.shape[1], bins, bins)
    for k, (image, *box) in enumerate(rois.tolist()):
        x1, y1, x2, y2 = (value * SCALE for value in box)
        step_y, step_x = max(y2 - y1, 1.0) / bins, max(x2 - x1, 1.0) / bins
        for i in range(bins * samples):
            for j in range(bins * samples):
                y, x = y1 + (i + 0.5) * step_y / samples, x1 + (j + 0.5) * step_x / samples
                output[k, :, i // samples, j // samples] += sample(int(image), y, x) / samples**2
    return output


@pytest.mark.parametrize("operator", [roi_align_reference, roi_align])
@pytest.mark.parametrize(("bins", "samples"), [(2, 2), (3, 1), (7, 3)])
def test_definition(operator: Callable[..., Tensor], bins: int, samples: int) -> None:
    feature, rois = make_case(batch=2, dtype=torch.float64)
    expected = by_definition(feature, rois, bins, samples)
    torch.testing.assert_close(operator(feature, rois.double(), bins, SCALE, samples), expected)


@pytest.mark.parametrize("format", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("bins", [7, 14])
def test_fast_form_equals_the_twin(bins: int, format: torch.memory_format) -> None:
    feature, rois = make_case(batch=3, channels=16)
    feature = feature.contiguous(memory_format=format)
    expected = roi_align_reference(feature, rois, bins, SCALE)
    result = roi_align(feature, rois, bins, SCALE)
    torch.testing.assert_close(result, expected, atol=1e-5, rtol=1e-5)
    assert result.is_contiguous(memory_format=format)
    assert expected.is_contiguous(memory_format=format)


def test_no_boxes() -> None:
    feature, rois = make_case()
    assert roi_align(feature, rois[:0], 7, SCALE).shape == (0, 3, 7, 7)


@pytest.mark.parametrize("operator", [roi_align_reference, roi_align])
def test_half_precision_keeps_positions_exact(operator: Callable[..., Tensor]) -> None:
    generator = torch.Generator().manual_seed(3)
    feature = torch.randn(1, 4, 4, 400, generator=generator).bfloat16()
    rois = torch.tensor([[0.0, 1203.0, 0.0, 1217.0, 16.0]])
    exact = roi_align_reference(feature.float(), rois, 7, SCALE)
    result = operator(feature, rois, 7, SCALE)
    assert result.dtype == torch.bfloat16
    torch.testing.assert_close(result.float(), exact, atol=0.02, rtol=0.02)


def test_gradient_reaches_the_feature() -> None:
    feature, rois = make_case(channels=1, dtype=torch.float64)
    feature.requires_grad_()
    rois = rois.double()
    assert torch.autograd.gradcheck(lambda f: roi_align(f, rois[:3], 2, SCALE), feature)


@pytest.mark.parametrize("channels_last", [False, True])
@pytest.mark.parametrize("count", [0, len(BOXES)])
def test_gradient_equals_the_twins(count: int, channels_last: bool) -> None:
    feature, rois = make_case(batch=2)
    if channels_last:
        feature = feature.to(memory_format=torch.channels_last)
    gradients = []
    for operator in (roi_align, roi_align_reference):
        leaf = feature.clone().requires_grad_()
        output = operator(leaf, rois[:count], 7, SCALE)
        weights = torch.linspace(-1, 1, output.numel()).view_as(output)
        gradients.extend(torch.autograd.grad((output * weights).sum(), leaf))
    torch.testing.assert_close(*gradients, atol=1e-5, rtol=1e-5)


def test_rois_of_another_shape_are_refused() -> None:
    feature, rois = make_case()
    with pytest.raises(ValueError, match=r"rois has shape \(8, 4\), but it must be \(K, 5\)"):
        roi_align(feature, rois[:, 1:], 7, SCALE)
