"""The unified result: panoptic ids and semantic labels become segments (UPSNet, section 3.4)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from upsnet_ros.network.panoptic_head import UNKNOWN

#: Semantic id of void pixels in the final result.
VOID = 255


@dataclass(frozen=True, slots=True)
class Segments:
    """Final segments over an image.

    Attributes:
        semantic: int16 (H, W): stuff class, num_stuff - 1 + c for things of class c, or `VOID`.
        instance: int16 (H, W): 0 for stuff and void, else the instance's number. Numbers count
            the panoptic ids present, so those of regions turned into stuff are missing.
        region: int64 (H, W): row of the tables below.
        region_semantic: int64 (R,): the value of `semantic` in each region.
        region_instance: int64 (R,): the value of `instance` in each region.
        region_area: int64 (R,): pixels of each region, 0 for what is not there. Rows are the
            stuff classes, then the instances in the panoptic head's order, then unknown.
    """

    semantic: Tensor
    instance: Tensor
    region: Tensor
    region_semantic: Tensor
    region_instance: Tensor
    region_area: Tensor


def unify(
    panoptic: Tensor,
    semantic: Tensor,
    classes: Tensor,
    *,
    num_stuff: int,
    num_seg_classes: int,
    stuff_area_limit: int,
) -> Segments:
    """Let the semantic majority decide about instances, and drop small stuff.

    An instance whose most frequent semantic label is not its own class, but a stuff class with at
    least half of the pixels, becomes that stuff. Afterwards stuff classes with fewer pixels than
    the limit become void.

    Args:
        panoptic: int16 (H, W) as in `PanopticMaps`.
        semantic: int16 (H, W), semantic argmax.
        classes: int64 (N,), classes of the instances.
        num_stuff: Number of stuff classes.
        num_seg_classes: Number of semantic classes.
        stuff_area_limit: Pixels a stuff class needs.
    """
    count = len(classes)
    last = num_stuff + count
    region = torch.where(panoptic == UNKNOWN, last, panoptic.long())
    pair = region * num_seg_classes + semantic
    shares = torch.bincount(pair.flatten(), minlength=(last + 1) * num_seg_classes)
    shares = shares[: (last + 1) * num_seg_classes].view(last + 1, num_seg_classes)
    area = shares.sum(dim=1)

    rows = slice(num_stuff, last)
    majority_area, majority = shares[rows].max(dim=1)
    own = num_stuff - 1 + classes
    to_stuff = (majority < num_stuff) & (majority != own) & (2 * majority_area >= area[rows])
    # Numbers start at 1 and count the instances that own a pixel, converted ones included.
    number = (area[rows] > 0).cumsum(dim=0)

    region_semantic = torch.cat(
        (
            torch.arange(num_stuff, device=area.device),
            torch.where(to_stuff, majority, own),
            own.new_tensor([VOID]),
        )
    )
    region_instance = torch.zeros_like(region_semantic)
    region_instance[rows] = torch.where(to_stuff, 0, number)

    # The stand-in for "nothing found" carries a stuff id too, so its pixels count as well.
    totals = area.new_zeros(VOID + 1).index_add_(0, region_semantic, area)
    small = (region_semantic < num_stuff) & (totals[region_semantic] < stuff_area_limit)
    region_semantic = torch.where(small, VOID, region_semantic)
    return Segments(
        semantic=region_semantic.to(torch.int16)[region],
        instance=region_instance.to(torch.int16)[region],
        region=region,
        region_semantic=region_semantic,
        region_instance=region_instance,
        region_area=area,
    )
