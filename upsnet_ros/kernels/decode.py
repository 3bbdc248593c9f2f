"""Boxes from anchors or proposals and what the network says about them, all in one launch.

Boxes (x1, y1, x2, y2) in pixels with *inclusive* corners: `network.boxes`.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from upsnet_ros.kernels import dispatch

#: Largest log-scale by which a box may grow (1000 px from a 16 px anchor).
MAX_LOG_SCALE = math.log(1000 / 16)

Weights = tuple[float, float, float, float]


def decode_at(
    boxes: Tensor, deltas: Tensor, place: Tensor, *, weights: Weights, size: tuple[int, int]
) -> Tensor:
    """Decode the deltas at some places and clip; `decode_at_reference` defines the result.

    Args:
        boxes: float32 (B, N, 4), or (1, N, 4) of all lists; contiguous.
        deltas: (B, C * N, 4) of any float type: C in a row for each box; contiguous.
        place: int64 (B, K), places in the deltas; place // C is that of the box.
        weights: Divisors of (dx, dy, dw, dh).
        size: Height and width of the image, to which boxes are clipped.

    Returns:
        float32 (B, K, 4).

    Raises:
        ValueError: Where the shapes do not fit each other.
    """
    number, rows = boxes.shape[1], deltas.shape[1]
    lists = len(place)
    if len(boxes) not in (1, lists) or len(deltas) != lists or not number or rows % number:
        raise ValueError(
            f"boxes, deltas and place have shapes {tuple(boxes.shape)}, {tuple(deltas.shape)} and "
            f"{tuple(place.shape)}, but they must be (B or 1, N, 4), (B, C * N, 4) and (B, K)"
        )
    options: dict[str, Any] = {"weights": weights, "size": size}

    def kernel() -> Tensor:
        from upsnet_ros.kernels import decode_triton

        return decode_triton.decode_at(boxes, deltas, place, **options)

    return dispatch.run(
        "decode",
        boxes.device,
        kernel=kernel,
        twin=lambda: decode_at_reference(boxes, deltas, place, **options),
    )


def decode_at_reference(
    boxes: Tensor, deltas: Tensor, place: Tensor, *, weights: Weights, size: tuple[int, int]
) -> Tensor:
    """What `decode_at` must return."""
    each = deltas.shape[1] // boxes.shape[1]
    owner = place if each == 1 else place // each

    def take(x: Tensor, index: Tensor) -> Tensor:
        return x.expand(len(index), -1, -1).gather(1, index[..., None].expand(-1, -1, 4))

    return clip_boxes(decode_boxes(take(boxes, owner), take(deltas, place).float(), weights), size)


def decode_boxes(boxes: Tensor, deltas: Tensor, weights: Weights) -> Tensor:
    """Apply deltas (..., 4) to boxes (..., 4); the leading shapes broadcast."""
    cx, cy, w, h = centre_form(boxes)
    dx, dy, dw, dh = (d / weight for d, weight in zip(deltas.unbind(-1), weights, strict=True))
    cx, cy = dx * w + cx, dy * h + cy
    w = dw.clamp(max=MAX_LOG_SCALE).exp() * w
    h = dh.clamp(max=MAX_LOG_SCALE).exp() * h
    return torch.stack((cx - 0.5 * w, cy - 0.5 * h, cx + 0.5 * w - 1, cy + 0.5 * h - 1), dim=-1)


def centre_form(boxes: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return centre x, centre y, width and height of boxes (..., 4)."""
    x1, y1, x2, y2 = boxes.unbind(-1)
    w, h = x2 - x1 + 1, y2 - y1 + 1
    return x1 + 0.5 * w, y1 + 0.5 * h, w, h


def clip_boxes(boxes: Tensor, size: tuple[int, int]) -> Tensor:
    """Clip boxes (..., 4) to an image of size (height, width)."""
    height, width = size
    x1, y1, x2, y2 = boxes.unbind(-1)
    return torch.stack(
        (
            x1.clamp(0, width - 1),
            y1.clamp(0, height - 1),
            x2.clamp(0, width - 1),
            y2.clamp(0, height - 1),
        ),
        dim=-1,
    )
