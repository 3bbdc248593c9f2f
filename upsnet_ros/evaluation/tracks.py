"""Whether things keep their ids along a sequence: id switches, MOTSA and sMOTSA.

As Voigtlaender et al. define them ("MOTS: Multi-Object Tracking and Segmentation", CVPR 2019), on
the matches of panoptic quality: masks of one class whose IoU exceeds one half.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from upsnet_ros.evaluation.categories import Categories
from upsnet_ros.evaluation.overlaps import Overlaps
from upsnet_ros.evaluation.panoptic_quality import PanopticCounts, match

IntArray = npt.NDArray[np.int64]
FloatArray = npt.NDArray[np.float64]


def id_switches(
    numbers: Sequence[int], frames: Sequence[Overlaps], categories: Categories, *, max_gap: int
) -> IntArray:
    """Count the switches of a sequence, by class of the truth.

    A thing that is found under another id than when it was found last is a switch, however long
    that was ago.

    Args:
        numbers: The frames' numbers along the sequence, rising.
        frames: The frames' overlaps; ids persist along the sequence.
        categories: The classes.
        max_gap: Frames of which the numbers differ by more have nothing to do with each other.

    Returns:
        int64 (C,); 0 for stuff.
    """
    switches = np.zeros(len(categories), np.int64)
    found: dict[int, int] = {}
    for place, overlaps in enumerate(frames):
        if place and numbers[place] - numbers[place - 1] > max_gap:
            found = {}
        matching = match(overlaps)
        classes = categories.places(overlaps.truth.classes[matching.rows])
        ids = overlaps.truth.ids[matching.rows].tolist()
        answers = overlaps.prediction.ids[matching.columns].tolist()
        for class_place, truth, answer in zip(classes.tolist(), ids, answers, strict=True):
            if categories.is_thing[class_place]:
                switches[class_place] += found.get(truth, answer) != answer
                found[truth] = answer
    return switches


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class TrackQuality:
    """How well things are followed; nan where the truth has none.

    Attributes:
        switches: int64 (C,): id switches by class.
        classes: float64 (C, 2): MOTSA and sMOTSA by class, at most 1 and without a lower bound.
        all: float64 (2,): the same of all things, their counts added up.
    """

    switches: IntArray
    classes: FloatArray
    all: FloatArray

    @classmethod
    def of(cls, counts: PanopticCounts, switches: IntArray, categories: Categories) -> TrackQuality:
        """Compute from the sums over all frames."""
        wrong = counts.fp + switches
        gains = np.stack((counts.tp - wrong, counts.ious - wrong), axis=-1)
        truth = (counts.tp + counts.fn)[:, None]
        things = categories.is_thing
        return cls(
            switches=switches,
            classes=_ratio(gains, truth * things[:, None]),
            all=_ratio(gains[things].sum(axis=0), truth[things].sum(axis=0)),
        )


def _ratio(gains: FloatArray, truth: IntArray) -> FloatArray:
    return gains / np.where(truth > 0, truth, np.nan)
