"""How well objects that belong to no class are told from what is known.

The unknown mask is judged against the pixels of unknown objects, and what it takes from pixels of
known classes. Scores are judged at every threshold. Void of the truth that is no unknown object
(the ego vehicle, unlabelled background) counts for neither side.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import cv2
import numpy as np
import numpy.typing as npt

from upsnet_ros.evaluation.errors import EvaluationError

BoolArray = npt.NDArray[np.bool_]
IntArray = npt.NDArray[np.int64]

#: A region is found if the mask covers this share of it.
REGION_SHARE = 0.5
#: Share of known pixels that an unknown mask may take, for `best_within`.
LOST_LIMIT = 0.02
_LEVELS = 256
_RECALL = 0.95


@dataclass(frozen=True, slots=True, kw_only=True)
class UnknownCounts:
    """Sums over frames.

    Attributes:
        unknown: Pixels of unknown objects in the truth.
        found: Those of them in the predicted mask.
        known: Pixels of the truth with a class.
        lost: Those of them in the predicted mask.
        regions: Connected regions of unknown objects in the truth.
        regions_found: Those of which the mask covers at least `REGION_SHARE`.
        scores: By the score's name, int64 (2, 256): number of known and of unknown pixels by value.
    """

    unknown: int = 0
    found: int = 0
    known: int = 0
    lost: int = 0
    regions: int = 0
    regions_found: int = 0
    scores: Mapping[str, IntArray] = field(default_factory=dict)

    @classmethod
    def of(
        cls,
        *,
        truth: BoolArray,
        known: BoolArray,
        mask: BoolArray,
        scores: Mapping[str, npt.NDArray[np.uint8]],
    ) -> UnknownCounts:
        """Count one frame; all arrays are (H, W).

        Args:
            truth: Pixels of unknown objects.
            known: Pixels with a class.
            mask: Pixels predicted as unknown.
            scores: Scores that grow with the likelihood of unknown.

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
        """Share of unknown pixels that the mask found; nan without any."""
        return self.found / self.unknown if self.unknown else np.nan

    @property
    def region_recall(self) -> float:
        """Share of unknown regions that the mask found; nan without any."""
        return self.regions_found / self.regions if self.regions else np.nan

    @property
    def known_pixels_lost(self) -> float:
        """Share of known pixels that the mask took; nan without any."""
        return self.lost / self.known if self.known else np.nan

    @property
    def precision(self) -> float:
        """Share of unknown pixels in the mask, void aside; nan where the mask is empty."""
        taken = self.found + self.lost
        return self.found / taken if taken else np.nan


def average_precision(counts: IntArray) -> float:
    """Area under the steps of precision over recall, of counts as in `UnknownCounts.scores`."""
    false, true = np.cumsum(counts[:, ::-1], axis=1)
    if true[-1] == 0:
        return np.nan
    precision = true / np.maximum(true + false, 1)
    return float(np.sum(np.diff(true, prepend=0) * precision) / true[-1])


def false_positive_rate(counts: IntArray, recall: float = _RECALL) -> float:
    """Share of known pixels above the highest threshold that reaches ``recall``."""
    false, true = np.cumsum(counts[:, ::-1], axis=1)
    if true[-1] == 0 or false[-1] == 0:
        return np.nan
    place = int(np.argmax(true >= recall * true[-1]))
    return float(false[place] / false[-1])


def best_within(counts: IntArray, lost: float = LOST_LIMIT) -> tuple[float, float]:
    """Recall of unknown pixels where no larger share of known pixels may be lost.

    Returns:
        The recall, and the share of the score's range that a pixel must exceed for it, which is
        what the parameter ``unknown_threshold`` takes; nan where recall is not defined.
    """
    false, true = (np.append(np.cumsum(side[::-1])[::-1], 0) for side in counts)
    if true[0] == 0 or false[0] == 0:
        return np.nan, np.nan
    # false[v] are the known pixels with a score of v or more.
    value = int(np.argmax(false <= lost * false[0]))
    return float(true[value] / true[0]), (value - 0.5) / (_LEVELS - 1)
