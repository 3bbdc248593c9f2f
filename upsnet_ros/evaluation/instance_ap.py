"""Average precision of things by mask, through pycocotools.

Instances of a panoptic map do not overlap, so these figures are lower than those of the detections
they were made from; they compare panoptic models with each other.
"""

from __future__ import annotations

import contextlib
import io
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from pycocotools import mask as coco_mask
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from upsnet_ros.evaluation.categories import Categories
from upsnet_ros.evaluation.errors import EvaluationError
from upsnet_ros.evaluation.maps import PanopticMap

IntArray = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Instances:
    """The things of one frame, as pycocotools takes them, without the image's id.

    Attributes:
        size: Height and width of the frame.
        truth: Annotations: category, run lengths, area, crowd.
        prediction: Results: category, run lengths, score.
    """

    size: tuple[int, int]
    truth: tuple[dict[str, Any], ...]
    prediction: tuple[dict[str, Any], ...]

    @classmethod
    def of(cls, truth: PanopticMap, prediction: PanopticMap, categories: Categories) -> Instances:
        """Cut the things out of both maps.

        Raises:
            EvaluationError: The predicted segments have no scores.
        """
        scores = prediction.segments.scores
        if scores is None:
            raise EvaluationError("its predicted segments have no scores, which AP needs")
        results = tuple(
            {**thing, "score": float(scores[place])}
            for place, thing in _things(prediction, categories)
        )
        annotations = tuple(
            {
                **thing,
                "area": float(coco_mask.area(thing["segmentation"])),
                "iscrowd": int(truth.segments.crowd[place]),
            }
            for place, thing in _things(truth, categories)
        )
        height, width = truth.pixels.shape
        return cls((height, width), annotations, results)


def _things(side: PanopticMap, categories: Categories) -> Iterator[tuple[int, dict[str, Any]]]:
    """Place in the table, category and run lengths of each thing that has pixels."""
    segments = side.segments
    is_thing = categories.is_thing[categories.places(segments.classes)]
    height, width = side.pixels.shape
    for place, (starts, lengths) in _stretches(side, np.flatnonzero(is_thing)):
        # Gap, run, gap, run, ..., gap: COCO's counts, of pixels in order of columns.
        ends = starts + lengths
        gaps = np.append(starts, height * width) - np.append(0, ends)
        counts = np.empty(2 * len(starts) + 1, np.int64)
        counts[0::2], counts[1::2] = gaps, lengths
        uncompressed: Any = {"size": [height, width], "counts": counts.tolist()}
        encoded = coco_mask.frPyObjects(uncompressed, height, width)
        yield place, {"category_id": int(segments.classes[place]), "segmentation": encoded}


def _stretches(
    side: PanopticMap, places: npt.NDArray[np.intp]
) -> Iterator[tuple[int, tuple[IntArray, IntArray]]]:
    """Starts and lengths of the stretches of each segment, in one pass over the columns."""
    flat = side.pixels.T.reshape(-1)
    starts = np.concatenate((np.zeros(1, np.int64), np.flatnonzero(flat[1:] != flat[:-1]) + 1))
    lengths = np.diff(starts, append=flat.size)
    ids = flat[starts]
    order = np.argsort(ids, kind="stable")
    wanted = side.segments.ids[places]
    first = np.searchsorted(ids[order], wanted, "left")
    last = np.searchsorted(ids[order], wanted, "right")
    for place, begin, end in zip(places.tolist(), first, last, strict=True):
        if end > begin:
            own = order[begin:end]
            yield place, (starts[own], lengths[own])


def average_precision(
    frames: Iterable[Instances], categories: Categories
) -> tuple[float, float, dict[int, float]]:
    """AP over IoUs from 0.5 to 0.95, AP at 0.5, and AP by class id; nan without truth."""
    annotations: list[dict[str, Any]] = []
    results: list[dict[str, Any]] = []
    images = []
    for image_id, frame in enumerate(frames, 1):
        annotations += [{**item, "image_id": image_id} for item in frame.truth]
        results += [{**item, "image_id": image_id} for item in frame.prediction]
        height, width = frame.size
        images.append({"id": image_id, "height": height, "width": width})
    things = [info.id for info in categories.classes if info.is_thing]
    if not annotations:
        return np.nan, np.nan, dict.fromkeys(things, np.nan)
    truth, prediction = COCO(), COCO()
    for side, items in ((truth, annotations), (prediction, results)):
        dataset: Any = {
            "images": images,
            "categories": [{"id": number} for number in things],
            "annotations": [
                {
                    "iscrowd": 0,
                    "area": float(coco_mask.area(item["segmentation"])),
                    **item,
                    "id": number,
                }
                for number, item in enumerate(items, 1)
            ],
        }
        side.dataset = dataset
    with contextlib.redirect_stdout(io.StringIO()):  # pycocotools reports every step
        truth.createIndex()
        prediction.createIndex()
        judge = COCOeval(truth, prediction, "segm")
        judge.evaluate()
        judge.accumulate()
    # (IoU threshold, recall, class, area, detections): all areas, at most 100 detections.
    precision = judge.eval["precision"][:, :, :, 0, -1]
    precision = np.where(precision < 0, np.nan, precision)
    by_class = {
        class_id: _mean(precision[:, :, place])
        for place, class_id in enumerate(judge.params.catIds)
    }
    return _mean(precision), _mean(precision[0]), by_class


def _mean(values: Any) -> float:
    known = values[~np.isnan(values)]
    return float(known.mean()) if known.size else np.nan
