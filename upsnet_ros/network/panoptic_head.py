"""The parameter-free panoptic head at inference: from logits to panoptic ids, tile by tile.

The result is the argmax over `panoptic_logits.panoptic_logits`, but neither that tensor nor the
full-size semantic logits ever exist: a tile upsamples its own part of the semantic logits and
looks only at the detections that reach into it. All others have logit zero there, so one
candidate, zero, stands for them.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from upsnet_ros.network.instance_head import Detections
from upsnet_ros.network.panoptic_logits import bilinear_weights, mask_bounds, segment_bounds
from upsnet_ros.network.tiles import Tile, tiles_of

#: Panoptic id of pixels that the unknown channel won.
UNKNOWN = -1
#: The semantic logits come at a quarter of the network's input size.
SEMANTIC_STRIDE = 4


@dataclass(frozen=True, slots=True)
class PanopticMaps:
    """Per-pixel results at the network's input size.

    Attributes:
        panoptic: int16 (H, W): stuff class, num_stuff + n for instance n, or `UNKNOWN`.
        semantic: int16 (H, W): argmax of the semantic logits, stuff first.
        unknown_score: uint8 (H, W), where asked for: 255 times the logistic of the unknown
            channel's lead over the best other channel; above 127 where it won.
        confidence: uint8 (H, W), where asked for: 255 times the largest semantic probability.
    """

    panoptic: Tensor
    semantic: Tensor
    unknown_score: Tensor | None = None
    confidence: Tensor | None = None


def first_max(x: Tensor) -> tuple[Tensor, Tensor]:
    """Return the maximum over dim 0 and, int16, the first index that has it."""
    values = x.amax(dim=0)
    # On a CPU several times faster than max(dim=0), whose index search is not vectorised.
    rank = torch.arange(len(x), 0, -1, dtype=torch.int16, device=x.device)
    best = ((x == values) * rank.view(-1, *[1] * (x.dim() - 1))).amax(dim=0)
    return values, len(x) - best


def upsample_part(logits: Tensor, tile: Tile) -> Tensor:
    """Return the tile's part of semantic logits (S, H/4, W/4) upsampled fourfold, bilinear."""
    height, width = logits.shape[-2:]
    y1, x1 = tile.y1 // SEMANTIC_STRIDE, tile.x1 // SEMANTIC_STRIDE
    y2, x2 = -(-tile.y2 // SEMANTIC_STRIDE), -(-tile.x2 // SEMANTIC_STRIDE)
    # One cell more on each side where there is one: at the border the edge value repeats.
    top, left = min(y1, 1), min(x1, 1)
    part = logits[:, y1 - top : min(y2 + 1, height), x1 - left : min(x2 + 1, width)]
    up = F.interpolate(
        part[None], scale_factor=float(SEMANTIC_STRIDE), mode="bilinear", align_corners=False
    )[0]
    top, left = top * SEMANTIC_STRIDE, left * SEMANTIC_STRIDE
    return up[:, top : top + tile.y2 - tile.y1, left : left + tile.x2 - tile.x1]


class PanopticHead:
    """The head over one frame's logits.

    Args:
        semantic: Semantic logits float32 (S, H/4, W/4).
        detections: N >= 1 accepted detections, in order.
        mask_logits: Their mask logits, float32 (N, M, M).
        size: Height and width in pixels to compute; at most four times the semantic grid.
        num_stuff: Number of stuff classes.
    """

    def __init__(
        self,
        *,
        semantic: Tensor,
        detections: Detections,
        mask_logits: Tensor,
        size: tuple[int, int],
        num_stuff: int,
    ) -> None:
        self.semantic = semantic
        self.size = size
        self.num_stuff = num_stuff
        self.channels = num_stuff - 1 + detections.classes
        self.found = detections.classes > 0
        masks = mask_bounds(detections.boxes)
        self.cuts = segment_bounds(detections.boxes)
        self.bounds = masks.union(self.cuts)
        bins = mask_logits.shape[-1]
        rows = bilinear_weights(masks.y1, masks.y2, length=size[0], bins=bins)
        self.rows = rows @ mask_logits
        columns = bilinear_weights(masks.x1, masks.x2, length=size[1], bins=bins)
        self.columns = columns.transpose(1, 2)
        self.y = torch.arange(size[0], device=semantic.device)
        self.x = torch.arange(size[1], device=semantic.device)

    def maps(self, *, unknown_score: bool = False, confidence: bool = False) -> PanopticMaps:
        """Compute the maps of the whole frame."""
        panoptic = torch.empty(self.size, dtype=torch.int16, device=self.semantic.device)
        semantic = torch.empty_like(panoptic)
        scores = torch.empty_like(panoptic, dtype=torch.uint8) if unknown_score else None
        certain = torch.empty_like(panoptic, dtype=torch.uint8) if confidence else None
        for tile in tiles_of(self.bounds, self.size):
            area = (slice(tile.y1, tile.y2), slice(tile.x1, tile.x2))
            logits = upsample_part(self.semantic, tile)
            stuff, stuff_id = first_max(logits[: self.num_stuff])
            thing, thing_id = first_max(logits[self.num_stuff :])
            semantic[area] = torch.where(thing > stuff, self.num_stuff + thing_id, stuff_id)

            instance, index, segment = self._instances(logits, tile)
            unknown = thing - segment
            known = torch.maximum(stuff, instance)
            ids = torch.where(instance > stuff, self.num_stuff + index, stuff_id)
            panoptic[area] = ids.masked_fill_(unknown > known, UNKNOWN)
            if scores is not None:
                scores[area] = (torch.sigmoid(unknown - known) * 255).round().to(torch.uint8)
            if certain is not None:
                best = (torch.maximum(stuff, thing) - logits.logsumexp(dim=0)).exp()
                certain[area] = (best * 255).round().to(torch.uint8)
        return PanopticMaps(panoptic, semantic, scores, certain)

    def _instances(self, logits: Tensor, tile: Tile) -> tuple[Tensor, Tensor, Tensor]:
        """Return the best instance logit, its index (int16) and the largest segment term."""
        members = tile.members
        count = len(self.channels)
        absent = self._first_absent(members, count)
        if len(members) == 0:
            zeros = torch.zeros_like(logits[0])
            return zeros, zeros.to(torch.int16), zeros
        y, x = self.y[tile.y1 : tile.y2], self.x[tile.x1 : tile.x2]
        cuts = self.cuts
        rows = (y >= cuts.y1[members, None]) & (y < cuts.y2[members, None])
        columns = (x >= cuts.x1[members, None]) & (x < cuts.x2[members, None])
        rows = rows & self.found[members, None]
        inside = rows[:, :, None] & columns[:, None, :]
        segments = torch.where(inside, logits[self.channels[members]], 0.0)
        masks = self.rows[members, tile.y1 : tile.y2] @ self.columns[members, :, tile.x1 : tile.x2]
        best, local = first_max(masks.add_(segments))
        index = members.to(torch.int16)[local.long()]
        segment = segments.amax(dim=0)
        if absent is not None:
            segment = segment.clamp_(min=0)
            zero = (best < 0) | ((best == 0) & (index > absent))
            best = best.masked_fill_(zero, 0.0)
            index = index.masked_fill_(zero, absent)
        return best, index, segment

    @staticmethod
    def _first_absent(members: Tensor, count: int) -> int | None:
        """Return the lowest index in 0 .. count - 1 that is not in ascending members."""
        if len(members) == count:
            return None
        gaps = torch.nonzero(members != torch.arange(len(members), device=members.device))
        return int(gaps[0]) if len(gaps) else len(members)
