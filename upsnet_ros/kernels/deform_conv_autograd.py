"""Deformable convolution with gradients, for training on a CPU."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

#: What gives the pixels and shares of the samples of one image: `deform_conv._bilinear_corners`.
Corners = Callable[[Tensor], tuple[Tensor, Tensor]]

#: Samples are kept for the backward pass up to this many bytes; torchvision's operator, ten times
#: slower, keeps none.
LARGEST_SAMPLES = 1 << 30


def fits(input: Tensor, offset: Tensor) -> bool:
    """Whether the samples may be kept."""
    return offset.numel() // 2 * input.shape[1] * 4 <= LARGEST_SAMPLES


def sample_and_multiply(
    input: Tensor, offset: Tensor, weight: Tensor, bias: Tensor | None, *, corners: Corners
) -> Tensor:
    """Convolve as `deform_conv2d` does, in operators that torch can differentiate.

    Half precision is computed in float32: torch sums rows of half precision slowly.

    Args:
        input: (N, C, H, W).
        offset: (N, 2 * taps, H', W').
        weight: (O, C, kh, kw).
        bias: (O,), or None.
        corners: Pixel numbers int32 and shares (H' * W' * taps, 4) of the samples of one image,
            from its offsets.

    Returns:
        (N, O, H', W') in the dtype of ``input``.
    """
    exact = torch.promote_types(input.dtype, torch.float32)
    with torch.autocast("cpu", enabled=False):
        output = _sample_and_multiply(
            input.to(exact),
            offset.to(exact),
            weight.to(exact),
            None if bias is None else bias.to(exact),
            corners=corners,
        )
    return output.to(input.dtype)


def _sample_and_multiply(
    input: Tensor, offset: Tensor, weight: Tensor, bias: Tensor | None, *, corners: Corners
) -> Tensor:
    batch, channels, *size = input.shape
    height, width = offset.shape[2:]
    pixels, shares = zip(*(corners(image) for image in offset), strict=True)
    # One table of the pixels of all images, so that one call samples them all.
    first = torch.arange(batch, dtype=torch.int32) * (size[0] * size[1])
    numbers = torch.cat([own + start for own, start in zip(pixels, first, strict=True)])
    table = input.permute(0, 2, 3, 1).reshape(-1, channels)
    samples = F.embedding_bag(
        numbers, table, per_sample_weights=torch.cat(shares), mode="sum"
    ).view(batch * height * width, -1)
    matrix = weight.permute(2, 3, 1, 0).reshape(samples.shape[1], -1)
    output = samples @ matrix if bias is None else torch.addmm(bias, samples, matrix)
    return output.view(batch, height, width, -1).permute(0, 3, 1, 2)
