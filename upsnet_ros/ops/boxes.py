"""Boxes: encoding and decoding deltas, non-maximum suppression of one list or several at once.

Boxes (x1, y1, x2, y2) are in pixels. Their corners are *inclusive* (a width is x2 - x1 + 1: the
convention of Fast R-CNN and of UPSNet's weights, where only the far corner of a decoded box gets
the -1) or *continuous* (x2 - x1, as in Panoptic FPN): `edge` says which.
"""

from __future__ import annotations

import importlib.util
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from upsnet_ros.ops import dispatch

#: Largest log-scale by which a box may grow (1000 px from a 16 px anchor).
MAX_LOG_SCALE = math.log(1000 / 16)

#: Pixels by which a box is wider than its corners lie apart.
INCLUSIVE, CONTINUOUS = 1.0, 0.0

Weights = tuple[float, float, float, float]


def decode_at(
    boxes: Tensor,
    deltas: Tensor,
    indices: Tensor,
    *,
    weights: Weights,
    size: tuple[int, int],
    edge: float = INCLUSIVE,
) -> Tensor:
    """Decode the deltas at some indices and clip; `decode_at_reference` defines the result.

    Args:
        boxes: float32 (B, N, 4), or (1, N, 4) of all lists; contiguous.
        deltas: (B, C * N, 4) of any float type: C in a row for each box; contiguous.
        indices: int64 (B, K), indices of deltas; index // C is that of the box.
        weights: Divisors of (dx, dy, dw, dh).
        size: Height and width of the image, to which boxes are clipped.
        edge: `INCLUSIVE` or `CONTINUOUS`.

    Returns:
        float32 (B, K, 4).

    Raises:
        ValueError: If the shapes do not match.
    """
    count, rows = boxes.shape[1], deltas.shape[1]
    lists = len(indices)
    if len(boxes) not in (1, lists) or len(deltas) != lists or not count or rows % count:
        raise ValueError(
            f"boxes, deltas and indices have shapes {tuple(boxes.shape)}, {tuple(deltas.shape)} "
            f"and {tuple(indices.shape)}, but they must be (B or 1, N, 4), (B, C * N, 4) and (B, K)"
        )
    options: dict[str, Any] = {"weights": weights, "size": size, "edge": edge}

    def kernel() -> Tensor:
        from upsnet_ros.ops.triton import boxes as decode_triton

        return decode_triton.decode_at(boxes, deltas, indices, **options)

    return dispatch.run(
        "decode",
        boxes.device,
        kernel=kernel,
        reference=lambda: decode_at_reference(boxes, deltas, indices, **options),
    )


def decode_at_reference(
    boxes: Tensor,
    deltas: Tensor,
    indices: Tensor,
    *,
    weights: Weights,
    size: tuple[int, int],
    edge: float = INCLUSIVE,
) -> Tensor:
    """Reference implementation of `decode_at`."""
    each = deltas.shape[1] // boxes.shape[1]
    owner = indices if each == 1 else indices // each

    def rows_at(x: Tensor, index: Tensor) -> Tensor:
        return x.expand(len(index), -1, -1).gather(1, index[..., None].expand(-1, -1, 4))

    decoded = decode_boxes(
        rows_at(boxes, owner), rows_at(deltas, indices).float(), weights, edge=edge
    )
    return clip_boxes(decoded, size, edge=edge)


def decode_boxes(
    boxes: Tensor, deltas: Tensor, weights: Weights, *, edge: float = INCLUSIVE
) -> Tensor:
    """Apply deltas (..., 4) to boxes (..., 4); the leading shapes broadcast."""
    cx, cy, w, h = centre_form(boxes, edge=edge)
    dx, dy, dw, dh = (d / weight for d, weight in zip(deltas.unbind(-1), weights, strict=True))
    cx, cy = dx * w + cx, dy * h + cy
    w = dw.clamp(max=MAX_LOG_SCALE).exp() * w
    h = dh.clamp(max=MAX_LOG_SCALE).exp() * h
    far_x, far_y = cx + 0.5 * w - edge, cy + 0.5 * h - edge
    return torch.stack((cx - 0.5 * w, cy - 0.5 * h, far_x, far_y), dim=-1)


def centre_form(boxes: Tensor, *, edge: float = INCLUSIVE) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return centre x, centre y, width and height of boxes (..., 4)."""
    near, far = boxes[..., :2], boxes[..., 2:]
    size = far - near + edge
    (cx, cy), (w, h) = (near + 0.5 * size).unbind(-1), size.unbind(-1)
    return cx, cy, w, h


def clip_boxes(boxes: Tensor, size: tuple[int, int], *, edge: float = INCLUSIVE) -> Tensor:
    """Clip boxes (..., 4) to an image of size (height, width)."""
    bottom, right = size[0] - edge, size[1] - edge
    x1, y1, x2, y2 = boxes.unbind(-1)
    return torch.stack(
        (x1.clamp(0, right), y1.clamp(0, bottom), x2.clamp(0, right), y2.clamp(0, bottom)), dim=-1
    )


#: Largest list that the kernel can hold in the registers of one program. Of longer lists at most
#: this many boxes can be kept.
LARGEST_LIST = 1024


class Kept(NamedTuple):
    """The boxes of each list that are kept.

    Attributes:
        indices: int32 (B, limit): indices in the list, ascending; 0 in the padding.
        counts: int32 (B,), number of valid indices.
    """

    indices: Tensor
    counts: Tensor


def batched_nms(
    boxes: Tensor,
    counts: Tensor,
    threshold: float,
    *,
    limit: int,
    groups: Tensor | None = None,
    edge: float = INCLUSIVE,
) -> Kept:
    """Suppress boxes that overlap better ones of their list; `batched_nms_reference` defines it.

    Args:
        boxes: float32 (B, N, 4), each list by descending score.
        counts: int32 (B,) on the device: number of valid boxes of each list; the others are
            padding.
        threshold: IoU above which the box with the lower score is suppressed.
        limit: Maximum number of boxes kept of a list.
        groups: int (B, N); boxes of different groups never suppress each other.
        edge: `INCLUSIVE` or `CONTINUOUS`.
    """
    options: dict[str, Any] = {"limit": limit, "groups": groups, "edge": edge}
    if boxes.dim() != 3 or boxes.shape[2] != 4 or counts.shape != boxes.shape[:1]:
        raise ValueError(
            f"boxes and counts have shapes {tuple(boxes.shape)} and {tuple(counts.shape)}, but "
            "they must be (B, N, 4) and (B,)"
        )

    def kernel() -> Kept:
        from upsnet_ros.ops.triton import boxes as nms_triton

        return nms_triton.batched_nms(boxes, counts, threshold, **options)

    def reference() -> Kept:
        return batched_nms_reference(boxes, counts, threshold, **options)

    if boxes.shape[1] > LARGEST_LIST and limit > LARGEST_LIST:
        return reference()
    return dispatch.run("nms", boxes.device, kernel=kernel, reference=reference)


def batched_nms_reference(
    boxes: Tensor,
    counts: Tensor,
    threshold: float,
    *,
    limit: int,
    groups: Tensor | None = None,
    edge: float = INCLUSIVE,
) -> Kept:
    """Reference implementation of `batched_nms`: greedily, box by box.

    For lists longer than `LARGEST_LIST` it stops once enough boxes are kept, for which it waits for
    the device.
    """
    batch, count = boxes.shape[:2]
    position = torch.arange(count, device=boxes.device)
    near, far = boxes[..., :2], boxes[..., 2:] + edge
    area = (far - near).prod(dim=2)
    kept = position < counts[:, None]
    is_long = count > LARGEST_LIST
    for i in range(min(count, int(counts.max())) if is_long else count):
        one = slice(i, i + 1)
        inner = torch.minimum(far[:, one], far) - torch.maximum(near[:, one], near)
        shared = inner.clamp(min=0).prod(dim=2)
        rivals = shared / (area[:, one] + area - shared) > threshold
        if groups is not None:
            rivals &= groups[:, one] == groups
        kept = kept & ~(rivals & kept[:, one] & (position > i))
        if is_long and i % 64 == 0 and bool((kept[:, : i + 1].sum(dim=1) >= limit).all()):
            break
    rank = kept.cumsum(dim=1) - 1
    # One more element, which receives everything else.
    index = rank.new_zeros(batch, limit + 1)
    target = torch.where(kept & (rank < limit), rank, limit)
    index.scatter_(1, target, position.expand(batch, -1))
    return Kept(index[:, :limit].int(), kept.sum(dim=1).clamp(max=limit).int())


#: Divisors of (dx, dy, dw, dh) of the box head; the RPN uses ones.
BOX_HEAD_WEIGHTS = (10.0, 10.0, 5.0, 5.0)
RPN_WEIGHTS = (1.0, 1.0, 1.0, 1.0)


def encode_boxes(
    boxes: Tensor, targets: Tensor, weights: Weights, *, edge: float = INCLUSIVE
) -> Tensor:
    """Return the deltas (..., 4) with which `decode_boxes` turns boxes into targets."""
    cx, cy, w, h = centre_form(boxes, edge=edge)
    tx, ty, tw, th = centre_form(targets, edge=edge)
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


def nms(
    boxes: Tensor,
    scores: Tensor,
    threshold: float,
    *,
    groups: Tensor | None = None,
    edge: float = INCLUSIVE,
) -> Tensor:
    """Greedy non-maximum suppression; overlap must exceed the threshold.

    Args:
        boxes: (N, 4) float32.
        scores: (N,) float32.
        threshold: IoU above which the box with the lower score is suppressed.
        groups: (N,) ints; boxes of different groups never suppress each other.
        edge: Convention of the boxes: see `ops.boxes`.

    Returns:
        Indices of the kept boxes by descending score, int64.
    """
    corners = torch.cat((boxes[:, :2], boxes[:, 2:] + edge), dim=1)
    if groups is not None and boxes.numel():
        # Moving each group to an area of its own; float64, since float32 would round the boxes.
        corners = corners.double()
        corners += (groups.double() * (corners.max() + 1))[:, None]
    return _torchvision_nms(corners, scores.to(corners.dtype), threshold)


def _load_torchvision_nms() -> Callable[[Tensor, Tensor, float], Tensor]:
    """Return torchvision's operator, from its library alone if that can be loaded.

    Importing the package imports torch's compiler too, which takes as long as importing torch.
    """
    found = importlib.util.find_spec("torchvision")
    folders = found.submodule_search_locations if found else None
    for library in sorted(path for folder in folders or () for path in Path(folder).glob("_C*.so")):
        try:
            torch.ops.load_library(library)
            return torch.ops.torchvision.nms
        except (OSError, AttributeError):
            continue  # the package says what is wrong with it
    from torchvision.ops import nms as operator

    return operator


_torchvision_nms = _load_torchvision_nms()
