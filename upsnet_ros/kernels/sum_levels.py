"""Class scores of several pyramid levels, upsampled to the finest and added, in one launch."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from upsnet_ros.kernels import dispatch

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
        from upsnet_ros.kernels import sum_levels_triton

        return sum_levels_triton.sum_levels(levels)

    def twin() -> Tensor:
        return sum_levels_reference(levels)

    if torch.is_grad_enabled() and any(level.requires_grad for level in levels):
        return twin()
    return dispatch.run("sum_levels", levels[0].device, kernel=kernel, twin=twin)


def sum_levels_reference(levels: Sequence[Tensor]) -> Tensor:
    """What `sum_levels` must return; where the first level is float32, it may be written to."""
    total = levels[0].float()
    for place, level in enumerate(levels[1:], start=1):
        factor = float(1 << place)
        total += F.interpolate(
            level.float(), scale_factor=factor, mode="bilinear", align_corners=False
        )
    return total
