"""Feature pyramid network (Lin et al., CVPR 2017) and semantic head (UPSNet, section 3.2).

The semantic head applies deformable convolutions with shared weights to P2 .. P5. Parameters have
their official names.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from upsnet_ros.ops.deform_conv import deform_conv2d
from upsnet_ros.ops.pyramid import LEVELS as _LEVELS
from upsnet_ros.ops.pyramid import merge, sum_levels

#: Strides of P2 .. P6.
STRIDES = (4, 8, 16, 32, 64)


class FPN(nn.Module):
    """Top-down pathway over res2 .. res5; P6 is every second cell of P5.

    With `global_average` the projected mean of res5 is added to the coarsest lateral map before
    anything else sees it. The mean takes in the padded border too, as in the original.
    """

    def __init__(
        self, in_channels: Sequence[int], *, channels: int, global_average: bool = False
    ) -> None:
        super().__init__()
        res2, res3, res4, res5 = in_channels
        self.fpn_p5_1x1 = nn.Conv2d(res5, channels, 1)
        self.fpn_p4_1x1 = nn.Conv2d(res4, channels, 1)
        self.fpn_p3_1x1 = nn.Conv2d(res3, channels, 1)
        self.fpn_p2_1x1 = nn.Conv2d(res2, channels, 1)
        self.fpn_p5 = nn.Conv2d(channels, channels, 3, padding=1)
        self.fpn_p4 = nn.Conv2d(channels, channels, 3, padding=1)
        self.fpn_p3 = nn.Conv2d(channels, channels, 3, padding=1)
        self.fpn_p2 = nn.Conv2d(channels, channels, 3, padding=1)
        self.fpn_gap = nn.Linear(res5, channels) if global_average else None

    def forward(self, stages: Sequence[Tensor]) -> tuple[Tensor, ...]:
        """Return P2 .. P6, (N, channels, H/stride, W/stride) each, from res2 .. res5."""
        res2, res3, res4, res5 = stages
        top = self.fpn_p5_1x1(res5)
        if self.fpn_gap is not None:
            top += self.fpn_gap(res5.mean(dim=(2, 3)))[:, :, None, None]
        merged4 = merge(self.fpn_p4_1x1, res4, top)
        merged3 = merge(self.fpn_p3_1x1, res3, merged4)
        merged2 = merge(self.fpn_p2_1x1, res2, merged3)
        p5 = self.fpn_p5(top)
        return (
            self.fpn_p2(merged2),
            self.fpn_p3(merged3),
            self.fpn_p4(merged4),
            p5,
            F.max_pool2d(p5, 1, stride=2),
        )


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


class ConvNormRelu(nn.Module):
    """3x3 convolution, group norm in 32 groups, ReLU."""

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(in_channels, out_channels, 3, padding=1, bias=False)
        self.norm = nn.GroupNorm(32, out_channels)

    def forward(self, x: Tensor) -> Tensor:
        """Return (N, out_channels, H, W) of x (N, in_channels, H, W)."""
        return F.relu(self.norm(self.conv(x)), inplace=True)


class GroupNormHead(nn.Module):
    """Semantic head of Panoptic FPN (Kirillov et al., CVPR 2019, section 3).

    Each of P3 .. P5 is brought to a quarter of the network's input by doublings, each behind a
    convolution; P2 is convolved once. Their sum is scored.
    """

    def __init__(self, in_channels: int, *, channels: int, num_classes: int) -> None:
        super().__init__()

        def level(convolutions: int) -> nn.Sequential:
            widths = [in_channels] + [channels] * convolutions
            return nn.Sequential(
                *(ConvNormRelu(widths[i], widths[i + 1]) for i in range(convolutions))
            )

        self.p2, self.p3, self.p4, self.p5 = level(1), level(1), level(2), level(3)
        self.score = nn.Conv2d(channels, num_classes, 1)

    def forward(self, pyramid: Sequence[Tensor]) -> Tensor:
        """Return float32 logits (N, num_classes, H/4, W/4): stuff first, then all things as one."""
        total: Tensor = self.p2(pyramid[0])
        for layers, x in zip((self.p3, self.p4, self.p5), pyramid[1:_LEVELS], strict=True):
            for layer in layers:
                x = _upsample(layer(x), 2)
            total = total + x
        logits: Tensor = self.score(total)
        return logits.float()


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
