"""The panoptic head over padded lists of instances, in fixed shapes.

The reference defines the result: the argmax of `network.panoptic_logits` over stuff, instances and
the unknown channel.

Its shapes do not depend on the number of instances, and neither form waits for the device.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from upsnet_ros.ops import dispatch

#: Panoptic id of pixels that the unknown channel won.
UNKNOWN = -1
#: Value of pixels whose class a label map leaves out: void, but not unknown.
UNMAPPED = -2
#: The semantic logits come at a quarter of the network's input size.
SEMANTIC_STRIDE = 4


class HeadMaps(NamedTuple):
    """Maps (B, H, W).

    Attributes:
        panoptic: int16: stuff class, num_stuff + n for instance n, or `UNKNOWN`.
        semantic: int16: argmax of the semantic logits.
        unknown_score: uint8, or None: 255 times the logistic of the unknown channel's lead.
        confidence: uint8, or None: 255 times the largest semantic probability.
        max_logit: float32, or None: the largest semantic logit.
    """

    panoptic: Tensor
    semantic: Tensor
    unknown_score: Tensor | None
    confidence: Tensor | None
    max_logit: Tensor | None


class MapOptions(NamedTuple):
    """The options of `panoptic_maps` and of `heuristic_merge.merged_maps`.

    Attributes:
        num_stuff: Number of stuff classes.
        unknown_score: Whether to fill `HeadMaps.unknown_score`.
        confidence: Whether to fill `HeadMaps.confidence`.
        max_logit: Whether to fill `HeadMaps.max_logit`.
    """

    num_stuff: int
    unknown_score: bool = False
    confidence: bool = False
    max_logit: bool = False


class LineTable(NamedTuple):
    """Which semantic logits the pixels of a line read along it.

    Attributes:
        low: int32 (P,), the first cell.
        weights: float32 (taps, P), of that cell and the next ones; 0 beyond the last cell.
    """

    low: Tensor
    weights: Tensor


class GridTables(NamedTuple):
    """Which semantic logits the pixels of a grid read: `LineTable` of its rows and columns."""

    rows: LineTable
    columns: LineTable

    @property
    def size(self) -> tuple[int, int]:
        """Height and width of the grid."""
        return len(self.rows.low), len(self.columns.low)

    @property
    def taps(self) -> int:
        """Cells that a pixel reads in each direction."""
        return len(self.rows.weights)


def line_table(
    pixels: int, cells: int, *, scale: float, via: int | None, device: torch.device | str
) -> LineTable:
    """Return the table of a line, half-pixel centres, edges repeated.

    Args:
        pixels: Of the line.
        cells: Semantic logits along it.
        scale: Pixels of the network's input for each pixel of the line.
        via: Pixels of the unpadded input along it, where logits are brought to these first and from
            there to the line's, so that a pixel reads three cells; None brings them at once, and it
            reads two.
        device: Of the table.
    """
    pixel = torch.arange(pixels, dtype=torch.float64, device=device)
    if via is None:
        low, share = _between((pixel + 0.5) * (scale / SEMANTIC_STRIDE) - 0.5, cells)
        return LineTable(low.int(), torch.stack((1 - share, share)).float())
    taps = 3
    first, further = _between((pixel + 0.5) * scale - 0.5, via)
    weights = torch.zeros(taps, pixels, dtype=torch.float64, device=device)
    base, _ = _between((first + 0.5) / SEMANTIC_STRIDE - 0.5, cells)
    for step, part in ((0, 1 - further), (1, further)):
        between = (first + step).clamp(max=via - 1)
        low, share = _between((between + 0.5) / SEMANTIC_STRIDE - 0.5, cells)
        offset = low - base
        for tap in range(taps):
            weights[tap] += part * (1 - share) * (offset == tap)
            weights[tap] += part * share * (offset + 1 == tap)
    return LineTable(base.int(), weights.float())


def _between(position: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """Return the lower of the values that positions lie between, and the share of the next."""
    position = position.clamp(0, count - 1)
    low = position.floor()
    return low, position - low


def interpolated(logits: Tensor, tables: GridTables) -> Tensor:
    """Return semantic logits (S, h, w) at the pixels of a grid: float32 (S, H, W)."""
    logits = logits.float()
    for dim, table in ((2, tables.columns), (1, tables.rows)):
        shape = [-1 if axis == dim else 1 for axis in range(3)]
        total = torch.zeros((), device=logits.device)
        for tap, weight in enumerate(table.weights):
            cell = (table.low + tap).clamp(max=logits.shape[dim] - 1)
            total = total + weight.view(shape) * logits.index_select(dim, cell)
        logits = total
    return logits


def panoptic_maps(
    semantic: Tensor,
    boxes: Tensor,
    classes: Tensor,
    mask_logits: Tensor,
    counts: Tensor,
    unknown_margin: Tensor,
    tables: GridTables,
    *,
    options: MapOptions,
) -> HeadMaps:
    """Return the maps of B frames; `panoptic_maps_reference` defines them.

    Args:
        semantic: (B, S, h, w) of any float type and memory format, stuff first.
        boxes: float32 (B, N, 4), inclusive corners in pixels of the grid, inside of it.
        classes: int (B, N); class c reads channel num_stuff - 1 + c, and 0 reads zeros.
        mask_logits: (B, N, M, M) of any float type.
        counts: int32 (B,) on the device: number of valid instances of each frame; the others are
            padding. If it is 0, no instance is a candidate, and the segment terms are zero.
        unknown_margin: float32 (1,) on the device: by how much the unknown channel must lead over
            the best other one.
        tables: Tables of the grid.
        options: Number of stuff classes, and the optional maps.
    """
    check_inputs(semantic, boxes, classes, mask_logits, counts, unknown_margin, options)
    inputs = (semantic, boxes, classes, mask_logits, counts, unknown_margin, tables)

    def kernel() -> HeadMaps:
        from upsnet_ros.ops.triton import panoptic as panoptic_triton

        return panoptic_triton.panoptic_maps(*inputs, options=options)

    return dispatch.run(
        "panoptic",
        semantic.device,
        kernel=kernel,
        reference=lambda: panoptic_maps_reference(*inputs, options=options),
    )


def panoptic_maps_reference(
    semantic: Tensor,
    boxes: Tensor,
    classes: Tensor,
    mask_logits: Tensor,
    counts: Tensor,
    unknown_margin: Tensor,
    tables: GridTables,
    *,
    options: MapOptions,
) -> HeadMaps:
    """Reference implementation of `panoptic_maps`; ties go to stuff, then to the first instance."""
    num_stuff = options.num_stuff
    frames: list[tuple[Any, ...]] = []
    for image in range(len(semantic)):
        logits = interpolated(semantic[image], tables)
        instance, index, segment = _instances(
            logits,
            boxes[image],
            classes[image],
            mask_logits[image],
            counts[image],
            num_stuff=num_stuff,
        )
        stuff, stuff_id = _first_max(logits[:num_stuff])
        thing, thing_id = _first_max(logits[num_stuff:])
        known = torch.maximum(stuff, instance)
        ids = torch.where(instance > stuff, num_stuff + index, stuff_id)
        lead = thing - segment - known
        best = torch.maximum(stuff, thing)
        frames.append(
            (
                ids.masked_fill(lead > unknown_margin, UNKNOWN).to(torch.int16),
                torch.where(thing > stuff, num_stuff + thing_id, stuff_id).to(torch.int16),
                _byte(torch.sigmoid(lead)) if options.unknown_score else None,
                _byte((best - logits.logsumexp(dim=0)).exp()) if options.confidence else None,
                best if options.max_logit else None,
            )
        )
    return stack_maps(frames)


def stack_maps(frames: Sequence[tuple[Any, ...]]) -> HeadMaps:
    """Return the maps of a batch from those of its frames, (H, W) or None each."""
    maps: list[Any] = [
        None if each[0] is None else torch.stack(each) for each in zip(*frames, strict=True)
    ]
    return HeadMaps(*maps)


def _instances(
    logits: Tensor,
    boxes: Tensor,
    classes: Tensor,
    mask_logits: Tensor,
    count: Tensor,
    *,
    num_stuff: int,
) -> tuple[Tensor, Tensor, Tensor]:
    """Return of one frame the best instance logit, its index and the largest segment term."""
    instance = torch.full_like(logits[0], -torch.inf)
    index = torch.zeros_like(instance, dtype=torch.int64)
    segment = torch.full_like(instance, -torch.inf)
    y = torch.arange(logits.shape[1], device=logits.device)
    x = torch.arange(logits.shape[2], device=logits.device)
    near, far = boxes[:, :2].trunc().long(), boxes[:, 2:].trunc().long()
    far = torch.maximum(near, far) + 1
    cut = boxes[:, 2:].round().long() + 1
    channels = (num_stuff - 1 + classes.long()).clamp(min=0)
    for n in range(len(boxes)):
        present = count > n
        rows = (y >= near[n, 1]) & (y < cut[n, 1]) & (classes[n] > 0)
        columns = (x >= near[n, 0]) & (x < cut[n, 0])
        term = torch.where(rows[:, None] & columns, logits.index_select(0, channels[n : n + 1]), 0)
        mask = paste(mask_logits[n].float(), near[n], far[n], y, x)
        value = term[0] + mask
        better = present & (value > instance)
        instance = torch.where(better, value, instance)
        index = torch.where(better, n, index)
        segment = torch.where(present, torch.maximum(segment, term[0]), segment)
    return instance, index, torch.where(count > 0, segment, 0.0)


def _first_max(x: Tensor) -> tuple[Tensor, Tensor]:
    # Unlike max, argmax is documented to return the first index of equal values.
    index = x.argmax(dim=0, keepdim=True)
    return x.gather(0, index)[0], index[0]


def _byte(share: Tensor) -> Tensor:
    return (share * 255).round().to(torch.uint8)


def _blend(x: Tensor, dim: int, low: Tensor, share: Tensor) -> Tensor:
    """Interpolate along a dimension."""
    high = (low + 1).clamp(max=x.shape[dim] - 1)
    shape = [1] * x.dim()
    shape[dim] = -1
    share = share.view(shape)
    return (1 - share) * x.index_select(dim, low) + share * x.index_select(dim, high)


def paste(mask: Tensor, near: Tensor, far: Tensor, y: Tensor, x: Tensor) -> Tensor:
    """Resize a mask (M, M) to the pixels near .. far - 1, (x, y) each; zero elsewhere: (H, W)."""
    bins = len(mask)
    inside = []
    for dim, pixel in ((0, y), (1, x)):
        start, stop = near[1 - dim], far[1 - dim]
        scale = bins / (stop - start).float()
        position = ((pixel - start + 0.5) * scale - 0.5).clamp(0, bins - 1)
        low = position.floor()
        mask = _blend(mask, dim, low.int(), position - low)
        inside.append((pixel >= start) & (pixel < stop))
    return torch.where(inside[0][:, None] & inside[1], mask, 0.0)


def check_inputs(
    semantic: Tensor,
    boxes: Tensor,
    labels: Tensor,
    mask_logits: Tensor,
    counts: Tensor,
    unknown_margin: Tensor,
    options: MapOptions,
) -> None:
    """Raise ValueError if the shapes of a head's inputs do not match; labels are (B, N)."""
    if semantic.dim() != 4 or not 0 < options.num_stuff < semantic.shape[1]:
        raise ValueError(
            f"semantic has shape {tuple(semantic.shape)}, but it must be (B, S, h, w) with stuff "
            f"({options.num_stuff}) and things"
        )
    check_detections(boxes, labels, mask_logits, counts, batch=len(semantic))
    if unknown_margin.shape != (1,):
        raise ValueError(
            f"unknown_margin has shape {tuple(unknown_margin.shape)}, but it must be (1,)"
        )


def check_detections(
    boxes: Tensor, classes: Tensor, mask_logits: Tensor, counts: Tensor, *, batch: int
) -> None:
    """Raise ValueError if the shapes of padded detections do not match."""
    n, bins = boxes.shape[-2], mask_logits.shape[-1]
    shapes = tuple(tuple(x.shape) for x in (boxes, classes, mask_logits, counts))
    wanted = ((batch, n, 4), (batch, n), (batch, n, bins, bins), (batch,))
    if n == 0 or batch == 0 or shapes != wanted:
        raise ValueError(
            f"boxes, classes, mask_logits and counts have shapes {shapes}, but they must be "
            f"(B, N, 4), (B, N), (B, N, M, M) and (B,), B {batch} and N at least 1"
        )
