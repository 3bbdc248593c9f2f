"""How far figures would move had other drives been recorded: bootstrap over sequences.

Frames of a drive resemble each other, so whole sequences are drawn, with replacement, and the
figures computed from the sums over what was drawn.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import groupby

import numpy as np
import numpy.typing as npt

from upsnet_ros.evaluation.categories import Categories
from upsnet_ros.evaluation.measures import FrameMeasures
from upsnet_ros.evaluation.panoptic_quality import PanopticCounts, PanopticQuality
from upsnet_ros.evaluation.semantic import class_ious, mean_iou

Interval = tuple[float, float]
FloatArray = npt.NDArray[np.float64]

#: Share of the draws between the ends of an interval.
LEVEL = 0.95
_DRAWS = 1000
_SEED = 0


def intervals(frames: Sequence[FrameMeasures], categories: Categories) -> dict[str, Interval]:
    """Intervals of the headline figures, always the same for the same frames.

    Args:
        frames: Sorted by sequence.
        categories: The classes.

    Returns:
        Lower and upper end by figure; empty with fewer than two sequences.
    """
    groups = [list(group) for _, group in groupby(frames, lambda frame: frame.sequence)]
    if len(groups) < 2:
        return {}
    generator = np.random.default_rng(_SEED)
    share = np.full(len(groups), 1 / len(groups))
    weights = generator.multinomial(len(groups), share, size=_DRAWS).astype(np.float64)
    draws = _panoptic(weights, groups, categories)
    draws["mIoU"] = _mean_iou(weights, groups)
    draws.update(_unknown(weights, groups))
    tail = 50 * (1 - LEVEL)
    return {
        name: (float(low), float(high))
        for name, values in draws.items()
        if not np.isnan(values).all()
        for low, high in [np.nanpercentile(values, (tail, 100 - tail))]
    }


def _panoptic(
    weights: FloatArray, groups: Sequence[Sequence[FrameMeasures]], categories: Categories
) -> dict[str, FloatArray]:
    zero = PanopticCounts.zero(len(categories))
    sums = [sum((frame.panoptic for frame in group), zero) for group in groups]

    def drawn(values: Callable[[PanopticCounts], npt.NDArray[np.generic]]) -> FloatArray:
        return weights @ np.stack([values(counts) for counts in sums]).astype(np.float64)

    quality = PanopticQuality.of(
        drawn(lambda counts: counts.tp),
        drawn(lambda counts: counts.fp),
        drawn(lambda counts: counts.fn),
        drawn(lambda counts: counts.ious),
        categories.is_thing,
    )
    return {
        "PQ": quality.all[:, 0],
        "SQ": quality.all[:, 1],
        "RQ": quality.all[:, 2],
        "PQ_things": quality.things[:, 0],
        "PQ_stuff": quality.stuff[:, 0],
    }


def _mean_iou(weights: FloatArray, groups: Sequence[Sequence[FrameMeasures]]) -> FloatArray:
    sums = np.stack([np.sum([frame.pixels for frame in group], axis=0) for group in groups])
    return mean_iou(class_ious(np.tensordot(weights, sums.astype(np.float64), axes=1)))


def _unknown(
    weights: FloatArray, groups: Sequence[Sequence[FrameMeasures]]
) -> dict[str, FloatArray]:
    sums = np.zeros((len(groups), 4))
    for row, group in zip(sums, groups, strict=True):
        for counts in (frame.unknown for frame in group if frame.unknown is not None):
            row += (counts.found, counts.unknown, counts.lost, counts.known)
    found, unknown, lost, known = (weights @ sums).T
    return {
        "unknown_recall": found / np.where(unknown > 0, unknown, np.nan),
        "known_pixels_lost": lost / np.where(known > 0, known, np.nan),
    }
