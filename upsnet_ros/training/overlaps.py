"""Overlaps of boxes with inclusive corners."""

from __future__ import annotations

import torch
from torch import Tensor


def _areas(boxes: Tensor) -> Tensor:
    return (boxes[:, 2] - boxes[:, 0] + 1) * (boxes[:, 3] - boxes[:, 1] + 1)


def intersections(boxes: Tensor, others: Tensor) -> Tensor:
    """Return the common areas, float32 (N, M), of boxes (N, 4) and others (M, 4)."""
    near = torch.maximum(boxes[:, None, :2], others[None, :, :2])
    far = torch.minimum(boxes[:, None, 2:], others[None, :, 2:])
    width, height = (far - near + 1).clamp(min=0).unbind(-1)
    return width * height


def overlaps(boxes: Tensor, others: Tensor) -> Tensor:
    """Return intersection over union, float32 (N, M), of boxes (N, 4) and others (M, 4)."""
    common = intersections(boxes, others)
    return common / (_areas(boxes)[:, None] + _areas(others)[None] - common)


def shares_inside(boxes: Tensor, others: Tensor) -> Tensor:
    """Return which share of each of boxes (N, 4) lies in each of others (M, 4), (N, M)."""
    return intersections(boxes, others) / _areas(boxes)[:, None]
