"""The losses of one image, each a scalar float32."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from upsnet_ros.training.roi_targets import RegionTargets
from upsnet_ros.training.rpn_targets import IGNORED, RPNTargets

#: Target of pixels without a class.
IGNORED_PIXEL = -1
#: Deltas of the RPN leave the quadratic part of the loss at 1 / sigma^2 with sigma 3.
RPN_BETA = 1 / 9


def _zero_of(*outputs: Tensor) -> Tensor:
    """Return a zero that depends on the outputs, so that their weights have gradients, of zero."""
    return torch.stack([output.sum() * 0.0 for output in outputs]).sum()


def rpn_losses(
    logits: Tensor, deltas: Tensor, targets: RPNTargets, *, rpn_anchors: int
) -> tuple[Tensor, Tensor]:
    """Return the losses of objectness and boxes.

    Args:
        logits: (A,) of all anchors.
        deltas: (A, 4).
        targets: In the same order.
        rpn_anchors: Anchors that are labelled in an image that has enough.
    """
    labelled = targets.labels != IGNORED
    objectness = F.binary_cross_entropy_with_logits(
        logits[labelled], targets.labels[labelled].to(logits.dtype), reduction="sum"
    )
    box = F.smooth_l1_loss(
        deltas[targets.positives], targets.deltas, beta=RPN_BETA, reduction="sum"
    )
    return objectness / rpn_anchors, box / labelled.sum().clamp(min=1)


def region_losses(logits: Tensor, deltas: Tensor, regions: RegionTargets) -> tuple[Tensor, Tensor]:
    """Return the losses of class and box of K regions.

    Args:
        logits: (K, C).
        deltas: (K, 4 C).
        regions: Their targets.
    """
    positives = len(regions.objects)
    rows = torch.arange(positives, device=logits.device)
    own = deltas.view(len(deltas), -1, 4)[rows, regions.classes[:positives]]
    box = F.smooth_l1_loss(own, regions.deltas, beta=1.0, reduction="sum")
    return F.cross_entropy(logits, regions.classes), box / len(logits)


def mask_loss(logits: Tensor, targets: Tensor) -> Tensor:
    """Return the loss of masks (P, M, M); targets below zero are ignored."""
    valid = targets >= 0
    total = F.binary_cross_entropy_with_logits(
        logits, targets, weight=valid.float(), reduction="sum"
    )
    return total / valid.sum().clamp(min=1)


def pixel_loss(logits: Tensor, target: Tensor, *, diluted: bool = False) -> Tensor:
    """Return the mean cross-entropy of pixels.

    Args:
        logits: (N, C, H, W).
        target: int64 (N, H, W), a channel or `IGNORED_PIXEL`.
        diluted: Whether ignored pixels count in the mean, as zeros.
    """
    if target.numel() == 0:
        return _zero_of(logits)
    total = F.cross_entropy(logits, target, ignore_index=IGNORED_PIXEL, reduction="sum")
    count = target.numel() if diluted else (target != IGNORED_PIXEL).sum().clamp(min=1)
    return total / count
