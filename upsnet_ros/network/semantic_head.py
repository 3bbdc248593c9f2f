"""Semantic head: deformable convolutions over P2 .. P5, shared weights (UPSNet, section 3.2)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from upsnet_ros.kernels.sum_levels import LEVELS as _LEVELS
from upsnet_ros.kernels.sum_levels import sum_levels
from upsnet_ros.network.deform import DeformConv2d, offset_conv
from upsnet_ros.network.fpn import STRIDES


class DeformLayer(nn.Module):
    """Offsets from the input itself, deformable convolution, ReLU."""

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        self.conv_offset = offset_conv(in_channels)
        self.conv = DeformConv2d(in_channels, out_channels, bias=True)

    def forward(self, x: Tensor) -> Tensor:
        """Return (N, out_channels, H, W) of x (N, in_channels, H, W)."""
        return self.conv(x, self.conv_offset(x), relu=True)


class SemanticSubnet(nn.Module):
    """The deformable layers; the last but one reduces to `channels`."""

    def __init__(self, in_channels: int, *, channels: int, num_layers: int) -> None:
        super().__init__()
        widths = [in_channels] * (num_layers - 1) + [channels, channels]
        # Sequences of one, because the checkpoints say `conv.<layer>.0`.
        self.conv = nn.Sequential(
            *(nn.Sequential(DeformLayer(widths[i], widths[i + 1])) for i in range(num_layers))
        )

    def forward(self, x: Tensor) -> Tensor:
        """Return (N, channels, H, W) of one pyramid level."""
        return self.conv(x)


def _upsample(x: Tensor, factor: int) -> Tensor:
    if factor == 1:
        return x
    return F.interpolate(x, scale_factor=float(factor), mode="bilinear", align_corners=False)


class SemanticHead(nn.Module):
    """Class logits at a quarter of the network's input size."""

    def __init__(
        self, in_channels: int, *, channels: int, num_layers: int, num_classes: int
    ) -> None:
        super().__init__()
        self.fcn_subnet = SemanticSubnet(in_channels, channels=channels, num_layers=num_layers)
        self.score = nn.Conv2d(_LEVELS * channels, num_classes, 1)

    def features(self, pyramid: Sequence[Tensor]) -> Tensor:
        """Return the concatenated features of P2 .. P5, (N, 4 channels, H/4, W/4)."""
        return torch.cat(
            [
                _upsample(self.fcn_subnet(feature), stride // STRIDES[0])
                for feature, stride in zip(pyramid[:_LEVELS], STRIDES, strict=False)
            ],
            dim=1,
        )

    def forward(self, pyramid: Sequence[Tensor]) -> Tensor:
        """Return float32 logits (N, num_classes, H/4, W/4), stuff first.

        The 1x1 score convolution is applied to each level before upsampling: both are linear
        and bilinear weights sum to one, so the result is that of scoring `features`, at a
        fraction of the memory traffic.
        """
        weights = self.score.weight.split(self.score.in_channels // _LEVELS, dim=1)
        biases = (self.score.bias, *[None] * (_LEVELS - 1))
        return sum_levels(
            [
                F.conv2d(self.fcn_subnet(feature), weight, bias)
                for feature, weight, bias in zip(pyramid[:_LEVELS], weights, biases, strict=True)
            ]
        )
