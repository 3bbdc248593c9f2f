"""What one camera frame becomes: labels, unknown mask and a table of segments."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

#: Pixel value of a thing instance is ``class_id * LABEL_DIVISOR + k`` with k from 1.
LABEL_DIVISOR = 1000


@dataclass(frozen=True, slots=True, kw_only=True)
class Instance:
    """One thing instance.

    Attributes:
        id: The instance's pixel value in ``PanopticFrame.labels``
            (``class_id * 1000 + k``, k from 1 within its class, by descending score).
        class_id: The dataset's public id (Cityscapes labelId, COCO category id).
        class_name: The dataset's name of the class.
        score: Class probability of the box head, 0 to 1.
        box: Tight bounds (x1, y1, x2, y2) of the instance's pixels in ``labels``, in input
            pixels, both corners inclusive.
        detection_box: The box head's (x1, y1, x2, y2) in input pixels, float, inclusive corners;
            it covers the whole object, also the part that others hide.
        area: Number of pixels in ``labels`` that carry ``id``.
        track_id: Number from 1 that the thing keeps from frame to frame, while ``id`` is of this
            frame alone; 0 where tracking is off.
    """

    id: int
    class_id: int
    class_name: str
    score: float
    box: tuple[int, int, int, int]
    detection_box: tuple[float, float, float, float]
    area: int
    track_id: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class StuffSegment:
    """All pixels of one stuff class; ``id`` equals ``class_id``. Fields as in `Instance`."""

    id: int
    class_id: int
    class_name: str
    box: tuple[int, int, int, int]
    area: int


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class PanopticFrame:
    """The panoptic segmentation of one image.

    Attributes:
        labels: int32 (H, W) at the input's size; ``class_id * 1000 + k`` for things,
            ``class_id`` for stuff, 0 for void (unknown, or stuff smaller than the variant's limit).
        unknown: bool (H, W); True where the unknown channel won, by the margin asked for.
        instances: Things, in order of ``id``.
        stuff: Stuff segments, in order of ``id``.
        semantic: uint8 (H, W) public class ids of the semantic head alone, or None.
        confidence: uint8 (H, W), 255 times the probability of `semantic`, or None.
        unknown_score: uint8 (H, W), how near the unknown channel came: above 127 where it won; or
            None.
        max_logit: float32 (H, W), largest logit of the semantic head, or None.
        timings: Milliseconds by stage of the predictor, where it was asked to measure.
    """

    labels: npt.NDArray[np.int32]
    unknown: npt.NDArray[np.bool_]
    instances: tuple[Instance, ...]
    stuff: tuple[StuffSegment, ...]
    semantic: npt.NDArray[np.uint8] | None = None
    confidence: npt.NDArray[np.uint8] | None = None
    unknown_score: npt.NDArray[np.uint8] | None = None
    max_logit: npt.NDArray[np.float32] | None = None
    timings: dict[str, float] = field(default_factory=dict)
