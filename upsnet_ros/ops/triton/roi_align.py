"""RoIAlign over the pyramid as one kernel: see `fpn_roi_align`.

A program makes a row of a box's bins for a block of channels: four pixels of a channels-last level
a sample, weighted and summed in float32. How many samples a bin has is a constant, or of the box.
"""

# The arguments of kernels get their types when Triton compiles them.
# mypy: disallow-untyped-defs=False, disallow-incomplete-defs=False

from __future__ import annotations

from collections.abc import Sequence

import torch
import triton
import triton.language as tl
from torch import Tensor

from upsnet_ros.ops.boxes import INCLUSIVE
from upsnet_ros.ops.roi_align import LEVEL_EPSILON, SAMPLES, STRIDES

# Sizes differ by camera and sampled by batch: no reason to recompile.
_VARYING = ["per_image"] + [f"{side}{level}" for side in ("height", "width") for level in "2345"]


@triton.jit(do_not_specialize=_VARYING)
def _fpn_roi_align_kernel(
    p2,
    p3,
    p4,
    p5,
    boxes,
    counts,
    output,
    per_image,
    height2,
    width2,
    height3,
    width3,
    height4,
    width4,
    height5,
    width5,
    out_box,
    out_channel,
    out_bin,
    CHANNELS: tl.constexpr,
    BINS: tl.constexpr,
    EDGE: tl.constexpr,
    EPSILON: tl.constexpr,
    SAMPLE_COUNT: tl.constexpr,  # a bin and direction; 0: as many as a bin spans cells
    HAS_COUNTS: tl.constexpr,
    BLOCK: tl.constexpr,
    BLOCK_BINS: tl.constexpr,
):
    box = tl.program_id(0)
    image = box // per_image
    row = tl.program_id(1)
    column = tl.arange(0, BLOCK_BINS)
    channel = tl.program_id(2) * BLOCK + tl.arange(0, BLOCK)
    inside = (column < BINS)[:, None] & (channel < CHANNELS)[None, :]
    x1 = tl.load(boxes + 4 * box)
    y1 = tl.load(boxes + 4 * box + 1)
    x2 = tl.load(boxes + 4 * box + 2)
    y2 = tl.load(boxes + 4 * box + 3)
    size = tl.div_rn(tl.sqrt_rn((x2 - x1 + EDGE) * (y2 - y1 + EDGE)), 224.0) + EPSILON
    level = p2
    height = height2
    width = width2
    scale = 0.25
    if size >= 2:
        level = p5
        height = height5
        width = width5
        scale = 0.03125
    elif size >= 1:
        level = p4
        height = height4
        width = width4
        scale = 0.0625
    elif size >= 0.5:
        level = p3
        height = height3
        width = width3
        scale = 0.125
    level += image.to(tl.int64) * (height * width * CHANNELS)
    valid = True
    if HAS_COUNTS:
        valid = box % per_image < tl.load(counts + image)
    if SAMPLE_COUNT > 0:
        x1 = x1 * scale
        y1 = y1 * scale
        step_x = tl.div_rn(tl.maximum(x2 * scale - x1, 1.0), BINS * 1.0)
        step_y = tl.div_rn(tl.maximum(y2 * scale - y1, 1.0), BINS * 1.0)
        down_count = SAMPLE_COUNT
        across_count = SAMPLE_COUNT
    else:
        # Shifted by half a cell, and rounded as torchvision does: the number of samples jumps.
        x1 = x1 * scale - 0.5
        y1 = y1 * scale - 0.5
        step_x = tl.div_rn((x2 * scale - 0.5) - x1, BINS * 1.0)
        step_y = tl.div_rn((y2 * scale - 0.5) - y1, BINS * 1.0)
        across_count = tl.ceil(step_x).to(tl.int32)
        down_count = tl.ceil(step_y).to(tl.int32)
        across_count = tl.where(valid, across_count, 0)
    first_x = x1 + column * step_x
    first_y = y1 + row * step_y
    total = tl.full((BLOCK_BINS, BLOCK), 0.0, tl.float32)
    for sample in range(down_count * across_count):
        y = first_y + (sample // across_count + 0.5) * step_y / down_count
        x = first_x + (sample % across_count + 0.5) * step_x / across_count
        sampled = valid & (y >= -1) & (y <= height) & (x >= -1) & (x <= width)
        y = tl.minimum(tl.maximum(y, 0.0), height - 1.0)
        x = tl.minimum(tl.maximum(x, 0.0), width - 1.0)
        top = y.to(tl.int32)
        left = x.to(tl.int32)
        down = y - top.to(tl.float32)
        right = (x - left.to(tl.float32))[:, None]
        upper = level + top * width * CHANNELS + channel[None, :]
        lower = level + tl.minimum(top + 1, height - 1) * width * CHANNELS + channel[None, :]
        near = left[:, None] * CHANNELS
        far = tl.minimum(left + 1, width - 1)[:, None] * CHANNELS
        read = inside & sampled[:, None]
        a = tl.load(upper + near, mask=read, other=0.0).to(tl.float32)
        b = tl.load(upper + far, mask=read, other=0.0).to(tl.float32)
        c = tl.load(lower + near, mask=read, other=0.0).to(tl.float32)
        d = tl.load(lower + far, mask=read, other=0.0).to(tl.float32)
        above = (1 - right) * a + right * b
        below = (1 - right) * c + right * d
        total += (1 - down) * above + down * below
    if SAMPLE_COUNT > 0:
        total = total / (SAMPLE_COUNT * SAMPLE_COUNT)
    else:
        total = total / tl.maximum(down_count * across_count, 1)
    target = output + box.to(tl.int64) * out_box + (row * BINS + column)[:, None] * out_bin
    target += channel[None, :] * out_channel
    tl.store(target, total.to(output.dtype.element_ty), mask=inside)


def fpn_roi_align(
    pyramid: Sequence[Tensor],
    boxes: Tensor,
    output_size: int,
    *,
    counts: Tensor | None = None,
    edge: float = INCLUSIVE,
    block: int | None = None,
) -> Tensor:
    """Launch the kernel: `fpn_roi_align.fpn_roi_align`, `block` channels (a power of two) each."""
    levels = [level.permute(0, 2, 3, 1).contiguous() for level in pyramid[: len(STRIDES)]]
    channels, (batch, count) = levels[0].shape[3], boxes.shape[:2]
    planes = pyramid[0].is_contiguous()
    output = torch.empty(
        (batch * count, channels, output_size, output_size),
        dtype=levels[0].dtype,
        device=levels[0].device,
        memory_format=torch.contiguous_format if planes else torch.channels_last,
    )
    if len(output) == 0:
        return output
    if block is None:
        block = min(256, triton.next_power_of_2(channels))
    block_bins = triton.next_power_of_2(output_size)
    boxes = boxes.float().contiguous()
    _fpn_roi_align_kernel[(batch * count, output_size, triton.cdiv(channels, block))](
        *levels,
        boxes,
        boxes if counts is None else counts.contiguous(),
        output,
        count,
        *(side for level in levels for side in level.shape[1:3]),
        output.stride(0),
        output.stride(1),
        output.stride(3),
        CHANNELS=channels,
        BINS=output_size,
        EDGE=edge,
        EPSILON=LEVEL_EPSILON[edge],
        SAMPLE_COUNT=SAMPLES if edge == INCLUSIVE else 0,
        HAS_COUNTS=counts is not None,
        BLOCK=block,
        BLOCK_BINS=block_bins,
        num_warps=max(1, min(8, block * block_bins // 512)),
    )
    return output
