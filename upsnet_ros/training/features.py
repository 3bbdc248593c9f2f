"""The convolutions of a batch of images, and each image's part of what they make."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from upsnet_ros.network.fpn import STRIDES
from upsnet_ros.network.upsnet import UPSNet
from upsnet_ros.training.prepare import QUARTER


@dataclass(frozen=True, slots=True)
class Features:
    """What the convolutions make of one image; batch dimension 1 everywhere.

    Attributes:
        pyramid: P2 .. P6, float32.
        rpn: Logits and deltas of each level, float32.
        semantic: Semantic logits at a quarter of the size, float32.
    """

    pyramid: tuple[Tensor, ...]
    rpn: tuple[tuple[Tensor, Tensor], ...]
    semantic: Tensor

    def of_image(self, index: int, padded: tuple[int, int]) -> Features:
        """Return the part that belongs to one image of a batch, cut to its own padded size."""

        def cut(x: Tensor, stride: int) -> Tensor:
            height, width = (-(-side // stride) for side in padded)
            return x[index : index + 1, :, :height, :width].float()

        return Features(
            tuple(cut(x, stride) for x, stride in zip(self.pyramid, STRIDES, strict=True)),
            tuple(
                (cut(logits, stride), cut(deltas, stride))
                for (logits, deltas), stride in zip(self.rpn, STRIDES, strict=True)
            ),
            cut(self.semantic, QUARTER),
        )


def compute_features(network: UPSNet, images: Sequence[Tensor]) -> Features:
    """Run the convolutions over images (3, H, W) together, padded to a common size."""
    height = max(image.shape[1] for image in images)
    width = max(image.shape[2] for image in images)
    batch = torch.stack(
        [F.pad(image, (0, width - image.shape[2], 0, height - image.shape[1])) for image in images]
    )
    pyramid = network.fpn(network.resnet_backbone(batch))
    return Features(pyramid, tuple(network.rpn(pyramid)), network.fcn_head(pyramid))
