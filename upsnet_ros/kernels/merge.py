"""A step of the feature pyramid's top-down pathway in one pass over the finer level."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from upsnet_ros.kernels import dispatch


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
        from upsnet_ros.kernels import merge_triton

        assert not isinstance(conv.padding, str)
        placement = (conv.stride, conv.padding, conv.dilation, conv.groups)
        own = F.conv2d(x, conv.weight, None, *placement)
        return merge_triton.add_coarse(own, coarse, conv.bias, in_place=True)

    def twin() -> Tensor:
        return add_coarse_reference(conv(x), coarse)

    weights = (x, coarse, conv.weight)
    if torch.is_grad_enabled() and any(tensor.requires_grad for tensor in weights):
        return twin()
    return dispatch.run("merge", x.device, kernel=kernel, twin=twin)


def add_coarse_reference(own: Tensor, coarse: Tensor, bias: Tensor | None = None) -> Tensor:
    """What the kernel must return for a convolution's output and the level below it."""
    if bias is not None:
        own = own + bias[:, None, None]
    return own + F.interpolate(coarse, scale_factor=2.0, mode="nearest")
