"""RoIAlign over the pyramid: each box from the level of its size, all in one launch."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from upsnet_ros.kernels import dispatch
from upsnet_ros.kernels.roi_align import roi_align_reference

#: Strides of P2 .. P5, from which boxes are pooled.
STRIDES = (4, 8, 16, 32)
#: Samples a bin and direction.
SAMPLES = 2


def fpn_roi_align(
    pyramid: Sequence[Tensor], boxes: Tensor, output_size: int, *, numbers: Tensor | None = None
) -> Tensor:
    """Pool boxes from feature pyramids; `fpn_roi_align_reference` defines the result.

    The kernel has no gradient.

    Args:
        pyramid: P2 .. P5 (B, C, H, W) of one float type; best channels-last.
        boxes: float32 (B, K, 4), inclusive corners in pixels of the image.
        output_size: Bins a side.
        numbers: int32 (B,) on the device: boxes of an image from there on are padding, and pooled
            to zeros.

    Returns:
        (B * K, C, output_size, output_size), image by image, in the dtype of the pyramid,
        channels-last where it is.
    """
    check(pyramid, boxes, numbers)

    def kernel() -> Tensor:
        from upsnet_ros.kernels import fpn_roi_align_triton

        return fpn_roi_align_triton.fpn_roi_align(pyramid, boxes, output_size, numbers=numbers)

    return dispatch.run(
        "fpn_roi_align",
        boxes.device,
        kernel=kernel,
        twin=lambda: fpn_roi_align_reference(pyramid, boxes, output_size, numbers=numbers),
    )


def check(pyramid: Sequence[Tensor], boxes: Tensor, numbers: Tensor | None) -> None:
    """Raise ValueError where the shapes do not fit each other."""
    if len(pyramid) < len(STRIDES) or boxes.dim() != 3 or boxes.shape[2] != 4:
        raise ValueError(
            f"need P2 .. P5 and boxes (B, K, 4), got {len(pyramid)} levels and {tuple(boxes.shape)}"
        )
    batch = len(boxes)
    wrong = [tuple(level.shape) for level in pyramid[: len(STRIDES)] if len(level) != batch]
    if wrong or (numbers is not None and numbers.shape != (batch,)):
        given = "none" if numbers is None else tuple(numbers.shape)
        raise ValueError(
            f"boxes are of {batch} images, but levels have shapes {wrong or 'for them'} and "
            f"numbers {given}"
        )


def levels_of(boxes: Tensor) -> Tensor:
    """Return for boxes (..., 4) the level to pool from, int64 (...), 0 for P2 .. 3 for P5.

    The rule of FPN's equation 1 without its logarithm: a level begins at a power of two, with the
    original's 1e-6 in favour of the coarser one.
    """
    width = boxes[..., 2] - boxes[..., 0] + 1
    height = boxes[..., 3] - boxes[..., 1] + 1
    size = torch.sqrt(width * height) / 224 + 1e-6
    return (size >= 0.5).long() + (size >= 1).long() + (size >= 2).long()


def fpn_roi_align_reference(
    pyramid: Sequence[Tensor], boxes: Tensor, output_size: int, *, numbers: Tensor | None = None
) -> Tensor:
    """What `fpn_roi_align` must return: every box pooled from every level, and one chosen."""
    batch, count = boxes.shape[:2]
    image = torch.arange(batch, device=boxes.device, dtype=boxes.dtype)
    rois = torch.cat((image.view(-1, 1, 1).expand(-1, count, -1), boxes), dim=2).flatten(0, 1)
    present = torch.ones(batch, count, dtype=torch.bool, device=boxes.device)
    if numbers is not None:
        present = torch.arange(count, device=boxes.device) < numbers[:, None]
    levels = torch.where(present, levels_of(boxes), -1).view(-1, 1, 1, 1)
    output = torch.zeros((), dtype=pyramid[0].dtype, device=boxes.device)
    for level, stride in enumerate(STRIDES):
        pooled = roi_align_reference(pyramid[level], rois, output_size, 1 / stride, SAMPLES)
        output = torch.where(levels == level, pooled, output)
    return output
