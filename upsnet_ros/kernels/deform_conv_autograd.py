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

    Half precision is sampled in float32, since torch sums rows of half precision slowly, and
    multiplied as it is, as a convolution is.

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
    with torch.autocast("cpu", enabled=False):
        samples = _sample(input, offset, corners=corners).to(input.dtype)
        matrix = weight.permute(2, 3, 1, 0).flatten(0, 2).to(input.dtype)
        if bias is None:
            output = samples @ matrix
        else:
            output = torch.addmm(bias.to(input.dtype), samples, matrix)
    batch, _, height, width = offset.shape
    return output.view(batch, height, width, -1).permute(0, 3, 1, 2)


def _sample(input: Tensor, offset: Tensor, *, corners: Corners) -> Tensor:
    """Return the samples (N * H' * W', taps * C), at least float32."""
    exact = torch.promote_types(input.dtype, torch.float32)
    input, offset = input.to(exact), offset.to(exact)
    batch, channels, *size = input.shape
    pixels, shares = zip(*(corners(image) for image in offset), strict=True)
    # One table of the pixels of all images, so that one call samples them all.
    first = torch.arange(batch, dtype=torch.int32) * (size[0] * size[1])
    numbers = torch.cat([own + start for own, start in zip(pixels, first, strict=True)])
    table = input.permute(0, 2, 3, 1).reshape(-1, channels)
    samples = F.embedding_bag(numbers, table, per_sample_weights=torch.cat(shares), mode="sum")
    height, width = offset.shape[2:]
    return samples.view(batch * height * width, -1)
