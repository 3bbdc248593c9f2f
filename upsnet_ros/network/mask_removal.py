"""Which detections enter the panoptic head: masks mostly hidden by their own class are dropped."""

from __future__ import annotations

import torch
from torch import Tensor

from upsnet_ros.network.instance_head import Detections
from upsnet_ros.network.panoptic_logits import bilinear_weights, mask_bounds
from upsnet_ros.network.tiles import tiles_of


def remove_hidden_masks(
    detections: Detections, mask_logits: Tensor, *, size: tuple[int, int], threshold: float
) -> tuple[Tensor, Tensor]:
    """Select detections whose mask is not already covered by better ones of its own class.

    By descending score, a detection is accepted if its mask (logit > 0) is not empty and at most
    `threshold` of it is covered by masks accepted before it in the same class.

    That is a chain of decisions, solved here without walking along it: assume all accepted,
    decide everyone at once, and repeat with what came out until nothing changes. The k-th
    detection is right after k rounds at the latest, because it looks only at better ones, and
    in practice two or three rounds suffice.

    Args:
        detections: N detections.
        mask_logits: Mask logits of the own classes, float32 (N, M, M).
        size: Height and width of the grid the masks are compared on.
        threshold: Share of a mask that may be covered.

    Returns:
        Indices of the accepted detections by descending score, int64 (K,), and their mask
        logits, float32 (K, M, M). If none is accepted (all masks empty, or nothing found), the
        first detection alone, with all-zero logits: the original's behaviour.
    """
    device = mask_logits.device
    order = detections.scores.argsort(descending=True, stable=True)
    classes = detections.classes[order]
    bounds = mask_bounds(detections.boxes[order])
    bins = mask_logits.shape[-1]
    rows = bilinear_weights(bounds.y1, bounds.y2, length=size[0], bins=bins) @ mask_logits[order]
    columns = bilinear_weights(bounds.x1, bounds.x2, length=size[1], bins=bins).transpose(1, 2)

    # rivals[i, j]: j is better than i and of its class.
    index = torch.arange(len(order), device=device)
    rivals = (classes[:, None] == classes) & (index[:, None] > index)
    area = torch.zeros(len(order), dtype=torch.int64, device=device)
    contested = []
    for tile in tiles_of(bounds, size):
        members = tile.members
        if len(members) == 0:
            continue
        tile_rows = rows[members, tile.y1 : tile.y2]
        masks = (tile_rows @ columns[members, :, tile.x1 : tile.x2] > 0).flatten(1)
        area[members] += masks.sum(dim=1)
        tile_rivals = rivals[members][:, members]
        if bool(tile_rivals.any()):
            contested.append((members, masks, tile_rivals))

    possible = (area > 0) & (classes > 0)
    accepted = possible
    while True:
        hidden = torch.zeros_like(area)
        for members, masks, tile_rivals in contested:
            above = (tile_rivals & accepted[members]).float()
            hidden[members] += ((above @ masks.float() > 0) & masks).sum(dim=1)
        decided = possible & (hidden.double() / area.clamp(min=1) <= threshold)
        if torch.equal(decided, accepted):
            break
        accepted = decided
    kept = order[accepted]
    if len(kept) == 0:
        return order.new_zeros(1), torch.zeros_like(mask_logits[:1])
    return kept, mask_logits[kept]
