"""Region proposal network (Ren et al., NeurIPS 2015) over P2 .. P6 with shared weights."""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

import torch
from torch import Tensor, nn

from upsnet_ros.kernels.conv_relu import conv_relu
from upsnet_ros.network.anchors import ANCHOR_RATIOS, grid_anchors
from upsnet_ros.network.boxes import RPN_WEIGHTS, clip_boxes, decode_boxes, nms


class RPN(nn.Module):
    """Objectness and box deltas of three anchors in every cell."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        # A sequence of one, because the checkpoints say `conv_proposal.0`.
        self.conv_proposal = nn.Sequential(nn.Conv2d(channels, channels, 3, padding=1))
        self.cls_score = nn.Conv2d(channels, len(ANCHOR_RATIOS), 1)
        self.bbox_pred = nn.Conv2d(channels, 4 * len(ANCHOR_RATIOS), 1)

    def forward(self, pyramid: Sequence[Tensor]) -> list[tuple[Tensor, Tensor]]:
        """Return for each level logits (N, 3, H, W) and deltas (N, 12, H, W), anchor-major."""
        outputs = []
        conv = cast(nn.Conv2d, self.conv_proposal[0])
        for feature in pyramid:
            hidden = conv_relu(conv, feature)
            outputs.append((self.cls_score(hidden), self.bbox_pred(hidden)))
        return outputs


def select_proposals(
    outputs: Sequence[tuple[Tensor, Tensor]],
    strides: Sequence[int],
    *,
    size: tuple[int, int],
    top_n: int,
    nms_threshold: float,
) -> tuple[Tensor, Tensor]:
    """Turn the RPN's outputs for one image into proposals.

    Each level gives its best `top_n` anchors, decoded, clipped and suppressed among themselves;
    of all levels together the best `top_n` remain.

    Args:
        outputs: Logits (1, 3, H, W) and deltas (1, 12, H, W) of each level.
        strides: Stride in pixels of each level.
        size: Height and width of the unpadded image.
        top_n: Proposals kept before and after suppression, and in all.
        nms_threshold: IoU above which the lower score goes.

    Returns:
        Boxes float32 (K, 4) and scores float32 (K,), best first, K <= top_n.
    """
    boxes, scores = [], []
    for (logits, deltas), stride in zip(outputs, strides, strict=True):
        height, width = logits.shape[-2:]
        anchors = grid_anchors(height, width, stride=stride, device=logits.device)
        # Ranked by sigmoid in float32 as in the original: saturated scores tie, logits would not.
        level_scores = logits[0].permute(1, 2, 0).reshape(-1).float().sigmoid()
        level_scores, order = level_scores.topk(min(top_n, level_scores.numel()))
        level_deltas = deltas[0].permute(1, 2, 0).reshape(-1, 4)[order].float()
        level_boxes = clip_boxes(decode_boxes(anchors[order], level_deltas, RPN_WEIGHTS), size)
        keep = nms(level_boxes, level_scores, nms_threshold)[:top_n]
        boxes.append(level_boxes[keep])
        scores.append(level_scores[keep])
    all_scores, order = torch.cat(scores).sort(descending=True, stable=True)
    return torch.cat(boxes)[order[:top_n]], all_scores[:top_n]
