"""Adding pyramid levels: the FPN's top-down step, and class scores summed at the finest level."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from upsnet_ros.ops import dispatch


def merge(conv: nn.Conv2d, x: Tensor, coarse: Tensor) -> Tensor:
    """Return ``conv(x)`` plus the coarser level, whose cells are repeated twice each way.

    On CUDA without gradients the convolution leaves its bias, the repeating and the addition to one
    kernel, which works in the convolution's output and rounds once.

    Args:
        conv: With zeros as padding.
        x: (N, C, H, W), best channels-last.
        coarse: (N, O, H / 2, W / 2), of the dtype of x.

    Returns:
        (N, O, H, W) in the dtype of x.
    """

    def kernel() -> Tensor:
        from upsnet_ros.ops.triton import pyramid as merge_triton

        assert not isinstance(conv.padding, str)
        placement = (conv.stride, conv.padding, conv.dilation, conv.groups)
        own = F.conv2d(x, conv.weight, None, *placement)
        return merge_triton.add_coarse(own, coarse, conv.bias, in_place=True)

    def reference() -> Tensor:
        return add_coarse_reference(conv(x), coarse)

    weights = (x, coarse, conv.weight)
    if torch.is_grad_enabled() and any(tensor.requires_grad for tensor in weights):
        return reference()
    return dispatch.run("merge", x.device, kernel=kernel, reference=reference)


def add_coarse_reference(own: Tensor, coarse: Tensor, bias: Tensor | None = None) -> Tensor:
    """What the kernel must return for a convolution's output and the level below it."""
    if bias is not None:
        own = own + bias[:, None, None]
    return own + F.interpolate(coarse, scale_factor=2.0, mode="nearest")


#: P2 .. P5: each has half the rows and columns of the one before.
LEVELS = 4


def sum_levels(levels: Sequence[Tensor]) -> Tensor:
    """Upsample scores bilinearly and add them; `sum_levels_reference` defines the result.

    Args:
        levels: (N, S, H, W), (N, S, H / 2, W / 2), ... of one float type, `LEVELS` of them; best
            channels-last.

    Returns:
        float32 (N, S, H, W): by the kernel class by class in planes, as the panoptic head reads
        them, and otherwise as the levels are.

    Raises:
        ValueError: Where the shapes do not fit each other.
    """
    batch, classes, height, width = levels[0].shape
    shapes = [tuple(level.shape) for level in levels]
    wanted = [(batch, classes, height >> level, width >> level) for level in range(LEVELS)]
    if shapes != wanted or height % (1 << LEVELS - 1) or width % (1 << LEVELS - 1):
        raise ValueError(f"levels have shapes {shapes}, but each must have half of the one before")

    def kernel() -> Tensor:
        from upsnet_ros.ops.triton import pyramid as sum_levels_triton

        return sum_levels_triton.sum_levels(levels)

    def reference() -> Tensor:
        return sum_levels_reference(levels)

    if torch.is_grad_enabled() and any(level.requires_grad for level in levels):
        return reference()
    return dispatch.run("sum_levels", levels[0].device, kernel=kernel, reference=reference)


def sum_levels_reference(levels: Sequence[Tensor]) -> Tensor:
    """What `sum_levels` must return; where the first level is float32, it may be written to."""
    total = levels[0].float()
    for index, level in enumerate(levels[1:], start=1):
        factor = float(1 << index)
        total += F.interpolate(
            level.float(), scale_factor=factor, mode="bilinear", align_corners=False
        )
    return total
