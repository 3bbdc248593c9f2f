"""RoIAlign without the half-pixel shift, fast on a CPU too."""

from __future__ import annotations

import torch
import torch.nn.functional as F
import torchvision
from torch import Tensor


def roi_align(
    feature: Tensor,
    rois: Tensor,
    output_size: int,
    spatial_scale: float,
    sampling_ratio: int = 2,
) -> Tensor:
    """Average bilinear samples of ``feature`` in each bin of each box, by the fastest form at hand.

    A bin averages ``sampling_ratio`` squared samples. A sample at (y, x) is 0 unless
    -1 <= y <= H and -1 <= x <= W, and is clamped into the feature otherwise. A box's extents are
    x2 - x1 and y2 - y1, but at least one pixel of the feature. `roi_align_reference` defines the
    result; it is also what runs where gradients of ``rois`` are asked for, and on CUDA.

    Args:
        feature: (N, C, H, W), contiguous or channels-last.
        rois: float (K, 5): index of the image, then x1, y1, x2, y2 in pixels of the image.
        output_size: Bins a side.
        spatial_scale: Size of the feature over size of the image.
        sampling_ratio: Samples a bin and direction.

    Returns:
        (K, C, output_size, output_size) in the dtype of ``feature``, channels-last where
        ``feature`` is.

    Raises:
        ValueError: Where ``rois`` has another shape.
    """
    if rois.dim() != 2 or rois.shape[1] != 5:
        raise ValueError(f"rois has shape {tuple(rois.shape)}, but it must be (K, 5)")
    moving = torch.is_grad_enabled() and rois.requires_grad
    by_reference = feature.device.type != "cpu" or moving
    operator = roi_align_reference if by_reference else _gather
    return operator(feature, rois, output_size, spatial_scale, sampling_ratio)


def roi_align_reference(
    feature: Tensor, rois: Tensor, output_size: int, spatial_scale: float, sampling_ratio: int = 2
) -> Tensor:
    """What `roi_align` must return: torchvision's operator, which has gradients.

    Half precision is computed in float32, because torchvision rounds positions to the dtype of
    the feature: by two pixels at 600 in bfloat16.
    """
    exact = torch.promote_types(feature.dtype, torch.float32)
    output = torchvision.ops.roi_align(
        feature.to(exact),
        rois.to(exact),
        output_size,
        spatial_scale=spatial_scale,
        sampling_ratio=sampling_ratio,
        aligned=False,
    ).to(feature.dtype)
    if feature.is_contiguous():
        return output
    return output.contiguous(memory_format=torch.channels_last)


def _gather(
    feature: Tensor, rois: Tensor, output_size: int, spatial_scale: float, sampling_ratio: int
) -> Tensor:
    """The form for CPUs: each bin is one bag of weighted pixels (see `deform_conv`)."""
    channels, height, width = feature.shape[1:]
    # A table with strides would send embedding_bag down a path ten times slower.
    table = feature.contiguous(memory_format=torch.channels_last)
    table = table.permute(0, 2, 3, 1).reshape(-1, channels)
    exact = rois.to(torch.promote_types(rois.dtype, torch.float32))
    x1, y1, x2, y2 = (exact[:, 1:] * spatial_scale).unbind(1)
    rows, row_shares = _axis(y1, y2, height, bins=output_size, samples=sampling_ratio)
    columns, column_shares = _axis(x1, x2, width, bins=output_size, samples=sampling_ratio)
    rows = rows * width + exact[:, :1, None].int() * (height * width)
    # Row by column: (K, bins, 1, row, 1) with (K, 1, bins, 1, column).
    pixels = rows[:, :, None, :, None] + columns[:, None, :, None, :]
    shares = row_shares[:, :, None, :, None] * column_shares[:, None, :, None, :]
    bag = (2 * sampling_ratio) ** 2
    output = F.embedding_bag(
        pixels.reshape(-1, bag),
        table,
        per_sample_weights=shares.reshape(-1, bag).to(table.dtype),
        mode="sum",
    )
    output = output.view(-1, output_size, output_size, channels).permute(0, 3, 1, 2)
    return output.contiguous() if feature.is_contiguous() else output


def _axis(
    start: Tensor, end: Tensor, size: int, *, bins: int, samples: int
) -> tuple[Tensor, Tensor]:
    """What each bin averages along one axis: places, and their shares in the bin.

    Args:
        start: (K,) in pixels of the feature.
        end: (K,) in pixels of the feature.
        size: Pixels of the feature along the axis.
        bins: Bins along the axis.
        samples: Samples of each bin along the axis.

    Returns:
        int32 and float (K, bins, 2 * samples).
    """
    step = ((end - start).clamp(min=1) / bins).view(-1, 1, 1)
    within = (torch.arange(samples) + 0.5) * step / samples
    position = start.view(-1, 1, 1) + torch.arange(bins).view(-1, 1) * step + within
    share = ((position >= -1) & (position <= size)).to(start.dtype) / samples
    position = position.clamp(0, size - 1)
    low = position.floor()
    high = (low + 1).clamp(max=size - 1)
    upper = position - low
    places = torch.cat((low, high), dim=2).int()
    return places, torch.cat((share * (1 - upper), share * upper), dim=2)
