"""The operators by the kernels of `upsnet_ros.kernels`, or their twins: no wait for the device."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor

from upsnet_ros.kernels.fpn_roi_align import fpn_roi_align
from upsnet_ros.kernels.hidden_masks import Accepted, accept_masks
from upsnet_ros.kernels.nms import Kept, batched_nms
from upsnet_ros.kernels.panoptic import HeadMaps, panoptic_maps
from upsnet_ros.kernels.segments import SegmentTable, segment_table
from upsnet_ros.network.panoptic_head import Grid, HeadOptions
from upsnet_ros.network.static.lists import DetectionLists


class KernelOperators:
    """Operators for a GPU: see `Operators`."""

    def suppress(self, boxes: Tensor, numbers: Tensor, threshold: float, *, limit: int) -> Kept:
        """See `Operators`."""
        return batched_nms(boxes, numbers, threshold, limit=limit)

    def worth_computing(self, detections: DetectionLists) -> DetectionLists:
        """All of it: to learn how much is padding would be a wait."""
        return detections

    def pool(
        self, pyramid: Sequence[Tensor], boxes: Tensor, numbers: Tensor, output_size: int
    ) -> Tensor:
        """See `Operators`."""
        return fpn_roi_align(pyramid, boxes, output_size, numbers=numbers)

    def accept(
        self,
        detections: DetectionLists,
        mask_logits: Tensor,
        *,
        size: tuple[int, int],
        share: float,
    ) -> Accepted:
        """See `Operators`."""
        boxes, classes, numbers = detections.boxes, detections.classes, detections.numbers
        return accept_masks(boxes, classes, mask_logits, numbers, size=size, threshold=share)

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
        return panoptic_maps(
            semantic,
            grid.boxes(detections.boxes),
            detections.classes,
            mask_logits,
            detections.numbers,
            unknown_margin,
            size=grid.size,
            num_stuff=num_stuff,
            scale=grid.scale,
            unknown_score=options.unknown_score,
            confidence=options.confidence,
            max_logit=options.max_logit,
        )

    def segments(self, *maps: Tensor, **options: Any) -> SegmentTable:
        """See `Operators`."""
        return segment_table(*maps, **options)
