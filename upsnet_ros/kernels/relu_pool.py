"""The backbone's first convolution with bias, ReLU and max pooling in one pass over its output."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from upsnet_ros.kernels import dispatch


def conv_relu_pool(conv: nn.Conv2d, x: Tensor) -> Tensor:
    """Return ``relu(conv(x))``, 3x3 max pooled with stride 2 and padding 1.

    On CUDA without gradients the convolution leaves bias, ReLU and pooling to one kernel, which
    pools first: the largest of a window stays the largest through both, rounding included.

    Args:
        conv: With zeros as padding.
        x: (N, C, H, W), best channels-last.

    Returns:
        (N, O, H', W') in the dtype of x.
    """

    def kernel() -> Tensor:
        from upsnet_ros.kernels import relu_pool_triton

        assert not isinstance(conv.padding, str)
        placement = (conv.stride, conv.padding, conv.dilation, conv.groups)
        return relu_pool_triton.relu_pool(F.conv2d(x, conv.weight, None, *placement), conv.bias)

    def twin() -> Tensor:
        return relu_pool_reference(conv(x))

    if torch.is_grad_enabled() and (x.requires_grad or conv.weight.requires_grad):
        return twin()
    return dispatch.run("relu_pool", x.device, kernel=kernel, twin=twin)


def relu_pool_reference(x: Tensor, bias: Tensor | None = None) -> Tensor:
    """What the kernel must return for a convolution's output x; it may be written to."""
    if bias is not None:
        x = x + bias[:, None, None]
    return F.max_pool2d(F.relu(x, inplace=True), 3, stride=2, padding=1)
