"""The operators that differ between CPU and GPU, behind one interface.

On a CPU, reading the length of a list is free, and work on padding would be wasted. On a GPU, it
would wait for the device, so kernels work on padded lists.

An operator whose kernel does not run on a GPU (Triton is not installed, the kernel was disabled or
failed) is computed by `Operators` instead. The kernel's reference would return the same, but
loops over a thousand boxes, or allocates 200 MB of masks at 1024x2048.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from typing import Any, TypeVar

import torch
from torch import Tensor

from upsnet_ros.network.batched_selection import DetectionLists
from upsnet_ros.network.instance_head import pool_rois
from upsnet_ros.network.panoptic_head import (
    Grid,
    HeadOptions,
    PanopticHead,
    PanopticMaps,
    remove_hidden_masks,
)
from upsnet_ros.network.segments import merge_by_score, segment_table
from upsnet_ros.ops import dispatch
from upsnet_ros.ops.boxes import CONTINUOUS, INCLUSIVE, Kept, batched_nms, nms
from upsnet_ros.ops.heuristic_merge import merged_maps
from upsnet_ros.ops.mask_removal import Accepted, accept_masks
from upsnet_ros.ops.panoptic import GridTables, HeadMaps, panoptic_maps
from upsnet_ros.ops.roi_align import fpn_roi_align
from upsnet_ros.ops.segments import Relabelling, SegmentTable
from upsnet_ros.ops.segments import segment_table as batched_segment_table

_Fields = TypeVar("_Fields", HeadMaps, SegmentTable)


class Operators:
    """Operators on lists of fixed length, for a CPU, and for a GPU whose kernels do not run."""

    def suppress(
        self,
        boxes: Tensor,
        counts: Tensor,
        threshold: float,
        *,
        limit: int,
        groups: Tensor | None = None,
        edge: float = INCLUSIVE,
    ) -> Kept:
        """Suppress boxes (B, N, 4) that overlap better ones of their list: `ops.boxes`."""
        rank = -torch.arange(boxes.shape[1], dtype=torch.float32, device=boxes.device)

        def kept(image: int, count: int) -> Tensor:
            kinds = None if groups is None else groups[image, :count]
            one = boxes[image, :count]
            return nms(one, rank[:count], threshold, groups=kinds, edge=edge)[:limit]

        indices = [kept(image, count) for image, count in enumerate(counts.tolist())]
        return Kept(*_padded(indices, limit, boxes.device))

    def worth_computing(self, detections: DetectionLists) -> DetectionLists:
        """Drop what is padding in all lists, but keep one entry, the placeholder for nothing."""
        return detections.truncate(max(1, int(detections.counts.max())))

    def pool(
        self,
        pyramid: Sequence[Tensor],
        boxes: Tensor,
        counts: Tensor,
        output_size: int,
        *,
        edge: float = INCLUSIVE,
    ) -> Tensor:
        """Pool boxes (B, K, 4) from P2 .. P5: (B * K, C, bins, bins); padding is undefined."""
        images = torch.arange(len(boxes), device=boxes.device).repeat_interleave(boxes.shape[1])
        return pool_rois(
            pyramid, boxes.flatten(0, 1), output_size=output_size, images=images, edge=edge
        )

    def accept(
        self,
        detections: DetectionLists,
        mask_logits: Tensor,
        *,
        size: tuple[int, int],
        share: float,
    ) -> Accepted:
        """Drop masks (B, N, M, M) if better ones of their class hide more than a fraction."""
        indices, blank = [], []
        for image in range(len(mask_logits)):
            found = detections.of_image(image)
            logits = mask_logits[image, : len(found)]
            kept, masks = remove_hidden_masks(found, logits, size=size, threshold=share)
            indices.append(kept)
            # Only the placeholder has no mask at all.
            blank.append(not bool(masks.any()))
        device = mask_logits.device
        padded = _padded(indices, mask_logits.shape[1], device)
        return Accepted(*padded, torch.tensor(blank, device=device))

    def head(
        self,
        semantic: Tensor,
        detections: DetectionLists,
        mask_logits: Tensor,
        unknown_margin: Tensor,
        *,
        grid: Grid,
        tables: GridTables,
        num_stuff: int,
        options: HeadOptions,
    ) -> HeadMaps:
        """Return the panoptic head's maps (B, H, W): `ops.panoptic`.

        ``unknown_margin``, float32 (1,), replaces that of the options. The tables are those of the
        grid.
        """
        options = replace(options, unknown_margin=float(unknown_margin))

        def maps(image: int) -> HeadMaps:
            found = detections.of_image(image)
            head = PanopticHead(
                semantic=semantic[image],
                detections=found,
                mask_logits=mask_logits[image, : len(found)],
                grid=grid,
                num_stuff=num_stuff,
            )
            return _head_maps(head.maps(options))

        return _batch(maps, range(len(semantic)))

    def merge(
        self,
        semantic: Tensor,
        detections: DetectionLists,
        mask_logits: Tensor,
        unknown_margin: Tensor,
        *,
        grid: Grid,
        tables: GridTables,
        num_stuff: int,
        share: float,
        options: HeadOptions,
    ) -> tuple[Accepted, HeadMaps]:
        """See `Operators`."""
        options = replace(options, unknown_margin=float(unknown_margin))
        counts = detections.counts.tolist()
        indices = []

        def maps(image: int) -> HeadMaps:
            found = detections.of_image(image)[: counts[image]]
            accepted, result = merge_by_score(
                semantic[image],
                found,
                mask_logits[image, : counts[image]],
                grid=grid,
                num_stuff=num_stuff,
                share=share,
                options=options,
            )
            indices.append(accepted)
            return _head_maps(result)

        merged = _batch(maps, range(len(semantic)))
        device = semantic.device
        padded = _padded(indices, mask_logits.shape[1], device)
        blank = torch.zeros(len(semantic), dtype=torch.bool, device=device)
        return Accepted(*padded, blank), merged

    def segments(
        self,
        panoptic: Tensor,
        semantic: Tensor,
        classes: Tensor,
        public_ids: Tensor,
        rows: Tensor,
        columns: Tensor,
        *,
        num_stuff: int,
        stuff_area_limit: int,
        want_semantic: bool,
        majority: bool = True,
        relabelling: Relabelling | None = None,
    ) -> SegmentTable:
        """See `Operators`."""
        same = panoptic.shape[1:] == (len(rows), len(columns))

        def to_source(x: Tensor) -> Tensor:
            # If the sizes are equal, so are the pixels.
            return x if same else x[rows][:, columns]

        return _batch(
            lambda image: segment_table(
                to_source(panoptic[image]),
                to_source(semantic[image]),
                classes[image],
                public_ids,
                num_stuff=num_stuff,
                stuff_area_limit=stuff_area_limit,
                want_semantic=want_semantic,
                majority=majority,
                relabelling=(
                    None
                    if relabelling is None
                    else relabelling._replace(regions=relabelling.regions[image])
                ),
            ),
            range(len(panoptic)),
        )


def _head_maps(maps: PanopticMaps) -> HeadMaps:
    return HeadMaps(
        maps.panoptic, maps.semantic, maps.unknown_score, maps.confidence, maps.max_logit
    )


def _padded(indices: Sequence[Tensor], length: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """Return indices (B, length), padded with zeros, and the counts of valid ones (B,): int32."""
    padded = torch.zeros(len(indices), length, dtype=torch.int32, device=device)
    for row, own in zip(padded, indices, strict=True):
        row[: len(own)] = own
    counts = [len(own) for own in indices]
    return padded, torch.tensor(counts, dtype=torch.int32, device=device)


def _batch(function: Callable[[int], _Fields], images: Iterable[int]) -> _Fields:
    """Return the results of a function for each image, stacked field by field."""
    results = [function(image) for image in images]
    first = results[0]
    if len(results) == 1:
        stacked = (None if x is None else x[None] for x in first)
    else:
        fields = zip(*results, strict=True)
        stacked = (None if values[0] is None else torch.stack(values) for values in fields)
    return type(first)._make(stacked)


#: The kernels of the operators.
KERNELS = ("nms", "fpn_roi_align", "hidden_masks", "panoptic", "heuristic_merge", "segments")


def missing(device: torch.device) -> tuple[str, ...]:
    """Return which of `KERNELS` do not run on a GPU, so that their substitutes wait for it.

    For a CPU it is empty: there is nothing to wait for.
    """
    if device.type != "cuda":
        return ()
    return tuple(name for name in KERNELS if not dispatch.runs(name, device))


class KernelOperators(Operators):
    """Operators for a GPU: kernels, or those of the base class where one does not run."""

    def suppress(
        self,
        boxes: Tensor,
        counts: Tensor,
        threshold: float,
        *,
        limit: int,
        groups: Tensor | None = None,
        edge: float = INCLUSIVE,
    ) -> Kept:
        """See `Operators`."""
        if "nms" in missing(boxes.device):
            return super().suppress(boxes, counts, threshold, limit=limit, groups=groups, edge=edge)
        return batched_nms(boxes, counts, threshold, limit=limit, groups=groups, edge=edge)

    def worth_computing(self, detections: DetectionLists) -> DetectionLists:
        """Return all of the lists: their lengths are on the device, unless others wait anyway."""
        if missing(detections.boxes.device):
            return super().worth_computing(detections)
        return detections

    def pool(
        self,
        pyramid: Sequence[Tensor],
        boxes: Tensor,
        counts: Tensor,
        output_size: int,
        *,
        edge: float = INCLUSIVE,
    ) -> Tensor:
        """See `Operators`."""
        if "fpn_roi_align" in missing(boxes.device):
            return super().pool(pyramid, boxes, counts, output_size, edge=edge)
        return fpn_roi_align(pyramid, boxes, output_size, counts=counts, edge=edge)

    def accept(
        self,
        detections: DetectionLists,
        mask_logits: Tensor,
        *,
        size: tuple[int, int],
        share: float,
    ) -> Accepted:
        """See `Operators`."""
        if "hidden_masks" in missing(mask_logits.device):
            return super().accept(detections, mask_logits, size=size, share=share)
        boxes, classes, counts = detections.boxes, detections.classes, detections.counts
        return accept_masks(boxes, classes, mask_logits, counts, size=size, threshold=share)

    def head(
        self,
        semantic: Tensor,
        detections: DetectionLists,
        mask_logits: Tensor,
        unknown_margin: Tensor,
        *,
        grid: Grid,
        tables: GridTables,
        num_stuff: int,
        options: HeadOptions,
    ) -> HeadMaps:
        """See `Operators`."""
        if "panoptic" in missing(semantic.device):
            same: dict[str, Any] = {"tables": tables, "num_stuff": num_stuff, "options": options}
            return super().head(
                semantic, detections, mask_logits, unknown_margin, grid=grid, **same
            )
        return panoptic_maps(
            semantic,
            grid.boxes(detections.boxes),
            detections.classes,
            mask_logits,
            detections.counts,
            unknown_margin,
            tables,
            options=options.of_maps(num_stuff),
        )

    def merge(
        self,
        semantic: Tensor,
        detections: DetectionLists,
        mask_logits: Tensor,
        unknown_margin: Tensor,
        *,
        grid: Grid,
        tables: GridTables,
        num_stuff: int,
        share: float,
        options: HeadOptions,
    ) -> tuple[Accepted, HeadMaps]:
        """See `Operators`."""
        if {"hidden_masks", "heuristic_merge"} & {*missing(semantic.device)}:
            same: dict[str, Any] = {"tables": tables, "num_stuff": num_stuff, "options": options}
            return super().merge(
                semantic, detections, mask_logits, unknown_margin, grid=grid, share=share, **same
            )
        boxes = grid.extents(detections.boxes)
        # Masks hide each other, whatever their classes.
        alike = torch.ones_like(detections.classes)
        accepted = accept_masks(
            boxes,
            alike,
            mask_logits,
            detections.counts,
            size=grid.size,
            threshold=share,
            edge=CONTINUOUS,
        )
        # Without the placeholder for "nothing found".
        counts = accepted.counts.masked_fill(accepted.blank, 0)
        accepted = Accepted(accepted.indices, counts, torch.zeros_like(accepted.blank))
        maps = merged_maps(
            semantic,
            boxes,
            mask_logits,
            accepted.indices,
            counts,
            unknown_margin,
            tables,
            options=options.of_maps(num_stuff),
        )
        return accepted, maps

    def segments(self, *maps: Tensor, **options: Any) -> SegmentTable:
        """See `Operators`."""
        if "segments" in missing(maps[0].device):
            return super().segments(*maps, **options)
        return batched_segment_table(*maps, **options)
