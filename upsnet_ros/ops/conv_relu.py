"""Convolution with bias and ReLU, and the stem's bias, ReLU and max pooling, in one pass each."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from upsnet_ros.ops import dispatch


def conv_relu(conv: nn.Conv2d, x: Tensor, *, add: Tensor | None = None) -> Tensor:
    """Return ``relu(conv(x) + add)``.

    On CUDA in half precision and without gradients, cuDNN does it in one launch where there is
    something to add; a kind of convolution that it cannot do so is named in a warning and runs as
    on a CPU. Where there is nothing to add, a kernel does bias and ReLU in the convolution's
    output. torch would read and write that once for each step.

    `torch.cudnn_convolution_relu`, one launch for the latter, is not used: it has cuDNN add the
    output, uninitialised memory, times zero. Whether NaN in that memory spreads depends on the
    engine that cuDNN selects.

    Args:
        conv: With zeros as padding.
        x: (N, C, H, W), best channels-last.
        add: Of the output's shape, or None. It may be written to.

    Returns:
        (N, O, H', W') in the dtype of x.
    """

    def reference() -> Tensor:
        return conv_relu_reference(conv, x, add=add)

    moving = torch.is_grad_enabled() and (x.requires_grad or conv.weight.requires_grad)
    if x.device.type != "cuda" or moving or x.dtype not in (torch.float16, torch.bfloat16):
        return reference()
    if add is None:
        return dispatch.run(
            "conv_relu", x.device, kernel=lambda: _by_kernel(conv, x), reference=reference
        )
    rows, columns = conv.kernel_size
    kind = f"{conv.in_channels} -> {conv.out_channels}, {rows}x{columns} / {conv.stride[0]}"
    return dispatch.run(
        f"conv_relu {kind}", x.device, kernel=lambda: _by_cudnn(conv, x, add), reference=reference
    )


def conv_relu_reference(conv: nn.Conv2d, x: Tensor, *, add: Tensor | None = None) -> Tensor:
    """What `conv_relu` must return; in half precision it rounds once more for each step."""
    output = conv(x)
    if add is not None:
        output += add
    return F.relu(output, inplace=True)


def bias_relu_reference(x: Tensor, bias: Tensor | None = None) -> Tensor:
    """What the kernel must return for a convolution's output x."""
    return F.relu(x if bias is None else x + bias[:, None, None])


def _by_kernel(conv: nn.Conv2d, x: Tensor) -> Tensor:
    from upsnet_ros.ops.triton import conv_relu as conv_relu_triton

    assert not isinstance(conv.padding, str)
    placement = (conv.stride, conv.padding, conv.dilation, conv.groups)
    own = F.conv2d(x, conv.weight, None, *placement)
    return conv_relu_triton.bias_relu(own, conv.bias, in_place=True)


def _by_cudnn(conv: nn.Conv2d, x: Tensor, add: Tensor) -> Tensor:
    assert not isinstance(conv.padding, str)
    return torch.cudnn_convolution_add_relu(
        x, conv.weight, add, 1.0, conv.bias, conv.stride, conv.padding, conv.dilation, conv.groups
    )


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
        from upsnet_ros.ops.triton import conv_relu as relu_pool_triton

        assert not isinstance(conv.padding, str)
        placement = (conv.stride, conv.padding, conv.dilation, conv.groups)
        return relu_pool_triton.relu_pool(F.conv2d(x, conv.weight, None, *placement), conv.bias)

    def reference() -> Tensor:
        return relu_pool_reference(conv(x))

    if torch.is_grad_enabled() and (x.requires_grad or conv.weight.requires_grad):
        return reference()
    return dispatch.run("relu_pool", x.device, kernel=kernel, reference=reference)


def relu_pool_reference(x: Tensor, bias: Tensor | None = None) -> Tensor:
    """What the kernel must return for a convolution's output x; it may be written to."""
    if bias is not None:
        x = x + bias[:, None, None]
    return F.max_pool2d(F.relu(x, inplace=True), 3, stride=2, padding=1)
