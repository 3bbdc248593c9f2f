"""From what the network says to a `PanopticFrame`, by way of tensors that a GPU can send."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from upsnet_ros.datasets.taxonomy import Taxonomy
from upsnet_ros.inference.frame import Instance, PanopticFrame, StuffSegment
from upsnet_ros.inference.preprocess import Geometry
from upsnet_ros.network.segment_table import segment_table
from upsnet_ros.network.static.path import StaticResult
from upsnet_ros.network.upsnet import PanopticResult
from upsnet_ros.network.variants import Variant


@dataclass(frozen=True, slots=True)
class Assembly:
    """Everything a frame needs; on the device, until `to_host` or a pipeline brings it here.

    Attributes:
        labels: int32 (H, W), as in `PanopticFrame`.
        unknown: bool (H, W).
        table: int32 (R, 7): label, semantic id, area, x1, y1, x2, y2 of each segment: stuff, then
            things in the order of the panoptic head. Rows without area are of none.
        details: float32 (R, 5): score and detection box in source pixels; zeros for stuff.
        semantic: uint8 (H, W) public ids, or None.
        unknown_score: uint8 (H, W), or None.
        confidence: uint8 (H, W), or None.
        max_logit: float32 (H, W), or None.
    """

    labels: Tensor
    unknown: Tensor
    table: Tensor
    details: Tensor
    semantic: Tensor | None
    unknown_score: Tensor | None
    confidence: Tensor | None
    max_logit: Tensor | None

    def map(self, function: Callable[[Tensor], Tensor]) -> Assembly:
        """Return an assembly of what a function makes of each tensor that is there."""
        mapped: dict[str, Any] = {}
        for field in fields(self):
            x = getattr(self, field.name)
            mapped[field.name] = None if x is None else function(x)
        return Assembly(**mapped)

    def to_host(self) -> Assembly:
        """Return the assembly in the host's memory, waiting for it; itself where it is there."""
        return self.map(Tensor.cpu)


def of_batch(
    result: StaticResult, *, rows: Tensor, columns: Tensor, scale: float, num_stuff: int
) -> list[Assembly]:
    """Describe each image of a batch, without a wait for the device.

    Args:
        result: The network's.
        rows: int64 (H,), which row of the network's maps each row of an image shows.
        columns: int64 (W,), likewise.
        scale: Network pixels for each pixel of an image.
        num_stuff: Number of stuff classes.
    """
    segments, maps, detections = result.segments, result.maps, result.detections
    scores, boxes = detections.scores[..., None], detections.boxes / scale
    details = F.pad(torch.cat((scores, boxes), dim=2), (0, 0, num_stuff, 0))
    same = maps.panoptic.shape[1:] == (len(rows), len(columns))

    def to_source(x: Tensor | None) -> Tensor | None:
        return x if x is None or same else x[:, rows][:, :, columns]

    batch = Assembly(
        labels=segments.labels,
        unknown=segments.unknown,
        table=segments.table,
        details=details,
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
) -> Assembly:
    """Unify the plain network's result at the source size and describe its segments.

    Args:
        result: The network's maps at `geometry.size`.
        geometry: Of the frame.
        variant: Of the network.
        public_ids: int64 (S,), public id of each semantic id, on the device.
        semantic: Whether `Assembly.semantic` is wanted.
    """
    maps, detections = result.maps, result.detections
    segments = segment_table(
        geometry.to_source(maps.panoptic),
        geometry.to_source(maps.semantic),
        detections.classes,
        public_ids,
        num_stuff=variant.num_stuff,
        stuff_area_limit=variant.stuff_area_limit,
        want_semantic=semantic,
    )
    rows = torch.cat((detections.scores[:, None], detections.boxes / geometry.scale), dim=1)
    details = F.pad(rows, (0, 0, variant.num_stuff, 0))
    shown = segments.table[:, 2] > 0

    def to_source(x: Tensor | None) -> Tensor | None:
        return None if x is None else geometry.to_source(x)

    return Assembly(
        labels=segments.labels,
        unknown=segments.unknown,
        table=segments.table[shown],
        details=details[shown],
        semantic=segments.semantic,
        unknown_score=to_source(maps.unknown_score),
        confidence=to_source(maps.confidence),
        max_logit=to_source(maps.max_logit),
    )


def to_frame(assembly: Assembly, taxonomy: Taxonomy, num_stuff: int) -> PanopticFrame:
    """Turn an assembly in the host's memory into a `PanopticFrame`; their arrays share it."""
    instances: list[Instance] = []
    stuff: list[StuffSegment] = []
    rows = zip(assembly.table.tolist(), assembly.details.tolist(), strict=True)
    # By label, which no two segments share.
    for (label, semantic_id, area, x1, y1, x2, y2), (score, *detection_box) in sorted(rows):
        if area == 0:
            continue
        info = taxonomy.classes[semantic_id]
        box = (x1, y1, x2, y2)
        if semantic_id < num_stuff:
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
    )
