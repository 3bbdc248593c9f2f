"""Instance head: RoIAlign, box and mask branches of Mask R-CNN (He et al., ICCV 2017)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from upsnet_ros.errors import DivergedError
from upsnet_ros.network.semantic_head import STRIDES
from upsnet_ros.ops.boxes import BOX_HEAD_WEIGHTS, INCLUSIVE, clip_boxes, decode_boxes, nms
from upsnet_ros.ops.conv_relu import conv_relu
from upsnet_ros.ops.roi_align import LEVEL_EPSILON, roi_align, roi_align_reference


def pyramid_levels(boxes: Tensor, *, edge: float = INCLUSIVE) -> Tensor:
    """Return for boxes (K, 4) the pyramid level to pool from, int64 (K,), 0 for P2 .. 3 for P5."""
    width = boxes[:, 2] - boxes[:, 0] + edge
    height = boxes[:, 3] - boxes[:, 1] + edge
    size = torch.sqrt(width * height) / 224 + LEVEL_EPSILON[edge]
    level = torch.floor(2 + torch.log2(size))
    return level.clamp(0, 3).long()


def pool_rois(
    pyramid: Sequence[Tensor],
    boxes: Tensor,
    *,
    output_size: int,
    images: Tensor | None = None,
    edge: float = INCLUSIVE,
) -> Tensor:
    """Pool each box from the pyramid level of its size.

    Inclusive boxes with two samples a bin and direction, no half-pixel shift, and extents x2 - x1
    without the +1. Continuous ones with the half-pixel shift, and with as many samples as a bin
    spans cells, rounded up.

    Args:
        pyramid: P2 .. P5 (or more), (N, C, H, W) each.
        boxes: (K, 4) in image pixels.
        output_size: Bins a side.
        images: int64 (K,), which image each box is of; by default all are of the first.
        edge: Of the boxes: `ops.boxes`.

    Returns:
        (K, C, output_size, output_size) in the order of boxes.

    Raises:
        DivergedError: Boxes are NaN.
    """
    levels = pyramid_levels(boxes, edge=edge)
    image = boxes.new_zeros(len(boxes)) if images is None else images.to(boxes.dtype)
    rois = torch.cat((image[:, None], boxes), dim=1)
    order = levels.argsort(stable=True)
    # The only wait for the device: for the number of boxes of each level.
    counts = (levels[:, None] == torch.arange(4, device=levels.device)).sum(dim=0).tolist()
    if sum(counts) != len(boxes):  # a NaN has no level
        raise DivergedError("the network's boxes are not finite")
    parts = rois[order].split(counts)

    def pool(level: int) -> Tensor:
        cells = (pyramid[level], parts[level], output_size, 1 / STRIDES[level])
        if edge == INCLUSIVE:
            return roi_align(*cells)
        return roi_align_reference(*cells, sampling_ratio=0, aligned=True)

    pooled = [pool(level) for level in range(4)]
    return torch.cat(pooled)[order.argsort()]


BOX_POOL = 7
MASK_POOL = 14


@dataclass(frozen=True, slots=True)
class Detections:
    """Detected things.

    Attributes:
        boxes: float32 (N, 4) in pixels of the network's input.
        scores: float32 (N,), class probabilities.
        classes: int64 (N,), 1 .. num_classes - 1; 0 only in the stand-in for "nothing found".
    """

    boxes: Tensor
    scores: Tensor
    classes: Tensor

    def __len__(self) -> int:
        return len(self.scores)

    def __getitem__(self, index: Tensor | slice) -> Detections:
        return Detections(self.boxes[index], self.scores[index], self.classes[index])


class BoxHead(nn.Module):
    """Two fully connected layers over 7x7 pooled features, then class logits and box deltas."""

    def __init__(self, channels: int, *, hidden: int, num_classes: int) -> None:
        super().__init__()
        self.fc6 = nn.Sequential(nn.Linear(channels * BOX_POOL**2, hidden))
        self.fc7 = nn.Sequential(nn.Linear(hidden, hidden))
        self.cls_score = nn.Linear(hidden, num_classes)
        self.bbox_pred = nn.Linear(hidden, 4 * num_classes)

    def forward(self, pyramid: Sequence[Tensor], boxes: Tensor) -> tuple[Tensor, Tensor]:
        """Return class logits (K, C) and raw deltas (K, 4 C), float32, for boxes (K, 4)."""
        return self.classify(pool_rois(pyramid, boxes, output_size=BOX_POOL))

    def classify(self, pooled: Tensor) -> tuple[Tensor, Tensor]:
        """Return what `forward` does for pooled features (K, channels, 7, 7)."""
        x = F.relu(self.fc6(pooled.flatten(1)), inplace=True)
        x = F.relu(self.fc7(x), inplace=True)
        return self.cls_score(x).float(), self.bbox_pred(x).float()


class MaskHead(nn.Module):
    """Four 3x3 convolutions over 14x14 pooled features, one deconvolution, class-wise logits."""

    def __init__(self, channels: int, *, num_classes: int) -> None:
        super().__init__()
        # Sequences of one, because the checkpoints say `mask_conv1.0`.
        self.mask_conv1 = nn.Sequential(nn.Conv2d(channels, channels, 3, padding=1))
        self.mask_conv2 = nn.Sequential(nn.Conv2d(channels, channels, 3, padding=1))
        self.mask_conv3 = nn.Sequential(nn.Conv2d(channels, channels, 3, padding=1))
        self.mask_conv4 = nn.Sequential(nn.Conv2d(channels, channels, 3, padding=1))
        self.mask_deconv1 = nn.Sequential(nn.ConvTranspose2d(channels, channels, 2, stride=2))
        self.mask_score = nn.Conv2d(channels, num_classes, 1)

    def forward(self, pyramid: Sequence[Tensor], boxes: Tensor, classes: Tensor) -> Tensor:
        """Return the mask logits of each box's own class, float32 (K, 28, 28)."""
        return self.logits(pool_rois(pyramid, boxes, output_size=MASK_POOL), classes)

    def features(self, pooled: Tensor) -> Tensor:
        """Return (K, channels, 28, 28) of pooled features (K, channels, 14, 14)."""
        x = pooled
        for layer in (self.mask_conv1, self.mask_conv2, self.mask_conv3, self.mask_conv4):
            x = conv_relu(cast(nn.Conv2d, layer[0]), x)
        return F.relu(self.mask_deconv1(x), inplace=True)

    def logits(self, pooled: Tensor, classes: Tensor) -> Tensor:
        """Return what `forward` does for pooled features (K, channels, 14, 14)."""
        x = self.features(pooled)
        weight = self.mask_score.weight[classes].flatten(1).unsqueeze(1)
        assert self.mask_score.bias is not None
        bias = self.mask_score.bias[classes].unsqueeze(1)
        logits = torch.bmm(weight, x.flatten(2)).squeeze(1) + bias
        return logits.view(-1, *x.shape[2:]).float()


def nothing_found(device: torch.device) -> Detections:
    """Return the placeholder that the original uses for an empty result: class 0, score 1."""
    return Detections(
        torch.zeros((1, 4), device=device),
        torch.ones(1, device=device),
        torch.zeros(1, dtype=torch.int64, device=device),
    )


def _candidates(
    proposals: Tensor,
    logits: Tensor,
    deltas: Tensor,
    *,
    size: tuple[int, int],
    score_threshold: float,
) -> Detections:
    """Return every (proposal, class) more probable than the threshold, with the class's box."""
    probabilities = logits.softmax(dim=1)
    rois, classes = torch.nonzero(probabilities[:, 1:] > score_threshold, as_tuple=True)
    classes = classes + 1
    chosen = deltas.view(len(deltas), -1, 4)[rois, classes]
    boxes = clip_boxes(decode_boxes(proposals[rois], chosen, BOX_HEAD_WEIGHTS), size)
    return Detections(boxes, probabilities[rois, classes], classes)


def _at_most(detections: Detections, limit: int) -> Detections:
    """Keep the `limit` best; equals of the last one stay, as in the original."""
    if len(detections) <= limit:
        return detections
    threshold = detections.scores.topk(limit).values[-1]
    return detections[torch.nonzero(detections.scores >= threshold).squeeze(1)]


def panoptic_detections(
    proposals: Tensor,
    logits: Tensor,
    deltas: Tensor,
    *,
    size: tuple[int, int],
    score_threshold: float,
    nms_threshold: float,
    limit: int,
) -> Detections:
    """Select what the panoptic head works on: one suppression across all classes.

    Args:
        proposals: (K, 4).
        logits: Class logits (K, C) of the box head.
        deltas: Raw box deltas (K, 4 C).
        size: Height and width of the unpadded image.
        score_threshold: Class probability that must be exceeded.
        nms_threshold: IoU above which the box with the lower score is suppressed, across classes.
        limit: Detections kept.

    Returns:
        Detections by descending score; `nothing_found` if there are none.
    """
    found = _candidates(proposals, logits, deltas, size=size, score_threshold=score_threshold)
    if len(found) == 0:
        return nothing_found(proposals.device)
    return _at_most(found[nms(found.boxes, found.scores, nms_threshold)], limit)


def instance_detections(
    proposals: Tensor,
    logits: Tensor,
    deltas: Tensor,
    *,
    size: tuple[int, int],
    score_threshold: float,
    nms_threshold: float,
    limit: int,
) -> Detections:
    """Select plain Mask R-CNN detections, suppressed class by class (for instance AP).

    Arguments as in `panoptic_detections`. The result is ordered by class, then by descending
    score.
    """
    found = _candidates(proposals, logits, deltas, size=size, score_threshold=score_threshold)
    if len(found) == 0:
        return nothing_found(proposals.device)
    found = found[nms(found.boxes, found.scores, nms_threshold, groups=found.classes)]
    found = found[found.classes.argsort(stable=True)]
    return _at_most(found, limit)
