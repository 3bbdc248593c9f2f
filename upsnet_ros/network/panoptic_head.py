"""The parameter-free panoptic head at inference: from logits to panoptic ids, tile by tile.

The result is the argmax over `panoptic_logits.panoptic_logits`, but neither that tensor nor the
full-size semantic logits ever exist: a tile upsamples its own part of the semantic logits and
looks only at the detections that reach into it. All others have logit zero there, so one
candidate, zero, stands for them.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from upsnet_ros.kernels.panoptic import SEMANTIC_STRIDE, UNKNOWN
from upsnet_ros.network.boxes import clip_boxes
from upsnet_ros.network.instance_head import Detections
from upsnet_ros.network.panoptic_logits import bilinear_weights, mask_bounds, segment_bounds, tent
from upsnet_ros.network.tiles import Tile, tiles_of

__all__ = ["UNKNOWN", "Grid", "HeadOptions", "PanopticHead", "PanopticMaps"]


@dataclass(frozen=True, slots=True)
class PanopticMaps:
    """Per-pixel results on a grid.

    Attributes:
        panoptic: int16 (H, W): stuff class, num_stuff + n for instance n, or `UNKNOWN`.
        semantic: int16 (H, W): argmax of the semantic logits, stuff first.
        unknown_score: uint8 (H, W), where asked for: 255 times the logistic of the unknown
            channel's lead over the best other channel; above 127 where it won.
        confidence: uint8 (H, W), where asked for: 255 times the largest semantic probability.
        max_logit: float32 (H, W), where asked for: the largest semantic logit.
    """

    panoptic: Tensor
    semantic: Tensor
    unknown_score: Tensor | None = None
    confidence: Tensor | None = None
    max_logit: Tensor | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class HeadOptions:
    """What is asked of the head beside its maps of ids.

    Attributes:
        unknown_margin: By how much the unknown channel must lead over the best other channel; 0 is
            the argmax of the paper, less makes more pixels unknown.
        unknown_score: Whether to fill `PanopticMaps.unknown_score`.
        confidence: Whether to fill `PanopticMaps.confidence`.
        max_logit: Whether to fill `PanopticMaps.max_logit`.
    """

    unknown_margin: float = 0.0
    unknown_score: bool = False
    confidence: bool = False
    max_logit: bool = False


def first_max(x: Tensor) -> tuple[Tensor, Tensor]:
    """Return the maximum over dim 0 and, int16, the first index that has it."""
    values = x.amax(dim=0)
    # On a CPU several times faster than max(dim=0), whose index search is not vectorised.
    rank = torch.arange(len(x), 0, -1, dtype=torch.int16, device=x.device)
    best = ((x == values) * rank.view(-1, *[1] * (x.dim() - 1))).amax(dim=0)
    return values, len(x) - best


@dataclass(frozen=True, slots=True)
class Grid:
    """Pixels on which the head works.

    Attributes:
        size: Height and width.
        scale: Pixels of the network's input for each pixel of the grid; 1 for the input itself.
    """

    size: tuple[int, int]
    scale: float = 1.0

    def boxes(self, boxes: Tensor) -> Tensor:
        """Bring boxes (..., 4), inclusive corners in the network's input, to the grid."""
        if self.scale == 1.0:
            return boxes
        near, far = boxes[..., :2] / self.scale, (boxes[..., 2:] + 1) / self.scale - 1
        return clip_boxes(torch.cat((near, far), dim=-1), self.size)


def upsample_part(logits: Tensor, tile: Tile, *, scale: float = 1.0) -> Tensor:
    """Return a tile's part of the semantic logits, bilinear with half-pixel centres.

    Args:
        logits: (S, h, w), a quarter of the network's input size.
        tile: Pixels of a grid.
        scale: Pixels of the network's input for each pixel of that grid.

    Returns:
        (S, tile height, tile width).
    """
    height, width = logits.shape[-2:]
    cells_per_pixel = scale / SEMANTIC_STRIDE
    y1, y2, rows = _cells(tile.y1, tile.y2, cells_per_pixel, height, logits.device)
    x1, x2, columns = _cells(tile.x1, tile.x2, cells_per_pixel, width, logits.device)
    return rows @ (logits[:, y1:y2, x1:x2] @ columns.T)


def _cells(
    start: int, stop: int, cells_per_pixel: float, count: int, device: torch.device
) -> tuple[int, int, Tensor]:
    """Return the range of cells that pixels start .. stop - 1 read, and with what weights."""
    first = max(0, int((start + 0.5) * cells_per_pixel - 0.5))
    last = min(count, int((stop - 0.5) * cells_per_pixel - 0.5) + 2)
    pixels = torch.arange(start, stop, dtype=torch.float64, device=device)
    positions = (pixels + 0.5) * cells_per_pixel - 0.5 - first
    return first, last, tent(positions.float(), last - first)


class PanopticHead:
    """The head over one frame's logits.

    Args:
        semantic: Semantic logits float32 (S, H/4, W/4).
        detections: N >= 1 accepted detections, in order.
        mask_logits: Their mask logits, float32 (N, M, M).
        grid: Where to compute.
        num_stuff: Number of stuff classes.
    """

    def __init__(
        self,
        *,
        semantic: Tensor,
        detections: Detections,
        mask_logits: Tensor,
        grid: Grid,
        num_stuff: int,
    ) -> None:
        self.semantic = semantic
        self.grid = grid
        self.boxes = grid.boxes(detections.boxes)
        self.classes = detections.classes
        self.mask_logits = mask_logits
        self.num_stuff = num_stuff

    def maps(self, options: HeadOptions | None = None) -> PanopticMaps:
        """Compute the maps of the whole frame."""
        options = options or HeadOptions()
        self._place()
        panoptic = torch.empty(self.grid.size, dtype=torch.int16, device=self.semantic.device)
        semantic = torch.empty_like(panoptic)
        scores = torch.empty_like(panoptic, dtype=torch.uint8) if options.unknown_score else None
        certain = torch.empty_like(panoptic, dtype=torch.uint8) if options.confidence else None
        highest = torch.empty_like(panoptic, dtype=torch.float32) if options.max_logit else None
        for tile in tiles_of(self.bounds, self.grid.size):
            area = (slice(tile.y1, tile.y2), slice(tile.x1, tile.x2))
            logits = upsample_part(self.semantic, tile, scale=self.grid.scale)
            stuff, stuff_id = first_max(logits[: self.num_stuff])
            thing, thing_id = first_max(logits[self.num_stuff :])
            semantic[area] = torch.where(thing > stuff, self.num_stuff + thing_id, stuff_id)

            instance, index, segment = self._instances(logits, tile)
            unknown = thing - segment
            known = torch.maximum(stuff, instance)
            ids = torch.where(instance > stuff, self.num_stuff + index, stuff_id)
            lead = unknown - known
            panoptic[area] = ids.masked_fill_(lead > options.unknown_margin, UNKNOWN)
            if scores is not None:
                scores[area] = (torch.sigmoid(lead) * 255).round().to(torch.uint8)
            best = torch.maximum(stuff, thing)
            if certain is not None:
                probability = (best - logits.logsumexp(dim=0)).exp()
                certain[area] = (probability * 255).round().to(torch.uint8)
            if highest is not None:
                highest[area] = best
        return PanopticMaps(panoptic, semantic, scores, certain, highest)

    def _place(self) -> None:
        """Work out where the detections are, and their mask logits line by line."""
        size, bins = self.grid.size, self.mask_logits.shape[-1]
        self.channels = self.num_stuff - 1 + self.classes
        self.found = self.classes > 0
        masks = mask_bounds(self.boxes)
        self.cuts = segment_bounds(self.boxes)
        self.bounds = masks.union(self.cuts)
        rows = bilinear_weights(masks.y1, masks.y2, length=size[0], bins=bins)
        self.rows = rows @ self.mask_logits
        columns = bilinear_weights(masks.x1, masks.x2, length=size[1], bins=bins)
        self.columns = columns.transpose(1, 2)
        self.y = torch.arange(size[0], device=self.semantic.device)
        self.x = torch.arange(size[1], device=self.semantic.device)

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
