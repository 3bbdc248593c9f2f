"""Proposals in static shapes: what `network.rpn.select_proposals` selects."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from upsnet_ros.network.boxes import RPN_WEIGHTS, clip_boxes, decode_boxes
from upsnet_ros.network.static.lists import ProposalLists, take, there
from upsnet_ros.network.static.operators import Operators


def select_proposals(
    outputs: Sequence[tuple[Tensor, Tensor]],
    anchors: Sequence[Tensor],
    numbers: Tensor,
    *,
    size: tuple[int, int],
    top_n: int,
    nms_threshold: float,
    operators: Operators,
) -> ProposalLists:
    """Turn the RPN's outputs for a batch into proposals.

    Args:
        outputs: Logits (B, 3, H, W) and deltas (B, 12, H, W) of each level.
        anchors: float32 (3 H W, 4) of each level, as `grid_anchors` orders them.
        numbers: int32 (levels * B,), the best anchors that each level gives: `candidates` of it.
        size: Height and width of the unpadded images.
        top_n: Proposals kept before and after suppression, and in all.
        nms_threshold: IoU above which the lower score goes.
        operators: By which boxes are suppressed.
    """
    batch, levels = len(outputs[0][0]), len(outputs)
    length = max(candidates(len(level), top_n) for level in anchors)
    all_boxes, all_scores = [], []
    for (logits, deltas), level_anchors in zip(outputs, anchors, strict=True):
        # Ranked by sigmoid in float32 as in the original: saturated scores tie, logits would not.
        scores = logits.permute(0, 2, 3, 1).reshape(batch, -1).float().sigmoid()
        scores, order = scores.topk(candidates(len(level_anchors), top_n), dim=1)
        chosen = take(deltas.permute(0, 2, 3, 1).reshape(batch, -1, 4), order).float()
        boxes = clip_boxes(decode_boxes(level_anchors[order], chosen, RPN_WEIGHTS), size)
        padding = length - order.shape[1]
        all_boxes.append(F.pad(boxes, (0, 0, 0, padding)))
        all_scores.append(F.pad(scores, (0, padding)))

    lists = torch.cat(all_boxes)  # level by level, the batch inside
    kept = operators.suppress(lists, numbers, nms_threshold, limit=length)
    inside = there(kept.number, length)
    scores = torch.where(inside, take(torch.cat(all_scores), kept.place), -1.0)

    def by_image(x: Tensor) -> Tensor:
        return x.view(levels, batch, length, *x.shape[2:]).transpose(0, 1).flatten(1, 2)

    order = by_image(scores).sort(dim=1, descending=True, stable=True).indices[:, :top_n]
    number = kept.number.view(levels, batch).sum(dim=0).clamp(max=top_n).int()
    boxes = take(by_image(take(lists, kept.place)), order)
    return ProposalLists(boxes * there(number, boxes.shape[1])[..., None], number)


def candidates(anchors: int, top_n: int) -> int:
    """Return how many of a level's anchors may become proposals."""
    return min(anchors, top_n)
