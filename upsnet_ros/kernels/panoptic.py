"""The panoptic head over padded lists of instances, in static shapes.

The twin defines the result: the argmax of `network.panoptic_logits` over stuff, instances and the
unknown channel. Its shapes do not depend on how many instances there are, and neither form waits
for the device.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor

from upsnet_ros.kernels import dispatch

#: Panoptic id of pixels that the unknown channel won.
UNKNOWN = -1
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


def axis_table(
    pixels: int, cells: int, cells_per_pixel: float, device: torch.device | str
) -> tuple[Tensor, Tensor]:
    """Return between which cells each pixel of a line lies, half-pixel centres, edges repeated.

    Returns:
        int32 (pixels,), the lower cell; float32 (pixels,), the share of the one above it.
    """
    pixel = torch.arange(pixels, dtype=torch.float64, device=device)
    position = ((pixel + 0.5) * cells_per_pixel - 0.5).clamp(0, cells - 1)
    low = position.floor()
    return low.int(), (position - low).float()


def panoptic_maps(
    semantic: Tensor,
    boxes: Tensor,
    classes: Tensor,
    mask_logits: Tensor,
    numbers: Tensor,
    unknown_margin: Tensor,
    *,
    size: tuple[int, int],
    num_stuff: int,
    scale: float = 1.0,
    unknown_score: bool = False,
    confidence: bool = False,
    max_logit: bool = False,
) -> HeadMaps:
    """Return the maps of B frames; `panoptic_maps_reference` defines them.

    Args:
        semantic: (B, S, h, w) of any float type and memory format, a quarter of the network's
            input size, stuff first.
        boxes: float32 (B, N, 4), inclusive corners in pixels of the grid, inside of it.
        classes: int (B, N); class c reads channel num_stuff - 1 + c, and 0 reads zeros.
        mask_logits: (B, N, M, M) of any float type.
        numbers: int32 (B,) on the device: the first so many instances of a frame are there, others
            padding. Where it is 0, no instance is a candidate, and the segment terms are zero.
        unknown_margin: float32 (1,) on the device: by how much the unknown channel must lead over
            the best other one.
        size: Height and width of the grid.
        num_stuff: Number of stuff classes.
        scale: Pixels of the network's input for each pixel of the grid.
        unknown_score: Whether to fill `HeadMaps.unknown_score`.
        confidence: Whether to fill `HeadMaps.confidence`.
        max_logit: Whether to fill `HeadMaps.max_logit`.
    """
    tensors = (semantic, boxes, classes, mask_logits, numbers, unknown_margin)
    _check(*tensors, num_stuff=num_stuff)
    options: dict[str, Any] = {
        "size": size,
        "num_stuff": num_stuff,
        "scale": scale,
        "unknown_score": unknown_score,
        "confidence": confidence,
        "max_logit": max_logit,
    }

    def kernel() -> HeadMaps:
        from upsnet_ros.kernels import panoptic_triton

        return panoptic_triton.panoptic_maps(*tensors, **options)

    return dispatch.run(
        "panoptic",
        semantic.device,
        kernel=kernel,
        twin=lambda: panoptic_maps_reference(*tensors, **options),
    )


def panoptic_maps_reference(
    semantic: Tensor,
    boxes: Tensor,
    classes: Tensor,
    mask_logits: Tensor,
    numbers: Tensor,
    unknown_margin: Tensor,
    *,
    size: tuple[int, int],
    num_stuff: int,
    scale: float = 1.0,
    unknown_score: bool = False,
    confidence: bool = False,
    max_logit: bool = False,
) -> HeadMaps:
    """What `panoptic_maps` must return; equals go to stuff, then to the first instance."""
    frames: list[tuple[Any, ...]] = []
    for image in range(len(semantic)):
        logits = _upsample(semantic[image].float(), size, scale / SEMANTIC_STRIDE)
        instance, index, segment = _instances(
            logits,
            boxes[image],
            classes[image],
            mask_logits[image],
            numbers[image],
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
                _byte(torch.sigmoid(lead)) if unknown_score else None,
                _byte((best - logits.logsumexp(dim=0)).exp()) if confidence else None,
                best if max_logit else None,
            )
        )
    maps: list[Any] = [
        None if parts[0] is None else torch.stack(parts) for parts in zip(*frames, strict=True)
    ]
    return HeadMaps(*maps)


def _instances(
    logits: Tensor,
    boxes: Tensor,
    classes: Tensor,
    mask_logits: Tensor,
    number: Tensor,
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
        present = number > n
        rows = (y >= near[n, 1]) & (y < cut[n, 1]) & (classes[n] > 0)
        columns = (x >= near[n, 0]) & (x < cut[n, 0])
        term = torch.where(rows[:, None] & columns, logits.index_select(0, channels[n : n + 1]), 0)
        mask = paste(mask_logits[n].float(), near[n], far[n], y, x)
        value = term[0] + mask
        better = present & (value > instance)
        instance = torch.where(better, value, instance)
        index = torch.where(better, n, index)
        segment = torch.where(present, torch.maximum(segment, term[0]), segment)
    return instance, index, torch.where(number > 0, segment, 0.0)


def _first_max(x: Tensor) -> tuple[Tensor, Tensor]:
    # Unlike that of max, the index of argmax is said to be the first of equals.
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


def _upsample(logits: Tensor, size: tuple[int, int], cells_per_pixel: float) -> Tensor:
    for dim in (2, 1):
        table = axis_table(size[dim - 1], logits.shape[dim], cells_per_pixel, logits.device)
        logits = _blend(logits, dim, *table)
    return logits


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


def _check(
    semantic: Tensor,
    boxes: Tensor,
    classes: Tensor,
    mask_logits: Tensor,
    numbers: Tensor,
    unknown_margin: Tensor,
    *,
    num_stuff: int,
) -> None:
    if semantic.dim() != 4 or not 0 < num_stuff < semantic.shape[1]:
        raise ValueError(
            f"semantic has shape {tuple(semantic.shape)}, but it must be (B, S, h, w) with stuff "
            f"({num_stuff}) and things"
        )
    check_detections(boxes, classes, mask_logits, numbers, batch=len(semantic))
    if unknown_margin.shape != (1,):
        raise ValueError(
            f"unknown_margin has shape {tuple(unknown_margin.shape)}, but it must be (1,)"
        )


def check_detections(
    boxes: Tensor, classes: Tensor, mask_logits: Tensor, numbers: Tensor, *, batch: int
) -> None:
    """Raise ValueError where the shapes of padded detections do not fit each other."""
    n, bins = boxes.shape[-2], mask_logits.shape[-1]
    shapes = tuple(tuple(x.shape) for x in (boxes, classes, mask_logits, numbers))
    wanted = ((batch, n, 4), (batch, n), (batch, n, bins, bins), (batch,))
    if n == 0 or batch == 0 or shapes != wanted:
        raise ValueError(
            f"boxes, classes, mask_logits and numbers have shapes {shapes}, but they must be "
            f"(B, N, 4), (B, N), (B, N, M, M) and (B,), B {batch} and N at least 1"
        )
