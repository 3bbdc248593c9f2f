"""Selects the detections for the panoptic head, in fixed shapes (see `remove_hidden_masks`)."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor

from upsnet_ros.ops import dispatch
from upsnet_ros.ops.boxes import CONTINUOUS, INCLUSIVE
from upsnet_ros.ops.panoptic import check_detections, paste

#: Classes that the kernel tells apart: bits of the words in which it keeps a pixel's covers.
LARGEST_CLASS = 95
#: Minimum probability of a pixel of a mask in a continuous box.
MASK_THRESHOLD = 0.5


class Accepted(NamedTuple):
    """Which masks are accepted.

    Attributes:
        indices: int32 (B, N), indices of the accepted detections, ascending; 0 in the padding.
        counts: int32 (B,), number of valid indices; at least 1.
        blank: bool (B,): none was accepted, and the first one is a placeholder, whose mask logits
            are to be treated as zeros.
    """

    indices: Tensor
    counts: Tensor
    blank: Tensor


def accept_masks(
    boxes: Tensor,
    classes: Tensor,
    mask_logits: Tensor,
    counts: Tensor,
    *,
    size: tuple[int, int],
    threshold: float,
    edge: float = INCLUSIVE,
) -> Accepted:
    """Drop masks that better ones of their class hide; `accept_masks_reference` defines the result.

    Args:
        boxes: float32 (B, N, 4), in pixels of the grid, by descending score.
        classes: int (B, N) up to `LARGEST_CLASS`; class 0 is never accepted.
        mask_logits: (B, N, M, M) of any float type.
        counts: int32 (B,) on the device: number of valid detections of each frame. Padding should
            be zeros, so that without detections the placeholder has class 0 and one pixel.
        size: Height and width of the grid on which masks are compared.
        threshold: Fraction of a mask that may be covered.
        edge: Convention of the boxes: see `ops.boxes`. In inclusive ones a mask covers the
            pixels whose logit is above 0, edges repeated. In continuous ones it covers those whose
            probability is at least a half, bilinear at their centres with zeros outside; a box may
            have no pixel.
    """
    check_detections(boxes, classes, mask_logits, counts, batch=len(boxes))
    tensors = (boxes, classes, mask_logits, counts)
    options: dict[str, Any] = {"size": size, "threshold": threshold, "edge": edge}

    def kernel() -> Accepted:
        from upsnet_ros.ops.triton import mask_removal as hidden_masks_triton

        return hidden_masks_triton.accept_masks(*tensors, **options)

    return dispatch.run(
        "hidden_masks",
        boxes.device,
        kernel=kernel,
        reference=lambda: accept_masks_reference(*tensors, **options),
    )


def accept_masks_reference(
    boxes: Tensor,
    classes: Tensor,
    mask_logits: Tensor,
    counts: Tensor,
    *,
    size: tuple[int, int],
    threshold: float,
    edge: float = INCLUSIVE,
) -> Accepted:
    """Reference implementation of `accept_masks`: frame by frame, mask by mask."""
    frames = zip(boxes, classes, mask_logits, counts, strict=True)
    accepted = torch.stack(
        [_accept(*one, size=size, threshold=threshold, edge=edge) for one in frames]
    )
    count = boxes.shape[1]
    position = torch.arange(count, device=boxes.device)
    rank = accepted.cumsum(dim=1) - 1
    # One more element, which receives everything else.
    index = position.new_zeros(len(boxes), count + 1)
    index.scatter_(1, torch.where(accepted, rank, count), position.expand(len(boxes), -1))
    accepted_counts = accepted.sum(dim=1).int()
    return Accepted(index[:, :count].int(), accepted_counts.clamp(min=1), accepted_counts == 0)


def _accept(
    boxes: Tensor,
    classes: Tensor,
    mask_logits: Tensor,
    count: Tensor,
    *,
    size: tuple[int, int],
    threshold: float,
    edge: float,
) -> Tensor:
    """Return which detections of a frame are accepted, bool (N,)."""
    device = boxes.device
    y = torch.arange(size[0], device=device)
    x = torch.arange(size[1], device=device)
    near, far = boxes[:, :2].trunc().long(), boxes[:, 2:].trunc().long()
    far = torch.maximum(near, far) + 1
    cover = torch.zeros(LARGEST_CLASS + 1, *size, dtype=torch.bool, device=device)
    accepted = []
    for n in range(len(boxes)):
        kind = classes[n : n + 1].long()
        if edge == CONTINUOUS:
            mask = covered_pixels(mask_logits[n], boxes[n], y, x)
        else:
            mask = paste(mask_logits[n].float(), near[n], far[n], y, x) > 0
        covered = cover.index_select(0, kind)[0]
        area, hidden = mask.sum(), (mask & covered).sum()
        stays = (area > 0) & (kind > 0) & (count > n)
        stays = stays & (hidden.double() / area.clamp(min=1) <= threshold)
        accepted.append(stays)
        cover.index_copy_(0, kind, (covered | (mask & stays))[None])
    return torch.cat(accepted)


def covered_pixels(mask_logits: Tensor, box: Tensor, y: Tensor, x: Tensor) -> Tensor:
    """Return which pixels a mask (M, M) in a continuous box (4,) covers, bool (Y, X).

    Those at whose centre its probability is at least a half, bilinear with zeros outside. A box
    without width or height covers none.
    """
    value = mask_logits.float().sigmoid()
    bins, corners = len(value), box.double()
    for dim, pixel in ((0, y), (1, x)):
        start, stop = corners[1 - dim], corners[3 - dim]
        position = (pixel.double() + 0.5 - start) / (stop - start) * bins - 0.5
        # More than one bin outside the mask nothing is covered, and infinity times 0 is NaN.
        position = position.nan_to_num(-2.0).clamp(-2, bins + 1).float()
        weights = 1 - (position[:, None] - torch.arange(bins, device=position.device)).abs()
        weights = weights.clamp(min=0)
        value = weights @ value if dim == 0 else value @ weights.T
    filled = (box[2] > box[0]) & (box[3] > box[1])
    return (value >= MASK_THRESHOLD) & filled
