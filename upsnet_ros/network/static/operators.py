"""What runs in another form on a CPU than on a GPU, behind one interface."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from torch import Tensor

from upsnet_ros.kernels.hidden_masks import Accepted
from upsnet_ros.kernels.nms import Kept
from upsnet_ros.kernels.panoptic import HeadMaps
from upsnet_ros.kernels.segments import SegmentTable
from upsnet_ros.network.panoptic_head import Grid, HeadOptions
from upsnet_ros.network.static.lists import DetectionLists


class Operators(Protocol):
    """Operators on lists of fixed length; `by_kernels` and `on_cpu` implement them."""

    def suppress(self, boxes: Tensor, numbers: Tensor, threshold: float, *, limit: int) -> Kept:
        """Suppress boxes (B, N, 4) that overlap better ones of their list: `kernels.nms`."""
        ...

    def worth_computing(self, detections: DetectionLists) -> DetectionLists:
        """Return the lists, cut where it is known for free that all beyond is padding."""
        ...

    def pool(
        self, pyramid: Sequence[Tensor], boxes: Tensor, numbers: Tensor, output_size: int
    ) -> Tensor:
        """Pool boxes (B, K, 4) from P2 .. P5: (B * K, C, bins, bins); padding is undefined."""
        ...

    def accept(
        self,
        detections: DetectionLists,
        mask_logits: Tensor,
        *,
        size: tuple[int, int],
        share: float,
    ) -> Accepted:
        """Drop masks (B, N, M, M) of which better ones of their class hide more than a share."""
        ...

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
        """Return the panoptic head's maps (B, H, W): `kernels.panoptic`.

        The margin, float32 (1,), counts, not that of the options.
        """
        ...

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
        """Return labels and segments at the camera's size: `kernels.segments`."""
        ...
