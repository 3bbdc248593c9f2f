"""Which proposals the box and mask heads learn from, and what they should say (Fast R-CNN)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from upsnet_ros.datasets.shapes import Shape
from upsnet_ros.network.boxes import BOX_HEAD_WEIGHTS, encode_boxes
from upsnet_ros.training.choices import Chooser, Purpose
from upsnet_ros.training.overlaps import overlaps, shares_inside
from upsnet_ros.training.settings import Quirks, TargetSettings


@dataclass(frozen=True, slots=True)
class RegionTargets:
    """Chosen regions, those on objects first.

    Attributes:
        boxes: float32 (K, 4) in pixels of the labelled image, not of the network's input.
        classes: int64 (K,): class of the object, 0 for background.
        objects: int64 (P,): index of the object, for the first P regions, which have one.
        deltas: float32 (P, 4): what the box head should predict for those, in its class's slot.
    """

    boxes: Tensor
    classes: Tensor
    objects: Tensor
    deltas: Tensor


def _choose(chooser: Chooser, purpose: Purpose, candidates: Tensor, limit: int) -> Tensor:
    count = min(len(candidates), limit)
    return chooser.choose(purpose, candidates, count) if count else candidates[:0]


def sample_regions(
    proposals: Tensor,
    *,
    boxes: Tensor,
    classes: Tensor,
    crowd: Tensor,
    settings: TargetSettings,
    quirks: Quirks,
    chooser: Chooser,
) -> RegionTargets:
    """Choose regions from the objects themselves and the proposals.

    Args:
        proposals: (M, 4) in pixels of the labelled image.
        boxes: Objects (N, 4) in the same pixels.
        classes: int64 (N,), from 1.
        crowd: bool (N,): the object stands for a group.
        settings: Thresholds and counts.
        quirks: Habits of the original to keep.
        chooser: Who chooses.
    """
    regions = torch.cat((boxes, proposals))
    if len(boxes):
        # With the quirk a group counts as an object of its class for proposals.
        overlap = overlaps(proposals, boxes)
        if not quirks.crowds_as_objects:
            overlap = overlap.masked_fill(crowd, 0.0)
        best, nearest = overlap.max(dim=1)
        if not quirks.crowds_as_objects and bool(crowd.any()):
            in_crowd = shares_inside(proposals, boxes[crowd]).amax(dim=1)
            lost = (best < settings.roi_positive_overlap) & (in_crowd > settings.crowd_share)
            best = best.masked_fill(lost, -1.0)
        own = torch.arange(len(boxes), device=boxes.device)
        best = torch.cat((torch.where(crowd, -1.0, 1.0).to(best), best))
        nearest = torch.cat((own, nearest))
    else:
        best = proposals.new_zeros(len(regions))
        nearest = torch.zeros(len(regions), dtype=torch.int64, device=proposals.device)

    positive = torch.nonzero(best >= settings.roi_positive_overlap).squeeze(1)
    positive = _choose(chooser, Purpose.ROI_POSITIVES, positive, settings.roi_positives)
    negative = torch.nonzero((best >= 0) & (best < settings.roi_positive_overlap)).squeeze(1)
    rest = settings.rois - len(positive)
    negative = _choose(chooser, Purpose.ROI_NEGATIVES, negative, rest)

    chosen = torch.cat((positive, negative))
    objects = nearest[positive]
    labels = torch.zeros_like(chosen)
    labels[: len(positive)] = classes[objects]
    deltas = encode_boxes(regions[positive], boxes[objects], BOX_HEAD_WEIGHTS)
    return RegionTargets(regions[chosen], labels, objects, deltas)


def mask_targets(
    regions: RegionTargets,
    *,
    shapes: Sequence[Shape],
    crowd: Tensor,
    resolution: int,
    quirks: Quirks,
) -> Tensor:
    """Rasterise the object of each positive region inside that region.

    Args:
        regions: As `sample_regions` returned them.
        shapes: The N objects' shapes, groups among them.
        crowd: bool (N,).
        resolution: Bins a side.
        quirks: Habits of the original to keep.

    Returns:
        float32 (P, resolution, resolution) of zeros and ones, on the regions' device; -1
        where a region has no mask to learn from, because it lies on a group.
    """
    count = len(regions.objects)
    boxes = regions.boxes[:count]
    objects = regions.objects
    if quirks.masks_by_bounds:
        # Whose outline's bounds overlap most, whatever object the box belongs to; never a group.
        bounds = boxes.new_tensor([shape.bounds for shape in shapes])
        objects = overlaps(boxes, bounds).masked_fill(crowd, -1.0).argmax(dim=1)
    targets = np.full((count, resolution, resolution), -1.0, np.float32)
    host_boxes, host_objects = boxes.cpu().numpy(), objects.cpu().numpy()
    groups = crowd.cpu().numpy()
    for index in np.unique(host_objects):
        if not groups[index]:
            mine = host_objects == index
            targets[mine] = shapes[index].rasterise(host_boxes[mine], resolution)
    return torch.from_numpy(targets).to(boxes.device)
