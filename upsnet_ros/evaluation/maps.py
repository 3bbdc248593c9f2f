"""One side of a frame, truth or prediction: which segment each pixel belongs to."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from upsnet_ros.datasets.taxonomy import Taxonomy
from upsnet_ros.evaluation.errors import EvaluationError
from upsnet_ros.inference.frame import LABEL_DIVISOR, PanopticFrame

#: Id of pixels that belong to no segment.
VOID = 0
# A table of so many counts is made faster than pixels are sorted.
_COUNTABLE = 1 << 17


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Segments:
    """A table of segments.

    Attributes:
        ids: int64 (S,), each once, none `VOID`.
        classes: int64 (S,) public class ids.
        crowd: bool (S,): groups whose members were not told apart; only truth has any.
        scores: float64 (S,), 0 to 1, or None where the segments have none.
        areas: int64 (S,) pixels as annotated, which the official tools trust; None: as counted.
    """

    ids: npt.NDArray[np.int64]
    classes: npt.NDArray[np.int64]
    crowd: npt.NDArray[np.bool_]
    scores: npt.NDArray[np.float64] | None = None
    areas: npt.NDArray[np.int64] | None = None

    @classmethod
    def of(
        cls,
        ids: npt.ArrayLike,
        classes: npt.ArrayLike,
        *,
        crowd: npt.ArrayLike | None = None,
        scores: npt.ArrayLike | None = None,
        areas: npt.ArrayLike | None = None,
    ) -> Segments:
        """Take lists of the same length.

        Raises:
            EvaluationError: An id is 0, or occurs twice.
        """
        numbers = np.asarray(ids, np.int64).reshape(-1)
        if (numbers == VOID).any():
            raise EvaluationError("segment id 0 is taken: it means void")
        present, counts = np.unique(numbers, return_counts=True)
        if (counts > 1).any():
            raise EvaluationError(f"segment id {present[counts > 1][0]} is listed twice")
        none = np.zeros(len(numbers), bool)
        return cls(
            ids=numbers,
            classes=np.asarray(classes, np.int64).reshape(-1),
            crowd=none if crowd is None else np.asarray(crowd, bool).reshape(-1),
            scores=None if scores is None else np.asarray(scores, np.float64).reshape(-1),
            areas=None if areas is None else np.asarray(areas, np.int64).reshape(-1),
        )

    def __len__(self) -> int:
        return len(self.ids)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class PanopticMap:
    """Segment ids by pixel, and what the segments are.

    Attributes:
        pixels: Integers (H, W); `VOID` where there is no segment.
        segments: The table of segments.
    """

    pixels: npt.NDArray[np.integer[Any]]
    segments: Segments


def map_of_frame(frame: PanopticFrame, *, tracks: bool = False) -> PanopticMap:
    """A prediction, as the Predictor makes it; stuff scores 1.

    Args:
        frame: The prediction.
        tracks: Whether things go by their track ids, which last, instead of the frame's own.

    Raises:
        EvaluationError: Track ids are asked for and a thing has none, or two have the same.
    """
    stuff, things = frame.stuff, frame.instances
    pixels: npt.NDArray[np.integer[Any]] = frame.labels
    ids = [part.id for part in things]
    if tracks:
        if not all(part.track_id for part in things):
            raise EvaluationError("there are things without a track id: tracking was off")
        # Beyond the ids of stuff, which are those of classes.
        lasting = [LABEL_DIVISOR + part.track_id for part in things]
        new_id = np.arange(max([0, *ids, int(pixels.max(initial=0))]) + 1)
        new_id[ids] = lasting
        pixels, ids = new_id[pixels], lasting
    return PanopticMap(
        pixels=pixels,
        segments=Segments.of(
            [part.id for part in stuff] + ids,
            [part.class_id for part in stuff] + [part.class_id for part in things],
            scores=[1.0] * len(stuff) + [part.score for part in things],
        ),
    )


def map_of_labels(labels: npt.NDArray[np.integer[Any]], taxonomy: Taxonomy) -> PanopticMap:
    """A label image: class * 1000 + k for things, the class for stuff; Cityscapes' instanceIds.

    A thing class without a number is a group of things; ids outside the taxonomy are void, which
    is how Cityscapes' own tools read its files.
    """
    present = _present(labels)
    classes = np.where(present >= LABEL_DIVISOR, present // LABEL_DIVISOR, present)
    known = np.isin(classes, taxonomy.public_ids)
    is_thing = np.array([taxonomy.by_id[c].is_thing for c in classes[known].tolist()], bool)
    pixels = labels
    if not known[present != VOID].all():
        pixels = np.where(np.isin(labels, present[known]), labels, VOID)
    segments = Segments.of(
        present[known], classes[known], crowd=is_thing & (present[known] < LABEL_DIVISOR)
    )
    return PanopticMap(pixels=pixels, segments=segments)


def _present(labels: npt.NDArray[np.integer[Any]]) -> npt.NDArray[np.int64]:
    """The values that occur, ascending; small ones are counted, ten times faster than sorted."""
    if labels.size and labels.min() >= 0 and labels.max() < _COUNTABLE:
        return np.flatnonzero(np.bincount(labels.reshape(-1)))
    return np.unique(labels).astype(np.int64)
