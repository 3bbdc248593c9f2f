"""From the panoptic head's maps to labels and their table, in fixed shapes on the device.

The reference defines the result: that of `network.segments.unify` and `inference.assemble`, with a
row for every possible stuff class and instance, frame by frame.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from upsnet_ros.ops import dispatch
from upsnet_ros.ops.panoptic import UNKNOWN, UNMAPPED

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


class Relabelling(NamedTuple):
    """New values of the maps' pixels.

    Attributes:
        regions: int16 (B, R): new panoptic value of each stuff class and instance, and last that of
            `UNKNOWN`: a stuff class, num_stuff + n, `UNKNOWN` or `UNMAPPED`.
        semantic: int16 (S,): new semantic id of each semantic id.
    """

    regions: Tensor
    semantic: Tensor


class ClassMap(NamedTuple):
    """Classes of a network as those of another taxonomy.

    Attributes:
        num_stuff: Stuff classes of the other taxonomy.
        stuff: int16 (num_stuff of the network,): new stuff class, or `UNMAPPED`.
        thing_stuff: int16 (C,): new stuff class of each class of things, or `UNMAPPED`; what class
            0 has, which stands for "nothing found", is the last stuff class.
        thing_classes: int64 (C,): new class of things, from 1; 0: it is not a thing any more.
        semantic: int16 (S + 1,): new semantic id of each semantic id; of unlisted ones, and of the
            last, which stands for unlabelled, the number of the other taxonomy's classes.
    """

    num_stuff: int
    stuff: Tensor
    thing_stuff: Tensor
    thing_classes: Tensor
    semantic: Tensor

    @classmethod
    def from_targets(
        cls,
        targets: Sequence[int | None],
        *,
        num_stuff: int,
        new_stuff: int,
        new_classes: int,
        device: torch.device | str,
    ) -> ClassMap:
        """Return the map on a device.

        Args:
            targets: New semantic id by semantic id, or None for void.
            num_stuff: Stuff classes of the network.
            new_stuff: Stuff classes of the other taxonomy.
            new_classes: All classes of the other taxonomy.
            device: Of the tensors.
        """
        void = UNMAPPED
        as_stuff = [void if new is None or new >= new_stuff else new for new in targets]
        as_thing = [0 if new is None else max(0, new - new_stuff + 1) for new in targets]
        semantic = [new_classes if new is None else new for new in (*targets, None)]
        of_things = slice(num_stuff, None)

        def tensor(values: Sequence[int], dtype: torch.dtype) -> Tensor:
            return torch.tensor(values, dtype=dtype).to(device)

        return cls(
            new_stuff,
            tensor(as_stuff[:num_stuff], torch.int16),
            tensor([as_stuff[num_stuff - 1], *as_stuff[of_things]], torch.int16),
            tensor([0, *as_thing[of_things]], torch.int64),
            tensor(semantic, torch.int16),
        )

    def relabelling(self, classes: Tensor) -> tuple[Tensor, Relabelling]:
        """Return the new classes of instances int64 (B, N), and the new values of pixels."""
        batch, count = classes.shape
        new = self.thing_classes[classes]
        number = torch.arange(count, dtype=torch.int16, device=classes.device)
        things = torch.where(new > 0, self.num_stuff + number, self.thing_stuff[classes])
        unknown = things.new_full((batch, 1), UNKNOWN)
        regions = torch.cat((self.stuff.expand(batch, -1), things, unknown), dim=1)
        return new, Relabelling(regions, self.semantic)


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
    majority: bool = True,
    relabelling: Relabelling | None = None,
) -> SegmentTable:
    """Let the semantic majority decide about instances, drop small stuff, and number what is left.

    `segment_table_reference` defines the result.

    Args:
        panoptic: int16 (B, h, w): stuff class, num_stuff + n, or -1 for unknown.
        semantic: int16 (B, h, w), semantic argmax.
        classes: int (B, N), classes of the instances; any valid class in the padding.
        public_ids: int (S,), public id of each semantic id.
        rows: int (H,), which row of the maps each row of the camera's image shows.
        columns: int (W,), the same for columns.
        num_stuff: Number of stuff classes.
        stuff_area_limit: Pixels a stuff class needs.
        want_semantic: Whether to fill `SegmentTable.semantic`.
        majority: Whether the semantic majority decides about instances at all.
        relabelling: New values of the maps' pixels, taken before anything else; all other arguments
            are then of the new classes.
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
        from upsnet_ros.ops.triton import segments as segments_triton

        return segments_triton.segment_table(*tensors, **options)

    tensors = (panoptic, semantic, classes, public_ids, rows, columns)
    options: dict[str, Any] = {
        "num_stuff": num_stuff,
        "stuff_area_limit": stuff_area_limit,
        "want_semantic": want_semantic,
        "majority": majority,
        "relabelling": relabelling,
    }
    return dispatch.run(
        "segments",
        panoptic.device,
        kernel=kernel,
        reference=lambda: segment_table_reference(*tensors, **options),
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
    majority: bool = True,
    relabelling: Relabelling | None = None,
) -> SegmentTable:
    """What `segment_table` must return; of equal majorities the lowest semantic id counts."""
    rows, columns, public = rows.long(), columns.long(), public_ids.long()
    panoptic, semantic = (x[:, rows][:, :, columns].long() for x in (panoptic, semantic))
    if relabelling is not None:
        values = relabelling.regions.long()
        at = torch.where(panoptic == UNKNOWN, values.shape[1] - 1, panoptic)
        panoptic = values.gather(1, at.flatten(1)).view_as(panoptic)
        semantic = relabelling.semantic.long()[semantic]
    last = num_stuff + classes.shape[1]
    region = torch.where(panoptic < 0, last, panoptic)
    frames = [
        _one_frame(
            *frame,
            public,
            num_stuff=num_stuff,
            stuff_area_limit=stuff_area_limit,
            with_majority=majority,
        )
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
    with_majority: bool,
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
    # Class 0 ("nothing found", or a dropped thing) is -1 where there is no stuff: it has no pixels.
    own = (num_stuff - 1 + classes.long()).clamp(min=0)
    to_stuff = (majority < num_stuff) & (majority != own) & (2 * most >= area[things])
    to_stuff &= with_majority
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
            position = torch.arange(region.shape[dim], device=region.device)
            position = (position if dim == 1 else position[:, None]).expand_as(region)
            found = region.new_full((count,), start)
            corners.append(found.scatter_reduce(0, region.flatten(), position.flatten(), reduce))
    return torch.stack(corners, dim=1)
