"""Scores of all levels: the reference against the definition, the kernel against the reference."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from upsnet_ros.ops.pyramid import sum_levels, sum_levels_reference

sum_levels_triton = pytest.importorskip("upsnet_ros.ops.triton.pyramid")


def make_levels(
    shape: tuple[int, int, int, int], device: torch.device | str, dtype: torch.dtype
) -> list[Tensor]:
    """Return levels whose coarsest has that shape."""
    batch, classes, rows, columns = shape
    generator = torch.Generator().manual_seed(8)
    levels = [
        torch.randn(batch, classes, rows * factor, columns * factor, generator=generator)
        for factor in (8, 4, 2, 1)
    ]
    return [x.to(device, dtype).contiguous(memory_format=torch.channels_last) for x in levels]


def test_the_twin_adds_upsampled_levels() -> None:
    levels = make_levels((2, 3, 2, 3), "cpu", torch.float32)
    size = levels[0].shape[2:]
    expected = sum(F.interpolate(x, size=size, mode="bilinear") for x in levels)
    torch.testing.assert_close(sum_levels([x.clone() for x in levels]), expected)


@pytest.mark.parametrize("shape", [(2, 3, 2, 3), (1, 19, 1, 1), (1, 8, 1, 5)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_kernel_equals_the_twin(
    shape: tuple[int, int, int, int], dtype: torch.dtype, device: torch.device
) -> None:
    levels = make_levels(shape, device, dtype)
    result = sum_levels_triton.sum_levels(levels, block=(16, 8))
    assert result.is_contiguous() and result.dtype == torch.float32
    expected = sum_levels_reference([x.clone() for x in levels])
    torch.testing.assert_close(result, expected, atol=2e-6, rtol=1e-5)


def test_levels_that_do_not_fit_are_named() -> None:
    levels = make_levels((1, 2, 2, 2), "cpu", torch.float32)
    for wrong in (levels[:3], [*levels[:3], levels[3][:, :, :1]], [levels[0][:, :1], *levels[1:]]):
        with pytest.raises(ValueError, match="half"):
            sum_levels(wrong)


def test_gradients_reach_every_level() -> None:
    levels = [x.requires_grad_() for x in make_levels((1, 2, 1, 1), "cpu", torch.float32)]
    sum_levels([x * 1 for x in levels]).sum().backward()
    assert all(x.grad is not None and x.grad.sum() > 0 for x in levels)
