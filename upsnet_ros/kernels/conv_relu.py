"""Convolution, bias, addition and ReLU in one pass over the output."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from upsnet_ros.kernels import dispatch


def conv_relu(conv: nn.Conv2d, x: Tensor, *, add: Tensor | None = None) -> Tensor:
    """Return ``relu(conv(x) + add)``.

    On CUDA in half precision cuDNN does it in one launch, without gradients; torch's convolution
    would write its output, and bias, addition and ReLU read and write it again, each by itself. A
    kind of convolution that cuDNN cannot do so is named in a warning and runs as on a CPU.

    Args:
        conv: With zeros as padding.
        x: (N, C, H, W), best channels-last.
        add: Of the output's shape, or None. It may be written to.

    Returns:
        (N, O, H', W') in the dtype of x.
    """

    def twin() -> Tensor:
        return conv_relu_reference(conv, x, add=add)

    moving = torch.is_grad_enabled() and (x.requires_grad or conv.weight.requires_grad)
    if x.device.type != "cuda" or moving or x.dtype not in (torch.float16, torch.bfloat16):
        return twin()
    rows, columns = conv.kernel_size
    kind = f"{conv.in_channels} -> {conv.out_channels}, {rows}x{columns} / {conv.stride[0]}"
    return dispatch.run(
        f"conv_relu {kind}", x.device, kernel=lambda: _by_cudnn(conv, x, add), twin=twin
    )


def conv_relu_reference(conv: nn.Conv2d, x: Tensor, *, add: Tensor | None = None) -> Tensor:
    """What `conv_relu` must return; in half precision it rounds once more for each step."""
    output = conv(x)
    if add is not None:
        output += add
    return F.relu(output, inplace=True)


def _by_cudnn(conv: nn.Conv2d, x: Tensor, add: Tensor | None) -> Tensor:
    assert not isinstance(conv.padding, str)
    stride, padding, dilation = conv.stride, conv.padding, conv.dilation
    weight, bias, groups = conv.weight, conv.bias, conv.groups
    if add is None:
        return torch.cudnn_convolution_relu(x, weight, bias, stride, padding, dilation, groups)
    return torch.cudnn_convolution_add_relu(
        x, weight, add, 1.0, bias, stride, padding, dilation, groups
    )
