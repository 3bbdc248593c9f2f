"""The logits of the panoptic head, term by term (UPSNet, section 3.3 and figure 3).

Two things lie on the image grid for each detection. The *mask term* is its 28x28 mask logit
resized to its box; the *segment term* is the semantic logit of its class cut to its box. Both
are exactly zero outside. The two boxes differ by rounding, as in the original: see
`mask_bounds` and `segment_bounds`.

`panoptic_logits` writes the definition down densely; training uses it at a quarter of the size
and tests hold the tiled form of inference (`panoptic_head`) against it.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from upsnet_ros.errors import DivergedError


@dataclass(frozen=True, slots=True)
class Bounds:
    """Integer rectangles, first corner inside and second outside; each field int64 (N,)."""

    x1: Tensor
    y1: Tensor
    x2: Tensor
    y2: Tensor

    def union(self, other: Bounds) -> Bounds:
        """Return the smallest rectangles that hold both."""
        return Bounds(
            torch.minimum(self.x1, other.x1),
            torch.minimum(self.y1, other.y1),
            torch.maximum(self.x2, other.x2),
            torch.maximum(self.y2, other.y2),
        )

    def to(self, device: torch.device | str) -> Bounds:
        """Return a copy on that device."""
        return Bounds(*(t.to(device) for t in (self.x1, self.y1, self.x2, self.y2)))


def mask_bounds(boxes: Tensor) -> Bounds:
    """Return where masks are pasted: all corners of boxes (N, 4) truncated, the far one inside."""
    x1, y1, x2, y2 = boxes.trunc().long().unbind(1)
    return Bounds(x1, y1, torch.maximum(x2, x1) + 1, torch.maximum(y2, y1) + 1)


def segment_bounds(boxes: Tensor) -> Bounds:
    """Return where semantic logits are cut: near corners truncated, far ones rounded to even."""
    x1, y1 = boxes[:, :2].trunc().long().unbind(1)
    x2, y2 = boxes[:, 2:].round().long().unbind(1)
    return Bounds(x1, y1, x2 + 1, y2 + 1)


def tent(positions: Tensor, count: int) -> Tensor:
    """Return the weights with which bilinear sampling at each position reads `count` values.

    Args:
        positions: float32 (...), 0 at the first value and count - 1 at the last; outside, the
            value at the edge repeats.
        count: Number of values.

    Returns:
        float32 (..., count); each row sums to one.
    """
    distance = positions.clamp(0, count - 1)[..., None] - torch.arange(
        count, device=positions.device
    )
    return (1 - distance.abs()).clamp(min=0)


def bilinear_weights(start: Tensor, stop: Tensor, *, length: int, bins: int) -> Tensor:
    """Return the matrices that resize `bins` values to the pixels start .. stop - 1 of a line.

    Half-pixel centres, edge values repeated, no antialiasing: what OpenCV's INTER_LINEAR and
    torch's bilinear with align_corners=False do.

    Args:
        start: First pixels, int64 (N,).
        stop: Pixels past the last, int64 (N,).
        length: Pixels of the line.
        bins: Values to resize.

    Returns:
        float32 (N, length, bins); the rows of pixels outside are zero.
    """
    pixel = torch.arange(length, device=start.device)
    inside = (pixel >= start[:, None]) & (pixel < stop[:, None])
    scale = bins / (stop - start).float()
    source = (pixel - start[:, None] + 0.5) * scale[:, None] - 0.5
    return tent(source, bins) * inside[..., None]


def mask_term(boxes: Tensor, mask_logits: Tensor, size: tuple[int, int]) -> Tensor:
    """Paste mask logits (N, M, M) at boxes (N, 4): float32 (N, height, width)."""
    bounds = mask_bounds(boxes)
    bins = mask_logits.shape[-1]
    rows = bilinear_weights(bounds.y1, bounds.y2, length=size[0], bins=bins)
    columns = bilinear_weights(bounds.x1, bounds.x2, length=size[1], bins=bins)
    return rows @ mask_logits @ columns.transpose(1, 2)


def segment_term(boxes: Tensor, classes: Tensor, semantic: Tensor, num_stuff: int) -> Tensor:
    """Cut semantic logits (S, H, W) to boxes (N, 4), each in its own class: (N, H, W).

    Class c reads channel num_stuff - 1 + c; class 0, "nothing found", reads zeros.
    """
    bounds = segment_bounds(boxes)
    y = torch.arange(semantic.shape[1], device=semantic.device)
    x = torch.arange(semantic.shape[2], device=semantic.device)
    rows = (y >= bounds.y1[:, None]) & (y < bounds.y2[:, None])
    columns = (x >= bounds.x1[:, None]) & (x < bounds.x2[:, None])
    inside = rows[:, :, None] & columns[:, None, :] & (classes > 0)[:, None, None]
    return torch.where(inside, semantic[num_stuff - 1 + classes], 0.0)


NOT_FINITE = "the network's logits are not finite"


def are_finite(semantic: Tensor, mask_logits: Tensor, classes: Tensor) -> Tensor:
    """Return whether the logits of each image have neither NaN nor infinite values: bool (B,).

    Each tensor is read once, and nothing waits for the device.

    Args:
        semantic: Semantic logits (B, S, H, W).
        mask_logits: Mask logits (B, N, bins, bins).
        classes: int64 (B, N); masks of class 0 are not used, and do not matter.
    """
    # The largest absolute value, NaN if there is one; sums would overflow.
    largest = torch.linalg.vector_norm(semantic, torch.inf, dim=(1, 2, 3))
    of_masks = torch.linalg.vector_norm(mask_logits, torch.inf, dim=(2, 3))
    of_masks = of_masks.masked_fill(classes == 0, 0.0)
    return (torch.cat((largest[:, None], of_masks), dim=1) < torch.inf).all(dim=1)


def check_finite(semantic: Tensor, mask_logits: Tensor, classes: Tensor) -> None:
    """Raise `DivergedError` if the logits of an image have NaN or infinite values.

    Classes are found by comparing with the largest logit, which NaN never equals. This waits for
    the device, as do the forms of operators that call it.

    Args:
        semantic: Semantic logits (S, H, W).
        mask_logits: Mask logits (N, bins, bins).
        classes: int64 (N,); masks of class 0 are not used.
    """
    if not bool(are_finite(semantic[None], mask_logits[None], classes[None])):
        raise DivergedError(NOT_FINITE)


def panoptic_logits(
    semantic: Tensor, boxes: Tensor, classes: Tensor, masks: Tensor, num_stuff: int
) -> Tensor:
    """Return the logits of stuff, instances and the unknown channel, densely.

    Args:
        semantic: Semantic logits (S, H, W).
        boxes: float32 (N, 4) in pixels of that grid, N >= 1.
        classes: int64 (N,).
        masks: Mask terms (N, H, W).
        num_stuff: Number of stuff classes.

    Returns:
        (num_stuff + N + 1, H, W); the last channel is the unknown one: the largest thing logit
        less the largest segment term.
    """
    segments = segment_term(boxes, classes, semantic, num_stuff)
    unknown = semantic[num_stuff:].amax(dim=0) - segments.amax(dim=0)
    return torch.cat((semantic[:num_stuff], segments + masks, unknown[None]))
