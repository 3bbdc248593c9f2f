"""A frame to be judged, and what is kept of it once it was."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from upsnet_ros.evaluation.boundary import boundary_overlaps
from upsnet_ros.evaluation.categories import Categories
from upsnet_ros.evaluation.errors import EvaluationError
from upsnet_ros.evaluation.instance_ap import Instances
from upsnet_ros.evaluation.maps import PanopticMap
from upsnet_ros.evaluation.overlaps import Overlaps
from upsnet_ros.evaluation.panoptic_quality import PanopticCounts
from upsnet_ros.evaluation.semantic import class_pixels
from upsnet_ros.evaluation.unknown import UnknownCounts


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class EvaluationFrame:
    """Truth and prediction of one image.

    Attributes:
        name: What reports call it; each name occurs once in an evaluation.
        sequence: The drive it belongs to; a name of its own for a single image.
        number: Its number along the sequence, in frames of the camera.
        truth: What is there.
        prediction: What was found.
        image: uint8 (H, W, 3) BGR for reports, or None.
        truth_unknown: bool (H, W): pixels of objects outside the classes; None where the truth
            does not tell.
        prediction_unknown: bool (H, W): pixels called unknown, or None.
        unknown_scores: uint8 (H, W) by name: what grows with the likelihood of unknown.
    """

    name: str
    truth: PanopticMap
    prediction: PanopticMap
    sequence: str = ""
    number: int = 0
    image: npt.NDArray[np.uint8] | None = None
    truth_unknown: npt.NDArray[np.bool_] | None = None
    prediction_unknown: npt.NDArray[np.bool_] | None = None
    unknown_scores: Mapping[str, npt.NDArray[np.uint8]] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Metrics:
    """What to measure beside panoptic quality, mean IoU and unknown objects.

    Attributes:
        boundary: Boundary PQ; costs several times as much as PQ.
        instances: AP of things; predictions need scores.
        video: VPQ; segment ids must persist along sequences.
    """

    boundary: bool = False
    instances: bool = False
    video: bool = False


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class FrameMeasures:
    """What is kept of a frame: some kilobytes, from which all figures are made.

    Attributes:
        name: The frame's.
        sequence: The frame's.
        number: The frame's.
        panoptic: Counts for PQ.
        pixels: int64 (2, C) for mean IoU: `class_pixels`.
        boundary: Counts for boundary PQ, or None.
        unknown: Counts of unknown objects, or None where truth or prediction lacks the mask.
        instances: The things for AP, or None.
        overlaps: Shared pixels for VPQ, or None.
    """

    name: str
    sequence: str
    number: int
    panoptic: PanopticCounts
    pixels: npt.NDArray[np.int64]
    boundary: PanopticCounts | None
    unknown: UnknownCounts | None
    instances: Instances | None
    overlaps: Overlaps | None


def measure(
    frame: EvaluationFrame, categories: Categories, metrics: Metrics | None = None
) -> FrameMeasures:
    """Judge one frame.

    Raises:
        EvaluationError: Truth and prediction do not fit each other or the categories; the message
            begins with the frame's name.
    """
    metrics = metrics or Metrics()
    truth, prediction = frame.truth, frame.prediction
    try:
        overlaps = Overlaps.of(truth, prediction)
        panoptic = PanopticCounts.of(overlaps, categories)
        boundary = None
        if metrics.boundary:
            bands = boundary_overlaps(truth, prediction)
            boundary = PanopticCounts.of(overlaps, categories, bands)
        unknown = None
        if frame.truth_unknown is not None and frame.prediction_unknown is not None:
            unknown = UnknownCounts.of(
                truth=frame.truth_unknown,
                known=np.isin(truth.pixels, truth.segments.ids),
                mask=frame.prediction_unknown,
                scores=frame.unknown_scores,
            )
        instances = None
        if metrics.instances:
            instances = Instances.of(truth, prediction, categories)
        return FrameMeasures(
            name=frame.name,
            sequence=frame.sequence or frame.name,
            number=frame.number,
            panoptic=panoptic,
            pixels=class_pixels(overlaps, categories),
            boundary=boundary,
            unknown=unknown,
            instances=instances,
            overlaps=overlaps if metrics.video else None,
        )
    except EvaluationError as error:
        raise EvaluationError(f"{frame.name}: {error}") from None
