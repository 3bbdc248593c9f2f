"""Which detections enter the panoptic head, in static shapes: `network.mask_removal` defines it."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from upsnet_ros.kernels import dispatch
from upsnet_ros.kernels.panoptic import check_detections, paste

#: Classes that the kernel tells apart: bits of the words in which it keeps a pixel's covers.
LARGEST_CLASS = 95


class Accepted(NamedTuple):
    """Which masks stay.

    Attributes:
        place: int32 (B, N), places of the accepted detections, ascending; 0 in the padding.
        number: int32 (B,), of places that are no padding; at least 1.
        blank: bool (B,): none was accepted, and the first stands in, whose mask logits are to be
            taken for zeros.
    """

    place: Tensor
    number: Tensor
    blank: Tensor


def accept_masks(
    boxes: Tensor,
    classes: Tensor,
    mask_logits: Tensor,
    numbers: Tensor,
    *,
    size: tuple[int, int],
    threshold: float,
) -> Accepted:
    """Drop masks that better ones of their class hide; `accept_masks_reference` defines the result.

    Args:
        boxes: float32 (B, N, 4), inclusive corners in pixels of the grid, by descending score.
        classes: int (B, N) up to `LARGEST_CLASS`; class 0 is never accepted.
        mask_logits: (B, N, M, M) of any float type.
        numbers: int32 (B,) on the device: the first so many detections of a frame are there.
            Padding should be zeros, so that where nothing was found the stand-in has class 0 and
            one pixel.
        size: Height and width of the grid on which masks are compared.
        threshold: Share of a mask that may be covered.
    """
    check_detections(boxes, classes, mask_logits, numbers, batch=len(boxes))
    tensors = (boxes, classes, mask_logits, numbers)

    def kernel() -> Accepted:
        from upsnet_ros.kernels import hidden_masks_triton

        return hidden_masks_triton.accept_masks(*tensors, size=size, threshold=threshold)

    return dispatch.run(
        "hidden_masks",
        boxes.device,
        kernel=kernel,
        twin=lambda: accept_masks_reference(*tensors, size=size, threshold=threshold),
    )


def accept_masks_reference(
    boxes: Tensor,
    classes: Tensor,
    mask_logits: Tensor,
    numbers: Tensor,
    *,
    size: tuple[int, int],
    threshold: float,
) -> Accepted:
    """What `accept_masks` must return: frame by frame, mask by mask."""
    frames = zip(boxes, classes, mask_logits, numbers, strict=True)
    accepted = torch.stack([_accept(*one, size=size, threshold=threshold) for one in frames])
    count = boxes.shape[1]
    place = torch.arange(count, device=boxes.device)
    rank = accepted.cumsum(dim=1) - 1
    # One place more, where everything else goes.
    index = place.new_zeros(len(boxes), count + 1)
    index.scatter_(1, torch.where(accepted, rank, count), place.expand(len(boxes), -1))
    number = accepted.sum(dim=1).int()
    return Accepted(index[:, :count].int(), number.clamp(min=1), number == 0)


def _accept(
    boxes: Tensor,
    classes: Tensor,
    mask_logits: Tensor,
    number: Tensor,
    *,
    size: tuple[int, int],
    threshold: float,
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
        mask = paste(mask_logits[n].float(), near[n], far[n], y, x) > 0
        covered = cover.index_select(0, kind)[0]
        area, hidden = mask.sum(), (mask & covered).sum()
        stays = (area > 0) & (kind > 0) & (number > n)
        stays = stays & (hidden.double() / area.clamp(min=1) <= threshold)
        accepted.append(stays)
        cover.index_copy_(0, kind, (covered | (mask & stays))[None])
    return torch.cat(accepted)
