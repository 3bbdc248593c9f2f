"""Region proposal network (Ren et al., NeurIPS 2015) over P2 .. P6, and its anchors."""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

import torch
from torch import Tensor, nn

from upsnet_ros.ops.boxes import CONTINUOUS, INCLUSIVE, RPN_WEIGHTS, clip_boxes, decode_boxes, nms
from upsnet_ros.ops.conv_relu import conv_relu

ANCHOR_SCALE = 8
#: Height over width.
ANCHOR_RATIOS = (0.5, 1.0, 2.0)


def base_anchors(stride: int, *, edge: float = INCLUSIVE) -> Tensor:
    """Return the anchors of the cell at (0, 0): float32 (3, 4), corners in pixels.

    Inclusive ones lie about the middle of the cell. Their widths and heights are rounded half to
    even before they are scaled, so the areas are a little off the nominal ones. Continuous ones lie
    about the cell's first corner, and nothing is rounded. Published weights expect exactly these
    boxes.
    """
    anchors = []
    if edge == CONTINUOUS:
        for ratio in ANCHOR_RATIOS:
            width = ((stride * ANCHOR_SCALE) ** 2 / ratio) ** 0.5
            height = ratio * width
            anchors.append((-width / 2, -height / 2, width / 2, height / 2))
        return torch.tensor(anchors, dtype=torch.float32)
    centre = (stride - 1) / 2
    for ratio in ANCHOR_RATIOS:
        width = round((stride * stride / ratio) ** 0.5)
        height = round(width * ratio)
        half_w = (width * ANCHOR_SCALE - 1) / 2
        half_h = (height * ANCHOR_SCALE - 1) / 2
        anchors.append((centre - half_w, centre - half_h, centre + half_w, centre + half_h))
    return torch.tensor(anchors, dtype=torch.float32)


def grid_anchors(
    height: int,
    width: int,
    *,
    stride: int,
    device: torch.device | str,
    edge: float = INCLUSIVE,
) -> Tensor:
    """Return float32 (height * width * 3, 4): row by row, anchors of one cell adjacent."""
    ys = torch.arange(height, device=device, dtype=torch.float32) * stride
    xs = torch.arange(width, device=device, dtype=torch.float32) * stride
    y, x = torch.meshgrid(ys, xs, indexing="ij")
    shifts = torch.stack((x, y, x, y), dim=-1).reshape(-1, 1, 4)
    return (shifts + base_anchors(stride, edge=edge).to(device)).reshape(-1, 4)


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
    anchors: Sequence[Tensor] | None = None,
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
        anchors: Of each level, as `grid_anchors` returns them; None computes them.

    Returns:
        Boxes float32 (K, 4) and scores float32 (K,), best first, K <= top_n.
    """
    if anchors is None:
        anchors = [
            grid_anchors(*logits.shape[-2:], stride=stride, device=logits.device)
            for (logits, _), stride in zip(outputs, strides, strict=True)
        ]
    best, best_scores, best_deltas = [], [], []
    for (logits, deltas), level_anchors in zip(outputs, anchors, strict=True):
        # Ranked by sigmoid in float32 as in the original: saturated scores tie, logits would not.
        level_scores = logits[0].permute(1, 2, 0).reshape(-1).float().sigmoid()
        level_scores, order = level_scores.topk(min(top_n, level_scores.numel()))
        best.append(level_anchors[order])
        best_scores.append(level_scores)
        best_deltas.append(deltas[0].permute(1, 2, 0).reshape(-1, 4)[order])
    # All levels at once: on a GPU each operator costs its launch.
    decoded = decode_boxes(torch.cat(best), torch.cat(best_deltas).float(), RPN_WEIGHTS)
    boxes = clip_boxes(decoded, size).split([len(level) for level in best])
    kept = [
        nms(level_boxes, level_scores, nms_threshold)[:top_n]
        for level_boxes, level_scores in zip(boxes, best_scores, strict=True)
    ]
    scores = torch.cat([x[keep] for x, keep in zip(best_scores, kept, strict=True)])
    scores, order = scores.sort(descending=True, stable=True)
    boxes_kept = torch.cat([x[keep] for x, keep in zip(boxes, kept, strict=True)])
    return boxes_kept[order[:top_n]], scores[:top_n]
