"""Mask average precision (AP) of things, computed by pycocotools, which is imported on demand.

Instances of a panoptic map do not overlap, so AP is lower than for raw detections. Use it to
compare panoptic models with each other.
"""

from __future__ import annotations

import contextlib
import io
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from upsnet_ros.errors import EvaluationError
from upsnet_ros.evaluation.maps import Categories, PanopticMap

IntArray = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Instances:
    """The things of one frame in the format of pycocotools, without an image id.

    Attributes:
        size: Height and width of the frame.
        truth: Ground-truth annotations: category, RLE mask, area, crowd flag.
        prediction: Predictions: category, RLE mask, score.
    """

    size: tuple[int, int]
    truth: tuple[dict[str, Any], ...]
    prediction: tuple[dict[str, Any], ...]

    @classmethod
    def from_maps(
        cls, truth: PanopticMap, prediction: PanopticMap, categories: Categories
    ) -> Instances:
        """Extract the things of both maps.

        Raises:
            EvaluationError: The predicted segments have no scores.
        """
        from pycocotools import mask as coco_mask

        scores = prediction.segments.scores
        if scores is None:
            raise EvaluationError("its predicted segments have no scores, which AP needs")
        results = tuple(
            {**thing, "score": float(scores[index])}
            for index, thing in _things(prediction, categories)
        )
        annotations = tuple(
            {
                **thing,
                "area": float(coco_mask.area(thing["segmentation"])),
                "iscrowd": int(truth.segments.crowd[index]),
            }
            for index, thing in _things(truth, categories)
        )
        height, width = truth.pixels.shape
        return cls((height, width), annotations, results)


class InstancePrecision(NamedTuple):
    """AP of things; nan without ground truth.

    Attributes:
        ap: AP averaged over IoU thresholds from 0.5 to 0.95.
        ap50: AP at an IoU threshold of 0.5.
        classes: `ap` by class id.
    """

    ap: float
    ap50: float
    classes: dict[int, float]


def _things(side: PanopticMap, categories: Categories) -> Iterator[tuple[int, dict[str, Any]]]:
    """Yield segment index, and category and RLE mask, of each thing that has pixels."""
    from pycocotools import mask as coco_mask

    segments = side.segments
    is_thing = categories.is_thing[categories.indices(segments.classes)]
    height, width = side.pixels.shape
    for index, (starts, lengths) in _segment_runs(side, np.flatnonzero(is_thing)):
        # COCO's RLE counts alternate gap, run, gap, ..., gap over pixels in column-major order.
        ends = starts + lengths
        gaps = np.append(starts, height * width) - np.append(0, ends)
        counts = np.empty(2 * len(starts) + 1, np.int64)
        counts[0::2], counts[1::2] = gaps, lengths
        uncompressed: Any = {"size": [height, width], "counts": counts.tolist()}
        encoded = coco_mask.frPyObjects(uncompressed, height, width)
        yield index, {"category_id": int(segments.classes[index]), "segmentation": encoded}


def _segment_runs(
    side: PanopticMap, indices: npt.NDArray[np.intp]
) -> Iterator[tuple[int, tuple[IntArray, IntArray]]]:
    """Yield index, and starts and lengths of the runs in column-major order, of each segment."""
    flat = side.pixels.T.reshape(-1)
    starts = np.concatenate((np.zeros(1, np.int64), np.flatnonzero(flat[1:] != flat[:-1]) + 1))
    lengths = np.diff(starts, append=flat.size)
    ids = flat[starts]
    order = np.argsort(ids, kind="stable")
    wanted = side.segments.ids[indices]
    first = np.searchsorted(ids[order], wanted, "left")
    last = np.searchsorted(ids[order], wanted, "right")
    for index, begin, end in zip(indices.tolist(), first, last, strict=True):
        if end > begin:
            own = order[begin:end]
            yield index, (starts[own], lengths[own])


def average_precision(frames: Iterable[Instances], categories: Categories) -> InstancePrecision:
    """Return the AP of the things of some frames."""
    from pycocotools import mask as coco_mask
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

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
        classes = dict.fromkeys(things, np.nan)
        return InstancePrecision(ap=np.nan, ap50=np.nan, classes=classes)
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
    with contextlib.redirect_stdout(io.StringIO()):  # pycocotools prints every step
        truth.createIndex()
        prediction.createIndex()
        coco_eval = COCOeval(truth, prediction, "segm")
        coco_eval.evaluate()
        coco_eval.accumulate()
    # (IoU threshold, recall, class, area range, max detections): all areas, 100 detections.
    precision = coco_eval.eval["precision"][:, :, :, 0, -1]
    precision = np.where(precision < 0, np.nan, precision)
    by_class = {
        class_id: _mean(precision[:, :, index])
        for index, class_id in enumerate(coco_eval.params.catIds)
    }
    return InstancePrecision(ap=_mean(precision), ap50=_mean(precision[0]), classes=by_class)


def _mean(values: Any) -> float:
    known = values[~np.isnan(values)]
    return float(known.mean()) if known.size else np.nan
