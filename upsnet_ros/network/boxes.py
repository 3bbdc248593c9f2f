"""Boxes (x1, y1, x2, y2) in pixels with *inclusive* corners: a width is x2 - x1 + 1.

That convention is Fast R-CNN's and the published weights'; only the far corner of a decoded
box gets the -1.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torchvision.ops import nms as torchvision_nms

#: Largest log-scale by which a box may grow (1000 px from a 16 px anchor).
MAX_LOG_SCALE = math.log(1000 / 16)
#: Divisors of (dx, dy, dw, dh) of the box head; the RPN uses ones.
BOX_HEAD_WEIGHTS = (10.0, 10.0, 5.0, 5.0)
RPN_WEIGHTS = (1.0, 1.0, 1.0, 1.0)


def _centre_form(boxes: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    x1, y1, x2, y2 = boxes.unbind(-1)
    w, h = x2 - x1 + 1, y2 - y1 + 1
    return x1 + 0.5 * w, y1 + 0.5 * h, w, h


def decode_boxes(
    boxes: Tensor, deltas: Tensor, weights: tuple[float, float, float, float]
) -> Tensor:
    """Apply deltas (..., 4) to boxes (..., 4); the leading shapes broadcast."""
    cx, cy, w, h = _centre_form(boxes)
    dx, dy, dw, dh = (d / weight for d, weight in zip(deltas.unbind(-1), weights, strict=True))
    cx, cy = dx * w + cx, dy * h + cy
    w = dw.clamp(max=MAX_LOG_SCALE).exp() * w
    h = dh.clamp(max=MAX_LOG_SCALE).exp() * h
    return torch.stack((cx - 0.5 * w, cy - 0.5 * h, cx + 0.5 * w - 1, cy + 0.5 * h - 1), dim=-1)


def encode_boxes(
    boxes: Tensor, targets: Tensor, weights: tuple[float, float, float, float]
) -> Tensor:
    """Return the deltas (..., 4) that `decode_boxes` would need to turn boxes into targets."""
    cx, cy, w, h = _centre_form(boxes)
    tx, ty, tw, th = _centre_form(targets)
    wx, wy, ww, wh = weights
    return torch.stack(
        (
            wx * (tx - cx) / w,
            wy * (ty - cy) / h,
            ww * torch.log(tw / w),
            wh * torch.log(th / h),
        ),
        dim=-1,
    )


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


def nms(boxes: Tensor, scores: Tensor, threshold: float, *, groups: Tensor | None = None) -> Tensor:
    """Greedy non-maximum suppression with inclusive areas; overlap must exceed the threshold.

    Args:
        boxes: (N, 4) float32.
        scores: (N,) float32.
        threshold: IoU above which the lower score goes.
        groups: (N,) ints; boxes of different groups never suppress each other.

    Returns:
        Indices of the kept boxes by descending score, int64.
    """
    corners = boxes + boxes.new_tensor([0.0, 0.0, 1.0, 1.0])
    if groups is not None and boxes.numel():
        # Moving each group to a place of its own; float64, since float32 would round the boxes.
        corners = corners.double()
        corners += (groups.double() * (corners.max() + 1))[:, None]
    return torchvision_nms(corners, scores.to(corners.dtype), threshold)
