"""How far two answers to the same picture are the same."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from upsnet_ros.benchmark.frames import Image
from upsnet_ros.datasets.base import Dataset
from upsnet_ros.evaluation.categories import Categories
from upsnet_ros.evaluation.datasets import frame_of
from upsnet_ros.evaluation.evaluation import summarise
from upsnet_ros.evaluation.measures import FrameMeasures, measure
from upsnet_ros.inference.frame import LABEL_DIVISOR, PanopticFrame

__all__ = [
    "Agreement",
    "AgreementFigures",
    "SceneFigures",
    "compare_frames",
    "compare_on_scenes",
    "exactly",
]

Predict = Callable[[Image], PanopticFrame]
Labels = npt.NDArray[np.integer[Any]]


@dataclass(frozen=True, slots=True)
class Agreement:
    """Shares of a picture's pixels, in percent, that have in both answers the same ...

    Attributes:
        label: Label, the number of an instance within its class included.
        segment: Segment, whatever its number: instances of a class are paired by shared pixels.
        category: Class, or none in both.
    """

    label: float
    segment: float
    category: float

    @classmethod
    def of(cls, one: Labels, other: Labels) -> Agreement:
        """Compare label images (H, W) as of `PanopticFrame`."""
        span = 1 + int(max(one.max(), other.max()))
        pairs, counts = np.unique(one.astype(np.int64) * span + other, return_counts=True)
        first, second = np.divmod(pairs, span)
        same_class = _classes(first) == _classes(second)
        shares = (
            counts[first == second].sum(),
            _paired(first[same_class], second[same_class], counts[same_class]),
            counts[same_class].sum(),
        )
        return cls(*(100 * float(share) / one.size for share in shares))


@dataclass(frozen=True, slots=True, kw_only=True)
class AgreementFigures:
    """Agreement over pictures, percent of pixels.

    Attributes:
        pictures: How many there were.
        median: Of each share, over the pictures.
        minimum: Likewise.
    """

    pictures: int
    median: Agreement
    minimum: Agreement

    @classmethod
    def of(cls, pictures: Sequence[Agreement]) -> AgreementFigures:
        """Summarise at least one picture."""
        shares = np.array([(one.label, one.segment, one.category) for one in pictures])
        median, minimum = (
            Agreement(*(round(float(share), 3) for share in row))
            for row in (np.median(shares, axis=0), shares.min(axis=0))
        )
        return cls(pictures=len(pictures), median=median, minimum=minimum)


@dataclass(frozen=True, slots=True, kw_only=True)
class SceneFigures:
    """Two predictors on labelled pictures.

    Attributes:
        agreement: Of their answers.
        fast_pq: PQ of the fast path, in percent.
        exact_pq: PQ of plain fp32.
    """

    agreement: AgreementFigures
    fast_pq: float
    exact_pq: float

    @property
    def difference(self) -> float:
        """How much PQ the fast path wins, in percentage points; negative where it loses."""
        return round(self.fast_pq - self.exact_pq, 3)


def exactly(predict: Predict) -> Predict:
    """Return what predicts without TF32, whose mantissa is no longer than fp16's.

    On CUDA torch lets convolutions in float32 use it unless it is told otherwise.
    """

    def predict_exactly(image: Image) -> PanopticFrame:
        cudnn, matmul = torch.backends.cudnn, torch.backends.cuda.matmul
        allowed = cudnn.allow_tf32, matmul.allow_tf32
        cudnn.allow_tf32 = matmul.allow_tf32 = False
        try:
            return predict(image)
        finally:
            cudnn.allow_tf32, matmul.allow_tf32 = allowed

    return predict_exactly


def compare_frames(
    fast: Predict,
    exact: Predict,
    images: Iterable[Image],
    *,
    progress: Callable[[], None] = lambda: None,
) -> list[Agreement]:
    """Let both segment each image, uint8 (H, W, 3) BGR, and compare their answers."""
    found = []
    for image in images:
        found.append(Agreement.of(fast(image).labels, exact(image).labels))
        progress()
    return found


def compare_on_scenes(
    fast: Predict,
    exact: Predict,
    dataset: Dataset,
    *,
    progress: Callable[[], None] = lambda: None,
) -> SceneFigures:
    """Let both segment each picture of a data set, compare their answers, and judge either.

    Raises:
        EvaluationError: An answer does not fit the truth.
    """
    categories = Categories.of(dataset.taxonomy)
    measures: tuple[list[FrameMeasures], list[FrameMeasures]] = ([], [])
    found = []
    for index in range(len(dataset)):
        sample = dataset[index]
        answers = fast(sample.image), exact(sample.image)
        found.append(Agreement.of(*(answer.labels for answer in answers)))
        for kept, answer in zip(measures, answers, strict=True):
            kept.append(measure(frame_of(sample, answer, dataset.taxonomy), categories))
        progress()
    fast_pq, exact_pq = (round(100 * summarise(kept, categories).pq, 3) for kept in measures)
    return SceneFigures(agreement=AgreementFigures.of(found), fast_pq=fast_pq, exact_pq=exact_pq)


def _classes(labels: Labels) -> Labels:
    """Return the class of each label; things' labels hold a number beside it."""
    return np.where(labels >= LABEL_DIVISOR, labels // LABEL_DIVISOR, labels)


def _paired(first: Labels, second: Labels, counts: npt.NDArray[np.int64]) -> int:
    """Pair labels one to one, those that share most pixels first; return what pairs share."""
    shared, taken = 0, (set[int](), set[int]())
    for place in np.argsort(-counts, kind="stable"):
        pair = int(first[place]), int(second[place])
        if pair[0] not in taken[0] and pair[1] not in taken[1]:
            shared += int(counts[place])
            for side, label in zip(taken, pair, strict=True):
                side.add(label)
    return shared
