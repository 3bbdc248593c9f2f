"""The maps of Panoptic FPN's merge over padded lists of instances, in fixed shapes.

Kirillov et al., "Panoptic Feature Pyramid Networks", CVPR 2019, section 3: instances by descending
score, then stuff. Which instances are accepted is `mask_removal.accept_masks`.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from upsnet_ros.ops import dispatch
from upsnet_ros.ops.mask_removal import covered_pixels
from upsnet_ros.ops.panoptic import (
    UNKNOWN,
    GridTables,
    HeadMaps,
    MapOptions,
    check_inputs,
    interpolated,
    stack_maps,
)


def merged_maps(
    semantic: Tensor,
    boxes: Tensor,
    mask_logits: Tensor,
    indices: Tensor,
    counts: Tensor,
    unknown_margin: Tensor,
    tables: GridTables,
    *,
    options: MapOptions,
) -> HeadMaps:
    """Return the maps of B frames; `merged_maps_reference` defines them.

    Args:
        semantic: (B, S, h, w) of any float type and memory format, stuff first.
        boxes: float32 (B, N, 4), continuous corners in pixels of the grid, inside of it.
        mask_logits: (B, N, M, M) of any float type.
        indices: int32 (B, N), of the accepted instances by descending score; padded.
        counts: int32 (B,) on the device: number of accepted instances.
        unknown_margin: float32 (1,) on the device: by how much things must lead over the best
            stuff class for a pixel of no instance to be unknown.
        tables: Tables of the grid.
        options: Number of stuff classes, and the optional maps.
    """
    check_inputs(semantic, boxes, indices, mask_logits, counts, unknown_margin, options)
    inputs = (semantic, boxes, mask_logits, indices, counts, unknown_margin, tables)

    def kernel() -> HeadMaps:
        from upsnet_ros.ops.triton import heuristic_merge as heuristic_merge_triton

        return heuristic_merge_triton.merged_maps(*inputs, options=options)

    return dispatch.run(
        "heuristic_merge",
        semantic.device,
        kernel=kernel,
        reference=lambda: merged_maps_reference(*inputs, options=options),
    )


def merged_maps_reference(
    semantic: Tensor,
    boxes: Tensor,
    mask_logits: Tensor,
    indices: Tensor,
    counts: Tensor,
    unknown_margin: Tensor,
    tables: GridTables,
    *,
    options: MapOptions,
) -> HeadMaps:
    """Reference implementation of `merged_maps`; ties go to stuff, and then to the first class."""
    num_stuff = options.num_stuff
    y, x = (torch.arange(side, device=semantic.device) for side in tables.size)
    frames: list[tuple[Any, ...]] = []
    for image in range(len(semantic)):
        logits = interpolated(semantic[image], tables)
        owner = torch.full((len(y), len(x)), -1, dtype=torch.int64, device=semantic.device)
        for k in range(indices.shape[1]):
            at = indices[image, k : k + 1].long()
            box, mask = boxes[image].index_select(0, at)[0], mask_logits[image].index_select(0, at)
            mine = covered_pixels(mask[0], box, y, x) & (counts[image] > k)
            owner = torch.where(mine & (owner < 0), k, owner)
        stuff, stuff_id = logits[:num_stuff].max(dim=0)
        thing, thing_id = logits[num_stuff:].max(dim=0)
        lead, known = thing - stuff, owner >= 0
        rest = stuff_id.masked_fill(lead > unknown_margin, UNKNOWN)
        best = torch.maximum(stuff, thing)
        score = (torch.sigmoid(lead) * 255).round().to(torch.uint8).masked_fill(known, 0)
        sure = ((best - logits.logsumexp(dim=0)).exp() * 255).round().to(torch.uint8)
        frames.append(
            (
                torch.where(known, num_stuff + owner, rest).to(torch.int16),
                torch.where(thing > stuff, num_stuff + thing_id, stuff_id).to(torch.int16),
                score if options.unknown_score else None,
                sure if options.confidence else None,
                best if options.max_logit else None,
            )
        )
    return stack_maps(frames)
