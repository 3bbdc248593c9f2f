"""The maps of Panoptic FPN's merge as one kernel: see `ops.heuristic_merge`.

A program computes a tile of pixels. It loops over the semantic channels, which it interpolates, and
then over those accepted instances that overlap the tile.
"""

# The arguments of kernels get their types when Triton compiles them.
# mypy: disallow-untyped-defs=False, disallow-incomplete-defs=False

from __future__ import annotations

import triton
import triton.language as tl
from torch import Tensor

from upsnet_ros.ops.panoptic import GridTables, HeadMaps, MapOptions
from upsnet_ros.ops.triton.mask_removal import covered_pixels, mask_span, next_member
from upsnet_ros.ops.triton.panoptic import line_taps, new_maps, semantic_leaders, store_maps

# Sizes and strides differ by camera: no reason to recompile.
_VARYING = ["height", "cell_rows", "cell_columns"]
_VARYING += ["image_stride", "channel_stride", "row_stride", "column_stride"]


@triton.jit(do_not_specialize=_VARYING)
def _merge_kernel(
    semantic,
    boxes,
    mask_logits,
    indices,
    counts,
    unknown_margin,
    first_row,
    row_weights,
    first_column,
    column_weights,
    panoptic,
    semantic_ids,
    unknown_score,
    confidence,
    max_logit,
    height,
    width,
    cell_rows,
    cell_columns,
    image_stride,
    channel_stride,
    row_stride,
    column_stride,
    STUFF: tl.constexpr,
    CLASSES: tl.constexpr,
    INSTANCES: tl.constexpr,
    BINS: tl.constexpr,
    TAPS: tl.constexpr,
    WANT_SCORE: tl.constexpr,
    WANT_CONFIDENCE: tl.constexpr,
    WANT_LOGIT: tl.constexpr,
    BLOCK_Y: tl.constexpr,
    BLOCK_X: tl.constexpr,
    BLOCK_N: tl.constexpr,
):
    first_y = tl.program_id(0) * BLOCK_Y
    first_x = tl.program_id(1) * BLOCK_X
    image = tl.program_id(2).to(tl.int64)
    y = first_y + tl.arange(0, BLOCK_Y)
    x = first_x + tl.arange(0, BLOCK_X)
    shown = (y < height)[:, None] & (x < width)[None, :]
    y0, y1, y2, v0, v1, v2 = line_taps(
        first_row, row_weights, y, height, cell_rows, row_stride, TAPS
    )
    x0, x1, x2, u0, u1, u2 = line_taps(
        first_column, column_weights, x, width, cell_columns, column_stride, TAPS
    )
    semantic += image * image_stride
    stuff, stuff_id, thing, thing_id, total = semantic_leaders(
        semantic, channel_stride, y0, y1, y2, v0, v1, v2, x0, x1, x2, u0, u1, u2, shown,
        STUFF, CLASSES, TAPS, WANT_CONFIDENCE,
    )  # fmt: skip

    boxes += image * (INSTANCES * 4)
    indices += image * INSTANCES
    mask_logits += image * (INSTANCES * BINS * BINS)
    count = tl.minimum(tl.load(counts + image), INSTANCES)
    rank = tl.arange(0, BLOCK_N)
    present = rank < count
    corner = boxes + 4 * tl.load(indices + rank, mask=present, other=0)
    left = tl.load(corner, mask=present, other=0.0)
    right = tl.load(corner + 2, mask=present, other=0.0)
    top = tl.load(corner + 1, mask=present, other=0.0)
    bottom = tl.load(corner + 3, mask=present, other=0.0)
    start_x, stop_x = mask_span(left, right)
    start_y, stop_y = mask_span(top, bottom)
    reaches_x = (start_x < first_x + BLOCK_X) & (stop_x > first_x)
    reaches_y = (start_y < first_y + BLOCK_Y) & (stop_y > first_y)
    reaches = present & reaches_x & reaches_y
    owner = tl.full((BLOCK_Y, BLOCK_X), -1, tl.int32)
    k = next_member(reaches, -1, BLOCK_N)
    while k < BLOCK_N:
        n = tl.load(indices + k)
        box = boxes + 4 * n
        near_x, near_y = tl.load(box), tl.load(box + 1)
        far_x, far_y = tl.load(box + 2), tl.load(box + 3)
        logits = mask_logits + n * (BINS * BINS)
        mine = covered_pixels(logits, x, y, near_x, near_y, far_x, far_y, shown, BINS)
        owner = tl.where(mine & (owner < 0), k, owner)
        k = next_member(reaches, k, BLOCK_N)

    lead = thing - stuff
    ids = tl.where(lead > tl.load(unknown_margin), -1, stuff_id)
    ids = tl.where(owner >= 0, STUFF + owner, ids)
    share = tl.where(owner >= 0, 0.0, 1 / (1 + tl.exp(-lead)))
    pixel = image * height * width + y[:, None] * width + x[None, :]
    store_maps(
        panoptic, semantic_ids, unknown_score, confidence, max_logit, pixel, shown,
        ids, share, stuff, stuff_id, thing, thing_id, total,
        STUFF, WANT_SCORE, WANT_CONFIDENCE, WANT_LOGIT,
    )  # fmt: skip


def merged_maps(
    semantic: Tensor,
    boxes: Tensor,
    mask_logits: Tensor,
    indices: Tensor,
    counts: Tensor,
    unknown_margin: Tensor,
    tables: GridTables,
    *,
    options: MapOptions,
    block: tuple[int, int] = (8, 64),
) -> HeadMaps:
    """Launch the kernel: `heuristic_merge.merged_maps`, with tiles of `block`, powers of two."""
    semantic = semantic.contiguous()
    batch, num_classes, *cells = semantic.shape
    instances, size = boxes.shape[1], tables.size
    maps = new_maps(semantic, size, options)
    _merge_kernel[(triton.cdiv(size[0], block[0]), triton.cdiv(size[1], block[1]), batch)](
        semantic,
        boxes.float().contiguous(),
        mask_logits.contiguous(),
        indices.contiguous(),
        counts.contiguous(),
        unknown_margin,
        *tables.rows,
        *tables.columns,
        # If a map is not wanted, nothing is written to this substitute.
        *(maps.panoptic if own is None else own for own in maps),
        *size,
        *cells,
        *semantic.stride(),
        STUFF=options.num_stuff,
        CLASSES=num_classes,
        INSTANCES=instances,
        BINS=mask_logits.shape[-1],
        TAPS=tables.taps,
        WANT_SCORE=options.unknown_score,
        WANT_CONFIDENCE=options.confidence,
        WANT_LOGIT=options.max_logit,
        BLOCK_Y=block[0],
        BLOCK_X=block[1],
        BLOCK_N=triton.next_power_of_2(instances),
    )
    return maps
