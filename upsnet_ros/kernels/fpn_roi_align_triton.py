"""RoIAlign over the pyramid as one kernel: see `fpn_roi_align`.

A program makes one bin of one box for a block of channels: sixteen rows of a channels-last level,
weighted and summed in float32.
"""

# The arguments of kernels get their types when Triton compiles them.
# mypy: disallow-untyped-defs=False, disallow-incomplete-defs=False

from __future__ import annotations

from collections.abc import Sequence

import torch
import triton
import triton.language as tl
from torch import Tensor

from upsnet_ros.kernels.fpn_roi_align import SAMPLES, STRIDES

# Sizes differ by camera and counts by batch: no reason to compile anew.
_VARYING = ["per_image"] + [f"{side}{level}" for side in ("height", "width") for level in "2345"]


@triton.jit(do_not_specialize=_VARYING)
def _fpn_roi_align_kernel(
    p2,
    p3,
    p4,
    p5,
    boxes,
    numbers,
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
    SAMPLE_COUNT: tl.constexpr,
    HAS_NUMBERS: tl.constexpr,
    BLOCK: tl.constexpr,
):
    box = tl.program_id(0)
    image = box // per_image
    cell = tl.program_id(1)
    channel = tl.program_id(2) * BLOCK + tl.arange(0, BLOCK)
    inside = channel < CHANNELS
    x1 = tl.load(boxes + 4 * box)
    y1 = tl.load(boxes + 4 * box + 1)
    x2 = tl.load(boxes + 4 * box + 2)
    y2 = tl.load(boxes + 4 * box + 3)
    size = tl.div_rn(tl.sqrt_rn((x2 - x1 + 1) * (y2 - y1 + 1)), 224.0) + 1e-6
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
    there = True
    if HAS_NUMBERS:
        there = box % per_image < tl.load(numbers + image)
    x1 = x1 * scale
    y1 = y1 * scale
    step_x = tl.div_rn(tl.maximum(x2 * scale - x1, 1.0), BINS * 1.0)
    step_y = tl.div_rn(tl.maximum(y2 * scale - y1, 1.0), BINS * 1.0)
    first_x = x1 + (cell % BINS) * step_x
    first_y = y1 + (cell // BINS) * step_y
    total = tl.full((BLOCK,), 0.0, tl.float32)
    # Written out, so that the loads of all samples are on their way at once.
    for sample in tl.static_range(SAMPLE_COUNT * SAMPLE_COUNT):
        y = first_y + (sample // SAMPLE_COUNT + 0.5) * step_y / SAMPLE_COUNT
        x = first_x + (sample % SAMPLE_COUNT + 0.5) * step_x / SAMPLE_COUNT
        counts = there & (y >= -1) & (y <= height) & (x >= -1) & (x <= width)
        y = tl.minimum(tl.maximum(y, 0.0), height - 1.0)
        x = tl.minimum(tl.maximum(x, 0.0), width - 1.0)
        top = y.to(tl.int32)
        left = x.to(tl.int32)
        down = y - top.to(tl.float32)
        right = x - left.to(tl.float32)
        upper = top * width
        lower = tl.minimum(top + 1, height - 1) * width
        far = tl.minimum(left + 1, width - 1)
        read = inside & counts
        a = tl.load(level + (upper + left) * CHANNELS + channel, mask=read, other=0.0)
        b = tl.load(level + (upper + far) * CHANNELS + channel, mask=read, other=0.0)
        c = tl.load(level + (lower + left) * CHANNELS + channel, mask=read, other=0.0)
        d = tl.load(level + (lower + far) * CHANNELS + channel, mask=read, other=0.0)
        above = (1 - right) * a.to(tl.float32) + right * b.to(tl.float32)
        below = (1 - right) * c.to(tl.float32) + right * d.to(tl.float32)
        total += (1 - down) * above + down * below
    total = total / (SAMPLE_COUNT * SAMPLE_COUNT)
    place = output + box.to(tl.int64) * out_box + cell * out_bin + channel * out_channel
    tl.store(place, total.to(output.dtype.element_ty), mask=inside)


def fpn_roi_align(
    pyramid: Sequence[Tensor],
    boxes: Tensor,
    output_size: int,
    *,
    numbers: Tensor | None = None,
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
    boxes = boxes.float().contiguous()
    _fpn_roi_align_kernel[(batch * count, output_size**2, triton.cdiv(channels, block))](
        *levels,
        boxes,
        boxes if numbers is None else numbers.contiguous(),
        output,
        count,
        *(side for level in levels for side in level.shape[1:3]),
        output.stride(0),
        output.stride(1),
        output.stride(3),
        CHANNELS=channels,
        BINS=output_size,
        SAMPLE_COUNT=SAMPLES,
        HAS_NUMBERS=numbers is not None,
        BLOCK=block,
        num_warps=max(1, min(4, block // 64)),
    )
    return output
