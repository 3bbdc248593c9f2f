"""Evaluates one bag: reads frames with ground truth and prediction, and computes their metrics.

`evaluate_bag` is the unit of work when many bags are evaluated: its task and its result can be
pickled, and results merge exactly (`upsnet_ros.evaluation.run.PartialResult`).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from upsnet_ros.bag_evaluation.frames import (
    FramePositions,
    ModelReader,
    OutputReader,
    Pairing,
    PredictionReader,
    label_map,
)
from upsnet_ros.bag_evaluation.points import PointFrames
from upsnet_ros.bags.index import BagIndex, FrameKey, Role, index_bag
from upsnet_ros.bags.messages import TRUTH
from upsnet_ros.bags.reader import Record
from upsnet_ros.datasets.taxonomy import Taxonomy
from upsnet_ros.errors import BagError, EvaluationError, ImageError
from upsnet_ros.evaluation.maps import Categories
from upsnet_ros.evaluation.metrics import EvaluationFrame, Metrics
from upsnet_ros.evaluation.run import Evaluator, PartialResult, Series
from upsnet_ros.messages.images import plane, to_bgr

if TYPE_CHECKING:
    from upsnet_ros.evaluation.datasets import Predict

_TRUTH_ROLES = frozenset({Role.TRUTH, Role.TRUTH_UNKNOWN})
_SECOND = 1_000_000_000
#: A longer latency means that the two clocks are unrelated.
_MAX_LATENCY_NS = 60 * _SECOND
_BY_ARRIVAL = "Latency from image to labels, both as received by the recorder, ms"
_BY_STAMP = "Latency from the image's stamp to the arrival of the labels at the recorder, ms"


@dataclass(frozen=True, slots=True, kw_only=True)
class BagTask:
    """One bag to evaluate.

    Attributes:
        bag: The bag with the node outputs, or with the images for a model.
        truth: The bag with the ground truth; None: the same bag.
        metrics: The metrics to compute.
        pictures: Number of frames to keep small pictures of, for a report.
        allow_missing: Leave out incomplete frames and add a note, instead of raising.
        prefix: Prepended to the names of frames and sequences to distinguish bags.
        outputs: Namespace of the outputs; None: any.
        image: Topic of the images; None: any.
        taxonomy: The classes, for bags without a ``label_info`` topic.
        limit: Maximum number of frames: evenly spaced, or the first ones for video quality.
    """

    bag: Path
    truth: Path | None = None
    metrics: Metrics = field(default_factory=Metrics)
    pictures: int = 0
    allow_missing: bool = False
    prefix: str = ""
    outputs: str | None = None
    image: str | None = None
    taxonomy: Taxonomy | None = None
    limit: int | None = None


def evaluate_bag(task: BagTask, predict: Predict | None = None) -> PartialResult:
    """Evaluate one bag in this process and return its partial result.

    Args:
        task: The bag and the settings.
        predict: The model to run on the bag's images; None: evaluate the recorded outputs.

    Raises:
        EvaluationError: The bag cannot be evaluated; the message names the bag and the frames.
    """
    frames = BagFrames(task, predict)
    evaluator = Evaluator(metrics=task.metrics, snapshots=task.pictures > 0)
    return PartialResult.from_frames(
        evaluator.stream(frames, frames.categories),
        frames.categories,
        pictures=task.pictures,
        notes=frames.notes,
        series=frames.series,
    )


def without_truth(path: Path) -> str:
    """Return the message for a bag that has no ground truth and should."""
    return (
        f"{path} has no ground truth (labels under {TRUTH}): pass the bag that has it with --gt-bag"
    )


class BagFrames:
    """The labelled frames of a bag, in the order of their stamps.

    Messages are joined by exact stamp and frame_id. The bags are read twice: first to index their
    messages, so that missing frames are reported before a long evaluation, then frame by frame.

    Args:
        task: The bag and the settings.
        predict: The model to run on the images; None: evaluate the recorded outputs.

    Attributes:
        taxonomy: The classes, from the bags, the model or the task.
        categories: The same classes.
        notes: Remarks on the metrics, one line each.
        series: Latency and dropped frames, if the bag contains both images and outputs.

    Raises:
        EvaluationError: A bag cannot be read, has no ground truth or no outputs, frames are
            missing, or the bags have different classes.
    """

    def __init__(self, task: BagTask, predict: Predict | None = None) -> None:
        self._task = task
        try:
            self._bag = index_bag(task.bag, outputs=task.outputs, image=task.image)
            self._truth = self._bag
            if task.truth is not None:
                self._truth = index_bag(task.truth, outputs=task.outputs, image=task.image)
        except BagError as error:
            raise EvaluationError(str(error)) from error
        if not self._truth.has(Role.TRUTH):
            raise EvaluationError(without_truth(self._truth.path))
        self.taxonomy = self._agreed_taxonomy(getattr(predict, "taxonomy", None))
        self.categories = Categories.from_taxonomy(self.taxonomy)
        self.notes = list(
            dict.fromkeys(f"lost: {line}" for line in (*self._bag.losses, *self._truth.losses))
        )
        self.series: list[Series] = []
        images = self._bag if self._bag.has(Role.IMAGE) else self._truth
        self._reader: PredictionReader
        if predict is None:
            self._reader = OutputReader(self.taxonomy, task.metrics)
        else:
            self._reader = ModelReader(predict, task.metrics)
        # The bag that each role is read from.
        homes = dict.fromkeys(self._reader.roles, self._bag)
        homes |= dict.fromkeys(_TRUTH_ROLES, self._truth)
        if task.pictures or predict is not None:
            homes[Role.IMAGE] = images
        self._pairing = Pairing.from_bags(
            {role: index for role, index in homes.items() if index.has(role)},
            truth=self._truth,
            outputs=self._bag,
            main=self._reader.main,
            allow_missing=task.allow_missing,
        )
        self.notes += self._pairing.notes
        self._keys = self._pairing.keys
        if task.limit is not None and task.limit < len(self._keys):
            # Evenly spaced, or consecutive if ids must persist.
            step = 1.0 if task.metrics.video else len(self._keys) / task.limit
            self._keys = [self._keys[int(index * step)] for index in range(task.limit)]
        self._positions = FramePositions.from_bags(self._truth, images, prefix=task.prefix)
        self._points: PointFrames | None = None
        if predict is None:
            self._add_timing(images)
            self._add_points()

    def __len__(self) -> int:
        return len(self._keys)

    def __iter__(self) -> Iterator[EvaluationFrame]:
        try:
            for key, records in self._pairing.read(self._keys):
                yield self._frame(key, records)
        except BagError as error:
            raise EvaluationError(str(error)) from error
        if self._points is not None and self._points.without_pixels:
            self.notes.append(
                f"{self._points.without_pixels} clouds of depth images are not organized, so that"
                " nothing tells their pixels: not evaluated (upsnet points --organized)"
            )

    def _frame(self, key: FrameKey, records: dict[Role, Record]) -> EvaluationFrame:
        name, sequence, number = self._positions[key]
        try:
            predicted = self._reader(records, sequence, number)
            labels = plane(records[Role.TRUTH].message).astype(np.int32, copy=False)
            unknown = None
            if Role.TRUTH_UNKNOWN in records:
                unknown = plane(records[Role.TRUTH_UNKNOWN].message) != 0
            image = None
            if self._task.pictures and Role.IMAGE in records:
                image = to_bgr(records[Role.IMAGE].message)
            counts, cloud = None, None
            if self._points is not None:
                counts, cloud = self._points.read(key, labels=labels, unknown=unknown)
            return EvaluationFrame(
                name=name,
                sequence=sequence,
                number=number,
                truth=label_map(labels, self.taxonomy),
                prediction=predicted.prediction,
                image=image,
                truth_unknown=unknown,
                prediction_unknown=predicted.unknown,
                unknown_scores=predicted.scores,
                points=counts,
                cloud=cloud if self._task.pictures else None,
            )
        except (EvaluationError, ImageError) as error:
            raise EvaluationError(f"{name}: {error}") from None

    def _agreed_taxonomy(self, model_taxonomy: Taxonomy | None) -> Taxonomy:
        """Return the taxonomy of both bags and the model; raise if they differ."""
        named = {
            f"{index.path}": index.taxonomy
            for index in (self._truth, self._bag)
            if index.taxonomy is not None
        }
        if model_taxonomy is not None:
            named["the model"] = model_taxonomy
        elif not named and self._task.taxonomy is not None:
            named["--taxonomy"] = self._task.taxonomy
        if not named:
            raise EvaluationError(
                f"{self._truth.path} has no label_info with its classes: pass --taxonomy"
            )
        (first, chosen), *others = named.items()
        for name, taxonomy in others:
            if taxonomy != chosen:
                raise EvaluationError(
                    f"{first} has the classes of {chosen.name}, but {name} has other classes, of"
                    f" {taxonomy.name}"
                )
        return chosen

    def _add_points(self) -> None:
        points = PointFrames(self._bag, self._truth, self.categories, frames=self._keys)
        self._points = points
        self.notes += points.notes
        if points.unused and self._task.limit is None:
            self.notes.append(
                f"{points.unused} clouds have no evaluated image of their stamp: left out"
            )

    def _add_timing(self, images: BagIndex) -> None:
        """Add the latency of the results in the bag, and the images without a result."""
        arrived = self._bag.arrivals.get(Role.LABELS, {})
        sent = images.arrivals.get(Role.IMAGE, {})
        dropped = sorted(key for key in sent if key not in arrived)
        if dropped:
            count = f"{len(dropped)} of {len(sent)}"
            self.notes.append(f"{count} images have no result in {self._bag.path}")
        title, latencies = _latency(arrived, sent)
        if not latencies:
            return
        keys, begin = sorted(latencies), min([*latencies, *dropped]).stamp_ns
        self.series.append(
            Series(
                title=f"{self._task.prefix}: {title}" if self._task.prefix else title,
                times=[(key.stamp_ns - begin) / _SECOND for key in keys],
                values=[latencies[key] / 1e6 for key in keys],
                marks=[(key.stamp_ns - begin) / _SECOND for key in dropped],
                marks_title="images without a result" if dropped else "",
            )
        )


def _latency(
    arrived: Mapping[FrameKey, int], sent: Mapping[FrameKey, int]
) -> tuple[str, Mapping[FrameKey, int]]:
    """Return how latency was measured, and it in ns by frame; nothing if clocks are unrelated.

    Args:
        arrived: When the recorder received the labels, ns.
        sent: When it received the images, ns; their stamps are used if that gives no latency.
    """
    by_arrival = {key: arrived[key] - sent[key] for key in arrived if key in sent}
    by_stamp = {key: time_ns - key.stamp_ns for key, time_ns in arrived.items()}
    for title, latencies in ((_BY_ARRIVAL, by_arrival), (_BY_STAMP, by_stamp)):
        if latencies and all(0 <= wait < _MAX_LATENCY_NS for wait in latencies.values()):
            return title, latencies
    return "", {}
