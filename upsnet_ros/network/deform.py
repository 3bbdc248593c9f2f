"""Deformable convolution as a module whose offsets come from a sibling convolution."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from upsnet_ros.kernels.deform_conv import deform_conv2d

#: A 3x3 kernel has nine taps, each displaced by (dy, dx).
OFFSET_CHANNELS = 18


class DeformConv2d(nn.Module):
    """Deformable 3x3 convolution, version 1 (Dai et al., ICCV 2017): stride 1, padding 1."""

    def __init__(self, in_channels: int, out_channels: int, *, bias: bool) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(out_channels, in_channels, 3, 3))
        self.bias = nn.Parameter(torch.empty(out_channels)) if bias else None
        nn.init.kaiming_normal_(self.weight, nonlinearity="relu")
        if self.bias is not None:
            nn.init.zeros_(self.bias)

    def forward(self, x: Tensor, offset: Tensor, *, relu: bool = False) -> Tensor:
        """Convolve x (N, C, H, W) sampled at offset (N, 18, H, W), (dy, dx) tap by tap."""
        return deform_conv2d(x, offset, self.weight, self.bias, relu=relu)


def offset_conv(in_channels: int) -> nn.Conv2d:
    """Return the 3x3 convolution that predicts offsets; zero at first, as a plain convolution."""
    conv = nn.Conv2d(in_channels, OFFSET_CHANNELS, 3, padding=1)
    nn.init.zeros_(conv.weight)
    assert conv.bias is not None
    nn.init.zeros_(conv.bias)
    return conv
