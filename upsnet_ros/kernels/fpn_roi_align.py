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
    pyramid: Sequence[Tensor],
    boxes: Tensor,
    output_size: int,
    *,
    images: Tensor | None = None,
    count: Tensor | None = None,
) -> Tensor:
    """Pool boxes from a feature pyramid; `fpn_roi_align_reference` defines the result.

    The kernel has no gradient.

    Args:
        pyramid: P2 .. P5 (N, C, H, W) of one float type; best channels-last.
        boxes: float32 (K, 4), inclusive corners in pixels of the image.
        output_size: Bins a side.
        images: int32 (K,), image of each box; without it all are of the first.
        count: int32 (1,) on the device: boxes from there on are padding, and pooled to zeros.

    Returns:
        (K, C, output_size, output_size) in the dtype of the pyramid, channels-last where it is.
    """
    if len(pyramid) < len(STRIDES) or boxes.dim() != 2 or boxes.shape[1] != 4:
        raise ValueError(
            f"need P2 .. P5 and boxes (K, 4), got {len(pyramid)} levels and {tuple(boxes.shape)}"
        )
    return dispatch.run(
        "fpn_roi_align",
        boxes.device,
        kernel=lambda: launch(pyramid, boxes, output_size, images=images, count=count),
        twin=lambda: fpn_roi_align_reference(
            pyramid, boxes, output_size, images=images, count=count
        ),
    )


def launch(
    pyramid: Sequence[Tensor],
    boxes: Tensor,
    output_size: int,
    *,
    images: Tensor | None = None,
    count: Tensor | None = None,
) -> Tensor:
    """Launch the kernel: `fpn_roi_align`, on CUDA and without another form to fall back on."""
    from upsnet_ros.kernels import fpn_roi_align_triton

    return fpn_roi_align_triton.fpn_roi_align(
        pyramid, boxes, output_size, images=images, count=count
    )


def levels_of(boxes: Tensor) -> Tensor:
    """Return for boxes (K, 4) the level to pool from, int64 (K,), 0 for P2 .. 3 for P5.

    The rule of FPN's equation 1 without its logarithm: a level begins at a power of two, with the
    original's 1e-6 in favour of the coarser one.
    """
    width = boxes[:, 2] - boxes[:, 0] + 1
    height = boxes[:, 3] - boxes[:, 1] + 1
    size = torch.sqrt(width * height) / 224 + 1e-6
    return (size >= 0.5).long() + (size >= 1).long() + (size >= 2).long()


def fpn_roi_align_reference(
    pyramid: Sequence[Tensor],
    boxes: Tensor,
    output_size: int,
    *,
    images: Tensor | None = None,
    count: Tensor | None = None,
) -> Tensor:
    """What `fpn_roi_align` must return: every box pooled from every level, and one chosen."""
    image = boxes.new_zeros(len(boxes)) if images is None else images.to(boxes.dtype)
    rois = torch.cat((image[:, None], boxes), dim=1)
    levels = levels_of(boxes)
    output = boxes.new_zeros(len(boxes), pyramid[0].shape[1], output_size, output_size)
    output = output.to(pyramid[0].dtype)
    if not pyramid[0].is_contiguous():
        output = output.contiguous(memory_format=torch.channels_last)
    for level, stride in enumerate(STRIDES):
        chosen = levels == level
        if count is not None:
            chosen = chosen & (torch.arange(len(boxes), device=boxes.device) < count)
        pooled = roi_align_reference(pyramid[level], rois, output_size, 1 / stride, SAMPLES)
        output = torch.where(chosen.view(-1, 1, 1, 1), pooled, output)
    return output
