"""From the network's outputs to a `PanopticFrame`, and the settings that may change per frame."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields, replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from upsnet_ros.datasets.taxonomy import Taxonomy
from upsnet_ros.errors import DivergedError
from upsnet_ros.inference.frame import Instance, PanopticFrame, StuffSegment
from upsnet_ros.inference.preprocess import Geometry
from upsnet_ros.network.batched_path import UNLABELLED, BatchedResult
from upsnet_ros.network.panoptic_head import HeadOptions
from upsnet_ros.network.panoptic_logits import NOT_FINITE
from upsnet_ros.network.segments import segment_table
from upsnet_ros.network.upsnet import PanopticResult
from upsnet_ros.network.variants import Variant
from upsnet_ros.ops.segments import ClassMap


@dataclass(frozen=True, slots=True, kw_only=True)
class FrameSettings:
    """Settings of one image, as of its submission.

    Attributes:
        score_threshold: Class probability an instance must exceed.
        head: Options of the panoptic head.
    """

    score_threshold: float
    head: HeadOptions


@dataclass(frozen=True, slots=True)
class Assembly:
    """The tensors of a frame, on the device until `to_host` or a pipeline copies them.

    Attributes:
        labels: int32 (H, W), as in `PanopticFrame`.
        unknown: bool (H, W).
        table: int32 (R, 7): label, semantic id, area, x1, y1, x2, y2 of each segment: stuff, then
            things in the order of the panoptic head. Rows without area are empty.
        details: float32 (R, 5): score and detection box in source pixels; zeros for stuff.
        finite: bool (1,), whether the network's logits are finite; otherwise the rest is
            meaningless.
        semantic: uint8 (H, W) public ids, or None.
        unknown_score: uint8 (H, W), or None.
        confidence: uint8 (H, W), or None.
        max_logit: float32 (H, W), or None.
    """

    labels: Tensor
    unknown: Tensor
    table: Tensor
    details: Tensor
    finite: Tensor
    semantic: Tensor | None
    unknown_score: Tensor | None
    confidence: Tensor | None
    max_logit: Tensor | None

    def map(self, function: Callable[[Tensor], Tensor]) -> Assembly:
        """Return an assembly with a function applied to each tensor that is not None."""
        mapped: dict[str, Any] = {}
        for field in fields(self):
            x = getattr(self, field.name)
            mapped[field.name] = None if x is None else function(x)
        return Assembly(**mapped)

    def with_maps_of(self, head: HeadOptions) -> Assembly:
        """Return the assembly without optional maps that are not requested."""
        return replace(
            self,
            semantic=self.semantic if head.confidence else None,
            unknown_score=self.unknown_score if head.unknown_score else None,
            confidence=self.confidence if head.confidence else None,
            max_logit=self.max_logit if head.max_logit else None,
        )

    def to_host(self) -> Assembly:
        """Return the assembly in host memory, waiting for it; unchanged if it is there."""
        return self.map(Tensor.cpu)


def of_batch(
    result: BatchedResult,
    *,
    rows: Tensor,
    columns: Tensor,
    boxes: Tensor,
    num_stuff: int,
) -> list[Assembly]:
    """Return the assembly of each image of a batch, without waiting for the device.

    Args:
        result: Result of the network.
        rows: int64 (H,), which row of the network's maps each row of an image shows.
        columns: int64 (W,), the same for columns.
        boxes: float32 (B, N, 4), the detections in pixels of the image, inclusive corners.
        num_stuff: Number of stuff classes.
    """
    segments, maps, scores = result.segments, result.maps, result.detections.scores
    details = F.pad(torch.cat((scores[..., None], boxes), dim=2), (0, 0, num_stuff, 0))
    same = maps.panoptic.shape[1:] == (len(rows), len(columns))

    def to_source(x: Tensor | None) -> Tensor | None:
        return x if x is None or same else x[:, rows][:, :, columns]

    batch = Assembly(
        labels=segments.labels,
        unknown=segments.unknown,
        table=segments.table,
        details=details,
        finite=result.finite[:, None],
        semantic=segments.semantic,
        unknown_score=to_source(maps.unknown_score),
        confidence=to_source(maps.confidence),
        max_logit=to_source(maps.max_logit),
    )
    return [batch.map(lambda x, i=i: x[i]) for i in range(len(details))]  # type: ignore[misc]


def assemble(
    result: PanopticResult,
    geometry: Geometry,
    *,
    variant: Variant,
    public_ids: Tensor,
    semantic: bool,
    class_map: ClassMap | None = None,
) -> Assembly:
    """Return the assembly of the reference network's result, at the source size.

    Args:
        result: The network's maps at `geometry.size`.
        geometry: Geometry of the frame.
        variant: Variant of the network.
        public_ids: int64 (S,), public id of each semantic id of the result, on the device.
        semantic: Whether `Assembly.semantic` is wanted.
        class_map: Map from the network's classes to those of the result; None if they are the same.
    """
    maps, detections = result.maps, result.detections
    num_stuff, classes, relabelling = variant.num_stuff, detections.classes, None
    if class_map is not None:
        num_stuff = class_map.num_stuff
        (classes,), relabelling = class_map.relabelling(classes[None])
        relabelling = relabelling._replace(regions=relabelling.regions[0])
        public_ids = torch.cat((public_ids, public_ids.new_full((1,), UNLABELLED)))
    segments = segment_table(
        geometry.to_source(maps.panoptic),
        geometry.to_source(maps.semantic),
        classes,
        public_ids,
        num_stuff=num_stuff,
        stuff_area_limit=variant.stuff_area_limit,
        want_semantic=semantic,
        relabelling=relabelling,
    )
    rows = torch.cat((detections.scores[:, None], detections.boxes / geometry.scale), dim=1)
    details = F.pad(rows, (0, 0, num_stuff, 0))
    shown = segments.table[:, 2] > 0

    def to_source(x: Tensor | None) -> Tensor | None:
        return None if x is None else geometry.to_source(x)

    return Assembly(
        labels=segments.labels,
        unknown=segments.unknown,
        table=segments.table[shown],
        details=details[shown],
        finite=torch.ones_like(shown[:1]),  # the panoptic head has checked its logits
        semantic=segments.semantic,
        unknown_score=to_source(maps.unknown_score),
        confidence=to_source(maps.confidence),
        max_logit=to_source(maps.max_logit),
    )


def to_frame(assembly: Assembly, taxonomy: Taxonomy) -> PanopticFrame:
    """Convert an assembly in host memory to a `PanopticFrame`, which shares its memory.

    Raises:
        DivergedError: The network's logits are not finite.
    """
    if not bool(assembly.finite):
        raise DivergedError(NOT_FINITE)
    instances: list[Instance] = []
    stuff: list[StuffSegment] = []
    rows = zip(assembly.table.tolist(), assembly.details.tolist(), strict=True)
    # Sorted by label, which is unique.
    for (label, semantic_id, area, x1, y1, x2, y2), (score, *detection_box) in sorted(rows):
        if area == 0:
            continue
        info = taxonomy.classes[semantic_id]
        box = (x1, y1, x2, y2)
        if semantic_id < taxonomy.num_stuff:
            stuff.append(
                StuffSegment(id=label, class_id=info.id, class_name=info.name, box=box, area=area)
            )
        else:
            instances.append(
                Instance(
                    id=label,
                    class_id=info.id,
                    class_name=info.name,
                    score=score,
                    box=box,
                    detection_box=tuple(detection_box),
                    area=area,
                )
            )

    def array(x: Tensor | None):  # type: ignore[no-untyped-def]
        return None if x is None else x.numpy()

    return PanopticFrame(
        labels=assembly.labels.numpy(),
        unknown=assembly.unknown.numpy(),
        instances=tuple(instances),
        stuff=tuple(stuff),
        semantic=array(assembly.semantic),
        unknown_score=array(assembly.unknown_score),
        confidence=array(assembly.confidence),
        max_logit=array(assembly.max_logit),
        taxonomy=taxonomy,
    )
