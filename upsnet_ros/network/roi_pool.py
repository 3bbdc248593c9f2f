"""RoIAlign over the feature pyramid (He et al., ICCV 2017; level rule of FPN, equation 1)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from upsnet_ros.kernels.roi_align import roi_align
from upsnet_ros.network.fpn import STRIDES


def pyramid_levels(boxes: Tensor) -> Tensor:
    """Return for boxes (K, 4) the pyramid level to pool from, int64 (K,), 0 for P2 .. 3 for P5."""
    width = boxes[:, 2] - boxes[:, 0] + 1
    height = boxes[:, 3] - boxes[:, 1] + 1
    level = torch.floor(2 + torch.log2(torch.sqrt(width * height) / 224 + 1e-6))
    return level.clamp(0, 3).long()


def pool_rois(
    pyramid: Sequence[Tensor], boxes: Tensor, *, output_size: int, images: Tensor | None = None
) -> Tensor:
    """Pool each box from the pyramid level of its size.

    Two samples a bin and direction, no half-pixel shift, extents x2 - x1 without the +1.

    Args:
        pyramid: P2 .. P5 (or more), (N, C, H, W) each.
        boxes: (K, 4) in image pixels.
        output_size: Bins a side.
        images: int64 (K,), which image each box is of; by default all are of the first.

    Returns:
        (K, C, output_size, output_size) in the order of boxes.
    """
    levels = pyramid_levels(boxes)
    image = boxes.new_zeros(len(boxes)) if images is None else images.to(boxes.dtype)
    rois = torch.cat((image[:, None], boxes), dim=1)
    indices = [torch.nonzero(levels == level).squeeze(1) for level in range(4)]
    pooled = [
        roi_align(pyramid[level], rois[index], output_size, 1 / STRIDES[level])
        for level, index in enumerate(indices)
    ]
    return torch.cat(pooled)[torch.cat(indices).argsort()]
