"""Walking an image tile by tile, with the boxes that reach into each tile.

Work that is dense in (detections x pixels) stays small this way: a tile sees only the few
detections near it, and its intermediate tensors fit in a CPU's cache.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from upsnet_ros.network.panoptic_logits import Bounds

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
