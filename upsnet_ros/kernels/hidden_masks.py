"""Which detections enter the panoptic head, in static shapes: `network.mask_removal` defines it."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from upsnet_ros.kernels import dispatch
from upsnet_ros.kernels.panoptic import paste

#: Classes that the kernel tells apart: bits of the words in which it keeps a pixel's covers.
LARGEST_CLASS = 95


class Accepted(NamedTuple):
    """Which masks stay.

    Attributes:
        place: int32 (N,), places of the accepted detections, ascending; 0 in the padding.
        number: int32 (1,), of places that are no padding; at least 1.
        blank: bool (1,): none was accepted, and the first stands in, whose mask logits are to be
            taken for zeros.
        settled: bool (1,): the decisions are final. Where it is false, `number` was reached after
            too few rounds, and the twin is to be asked.
    """

    place: Tensor
    number: Tensor
    blank: Tensor
    settled: Tensor


def accept_masks(
    boxes: Tensor,
    classes: Tensor,
    mask_logits: Tensor,
    count: Tensor,
    *,
    size: tuple[int, int],
    threshold: float,
    rounds: int = 8,
) -> Accepted:
    """Drop masks that better ones of their class hide; `accept_masks_reference` defines the result.

    Args:
        boxes: float32 (N, 4), inclusive corners in pixels of the grid, by descending score.
        classes: int (N,); class 0 is never accepted.
        mask_logits: (N, M, M) of any float type.
        count: int32 (1,) on the device: the first so many detections are there. Padding should be
            zeros, so that where nothing was found the stand-in has class 0 and one pixel.
        size: Height and width of the grid on which masks are compared.
        threshold: Share of a mask that may be covered.
        rounds: How often the kernel decides. As many as the longest chain of detections that hide
            each other is enough; three are in practice, and one more says that they were.
    """
    n, bins = len(boxes), mask_logits.shape[-1]
    shapes = (tuple(boxes.shape), tuple(classes.shape), tuple(mask_logits.shape))
    if n == 0 or shapes != ((n, 4), (n,), (n, bins, bins)):
        raise ValueError(
            f"boxes, classes and mask_logits have shapes {shapes}, but they must be (N, 4), (N,) "
            "and (N, M, M), N at least 1"
        )

    def kernel() -> Accepted:
        from upsnet_ros.kernels import hidden_masks_triton

        return hidden_masks_triton.accept_masks(
            boxes, classes, mask_logits, count, size=size, threshold=threshold, rounds=rounds
        )

    return dispatch.run(
        "hidden_masks",
        boxes.device,
        kernel=kernel,
        twin=lambda: accept_masks_reference(
            boxes, classes, mask_logits, count, size=size, threshold=threshold
        ),
    )


def accept_masks_reference(
    boxes: Tensor,
    classes: Tensor,
    mask_logits: Tensor,
    count: Tensor,
    *,
    size: tuple[int, int],
    threshold: float,
) -> Accepted:
    """What `accept_masks` must return, mask by mask; it is always settled."""
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
        stays = (area > 0) & (kind > 0) & (count > n)
        stays = stays & (hidden.double() / area.clamp(min=1) <= threshold)
        accepted.append(stays)
        cover.index_copy_(0, kind, (covered | (mask & stays))[None])
    return compact(torch.cat(accepted), torch.ones(1, dtype=torch.bool, device=device))


def compact(accepted: Tensor, settled: Tensor) -> Accepted:
    """Return the places of what is accepted, bool (N,), or the stand-in."""
    place = torch.arange(len(accepted), device=accepted.device)
    rank = accepted.cumsum(dim=0) - 1
    # One place more, where everything else goes.
    index = place.new_zeros(len(accepted) + 1)
    index.scatter_(0, torch.where(accepted, rank, len(accepted)), place)
    number = accepted.sum().int()[None]
    return Accepted(index[:-1].int(), number.clamp(min=1), number == 0, settled)
