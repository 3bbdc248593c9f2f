"""From the panoptic head's maps to labels and their table, in static shapes on the device.

The twin defines the result: what `network.segments.unify` and `inference.assemble` make together,
with a row for every stuff class and instance that there could be, frame by frame.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor

from upsnet_ros.kernels import dispatch
from upsnet_ros.kernels.panoptic import UNKNOWN

#: Semantic id of void regions.
VOID = 255
#: A thing's label is its class's public id times this, plus its number in the class from 1.
LABEL_DIVISOR = 1000


class SegmentTable(NamedTuple):
    """Segments at the camera's size.

    Attributes:
        labels: int32 (B, H, W), as in `PanopticFrame`.
        unknown: bool (B, H, W), where the unknown channel won.
        semantic: uint8 (B, H, W) public ids, or None.
        table: int32 (B, num_stuff + N, 7): label, semantic id, area, x1, y1, x2, y2 (inclusive
            corners). Rows are the stuff classes, then the instances; all zero where nothing is
            left of one.
        num_segments: int32 (B,), rows that are not zero.
    """

    labels: Tensor
    unknown: Tensor
    semantic: Tensor | None
    table: Tensor
    num_segments: Tensor


def segment_table(
    panoptic: Tensor,
    semantic: Tensor,
    classes: Tensor,
    public_ids: Tensor,
    rows: Tensor,
    columns: Tensor,
    *,
    num_stuff: int,
    stuff_area_limit: int,
    want_semantic: bool = False,
) -> SegmentTable:
    """Let the semantic majority decide about instances, drop small stuff, and number what is left.

    `segment_table_reference` defines the result.

    Args:
        panoptic: int16 (B, h, w): stuff class, num_stuff + n, or -1 for unknown.
        semantic: int16 (B, h, w), semantic argmax.
        classes: int (B, N), classes of the instances; of padding any that there is.
        public_ids: int (S,), public id of each semantic id.
        rows: int (H,), which row of the maps each row of the camera's image shows.
        columns: int (W,), likewise.
        num_stuff: Number of stuff classes.
        stuff_area_limit: Pixels a stuff class needs.
        want_semantic: Whether to fill `SegmentTable.semantic`.
    """
    batch = len(panoptic)
    if panoptic.shape != semantic.shape or panoptic.dim() != 3 or batch == 0:
        raise ValueError(
            f"panoptic and semantic have shapes {tuple(panoptic.shape)} and "
            f"{tuple(semantic.shape)}, but they must be the same (B, h, w), B at least 1"
        )
    if classes.dim() != 2 or len(classes) != batch:
        raise ValueError(
            f"classes has shape {tuple(classes.shape)}, but it must be (B, N) with B {batch}"
        )

    def kernel() -> SegmentTable:
        from upsnet_ros.kernels import segments_triton

        return segments_triton.segment_table(*tensors, **options)

    tensors = (panoptic, semantic, classes, public_ids, rows, columns)
    options: dict[str, Any] = {
        "num_stuff": num_stuff,
        "stuff_area_limit": stuff_area_limit,
        "want_semantic": want_semantic,
    }
    return dispatch.run(
        "segments",
        panoptic.device,
        kernel=kernel,
        twin=lambda: segment_table_reference(*tensors, **options),
    )


def segment_table_reference(
    panoptic: Tensor,
    semantic: Tensor,
    classes: Tensor,
    public_ids: Tensor,
    rows: Tensor,
    columns: Tensor,
    *,
    num_stuff: int,
    stuff_area_limit: int,
    want_semantic: bool = False,
) -> SegmentTable:
    """What `segment_table` must return; of equal majorities the lowest semantic id counts."""
    rows, columns, public = rows.long(), columns.long(), public_ids.long()
    panoptic, semantic = (x[:, rows][:, :, columns].long() for x in (panoptic, semantic))
    last = num_stuff + classes.shape[1]
    region = torch.where(panoptic == UNKNOWN, last, panoptic)
    frames = [
        _one_frame(*frame, public, num_stuff=num_stuff, stuff_area_limit=stuff_area_limit)
        for frame in zip(region, semantic, classes, strict=True)
    ]
    labels, table = (torch.stack(parts).int() for parts in zip(*frames, strict=True))
    return SegmentTable(
        labels,
        panoptic == UNKNOWN,
        public[semantic].to(torch.uint8) if want_semantic else None,
        table,
        (table[:, :, 2] > 0).sum(dim=1).int(),
    )


def _one_frame(
    region: Tensor,
    semantic: Tensor,
    classes: Tensor,
    public: Tensor,
    *,
    num_stuff: int,
    stuff_area_limit: int,
) -> tuple[Tensor, Tensor]:
    """Return labels (H, W) and table (num_stuff + N, 7); unknown is the last region."""
    num_classes, last = len(public), num_stuff + len(classes)
    pair = (region * num_classes + semantic).flatten()
    shares = pair.new_zeros((last + 1) * num_classes).index_add_(0, pair, torch.ones_like(pair))
    shares = shares.view(last + 1, num_classes)
    area = shares.sum(dim=1)

    things = slice(num_stuff, last)
    majority = shares[things].argmax(dim=1)
    most = shares[things].amax(dim=1)
    own = num_stuff - 1 + classes.long()
    to_stuff = (majority < num_stuff) & (majority != own) & (2 * most >= area[things])
    ids = torch.arange(last + 1, device=area.device)
    ids[things] = torch.where(to_stuff, majority, own)
    ids[last] = VOID

    same = ids[:, None] == ids
    total = (same * area).sum(dim=1)
    is_stuff = ids < num_stuff
    shown = (area > 0) & (ids != VOID) & (~is_stuff | (total >= stuff_area_limit))
    number = (same & shown & torch.ones_like(same).tril()).sum(dim=1)
    name = public[ids.clamp(max=num_classes - 1)]
    label = torch.where(is_stuff, name, name * LABEL_DIVISOR + number) * shown

    # A stuff class's row takes in the instances that became that stuff.
    members = shown[None] & torch.where(
        is_stuff[:last, None], same[:last], torch.eye(last + 1, device=area.device).bool()[:last]
    )
    members[things] &= ~is_stuff[things, None]
    bounds = _bounds(region, last + 1)
    near = torch.where(members[..., None], bounds[:, :2], region.numel()).amin(dim=1)
    far = torch.where(members[..., None], bounds[:, 2:], -1).amax(dim=1)
    amount = (members * area).sum(dim=1, keepdim=True)
    names = torch.stack(((members * label).amax(dim=1), ids[:last]), dim=1)
    return label[region], torch.cat((names, amount, near, far), dim=1) * (amount > 0)


def _bounds(region: Tensor, count: int) -> Tensor:
    """Return x1, y1, x2, y2 of each region, int64 (count, 4)."""
    corners = []
    for start, reduce in ((region.numel(), "amin"), (-1, "amax")):
        for dim in (1, 0):
            place = torch.arange(region.shape[dim], device=region.device)
            place = (place if dim == 1 else place[:, None]).expand_as(region)
            found = region.new_full((count,), start)
            corners.append(found.scatter_reduce(0, region.flatten(), place.flatten(), reduce))
    return torch.stack(corners, dim=1)
