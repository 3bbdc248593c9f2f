"""The operators on a CPU: image by image and only where something is, as the plain network does.

To read how much of a list is there costs nothing here, while work on padding costs as much as any.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from typing import TypeVar

import torch
from torch import Tensor

from upsnet_ros.kernels.hidden_masks import Accepted
from upsnet_ros.kernels.nms import Kept
from upsnet_ros.kernels.panoptic import HeadMaps
from upsnet_ros.kernels.segments import SegmentTable
from upsnet_ros.network.boxes import nms
from upsnet_ros.network.mask_removal import remove_hidden_masks
from upsnet_ros.network.panoptic_head import Grid, HeadOptions, PanopticHead
from upsnet_ros.network.roi_pool import pool_rois
from upsnet_ros.network.segment_table import segment_table
from upsnet_ros.network.static.lists import DetectionLists

_Fields = TypeVar("_Fields", HeadMaps, SegmentTable)


class CpuOperators:
    """Operators for a CPU: see `Operators`."""

    def suppress(self, boxes: Tensor, numbers: Tensor, threshold: float, *, limit: int) -> Kept:
        """See `Operators`."""
        rank = -torch.arange(boxes.shape[1], dtype=torch.float32)
        places = [
            nms(one[:number], rank[:number], threshold)[:limit]
            for one, number in zip(boxes, numbers.tolist(), strict=True)
        ]
        return Kept(*_padded(places, limit))

    def worth_computing(self, detections: DetectionLists) -> DetectionLists:
        """Without what is padding in all lists; one entry stays, the stand-in for nothing."""
        return detections.cut(max(1, int(detections.numbers.max())))

    def pool(
        self, pyramid: Sequence[Tensor], boxes: Tensor, numbers: Tensor, output_size: int
    ) -> Tensor:
        """See `Operators`."""
        images = torch.arange(len(boxes)).repeat_interleave(boxes.shape[1])
        return pool_rois(pyramid, boxes.flatten(0, 1), output_size=output_size, images=images)

    def accept(
        self,
        detections: DetectionLists,
        mask_logits: Tensor,
        *,
        size: tuple[int, int],
        share: float,
    ) -> Accepted:
        """See `Operators`."""
        places, blank = [], []
        for image in range(len(mask_logits)):
            found = detections.of_image(image)
            logits = mask_logits[image, : len(found)]
            kept, masks = remove_hidden_masks(found, logits, size=size, threshold=share)
            places.append(kept)
            # Only the stand-in has no mask at all.
            blank.append(not bool(masks.any()))
        return Accepted(*_padded(places, mask_logits.shape[1]), torch.tensor(blank))

    def head(
        self,
        semantic: Tensor,
        detections: DetectionLists,
        mask_logits: Tensor,
        unknown_margin: Tensor,
        *,
        grid: Grid,
        num_stuff: int,
        options: HeadOptions,
    ) -> HeadMaps:
        """See `Operators`."""
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
            result = head.maps(options)
            return HeadMaps(
                result.panoptic,
                result.semantic,
                result.unknown_score,
                result.confidence,
                result.max_logit,
            )

        return _batch(maps, range(len(semantic)))

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
    ) -> SegmentTable:
        """See `Operators`."""
        same = panoptic.shape[1:] == (len(rows), len(columns))

        def to_source(x: Tensor) -> Tensor:
            # As many rows as the maps have are the maps' own: the scale is 1 then.
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
            ),
            range(len(panoptic)),
        )


def _padded(places: Sequence[Tensor], length: int) -> tuple[Tensor, Tensor]:
    """Return places (B, length), zeros from where each one ends, and how many there are: int32."""
    padded = torch.zeros(len(places), length, dtype=torch.int32)
    for row, place in zip(padded, places, strict=True):
        row[: len(place)] = place
    return padded, torch.tensor([len(place) for place in places], dtype=torch.int32)


def _batch(function: Callable[[int], _Fields], images: Iterable[int]) -> _Fields:
    """Return what a function makes of each image, stacked field by field."""
    results = [function(image) for image in images]
    first = results[0]
    if len(results) == 1:
        stacked = (None if x is None else x[None] for x in first)
    else:
        fields = zip(*results, strict=True)
        stacked = (None if values[0] is None else torch.stack(values) for values in fields)
    return type(first)._make(stacked)
