"""Proposals in static shapes: what `network.rpn.select_proposals` selects."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from upsnet_ros.kernels.decode import decode_at
from upsnet_ros.network.anchors import grid_anchors
from upsnet_ros.network.boxes import RPN_WEIGHTS
from upsnet_ros.network.static.lists import ProposalLists, take, there
from upsnet_ros.network.static.operators import Operators


@dataclass(frozen=True, slots=True)
class Anchors:
    """The anchors of all levels, and how many of each may become proposals.

    Attributes:
        boxes: float32 (1, A, 4), level by level, as `grid_anchors` orders them.
        lengths: Anchors of each level.
        starts: int64 (levels, 1), place of each level's first.
        numbers: int32 (levels,), the best that each level gives.
    """

    boxes: Tensor
    lengths: tuple[int, ...]
    starts: Tensor
    numbers: Tensor

    @classmethod
    def of(
        cls,
        sizes: Sequence[tuple[int, int]],
        strides: Sequence[int],
        *,
        top_n: int,
        device: torch.device | str,
    ) -> Anchors:
        """Return those of levels of some sizes, (height, width) each; copied from the host."""
        levels = [
            grid_anchors(*size, stride=stride, device=device)
            for size, stride in zip(sizes, strides, strict=True)
        ]
        lengths = tuple(len(level) for level in levels)
        starts = torch.tensor([sum(lengths[:level]) for level in range(len(lengths))])
        numbers = torch.tensor([min(length, top_n) for length in lengths], dtype=torch.int32)
        return cls(torch.cat(levels)[None], lengths, starts[:, None].to(device), numbers.to(device))


def select_proposals(
    outputs: Sequence[tuple[Tensor, Tensor]],
    anchors: Anchors,
    *,
    size: tuple[int, int],
    top_n: int,
    nms_threshold: float,
    operators: Operators,
) -> ProposalLists:
    """Turn the RPN's outputs for a batch into proposals.

    Args:
        outputs: Logits (B, 3, H, W) and deltas (B, 12, H, W) of each level.
        anchors: Of the same levels and `top_n`.
        size: Height and width of the unpadded images.
        top_n: Proposals kept before and after suppression, and in all.
        nms_threshold: IoU above which the lower score goes.
        operators: By which boxes are suppressed.
    """
    batch, levels = len(outputs[0][0]), len(outputs)
    logits, deltas = (
        torch.cat([x.permute(0, 2, 3, 1).reshape(batch, -1, last) for x in level_by_level], dim=1)
        for level_by_level, last in zip(zip(*outputs, strict=True), (1, 4), strict=True)
    )
    # Ranked by sigmoid in float32 as in the original: saturated scores tie, logits would not.
    scores, places = _best_of_levels(logits.flatten(1).float().sigmoid(), anchors, top_n)
    boxes = decode_at(anchors.boxes, deltas, places.flatten(1), weights=RPN_WEIGHTS, size=size)

    length = places.shape[2]
    lists = boxes.view(batch * levels, length, 4)
    numbers = anchors.numbers.repeat(batch) if batch > 1 else anchors.numbers
    kept = operators.suppress(lists, numbers, nms_threshold, limit=length)
    place = kept.place.long()
    scores = take(scores.view(batch * levels, length), place)
    scores = torch.where(there(kept.number, length), scores, -1.0).view(batch, -1)
    order = scores.sort(dim=1, descending=True, stable=True).indices[:, :top_n]
    number = kept.number.view(batch, levels).sum(dim=1, dtype=torch.int32).clamp(max=top_n)
    boxes = take(take(lists, place).view(batch, -1, 4), order)
    return ProposalLists(boxes * there(number, boxes.shape[1])[..., None], number)


def _best_of_levels(scores: Tensor, anchors: Anchors, top_n: int) -> tuple[Tensor, Tensor]:
    """Return scores and places among all anchors (B, levels, K) of each level's best.

    Where a level has less than K anchors, scores are padded with zeros and places with its first.
    """
    best = [
        level.topk(min(length, top_n), dim=1)
        for level, length in zip(
            scores.split(list(anchors.lengths), dim=1), anchors.lengths, strict=True
        )
    ]
    longest = max(level.values.shape[1] for level in best)

    def stacked(lists: Sequence[Tensor]) -> Tensor:
        padding = [longest - x.shape[1] for x in lists]
        # To pad by nothing would be a copy.
        padded = [F.pad(x, (0, n)) if n else x for x, n in zip(lists, padding, strict=True)]
        return torch.stack(padded, dim=1)

    places = stacked([level.indices for level in best]) + anchors.starts
    return stacked([level.values for level in best]), places
