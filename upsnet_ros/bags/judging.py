"""The frames of bags, truth beside prediction, for `upsnet_ros.evaluation`.

`judge_bag` is the unit of work of evaluations over many bags: what it takes and what it returns
can be pickled, and the results merge exactly (`upsnet_ros.evaluation.partial.PartialResult`).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from upsnet_ros.bags.answers import AnswerReader, ModelReader, OutputReader, label_map
from upsnet_ros.bags.errors import BagError
from upsnet_ros.bags.index import BagIndex, FrameKey, index_bag
from upsnet_ros.bags.messages import TRUTH
from upsnet_ros.bags.pairing import Pairing
from upsnet_ros.bags.places import Places
from upsnet_ros.bags.reader import Record
from upsnet_ros.bags.roles import Role
from upsnet_ros.bags.timing import Timing
from upsnet_ros.datasets.taxonomy import Taxonomy
from upsnet_ros.evaluation.categories import Categories
from upsnet_ros.evaluation.errors import EvaluationError
from upsnet_ros.evaluation.measures import EvaluationFrame, Metrics
from upsnet_ros.evaluation.partial import PartialResult
from upsnet_ros.evaluation.report.page import Series
from upsnet_ros.evaluation.run import Judge
from upsnet_ros.ros.image_codec import ImageError, to_bgr
from upsnet_ros.ros.plane import plane

if TYPE_CHECKING:
    from upsnet_ros.evaluation.datasets import Predict

__all__ = ["BagFrames", "BagTask", "judge_bag"]

_TRUTH_ROLES = frozenset({Role.TRUTH, Role.TRUTH_UNKNOWN})


@dataclass(frozen=True, slots=True, kw_only=True)
class BagTask:
    """One bag to judge.

    Attributes:
        bag: With the outputs to judge, or with the images for a model.
        truth: The bag with the truth; None: the same.
        metrics: What to measure.
        pictures: How many frames' pictures to keep for a report.
        allow_missing: Leave out frames that lack something, and tell.
        prefix: Set in front of the names of frames and sequences, to tell bags apart.
        outputs: Namespace of the outputs; None: wherever they are.
        image: Topic of the images; None: wherever they are.
        taxonomy: Classes of bags that do not name theirs.
        limit: Only so many frames: spread evenly, or the first ones for video quality.
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


def judge_bag(task: BagTask, predict: Predict | None = None) -> PartialResult:
    """Judge one bag from end to end, in this process.

    Args:
        task: What to judge.
        predict: The model that segments the bag's images; None: its outputs are judged.

    Raises:
        EvaluationError: The bag cannot be judged; the message names bag and frames.
    """
    frames = BagFrames(task, predict)
    judge = Judge(metrics=task.metrics, snapshots=task.pictures > 0)
    return PartialResult.of(
        judge.stream(frames, frames.categories),
        frames.categories,
        pictures=task.pictures,
        notes=frames.notes,
        series=frames.series,
    )


class BagFrames:
    """The labelled frames of a bag, in order of their stamps.

    Messages are joined by exact stamp and frame_id. The bags are read twice: first for what there
    is, so that missing frames are told before hours are spent, then frame by frame.

    Args:
        task: What to judge.
        predict: The model that segments the images; None: outputs are judged.

    Attributes:
        taxonomy: The classes, as bag or task name them.
        categories: The same.
        notes: What the reader of the figures has to know, a line each.
        series: Latency and drops, where the bag tells them.

    Raises:
        EvaluationError: A bag cannot be read, has no truth or nothing to judge, frames are missing,
            or the bags' classes differ.
    """

    def __init__(self, task: BagTask, predict: Predict | None = None) -> None:
        self._task = task
        try:
            self._side = index_bag(task.bag, outputs=task.outputs, image=task.image)
            self._truth = self._side
            if task.truth is not None:
                self._truth = index_bag(task.truth, outputs=task.outputs, image=task.image)
        except BagError as error:
            raise EvaluationError(str(error)) from error
        if not self._truth.has(Role.TRUTH):
            raise EvaluationError(
                f"{self._truth.path} has no truth, which is labels under {TRUTH}: name the bag that"
                " has it by --gt-bag"
            )
        self.taxonomy = self._agreed_taxonomy(getattr(predict, "taxonomy", None))
        self.categories = Categories.of(self.taxonomy)
        self.notes = list(
            dict.fromkeys(f"lost: {line}" for line in (*self._side.losses, *self._truth.losses))
        )
        self.series: list[Series] = []
        images = self._side if self._side.has(Role.IMAGE) else self._truth
        self._answer: AnswerReader
        if predict is None:
            self._answer = OutputReader(self.taxonomy, task.metrics)
        else:
            self._answer = ModelReader(predict, task.metrics)
        # Where each role is read from, of those that the bags have.
        homes = dict.fromkeys(self._answer.roles, self._side)
        homes |= dict.fromkeys(_TRUTH_ROLES, self._truth)
        if task.pictures or predict is not None:
            homes[Role.IMAGE] = images
        self._pairing = Pairing.of(
            {role: index for role, index in homes.items() if index.has(role)},
            truth=self._truth,
            judged=self._side,
            main=self._answer.main,
            allow_missing=task.allow_missing,
        )
        self.notes += self._pairing.notes
        self._keys = self._pairing.keys
        if task.limit is not None and task.limit < len(self._keys):
            # Spread over the bag, or in a row where ids have to last.
            step = 1.0 if task.metrics.video else len(self._keys) / task.limit
            self._keys = [self._keys[int(place * step)] for place in range(task.limit)]
        self._places = Places.of(self._truth, images, prefix=task.prefix)
        if predict is None:
            self._time(images)

    def __len__(self) -> int:
        return len(self._keys)

    def __iter__(self) -> Iterator[EvaluationFrame]:
        try:
            for key, records in self._pairing.read(self._keys):
                yield self._frame(key, records)
        except BagError as error:
            raise EvaluationError(str(error)) from error

    def _frame(self, key: FrameKey, records: dict[Role, Record]) -> EvaluationFrame:
        name, sequence, number = self._places[key]
        try:
            answer = self._answer(records, sequence, number)
            labels = plane(records[Role.TRUTH].message).astype(np.int32, copy=False)
            unknown = None
            if Role.TRUTH_UNKNOWN in records:
                unknown = plane(records[Role.TRUTH_UNKNOWN].message) != 0
            image = None
            if self._task.pictures and Role.IMAGE in records:
                image = to_bgr(records[Role.IMAGE].message)
            return EvaluationFrame(
                name=name,
                sequence=sequence,
                number=number,
                truth=label_map(labels, self.taxonomy),
                prediction=answer.prediction,
                image=image,
                truth_unknown=unknown,
                prediction_unknown=answer.unknown,
                unknown_scores=answer.scores,
            )
        except (EvaluationError, ImageError) as error:
            raise EvaluationError(f"{name}: {error}") from None

    def _agreed_taxonomy(self, of_model: Taxonomy | None) -> Taxonomy:
        named = {
            f"{index.path}": index.taxonomy
            for index in (self._truth, self._side)
            if index.taxonomy is not None
        }
        if of_model is not None:
            named["the model"] = of_model
        elif not named and self._task.taxonomy is not None:
            named["--dataset"] = self._task.taxonomy
        if not named:
            raise EvaluationError(
                f"{self._truth.path} has no label_info to name its classes: name the --dataset"
            )
        (first, chosen), *others = named.items()
        for name, taxonomy in others:
            if taxonomy != chosen:
                raise EvaluationError(
                    f"{first} has the classes of {chosen.name}, {name} others, of {taxonomy.name}"
                )
        return chosen

    def _time(self, images: BagIndex) -> None:
        timing = Timing.of(self._side, images)
        self.series += timing.series(name=self._task.prefix)
        if timing.dropped:
            count = f"{len(timing.dropped)} of {timing.images}"
            self.notes.append(f"{count} images have no answer in {self._side.path}")
