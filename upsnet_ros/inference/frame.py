"""What one camera frame becomes: labels, unknown mask and segments."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, field, replace

import numpy as np
import numpy.typing as npt

from upsnet_ros.datasets.taxonomy import Taxonomy
from upsnet_ros.errors import ImageError

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

    def __repr__(self) -> str:
        track = f", track {self.track_id}" if self.track_id else ""
        return (
            f"Instance({self.class_name} {self.id}, score {self.score:.2f}, box {self.box},"
            f" {self.area} px{track})"
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class StuffSegment:
    """All pixels of one stuff class; ``id`` equals ``class_id``. Fields as in `Instance`."""

    id: int
    class_id: int
    class_name: str
    box: tuple[int, int, int, int]
    area: int

    def __repr__(self) -> str:
        return f"StuffSegment({self.class_name} {self.id}, box {self.box}, {self.area} px)"


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class PanopticFrame:
    """The panoptic segmentation of one image.

    Attributes:
        labels: int32 (H, W) at the input's size; ``class_id * 1000 + k`` for things,
            ``class_id`` for stuff, 0 for void (unknown, or stuff smaller than the variant's limit).
        unknown: bool (H, W); True where the unknown channel won, by the margin asked for.
        instances: Things, in order of ``id``.
        stuff: Stuff segments, in order of ``id``.
        semantic: uint8 (H, W) public class ids of the semantic head alone, or None. Where it tells
            things only from stuff (``coco-fpn-*``), things have their instance's class, or 255.
        confidence: uint8 (H, W), 255 times the probability of `semantic`, or None.
        unknown_score: uint8 (H, W), how near the unknown channel came: above 127 where it won; or
            None.
        max_logit: float32 (H, W), largest logit of the semantic head, or None.
        timings: Milliseconds by stage of the predictor, where it was asked to measure.
        taxonomy: The classes that the ids refer to; None if unknown, as for frames made of messages
            without their `label_info`.
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
    taxonomy: Taxonomy | None = None

    @property
    def masks(self) -> npt.NDArray[np.bool_]:
        """The visible pixels of each of `instances`, in their order: bool (N, H, W).

        Computed on each access: keep the result rather than ask for it in a loop.
        """
        masks = np.zeros((len(self.instances), *self.labels.shape), np.bool_)
        for mask, instance in zip(masks, self.instances, strict=True):
            x1, y1, x2, y2 = instance.box
            inside = slice(y1, y2 + 1), slice(x1, x2 + 1)
            mask[inside] = self.labels[inside] == instance.id
        return masks

    @property
    def class_ids(self) -> npt.NDArray[np.int32]:
        """Public class id of each pixel, of things and stuff: int32 (H, W); 0 for void.

        Computed on each access. Unlike `semantic`, it agrees with `labels` at every pixel.
        """
        return np.where(self.labels < LABEL_DIVISOR, self.labels, self.labels // LABEL_DIVISOR)

    def __repr__(self) -> str:
        height, width = self.labels.shape
        unknown = 100 * float(self.unknown.mean()) if self.unknown.size else 0.0
        classes = "" if self.taxonomy is None else f", {self.taxonomy.name}"
        return (
            f"PanopticFrame({width}x{height}{classes}, {len(self.instances)} things,"
            f" {len(self.stuff)} stuff, {unknown:.1f}% unknown)"
        )


def keep_classes(frame: PanopticFrame, class_ids: Collection[int]) -> PanopticFrame:
    """Return the frame without the segments of other classes.

    Their pixels become void (0) in `labels` and unlabelled (255) in `semantic`. The ids of what is
    kept, `unknown` and the scores do not change.
    """
    keep = np.zeros(max(int(frame.labels.max(initial=0)) + 1, LABEL_DIVISOR), np.bool_)
    for class_id in class_ids:
        keep[class_id] = True
        keep[class_id * LABEL_DIVISOR : (class_id + 1) * LABEL_DIVISOR] = True
    semantic = frame.semantic
    if semantic is not None:
        shown = np.full(256, 255, np.uint8)
        for class_id in class_ids:
            shown[class_id] = class_id
        semantic = shown[semantic]
    return replace(
        frame,
        labels=np.where(keep[frame.labels], frame.labels, np.int32(0)),
        instances=tuple(one for one in frame.instances if one.class_id in class_ids),
        stuff=tuple(one for one in frame.stuff if one.class_id in class_ids),
        semantic=semantic,
    )


def check_frame(frame: object) -> None:
    """Raise `ImageError` unless it is a `PanopticFrame`."""
    if not isinstance(frame, PanopticFrame):
        raise ImageError(f"need a PanopticFrame, as a Predictor returns it, got {type(frame)}")
