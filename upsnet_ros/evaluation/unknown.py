"""Metrics of unknown-object detection: recall of the mask, and curves of the scores.

The unknown mask is evaluated by the pixels of unknown objects that it covers, and by the pixels of
known classes that it covers wrongly. Scores are evaluated at every threshold. Ground-truth void
that is not an unknown object (ego vehicle, unlabelled background) is ignored.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import cv2
import numpy as np
import numpy.typing as npt

from upsnet_ros.errors import EvaluationError
from upsnet_ros.inference.frame import PanopticFrame

BoolArray = npt.NDArray[np.bool_]
IntArray = npt.NDArray[np.int64]

#: A region is found if the mask covers at least this fraction of it.
REGION_SHARE = 0.5
#: Fraction of known pixels that may be predicted as unknown, for `best_within`.
LOST_LIMIT = 0.02
_LEVELS = 256
_RECALL = 0.95


@dataclass(frozen=True, slots=True, kw_only=True)
class UnknownCounts:
    """Counts of unknown and known pixels, which can be added over frames.

    Attributes:
        unknown: Ground-truth pixels of unknown objects.
        found: Those that are in the predicted mask.
        known: Ground-truth pixels with a class.
        lost: Those that are in the predicted mask.
        regions: Connected regions of unknown objects in the ground truth.
        regions_found: Those that the mask covers by at least `REGION_SHARE`.
        scores: int64 (2, 256) by name of the score: histograms of known and unknown pixels.
    """

    unknown: int = 0
    found: int = 0
    known: int = 0
    lost: int = 0
    regions: int = 0
    regions_found: int = 0
    scores: Mapping[str, IntArray] = field(default_factory=dict)

    @classmethod
    def from_masks(
        cls,
        *,
        truth: BoolArray,
        known: BoolArray,
        mask: BoolArray,
        scores: Mapping[str, npt.NDArray[np.uint8]],
    ) -> UnknownCounts:
        """Return the counts of one frame; all arrays are (H, W).

        Args:
            truth: Pixels of unknown objects.
            known: Pixels with a class.
            mask: Pixels predicted as unknown.
            scores: Score maps by name; higher means more likely unknown.

        Raises:
            EvaluationError: The arrays differ in size.
        """
        sizes = {name: array.shape for name, array in scores.items()}
        for name, shape in {"known": known.shape, "mask": mask.shape, **sizes}.items():
            if shape != truth.shape:
                raise EvaluationError(f"unknown truth is {truth.shape}, but {name} is {shape}")
        number, regions = cv2.connectedComponents(truth.astype(np.uint8), connectivity=8)
        areas = np.bincount(regions.reshape(-1), minlength=number)[1:]
        covered = np.bincount(regions[mask], minlength=number)[1:]
        return cls(
            unknown=int(np.count_nonzero(truth)),
            found=int(np.count_nonzero(truth & mask)),
            known=int(np.count_nonzero(known)),
            lost=int(np.count_nonzero(known & mask)),
            regions=number - 1,
            regions_found=int(np.count_nonzero(covered >= REGION_SHARE * areas)),
            scores={
                name: np.stack(
                    [np.bincount(score[side], minlength=_LEVELS) for side in (known, truth)]
                )
                for name, score in scores.items()
            },
        )

    def __add__(self, other: UnknownCounts) -> UnknownCounts:
        scores = dict(self.scores)
        for name, counts in other.scores.items():
            scores[name] = scores[name] + counts if name in scores else counts
        return UnknownCounts(
            unknown=self.unknown + other.unknown,
            found=self.found + other.found,
            known=self.known + other.known,
            lost=self.lost + other.lost,
            regions=self.regions + other.regions,
            regions_found=self.regions_found + other.regions_found,
            scores=scores,
        )

    @property
    def recall(self) -> float:
        """Fraction of unknown pixels in the mask; nan without unknown pixels."""
        return self.found / self.unknown if self.unknown else np.nan

    @property
    def region_recall(self) -> float:
        """Fraction of unknown regions that the mask covers; nan without unknown regions."""
        return self.regions_found / self.regions if self.regions else np.nan

    @property
    def known_pixels_lost(self) -> float:
        """Fraction of known pixels in the mask; nan without known pixels."""
        return self.lost / self.known if self.known else np.nan

    @property
    def precision(self) -> float:
        """Fraction of the mask that is unknown, ignoring void; nan if the mask is empty."""
        taken = self.found + self.lost
        return self.found / taken if taken else np.nan


def average_precision(counts: IntArray) -> float:
    """Return the average precision of a score from its histograms (`UnknownCounts.scores`)."""
    false, true = np.cumsum(counts[:, ::-1], axis=1)
    if true[-1] == 0:
        return np.nan
    precision = true / np.maximum(true + false, 1)
    return float(np.sum(np.diff(true, prepend=0) * precision) / true[-1])


def false_positive_rate(counts: IntArray, recall: float = _RECALL) -> float:
    """Return the false positive rate at the highest threshold that reaches ``recall``."""
    false, true = np.cumsum(counts[:, ::-1], axis=1)
    if true[-1] == 0 or false[-1] == 0:
        return np.nan
    index = int(np.argmax(true >= recall * true[-1]))
    return float(false[index] / false[-1])


def best_within(counts: IntArray, lost: float = LOST_LIMIT) -> tuple[float, float]:
    """Return the best recall if at most a fraction ``lost`` of known pixels is lost.

    Returns:
        The recall, and the threshold as a fraction of the score's range, as used by the parameter
        ``unknown_threshold``; nan if recall is undefined.
    """
    false, true = (np.append(np.cumsum(side[::-1])[::-1], 0) for side in counts)
    if true[0] == 0 or false[0] == 0:
        return np.nan, np.nan
    # false[v] is the number of known pixels with a score of at least v.
    value = int(np.argmax(false <= lost * false[0]))
    return float(true[value] / true[0]), (value - 0.5) / (_LEVELS - 1)


# Range of the logits of a trained network; 255 steps of one eighth.
_LOWEST_LOGIT, _HIGHEST_LOGIT = -8.0, 24.0


def unknown_scores(frame: PanopticFrame) -> dict[str, npt.NDArray[np.uint8]]:
    """Return the unknown scores that a prediction contains, uint8 (H, W) by name.

    ``unknown_channel`` comes from the panoptic head. The others come from the semantic head:
    ``max_softmax`` is one minus the maximum probability (Hendrycks and Gimpel, ICLR 2017), and
    ``max_logit`` is the negative maximum logit (Hendrycks et al., ICML 2022).
    """
    scores = {}
    if frame.unknown_score is not None:
        scores["unknown_channel"] = frame.unknown_score
    if frame.confidence is not None:
        scores["max_softmax"] = 255 - frame.confidence
    if frame.max_logit is not None:
        share = (_HIGHEST_LOGIT - frame.max_logit) / (_HIGHEST_LOGIT - _LOWEST_LOGIT)
        scores["max_logit"] = np.rint(255 * share.clip(0, 1)).astype(np.uint8)
    return scores
