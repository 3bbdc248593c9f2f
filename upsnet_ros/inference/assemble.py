"""From the network's maps to a `PanopticFrame`: public ids, areas and bounds, on the device."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields
from typing import Any

import torch
from torch import Tensor

from upsnet_ros.datasets.taxonomy import Taxonomy
from upsnet_ros.inference.frame import LABEL_DIVISOR, Instance, PanopticFrame, StuffSegment
from upsnet_ros.inference.preprocess import Geometry
from upsnet_ros.network.instance_head import Detections
from upsnet_ros.network.panoptic_head import UNKNOWN
from upsnet_ros.network.segments import VOID, Segments, unify
from upsnet_ros.network.upsnet import PanopticResult
from upsnet_ros.network.variants import Variant


@dataclass(frozen=True, slots=True)
class Assembly:
    """Everything a frame needs; on the device, until `to_host` or a pipeline brings it here.

    Attributes:
        labels: int32 (H, W), as in `PanopticFrame`.
        unknown: bool (H, W).
        table: int64 (R, 7): label, semantic id, area, x1, y1, x2, y2 of each segment that has a
            pixel; things in the order of the panoptic head, stuff before them.
        details: float64 (R, 5): score and detection box in source pixels; zeros for stuff.
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


def _labels_of_regions(segments: Segments, num_stuff: int, public_ids: Tensor) -> Tensor:
    """Return the label of each region, int64 (R,): things numbered within their class."""
    semantic = segments.region_semantic
    present = segments.region_area > 0
    void = semantic == VOID
    # The stand-in for "nothing found" has a stuff id and is no thing.
    thing = present & ~void & (semantic >= num_stuff)
    same = (semantic[:, None] == semantic) & thing
    number = torch.tril(same).sum(dim=1)
    ids = public_ids[semantic.masked_fill(void, 0)]
    return torch.where(thing, ids * LABEL_DIVISOR + number, ids).masked_fill(void, 0)


def _bounds(index: Tensor, count: int, dim: int) -> tuple[Tensor, Tensor]:
    """Return the first and last row (dim 0) or column (dim 1) where index (H, W) has each value."""
    length = index.shape[dim]
    place = torch.arange(length, device=index.device)
    place = place[:, None] if dim == 0 else place
    hits = torch.bincount((index * length + place).flatten(), minlength=count * length)
    present = hits.view(count, length) > 0
    positions = torch.arange(length, device=index.device)
    first = torch.where(present, positions, length).amin(dim=1)
    last = torch.where(present, positions, -1).amax(dim=1)
    return first, last


def assemble(
    result: PanopticResult,
    geometry: Geometry,
    *,
    variant: Variant,
    public_ids: Tensor,
    semantic: bool,
) -> Assembly:
    """Unify the network's result at the source size and describe its segments.

    Args:
        result: The network's maps at `geometry.size`.
        geometry: Of the frame.
        variant: Of the network.
        public_ids: int64 (S,), public id of each semantic id, on the device.
        semantic: Whether `Assembly.semantic` is wanted.
    """
    maps, detections = result.maps, result.detections
    semantic_map = geometry.to_source(maps.semantic)
    panoptic = geometry.to_source(maps.panoptic)
    segments = unify(
        panoptic,
        semantic_map,
        detections.classes,
        num_stuff=variant.num_stuff,
        num_seg_classes=variant.num_seg_classes,
        stuff_area_limit=variant.stuff_area_limit,
    )
    region_labels = _labels_of_regions(segments, variant.num_stuff, public_ids)
    # Several regions can carry one stuff label; from here on a segment is what has one label.
    labels, segment_of_region = torch.unique(region_labels, return_inverse=True)
    index = segment_of_region[segments.region]
    count = len(labels)
    y1, y2 = _bounds(index, count, 0)
    x1, x2 = _bounds(index, count, 1)
    area = labels.new_zeros(count).index_add_(0, segment_of_region, segments.region_area)
    ids = labels.new_zeros(count).index_copy_(0, segment_of_region, segments.region_semantic)
    table = torch.stack((labels, ids, area, x1, y1, x2, y2), dim=1)
    details = _details(detections, geometry, segment_of_region, count, variant.num_stuff)
    shown = (area > 0) & (labels > 0)

    def to_source(x: Tensor | None) -> Tensor | None:
        return None if x is None else geometry.to_source(x)

    return Assembly(
        labels=labels.to(torch.int32)[index],
        unknown=panoptic == UNKNOWN,
        table=table[shown],
        details=details[shown],
        semantic=public_ids.to(torch.uint8)[semantic_map.long()] if semantic else None,
        unknown_score=to_source(maps.unknown_score),
        confidence=to_source(maps.confidence),
        max_logit=to_source(maps.max_logit),
    )


def _details(
    detections: Detections, geometry: Geometry, segments: Tensor, count: int, num_stuff: int
) -> Tensor:
    """Return score and box of the detection behind each segment, float64 (count, 5)."""
    rows = torch.cat((detections.scores[:, None], detections.boxes / geometry.scale), dim=1)
    details = rows.new_zeros((count, 5), dtype=torch.float64)
    of_instances = segments[num_stuff : num_stuff + len(detections)]
    return details.index_copy_(0, of_instances, rows.double())


def to_frame(assembly: Assembly, taxonomy: Taxonomy, num_stuff: int) -> PanopticFrame:
    """Turn an assembly in the host's memory into a `PanopticFrame`; their arrays share it."""
    instances: list[Instance] = []
    stuff: list[StuffSegment] = []
    rows = zip(assembly.table.tolist(), assembly.details.tolist(), strict=True)
    for (label, semantic_id, area, x1, y1, x2, y2), (score, *detection_box) in rows:
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
