"""Detections in static shapes: what `network.instance_head.panoptic_detections` selects."""

from __future__ import annotations

import torch
from torch import Tensor

from upsnet_ros.kernels.decode import decode_at
from upsnet_ros.network.boxes import BOX_HEAD_WEIGHTS
from upsnet_ros.network.static.lists import DetectionLists, ProposalLists, take, there
from upsnet_ros.network.static.operators import Operators

#: Pairs of proposal and class that are looked at, the most probable ones. At thresholds of at least
#: a half a proposal passes with one class at most, so of a thousand proposals none is left out.
CANDIDATES = 1000
#: Places beyond the limit, for equals of the last one. More equals than that are left out.
ROOM_FOR_EQUALS = 12


def select_detections(
    proposals: ProposalLists,
    logits: Tensor,
    deltas: Tensor,
    *,
    size: tuple[int, int],
    score_threshold: Tensor,
    nms_threshold: float,
    limit: int,
    operators: Operators,
) -> DetectionLists:
    """Select what the panoptic head works on: one suppression across all classes.

    Args:
        proposals: Of each image, K places.
        logits: Class logits (B * K, C) of the box head.
        deltas: Raw box deltas (B * K, 4 C).
        size: Height and width of the unpadded images.
        score_threshold: float32 (1,): class probability that must be exceeded.
        nms_threshold: IoU above which the lower score goes, whatever the classes.
        limit: Detections kept; equals of the last one stay, as in the original.
        operators: By which boxes are suppressed.

    Returns:
        Lists of ``limit + ROOM_FOR_EQUALS`` places.
    """
    batch, length = proposals.boxes.shape[:2]
    kinds = logits.shape[1]
    scores = logits.softmax(dim=1).view(batch, length, kinds)
    passes = (scores > score_threshold) & there(proposals.numbers, length)[..., None]
    passes[..., 0] = False  # the background
    numbers = passes.flatten(1).sum(dim=1, dtype=torch.int32).clamp(max=CANDIDATES)
    scores, order = (
        torch.where(passes, scores, -1.0)
        .flatten(1)
        .sort(dim=1, descending=True, stable=True)  # of equals the earlier proposal, as there
    )
    scores, order = scores[:, :CANDIDATES], order[:, :CANDIDATES]
    table = deltas.view(batch, -1, 4)
    boxes = decode_at(proposals.boxes, table, order, weights=BOX_HEAD_WEIGHTS, size=size)

    places = limit + ROOM_FOR_EQUALS
    kept = operators.suppress(boxes, numbers, nms_threshold, limit=places)
    place = kept.place.long()
    # The padding's scores are zeros, which no threshold passes.
    best = take(scores, place) * there(kept.number, places)
    equals = (best >= best[:, limit - 1 : limit]).sum(dim=1, dtype=torch.int32)
    found = DetectionLists(boxes, scores, order % kinds, numbers)
    return found.at(place, torch.minimum(kept.number, equals))
