"""What the region proposal network should say about each anchor (Ren et al., NeurIPS 2015)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from upsnet_ros.network.anchors import grid_anchors
from upsnet_ros.network.boxes import RPN_WEIGHTS, encode_boxes
from upsnet_ros.training.choices import Chooser, Purpose
from upsnet_ros.training.overlaps import overlaps, shares_inside
from upsnet_ros.training.settings import Quirks, TargetSettings

POSITIVE, NEGATIVE, IGNORED = 1, 0, -1


@dataclass(frozen=True, slots=True)
class RPNTargets:
    """Targets of all anchors, P2 .. P6 one after the other, each row by row, anchor fastest.

    Attributes:
        labels: int8 (A,): `POSITIVE`, `NEGATIVE` or `IGNORED`.
        positives: int64 (P,): the anchors labelled positive.
        deltas: float32 (P, 4): what should be predicted for those.
    """

    labels: Tensor
    positives: Tensor
    deltas: Tensor


def all_anchors(
    sizes: Sequence[tuple[int, int]], strides: Sequence[int], device: torch.device
) -> Tensor:
    """Return the anchors (A, 4) of levels of these grid sizes (height, width)."""
    return torch.cat(
        [
            grid_anchors(height, width, stride=stride, device=device)
            for (height, width), stride in zip(sizes, strides, strict=True)
        ]
    )


def assign_rpn_targets(
    anchors: Tensor,
    *,
    boxes: Tensor,
    crowds: Tensor,
    size: tuple[int, int],
    settings: TargetSettings,
    quirks: Quirks,
    chooser: Chooser,
) -> RPNTargets:
    """Label a random selection of the anchors inside the image.

    Args:
        anchors: (A, 4).
        boxes: Objects (N, 4) in the same pixels.
        crowds: Groups (M, 4): by default, anchors mostly inside one are no background.
        size: Height and width of the unpadded image.
        settings: Thresholds and counts.
        quirks: Habits of the original to keep.
        chooser: Who chooses.
    """
    height, width = size
    inside = torch.nonzero(
        (anchors[:, 0] >= 0)
        & (anchors[:, 1] >= 0)
        & (anchors[:, 2] < width)
        & (anchors[:, 3] < height)
    ).squeeze(1)
    candidates = anchors[inside]
    labels = torch.full_like(inside, IGNORED)
    if len(boxes):
        overlap = overlaps(candidates, boxes)
        best, nearest = overlap.max(dim=1)
        record = overlap.amax(dim=0) if len(candidates) else overlap.new_zeros(len(boxes))
        ties = overlap == record
        if not quirks.rpn_positives_without_overlap:
            ties &= overlap > 0
        labels[ties.any(dim=1) | (best >= settings.rpn_positive_overlap)] = POSITIVE
    else:
        best = candidates.new_zeros(len(candidates))
        nearest = torch.zeros_like(inside)

    positives = torch.nonzero(labels == POSITIVE).squeeze(1)
    surplus = len(positives) - settings.rpn_positives
    if surplus > 0:
        dropped = chooser.choose(Purpose.RPN_SURPLUS_POSITIVES, positives, surplus)
        labels[dropped] = IGNORED

    free = best < settings.rpn_negative_overlap
    if not quirks.rpn_negatives_over_positives:
        free &= labels != POSITIVE
    if not quirks.crowds_as_objects and len(crowds):
        in_crowd = shares_inside(candidates, crowds).amax(dim=1)
        free &= in_crowd <= settings.crowd_share
    negatives = torch.nonzero(free).squeeze(1)
    wanted = settings.rpn_anchors - int((labels == POSITIVE).sum())
    if len(negatives) > wanted:
        negatives = chooser.choose(Purpose.RPN_NEGATIVES, negatives, wanted)
        labels[negatives] = NEGATIVE
    elif not quirks.rpn_scarce_negatives_ignored:
        labels[negatives] = NEGATIVE

    positives = torch.nonzero(labels == POSITIVE).squeeze(1)
    all_labels = torch.full((len(anchors),), IGNORED, dtype=torch.int8, device=anchors.device)
    all_labels[inside] = labels.to(torch.int8)
    deltas = (
        encode_boxes(candidates[positives], boxes[nearest[positives]], RPN_WEIGHTS)
        if len(positives)
        else candidates.new_zeros((0, 4))
    )
    return RPNTargets(all_labels, inside[positives], deltas)
