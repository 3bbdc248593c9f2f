"""The panoptic head and what comes after it, on drawn inputs: masks to labels and their table."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from upsnet_ros.benchmark.clock import captured, device_ms
from upsnet_ros.benchmark.head_inputs import draw_head_inputs
from upsnet_ros.benchmark.summary import Summary
from upsnet_ros.inference.predictor import Predictor
from upsnet_ros.kernels.hidden_masks import Accepted
from upsnet_ros.kernels.panoptic import HeadMaps
from upsnet_ros.kernels.segments import SegmentTable
from upsnet_ros.network.panoptic_head import Grid, HeadOptions
from upsnet_ros.network.static.by_kernels import KernelOperators
from upsnet_ros.network.static.lists import DetectionLists, take, there
from upsnet_ros.network.static.on_cpu import CpuOperators
from upsnet_ros.network.static.operators import Operators

__all__ = ["INSTANCES", "SIZE", "HeadFigures", "measure_head"]

#: Of the goal.
SIZE, INSTANCES = (1024, 2048), 100
_SEED = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class HeadFigures:
    """Milliseconds on drawn inputs, by the device's clock, from a graph where there are graphs.

    Attributes:
        size: Height and width of the grid.
        instances: Detections handed in.
        accepted: Of these, those whose masks are not hidden.
        accept_ms: Removal of hidden masks alone.
        maps_ms: The panoptic head alone.
        segments_ms: Labels, unknown mask and table of segments alone.
        all_ms: The three one after the other.
    """

    size: tuple[int, int]
    instances: int
    accepted: int
    accept_ms: Summary
    maps_ms: Summary
    segments_ms: Summary
    all_ms: Summary


class _Head:
    """The three operators, each on what the ones before it give."""

    def __init__(self, predictor: Predictor, size: tuple[int, int], instances: int) -> None:
        self._size = size
        device, self._variant = predictor.device, predictor.variant
        self._operators: Operators = KernelOperators() if device.type == "cuda" else CpuOperators()
        inputs = draw_head_inputs(
            self._variant,
            size=size,
            instances=instances,
            seed=_SEED,
            device=device,
        )
        self._semantic = inputs.semantic
        self._detections = self._operators.worth_computing(inputs.detections)
        self._masks = inputs.mask_logits[:, : self._detections.scores.shape[1]]
        self._margin = torch.zeros(1, device=device)
        public_ids = torch.tensor(predictor.taxonomy.public_ids.tolist())
        self._public_ids = public_ids.to(device)
        self._rows, self._columns = (torch.arange(side, device=device) for side in size)
        self.accepted = self.accept()
        self._kept = self._keep()
        self._maps = self.maps()

    def accept(self) -> Accepted:
        share = self._variant.mask_overlap_threshold
        return self._operators.accept(self._detections, self._masks, size=self._size, share=share)

    def _keep(self) -> tuple[DetectionLists, Tensor]:
        place, number, blank = self.accepted
        stays = there(number, place.shape[1]) & ~blank[:, None]
        return self._detections.at(place, number), take(self._masks, place) * stays[..., None, None]

    def maps(self) -> HeadMaps:
        return self._operators.head(
            self._semantic,
            *self._kept,
            self._margin,
            grid=Grid(self._size),
            num_stuff=self._variant.num_stuff,
            options=HeadOptions(),
        )

    def segments(self) -> SegmentTable:
        return self._operators.segments(
            self._maps.panoptic,
            self._maps.semantic,
            self._kept[0].classes,
            self._public_ids,
            self._rows,
            self._columns,
            num_stuff=self._variant.num_stuff,
            stuff_area_limit=self._variant.stuff_area_limit,
            want_semantic=False,
        )

    def all(self) -> SegmentTable:
        self.accepted = self.accept()
        self._kept = self._keep()
        self._maps = self.maps()
        return self.segments()


@torch.inference_mode()
def measure_head(
    predictor: Predictor,
    *,
    warmup: int,
    iterations: int,
    size: tuple[int, int] = SIZE,
    instances: int = INSTANCES,
) -> HeadFigures:
    """Time what follows the network's heads.

    Args:
        predictor: Of which it takes device and classes.
        warmup: Calls before those that count.
        iterations: Calls that count.
        size: Height and width of the grid; by default the goal's.
        instances: Detections; by default the goal's.

    Raises:
        RuntimeError: The operators cannot be captured in a graph.
    """
    head, device = _Head(predictor, size, instances), predictor.device
    times = {}
    for name in ("accept", "maps", "segments", "all"):
        with captured(getattr(head, name), device) as function:
            times[name] = Summary.of(
                device_ms(function, device, warmup=warmup, iterations=iterations)
            )
    return HeadFigures(
        size=size,
        instances=instances,
        accepted=int(head.accepted.number),
        accept_ms=times["accept"],
        maps_ms=times["maps"],
        segments_ms=times["segments"],
        all_ms=times["all"],
    )
