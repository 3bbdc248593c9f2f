"""Settings of targets, losses, optimiser, schedule and augmentation: a frozen dataclass each.

Every value is checked when a settings object is made, from a file or in code; a key that does not
exist is an error. Defaults are those for new training. The published configurations, which
reproduce the original, are files in ``config/train/``.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import ConfigDict, Field
from pydantic.dataclasses import dataclass

STRICT = ConfigDict(extra="forbid")

Share = Annotated[float, Field(ge=0, le=1)]
Count = Annotated[int, Field(ge=1)]
CountOrZero = Annotated[int, Field(ge=0)]
NotNegative = Annotated[float, Field(ge=0)]
Positive = Annotated[float, Field(gt=0)]


@dataclass(frozen=True, slots=True, kw_only=True, config=STRICT)
class Quirks:
    """Habits of the original that cost accuracy. Off for new training; docs/training.md tells more.

    Attributes:
        rpn_negatives_over_positives: Anchors that match an object with an overlap below 0.3 may
            be labelled background all the same.
        rpn_scarce_negatives_ignored: Where there are no more background anchors than are wanted,
            none is labelled.
        rpn_positives_without_overlap: An object that no anchor touches makes all of them positive,
            since all tie for the largest overlap, zero.
        crowds_as_objects: Proposals on a group are positive examples of its class and box, anchors
            on groups are background, and their pixels are unknown to the panoptic head. Otherwise
            all of them are left out.
        masks_by_bounds: Masks are polygons; a region's mask is that of the object whose polygon's
            bounds overlap it most, and is rasterised over x2 - x1 pixels. Otherwise masks are bit
            masks, a region's is that of its own object, over the x2 - x1 + 1 pixels at which the
            network pastes it.
        crowd_shifts_panoptic_masks: Groups take part in the numbering of masks, but not of boxes,
            of the panoptic ground truth, so that after a group masks belong to wrong boxes.
        diluted_losses: Ignored pixels count in the mean of the panoptic and the region-wise
            semantic loss.
        momentum_holds_rate: The learning rate is inside the momentum buffer, which is divided by
            ten when the rate is.
    """

    rpn_negatives_over_positives: bool = False
    rpn_scarce_negatives_ignored: bool = False
    rpn_positives_without_overlap: bool = False
    crowds_as_objects: bool = False
    masks_by_bounds: bool = False
    crowd_shifts_panoptic_masks: bool = False
    diluted_losses: bool = False
    momentum_holds_rate: bool = False


@dataclass(frozen=True, slots=True, kw_only=True, config=STRICT)
class TargetSettings:
    """How anchors and proposals become examples.

    Attributes:
        rpn_anchors: Anchors labelled in an image.
        rpn_positives: Most of them that may be positive.
        rpn_positive_overlap: Overlap from which an anchor is positive.
        rpn_negative_overlap: Overlap below which an anchor may be background.
        rpn_top_n: Proposals kept before and after suppression.
        rois: Regions the box head sees in an image.
        roi_positives: Most of them that may lie on objects.
        roi_positive_overlap: Overlap from which a region lies on an object; others with less are
            background.
        crowd_share: Share inside a group from which an anchor or proposal is left out.
        kept_objects: Share of the objects the panoptic head is shown.
    """

    rpn_anchors: Count = 256
    rpn_positives: Count = 128
    rpn_positive_overlap: Share = 0.7
    rpn_negative_overlap: Share = 0.3
    rpn_top_n: Count = 2000
    rois: Count = 512
    roi_positives: Count = 128
    roi_positive_overlap: Share = 0.5
    crowd_share: Share = 0.7
    kept_objects: Share = 0.7


@dataclass(frozen=True, slots=True, kw_only=True, config=STRICT)
class LossSettings:
    """Weights of the losses in their sum.

    Attributes:
        rpn_class: Objectness of anchors.
        rpn_box: Box deltas of positive anchors.
        box_class: Class of regions.
        box: Box deltas of positive regions.
        mask: Masks of positive regions.
        semantic: Class of pixels.
        semantic_roi: Class of pixels inside objects' boxes, each box alike whatever its size.
        panoptic: Channel of pixels in the panoptic head.
        unknown_pixels: What the panoptic head is told about objects outside the taxonomy where the
            data set marks them: ``ignore`` leaves them out like other void, ``unknown`` calls
            them unknown.
    """

    rpn_class: NotNegative = 1.0
    rpn_box: NotNegative = 1.0
    box_class: NotNegative = 1.0
    box: NotNegative = 1.0
    mask: NotNegative = 1.0
    semantic: NotNegative = 1.0
    semantic_roi: NotNegative = 0.0
    panoptic: NotNegative = 0.5
    unknown_pixels: Literal["ignore", "unknown"] = "ignore"


@dataclass(frozen=True, slots=True, kw_only=True, config=STRICT)
class OptimizerSettings:
    """How gradients move the weights.

    Attributes:
        kind: ``sgd`` with momentum, or ``adamw``.
        learning_rate: For the whole batch, after the warm-up.
        momentum: Of SGD.
        weight_decay: Of weights; biases and norms have none.
        bias_rate: Factor of the learning rate of biases.
        clip_norm: Largest norm of all gradients together; larger ones are scaled down to it. None
            leaves them.
    """

    kind: Literal["sgd", "adamw"] = "sgd"
    learning_rate: Positive = 0.02
    momentum: Share = 0.9
    weight_decay: NotNegative = 1e-4
    bias_rate: NotNegative = 2.0
    clip_norm: Positive | None = None


@dataclass(frozen=True, slots=True, kw_only=True, config=STRICT)
class ScheduleSettings:
    """How long to train, and at which share of the learning rate.

    Attributes:
        iterations: Optimiser steps.
        kind: ``step`` divides the rate by ten at each of ``decay_at``; ``cosine`` lets it fall to
            zero along half a cosine.
        decay_at: Iterations at which the rate falls.
        warmup: Iterations over which the rate rises in a line from a tenth.
    """

    iterations: Count
    kind: Literal["step", "cosine"] = "step"
    decay_at: tuple[Count, ...] = ()
    warmup: CountOrZero = 0


@dataclass(frozen=True, slots=True, kw_only=True, config=STRICT)
class AugmentSettings:
    """How images are changed before the network sees them.

    Attributes:
        scales: Lengths in pixels of the short side, one of which is drawn for each image.
        max_size: Upper limit in pixels of the long side.
        flip: Probability of a mirrored image.
        crop: Height and width in pixels, after scaling, of a window drawn at random; None keeps the
            whole image.
        color: Strength of changes of brightness, contrast, saturation and (a tenth of it) hue; 0
            for none.
    """

    scales: Annotated[tuple[Annotated[int, Field(ge=32)], ...], Field(min_length=1)]
    max_size: Annotated[int, Field(ge=32)]
    flip: Share = 0.5
    crop: tuple[Annotated[int, Field(ge=32)], Annotated[int, Field(ge=32)]] | None = None
    color: Share = 0.0
