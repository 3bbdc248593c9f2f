"""Anchors of the region proposal network (Faster R-CNN's rule, rounding included)."""

from __future__ import annotations

import torch
from torch import Tensor

ANCHOR_SCALE = 8
#: Height over width.
ANCHOR_RATIOS = (0.5, 1.0, 2.0)


def base_anchors(stride: int) -> Tensor:
    """Return the anchors of the cell at (0, 0): float32 (3, 4), inclusive corners in pixels.

    Widths and heights are rounded half to even before they are scaled, so the areas are a
    little off the nominal ones; published weights expect exactly these boxes.
    """
    centre = (stride - 1) / 2
    anchors = []
    for ratio in ANCHOR_RATIOS:
        width = round((stride * stride / ratio) ** 0.5)
        height = round(width * ratio)
        half_w = (width * ANCHOR_SCALE - 1) / 2
        half_h = (height * ANCHOR_SCALE - 1) / 2
        anchors.append((centre - half_w, centre - half_h, centre + half_w, centre + half_h))
    return torch.tensor(anchors, dtype=torch.float32)


def grid_anchors(height: int, width: int, *, stride: int, device: torch.device | str) -> Tensor:
    """Return float32 (height * width * 3, 4): row by row, anchors of one cell adjacent."""
    ys = torch.arange(height, device=device, dtype=torch.float32) * stride
    xs = torch.arange(width, device=device, dtype=torch.float32) * stride
    y, x = torch.meshgrid(ys, xs, indexing="ij")
    shifts = torch.stack((x, y, x, y), dim=-1).reshape(-1, 1, 4)
    return (shifts + base_anchors(stride).to(device)).reshape(-1, 4)
