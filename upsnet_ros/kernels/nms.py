"""Non-maximum suppression of several lists at once, in static shapes."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from upsnet_ros.kernels import dispatch

#: Boxes of a list that the kernel can hold in the registers of one program.
LARGEST_LIST = 1024


class Kept(NamedTuple):
    """What is left of each list.

    Attributes:
        place: int32 (B, limit): places in the list, ascending; 0 in the padding.
        number: int32 (B,), of places that are no padding.
    """

    place: Tensor
    number: Tensor


def batched_nms(
    boxes: Tensor,
    numbers: Tensor,
    threshold: float,
    *,
    limit: int,
    groups: Tensor | None = None,
) -> Kept:
    """Suppress boxes that overlap better ones of their list; `batched_nms_reference` defines it.

    Args:
        boxes: float32 (B, N, 4), inclusive corners, each list by descending score.
        numbers: int32 (B,) on the device: the first so many boxes of a list are there.
        threshold: IoU above which the lower score goes.
        limit: Boxes kept of a list, the best ones.
        groups: int (B, N); boxes of different groups never suppress each other.
    """
    if boxes.dim() != 3 or boxes.shape[2] != 4 or numbers.shape != boxes.shape[:1]:
        raise ValueError(
            f"boxes and numbers have shapes {tuple(boxes.shape)} and {tuple(numbers.shape)}, but "
            "they must be (B, N, 4) and (B,)"
        )

    def kernel() -> Kept:
        from upsnet_ros.kernels import nms_triton

        return nms_triton.batched_nms(boxes, numbers, threshold, limit=limit, groups=groups)

    def twin() -> Kept:
        return batched_nms_reference(boxes, numbers, threshold, limit=limit, groups=groups)

    if boxes.shape[1] > LARGEST_LIST:
        return twin()
    return dispatch.run("nms", boxes.device, kernel=kernel, twin=twin)


def batched_nms_reference(
    boxes: Tensor,
    numbers: Tensor,
    threshold: float,
    *,
    limit: int,
    groups: Tensor | None = None,
) -> Kept:
    """What `batched_nms` must return: greedily, box by box."""
    batch, count = boxes.shape[:2]
    place = torch.arange(count, device=boxes.device)
    near, far = boxes[..., :2], boxes[..., 2:] + 1
    area = (far - near).prod(dim=2)
    inner = torch.minimum(far[:, :, None], far[:, None]) - torch.maximum(
        near[:, :, None], near[:, None]
    )
    shared = inner.clamp(min=0).prod(dim=3)
    rivals = shared / (area[:, :, None] + area[:, None] - shared) > threshold
    if groups is not None:
        rivals &= groups[:, :, None] == groups[:, None]
    kept = place < numbers[:, None]
    for i in range(count):
        kept = kept & ~(rivals[:, i] & kept[:, i : i + 1] & (place > i))
    rank = kept.cumsum(dim=1) - 1
    # One place more, where everything else goes.
    index = rank.new_zeros(batch, limit + 1)
    target = torch.where(kept & (rank < limit), rank, limit)
    index.scatter_(1, target, place.expand(batch, -1))
    return Kept(index[:, :limit].int(), kept.sum(dim=1).clamp(max=limit).int())
