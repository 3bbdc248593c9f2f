"""RoIAlign on one feature map, and over the feature pyramid."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from upsnet_ros.ops import dispatch
from upsnet_ros.ops.boxes import CONTINUOUS, INCLUSIVE


def roi_align(
    feature: Tensor,
    rois: Tensor,
    output_size: int,
    spatial_scale: float,
    sampling_ratio: int = 2,
) -> Tensor:
    """Average bilinear samples of ``feature`` in each bin of each box, by the fastest form at hand.

    A bin averages ``sampling_ratio`` squared samples. A sample at (y, x) is 0 unless
    -1 <= y <= H and -1 <= x <= W, and is clamped into the feature otherwise. A box's extents are
    x2 - x1 and y2 - y1, but at least one pixel of the feature. `roi_align_reference` defines the
    result; it is also what runs where gradients of ``rois`` are asked for, and on CUDA.

    Args:
        feature: (N, C, H, W), contiguous or channels-last.
        rois: float (K, 5): index of the image, then x1, y1, x2, y2 in pixels of the image.
        output_size: Bins a side.
        spatial_scale: Size of the feature over size of the image.
        sampling_ratio: Samples a bin and direction.

    Returns:
        (K, C, output_size, output_size) in the dtype of ``feature``, channels-last where
        ``feature`` is.

    Raises:
        ValueError: If ``rois`` has another shape.
    """
    if rois.dim() != 2 or rois.shape[1] != 5:
        raise ValueError(f"rois has shape {tuple(rois.shape)}, but it must be (K, 5)")
    moving = torch.is_grad_enabled() and rois.requires_grad
    by_reference = feature.device.type != "cpu" or moving
    operator = roi_align_reference if by_reference else _gather
    return operator(feature, rois, output_size, spatial_scale, sampling_ratio)


def roi_align_reference(
    feature: Tensor,
    rois: Tensor,
    output_size: int,
    spatial_scale: float,
    sampling_ratio: int = 2,
    *,
    aligned: bool = False,
) -> Tensor:
    """Reference implementation of `roi_align`: torchvision's operator, which has gradients.

    Half precision is computed in float32, because torchvision rounds positions to the dtype of
    the feature: by two pixels at 600 in bfloat16.

    Other than `roi_align` it can also shift boxes by half a pixel of the feature (`aligned`), and
    with a `sampling_ratio` of 0 take as many samples of a bin as it spans pixels, rounded up.
    """
    # Imported here because it imports torch's compiler, too.
    from torchvision.ops import roi_align as operator

    exact = torch.promote_types(feature.dtype, torch.float32)
    output = operator(
        feature.to(exact),
        rois.to(exact),
        output_size,
        spatial_scale=spatial_scale,
        sampling_ratio=sampling_ratio,
        aligned=aligned,
    ).to(feature.dtype)
    if feature.is_contiguous():
        return output
    return output.contiguous(memory_format=torch.channels_last)


def _gather(
    feature: Tensor, rois: Tensor, output_size: int, spatial_scale: float, sampling_ratio: int
) -> Tensor:
    """The form for CPUs: each bin is one bag of weighted pixels (see `deform_conv`)."""
    channels, height, width = feature.shape[1:]
    # A table with strides would send embedding_bag down a path ten times slower.
    table = feature.contiguous(memory_format=torch.channels_last)
    table = table.permute(0, 2, 3, 1).reshape(-1, channels)
    exact = rois.to(torch.promote_types(rois.dtype, torch.float32))
    x1, y1, x2, y2 = (exact[:, 1:] * spatial_scale).unbind(1)
    rows, row_shares = _axis(y1, y2, height, bins=output_size, samples=sampling_ratio)
    columns, column_shares = _axis(x1, x2, width, bins=output_size, samples=sampling_ratio)
    rows = rows * width + exact[:, :1, None].int() * (height * width)
    # Row by column: (K, bins, 1, row, 1) with (K, 1, bins, 1, column).
    pixels = rows[:, :, None, :, None] + columns[:, None, :, None, :]
    shares = row_shares[:, :, None, :, None] * column_shares[:, None, :, None, :]
    bag = (2 * sampling_ratio) ** 2
    output = F.embedding_bag(
        pixels.reshape(-1, bag),
        table,
        per_sample_weights=shares.reshape(-1, bag).to(table.dtype),
        mode="sum",
    )
    output = output.view(-1, output_size, output_size, channels).permute(0, 3, 1, 2)
    return output.contiguous() if feature.is_contiguous() else output


def _axis(
    start: Tensor, end: Tensor, size: int, *, bins: int, samples: int
) -> tuple[Tensor, Tensor]:
    """Return what each bin averages along one axis: pixel indices, and their weights.

    Args:
        start: (K,) in pixels of the feature.
        end: (K,) in pixels of the feature.
        size: Pixels of the feature along the axis.
        bins: Bins along the axis.
        samples: Samples of each bin along the axis.

    Returns:
        int32 and float (K, bins, 2 * samples).
    """
    step = ((end - start).clamp(min=1) / bins).view(-1, 1, 1)
    within = (torch.arange(samples) + 0.5) * step / samples
    position = start.view(-1, 1, 1) + torch.arange(bins).view(-1, 1) * step + within
    share = ((position >= -1) & (position <= size)).to(start.dtype) / samples
    position = position.clamp(0, size - 1)
    low = position.floor()
    high = (low + 1).clamp(max=size - 1)
    upper = position - low
    indices = torch.cat((low, high), dim=2).int()
    return indices, torch.cat((share * (1 - upper), share * upper), dim=2)


#: Strides of P2 .. P5, from which boxes are pooled.
STRIDES = (4, 8, 16, 32)
#: Samples a bin and direction, of inclusive boxes.
SAMPLES = 2
#: In favour of the coarser level; for each convention of boxes what its weights were trained with.
LEVEL_EPSILON = {INCLUSIVE: 1e-6, CONTINUOUS: 1e-8}


def fpn_roi_align(
    pyramid: Sequence[Tensor],
    boxes: Tensor,
    output_size: int,
    *,
    counts: Tensor | None = None,
    edge: float = INCLUSIVE,
) -> Tensor:
    """Pool boxes from feature pyramids; `fpn_roi_align_reference` defines the result.

    The kernel has no gradient.

    Args:
        pyramid: P2 .. P5 (B, C, H, W) of one float type; best channels-last.
        boxes: float32 (B, K, 4), in pixels of the image.
        output_size: Bins a side.
        counts: int32 (B,) on the device: number of valid boxes of each image; the others are
            padding, which is pooled to zeros.
        edge: Convention of the boxes: see `ops.boxes`. Inclusive ones are sampled twice per bin
            and direction, without half-pixel shift; continuous ones with it, and with as many
            samples as a bin spans cells, rounded up.

    Returns:
        (B * K, C, output_size, output_size), image by image, in the dtype of the pyramid,
        channels-last where it is.
    """
    check(pyramid, boxes, counts)

    def kernel() -> Tensor:
        from upsnet_ros.ops.triton import roi_align as fpn_roi_align_triton

        return fpn_roi_align_triton.fpn_roi_align(
            pyramid, boxes, output_size, counts=counts, edge=edge
        )

    return dispatch.run(
        "fpn_roi_align",
        boxes.device,
        kernel=kernel,
        reference=lambda: fpn_roi_align_reference(
            pyramid, boxes, output_size, counts=counts, edge=edge
        ),
    )


def check(pyramid: Sequence[Tensor], boxes: Tensor, counts: Tensor | None) -> None:
    """Raise ValueError if the shapes do not match."""
    if len(pyramid) < len(STRIDES) or boxes.dim() != 3 or boxes.shape[2] != 4:
        raise ValueError(
            f"need P2 .. P5 and boxes (B, K, 4), got {len(pyramid)} levels and {tuple(boxes.shape)}"
        )
    batch = len(boxes)
    wrong = [tuple(level.shape) for level in pyramid[: len(STRIDES)] if len(level) != batch]
    if wrong or (counts is not None and counts.shape != (batch,)):
        given = "none" if counts is None else tuple(counts.shape)
        raise ValueError(
            f"boxes are of {batch} images, but levels have shapes {wrong or 'for them'} and "
            f"counts {given}"
        )


def levels_of(boxes: Tensor, *, edge: float = INCLUSIVE) -> Tensor:
    """Return for boxes (..., 4) the level to pool from, int64 (...), 0 for P2 .. 3 for P5.

    The rule of FPN's equation 1 without its logarithm: a level begins at a power of two, with the
    original's `LEVEL_EPSILON` in favour of the coarser one.
    """
    width = boxes[..., 2] - boxes[..., 0] + edge
    height = boxes[..., 3] - boxes[..., 1] + edge
    size = torch.sqrt(width * height) / 224 + LEVEL_EPSILON[edge]
    return (size >= 0.5).long() + (size >= 1).long() + (size >= 2).long()


def fpn_roi_align_reference(
    pyramid: Sequence[Tensor],
    boxes: Tensor,
    output_size: int,
    *,
    counts: Tensor | None = None,
    edge: float = INCLUSIVE,
) -> Tensor:
    """Reference implementation of `fpn_roi_align`: pools from every level and selects one."""
    batch, count = boxes.shape[:2]
    image = torch.arange(batch, device=boxes.device, dtype=boxes.dtype)
    rois = torch.cat((image.view(-1, 1, 1).expand(-1, count, -1), boxes), dim=2).flatten(0, 1)
    present = torch.ones(batch, count, dtype=torch.bool, device=boxes.device)
    if counts is not None:
        present = torch.arange(count, device=boxes.device) < counts[:, None]
    levels = torch.where(present, levels_of(boxes, edge=edge), -1).view(-1, 1, 1, 1)
    output = torch.zeros((), dtype=pyramid[0].dtype, device=boxes.device)
    for level, stride in enumerate(STRIDES):
        cells = (pyramid[level], rois, output_size, 1 / stride)
        if edge == INCLUSIVE:
            pooled = roi_align_reference(*cells, SAMPLES)
        else:
            pooled = roi_align_reference(*cells, 0, aligned=True)
        output = torch.where(levels == level, pooled, output)
    return output
