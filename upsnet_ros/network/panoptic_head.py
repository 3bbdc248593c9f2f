"""The parameter-free panoptic head at inference: mask removal, then panoptic ids, tile by tile.

Work that is dense in (detections x pixels) stays small this way: a tile sees only the few
detections near it, and its intermediate tensors fit in a CPU's cache.

The result is the argmax over `panoptic_logits.panoptic_logits`, but neither that tensor nor the
full-size semantic logits ever exist: a tile upsamples its own part of the semantic logits and
evaluates only the detections that overlap it. All others have logit zero there, so one
candidate, zero, stands for them.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from upsnet_ros.network.instance_head import Detections
from upsnet_ros.network.panoptic_logits import (
    Bounds,
    bilinear_weights,
    check_finite,
    mask_bounds,
    segment_bounds,
    tent,
)
from upsnet_ros.ops.boxes import CONTINUOUS, INCLUSIVE, clip_boxes
from upsnet_ros.ops.panoptic import SEMANTIC_STRIDE, UNKNOWN, GridTables, MapOptions, line_table

#: Height and width of a tile; multiples of 4, so that tiles meet the semantic grid.
TILE_SIZE = (128, 256)


@dataclass(frozen=True, slots=True)
class Tile:
    """Pixels y1 .. y2 - 1, x1 .. x2 - 1 and the indices, int64 (K,), of boxes that touch them."""

    y1: int
    y2: int
    x1: int
    x2: int
    members: Tensor


def _touches(start: Tensor, stop: Tensor, edges: Tensor) -> Tensor:
    return (start[:, None] < edges[1:]) & (stop[:, None] > edges[:-1])


def tiles_of(bounds: Bounds, size: tuple[int, int]) -> Iterator[Tile]:
    """Yield the tiles of a grid of size (height, width), row by row."""
    (height, width), (tile_h, tile_w) = size, TILE_SIZE
    ys = [*range(0, height, tile_h), height]
    xs = [*range(0, width, tile_w), width]
    device = bounds.x1.device
    on_host = bounds.to("cpu")
    in_row = _touches(on_host.y1, on_host.y2, torch.tensor(ys))
    in_column = _touches(on_host.x1, on_host.x2, torch.tensor(xs))
    for i in range(len(ys) - 1):
        for j in range(len(xs) - 1):
            members = torch.nonzero(in_row[:, i] & in_column[:, j]).squeeze(1)
            yield Tile(ys[i], ys[i + 1], xs[j], xs[j + 1], members.to(device))


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

    def of_maps(self, num_stuff: int) -> MapOptions:
        """Return the options for `ops.panoptic` and `ops.heuristic_merge`."""
        return MapOptions(num_stuff, self.unknown_score, self.confidence, self.max_logit)


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
        scale: Pixels of the network's input for each pixel of the grid, down and across, or one
            number for both; 1 for the input itself.
        edge: Of the boxes in the network's input: `ops.boxes`.
        via: Height and width of the unpadded input, where semantic logits are brought to its pixels
            first and from there to the grid's, as Panoptic FPN does; None brings them at once.
    """

    size: tuple[int, int]
    scale: float | tuple[float, float] = 1.0
    edge: float = INCLUSIVE
    via: tuple[int, int] | None = None

    @property
    def scales(self) -> tuple[float, float]:
        """The scale down and across."""
        return self.scale if isinstance(self.scale, tuple) else (self.scale, self.scale)

    def tables(self, cells: tuple[int, int], device: torch.device | str) -> GridTables:
        """Return which of semantic logits (cells) the grid's pixels read, on a device."""
        rows, columns = (
            line_table(
                self.size[axis],
                cells[axis],
                scale=self.scales[axis],
                via=self.via and self.via[axis],
                device=device,
            )
            for axis in range(2)
        )
        return GridTables(rows, columns)

    def boxes(self, boxes: Tensor) -> Tensor:
        """Bring boxes (..., 4) in the network's input to the grid, with inclusive corners."""
        if self.scales == (1.0, 1.0) and self.edge == INCLUSIVE:
            return boxes
        near, far = self._scaled(boxes)
        return clip_boxes(torch.cat((near, far - 1), dim=-1), self.size)

    def extents(self, boxes: Tensor) -> Tensor:
        """Bring boxes (..., 4) in the network's input to the grid, with continuous corners."""
        return clip_boxes(torch.cat(self._scaled(boxes), dim=-1), self.size, edge=CONTINUOUS)

    def _scaled(self, boxes: Tensor) -> tuple[Tensor, Tensor]:
        down, across = self.scales
        scale: float | Tensor = down
        if down != across:
            # Filled by launches: a list would be copied from the host, which no graph can hold.
            scale = boxes.new_full((2,), across)
            scale[1].fill_(down)
        return boxes[..., :2] / scale, (boxes[..., 2:] + self.edge) / scale


def upsample_part(
    logits: Tensor,
    tile: Tile,
    *,
    scale: float | tuple[float, float] = 1.0,
    via: tuple[int, int] | None = None,
) -> Tensor:
    """Return a tile's part of the semantic logits, bilinear with half-pixel centres.

    Args:
        logits: (S, h, w), a quarter of the network's input size.
        tile: Pixels of a grid.
        scale: Pixels of the network's input for each pixel of that grid: see `Grid`.
        via: See `Grid`.

    Returns:
        (S, tile height, tile width).
    """
    height, width = logits.shape[-2:]
    down, across = scale if isinstance(scale, tuple) else (scale, scale)
    lines, across_lines = via or (None, None)
    y1, y2, rows = _cells(tile.y1, tile.y2, down, height, logits.device, via=lines)
    x1, x2, columns = _cells(tile.x1, tile.x2, across, width, logits.device, via=across_lines)
    return rows @ (logits[:, y1:y2, x1:x2] @ columns.T)


def _cells(
    start: int,
    stop: int,
    scale: float,
    count: int,
    device: torch.device,
    *,
    via: int | None = None,
) -> tuple[int, int, Tensor]:
    """Return the range of cells that pixels start .. stop - 1 read, and with what weights.

    Where the way goes `via` a line of so many pixels of the network's input, the weights are those
    of both interpolations multiplied.
    """
    if via is not None:
        first, last, weights = _between(start, stop, scale, via, device)
        low, high, cells = _between(first, last, 1 / SEMANTIC_STRIDE, count, device)
        return low, high, weights @ cells
    return _between(start, stop, scale / SEMANTIC_STRIDE, count, device)


def _between(
    start: int, stop: int, cells_per_pixel: float, count: int, device: torch.device
) -> tuple[int, int, Tensor]:
    """Return the range of `count` values that pixels start .. stop - 1 read, and the weights."""
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
        """Compute the maps of the whole frame.

        Raises:
            DivergedError: Logits are NaN or infinite.
        """
        options = options or HeadOptions()
        check_finite(self.semantic, self.mask_logits, self.classes)
        self._place()
        panoptic = torch.empty(self.grid.size, dtype=torch.int16, device=self.semantic.device)
        semantic = torch.empty_like(panoptic)
        scores = torch.empty_like(panoptic, dtype=torch.uint8) if options.unknown_score else None
        certain = torch.empty_like(panoptic, dtype=torch.uint8) if options.confidence else None
        highest = torch.empty_like(panoptic, dtype=torch.float32) if options.max_logit else None
        for tile in tiles_of(self.bounds, self.grid.size):
            area = (slice(tile.y1, tile.y2), slice(tile.x1, tile.x2))
            logits = upsample_part(self.semantic, tile, scale=self.grid.scale, via=self.grid.via)
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
