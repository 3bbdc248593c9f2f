"""ResNet backbone with the stride in the first 1x1 convolution and frozen batch norm.

He et al., "Deep Residual Learning for Image Recognition", CVPR 2016, in the form of the Caffe
release, which UPSNet was trained from. Parameter names are those of the official checkpoints.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_weights

from upsnet_ros.network.semantic_head import DeformConv2d, offset_conv
from upsnet_ros.network.variants import Variant
from upsnet_ros.ops.conv_relu import conv_relu, conv_relu_pool


class FrozenBatchNorm2d(nn.BatchNorm2d):
    """Batch norm that always uses its running statistics and is never trained."""

    def __init__(self, num_features: int) -> None:
        super().__init__(num_features)
        self.weight.requires_grad_(False)
        self.bias.requires_grad_(False)
        super().train(False)

    def train(self, mode: bool = True) -> FrozenBatchNorm2d:
        """Stay in evaluation mode, also if the parent is in training mode."""
        return self


class Stem(nn.Module):
    """7x7 stride 2, then 3x3 max pooling stride 2: (N, 3, H, W) to (N, 64, H/4, W/4)."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 64, 7, stride=2, padding=3, bias=False)
        self.bn1 = FrozenBatchNorm2d(64)

    def forward(self, x: Tensor) -> Tensor:
        """Return features at a quarter of the size."""
        if isinstance(self.bn1, nn.Identity):
            return conv_relu_pool(self.conv1, x)
        return F.max_pool2d(F.relu(self.bn1(self.conv1(x)), inplace=True), 3, stride=2, padding=1)


def conv_norm_relu(
    conv: nn.Conv2d, norm: nn.Module, x: Tensor, *, add: Tensor | None = None
) -> Tensor:
    """Return ``relu(norm(conv(x)) + add)``; at once where the norm is folded into the weights."""
    if isinstance(norm, nn.Identity):
        return conv_relu(conv, x, add=add)
    output = norm(conv(x))
    if add is not None:
        output += add
    return F.relu(output, inplace=True)


def _downsample(in_channels: int, out_channels: int, stride: int) -> nn.Sequential | None:
    if stride == 1 and in_channels == out_channels:
        return None
    return nn.Sequential(
        nn.Conv2d(in_channels, out_channels, 1, stride=stride, bias=False),
        FrozenBatchNorm2d(out_channels),
    )


class Bottleneck(nn.Module):
    """1x1 (strided), 3x3 (deformable on request), 1x1 with four times the channels."""

    expansion = 4

    def __init__(
        self, in_channels: int, channels: int, *, stride: int = 1, deformable: bool = False
    ) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, channels, 1, stride=stride, bias=False)
        self.bn1 = FrozenBatchNorm2d(channels)
        self.conv2_offset = offset_conv(channels) if deformable else None
        self.conv2: nn.Module = (
            DeformConv2d(channels, channels, bias=False)
            if deformable
            else nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        )
        self.bn2 = FrozenBatchNorm2d(channels)
        self.conv3 = nn.Conv2d(channels, channels * self.expansion, 1, bias=False)
        self.bn3 = FrozenBatchNorm2d(channels * self.expansion)
        self.downsample = _downsample(in_channels, channels * self.expansion, stride)

    def forward(self, x: Tensor) -> Tensor:
        """Return x plus its residual, after ReLU."""
        out = conv_norm_relu(self.conv1, self.bn1, x)
        if isinstance(self.conv2, nn.Conv2d):
            out = conv_norm_relu(self.conv2, self.bn2, out)
        else:
            assert self.conv2_offset is not None
            folded = isinstance(self.bn2, nn.Identity)
            out = self.conv2(out, self.conv2_offset(out), relu=folded)
            if not folded:
                out = F.relu(self.bn2(out), inplace=True)
        straight = x if self.downsample is None else self.downsample(x)
        return conv_norm_relu(self.conv3, self.bn3, out, add=straight)


class BasicBlock(nn.Module):
    """Two 3x3 convolutions, the first one strided (ResNet-18)."""

    expansion = 1

    def __init__(
        self, in_channels: int, channels: int, *, stride: int = 1, deformable: bool = False
    ) -> None:
        super().__init__()
        if deformable:
            raise ValueError("basic blocks have no deformable form; use bottleneck blocks")
        self.conv1 = nn.Conv2d(in_channels, channels, 3, stride=stride, padding=1, bias=False)
        self.bn1 = FrozenBatchNorm2d(channels)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.bn2 = FrozenBatchNorm2d(channels)
        self.downsample = _downsample(in_channels, channels, stride)

    def forward(self, x: Tensor) -> Tensor:
        """Return x plus its residual, after ReLU."""
        if self.conv1.stride == (2, 2) and x.shape[-1] <= 2 and x.is_cpu and x.dtype.itemsize == 2:
            # In half precision on CPUs with AMX, oneDNN reads beyond an input whose output is one
            # column wide (torch 2.14). More zeros to its right change nothing in that column.
            out = conv_norm_relu(self.conv1, self.bn1, F.pad(x, (0, 2)))[..., :1].contiguous()
        else:
            out = conv_norm_relu(self.conv1, self.bn1, x)
        straight = x if self.downsample is None else self.downsample(x)
        return conv_norm_relu(self.conv2, self.bn2, out, add=straight)


_BLOCKS: dict[str, type[BasicBlock] | type[Bottleneck]] = {
    "basic": BasicBlock,
    "bottleneck": Bottleneck,
}


class Stage(nn.Module):
    """A row of residual blocks at one resolution."""

    def __init__(self, layers: Sequence[nn.Module]) -> None:
        super().__init__()
        self.layers = nn.Sequential(*layers)

    def forward(self, x: Tensor) -> Tensor:
        """Run the blocks."""
        return self.layers(x)


class ResNet(nn.Module):
    """Backbone of a variant; `out_channels` are the channels of res2 .. res5."""

    def __init__(self, variant: Variant) -> None:
        super().__init__()
        expansion = _BLOCKS[variant.block].expansion
        self.conv1 = Stem()
        self.out_channels = tuple(64 * 2**i * expansion for i in range(4))
        self.res2 = self._stage(variant, 2)
        self.res3 = self._stage(variant, 3)
        self.res4 = self._stage(variant, 4)
        self.res5 = self._stage(variant, 5)

    def _stage(self, variant: Variant, stage: int) -> Stage:
        i = stage - 2
        block = _BLOCKS[variant.block]
        entry = 64 if i == 0 else self.out_channels[i - 1]
        return Stage(
            [
                block(
                    self.out_channels[i] if j else entry,
                    64 * 2**i,
                    stride=2 if i > 0 and j == 0 else 1,
                    deformable=stage in variant.deformable_stages,
                )
                for j in range(variant.depths[i])
            ]
        )

    def forward(self, image: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Return res2 .. res5 at strides 4, 8, 16 and 32 of image (N, 3, H, W)."""
        res2 = self.res2(self.conv1(image))
        res3 = self.res3(res2)
        res4 = self.res4(res3)
        return res2, res3, res4, self.res5(res4)


def fold_batch_norm_(module: nn.Module) -> None:
    """Fold every frozen batch norm into the convolution before it, in place, for inference.

    A shortcut's bias goes into that of the block's last convolution. Afterwards the state dict has
    no ``bn`` entries, so load checkpoints before, not after.
    """
    for parent in list(module.modules()):
        for name, child in list(parent.named_children()):
            if not isinstance(child, FrozenBatchNorm2d):
                continue
            conv_name = "0" if name == "1" else name.replace("bn", "conv")
            conv = getattr(parent, conv_name)
            assert child.running_mean is not None and child.running_var is not None
            conv.weight, conv.bias = fuse_conv_bn_weights(
                conv.weight,
                conv.bias,
                child.running_mean,
                child.running_var,
                child.eps,
                child.weight,
                child.bias,
            )
            setattr(parent, name, nn.Identity())
    for block in module.modules():
        if isinstance(block, BasicBlock | Bottleneck) and block.downsample is not None:
            last = block.conv3 if isinstance(block, Bottleneck) else block.conv2
            _join_biases_(last, cast(nn.Conv2d, block.downsample[0]))


def _join_biases_(last: nn.Conv2d, straight: nn.Conv2d) -> None:
    """Let one bias do for two convolutions whose outputs are added up."""
    if last.bias is None or straight.bias is None:
        return
    joint = last.bias.detach() + straight.bias.detach()
    last.bias = nn.Parameter(joint, requires_grad=last.bias.requires_grad)
    straight.bias = None
