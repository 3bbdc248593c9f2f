"""Boxes (x1, y1, x2, y2) in pixels with *inclusive* corners: a width is x2 - x1 + 1.

That convention is Fast R-CNN's and the published weights'; only the far corner of a decoded
box gets the -1.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torchvision.ops import nms as torchvision_nms

from upsnet_ros.kernels.decode import Weights, centre_form, clip_boxes, decode_boxes

__all__ = [
    "BOX_HEAD_WEIGHTS",
    "RPN_WEIGHTS",
    "clip_boxes",
    "decode_boxes",
    "encode_boxes",
    "nms",
]

#: Divisors of (dx, dy, dw, dh) of the box head; the RPN uses ones.
BOX_HEAD_WEIGHTS = (10.0, 10.0, 5.0, 5.0)
RPN_WEIGHTS = (1.0, 1.0, 1.0, 1.0)


def encode_boxes(boxes: Tensor, targets: Tensor, weights: Weights) -> Tensor:
    """Return the deltas (..., 4) that `decode_boxes` would need to turn boxes into targets."""
    cx, cy, w, h = centre_form(boxes)
    tx, ty, tw, th = centre_form(targets)
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
