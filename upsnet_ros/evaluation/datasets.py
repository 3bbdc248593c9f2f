"""Judging a model on a labelled data set, without ROS."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import chain, count
from pathlib import Path

import numpy as np
import numpy.typing as npt

from upsnet_ros.datasets.base import Dataset, DatasetError, Sample, Thing
from upsnet_ros.datasets.cityscapes import Cityscapes
from upsnet_ros.datasets.coco_panoptic import CocoPanoptic
from upsnet_ros.datasets.drawn import DrawnScenes
from upsnet_ros.datasets.shapes import Bitmask
from upsnet_ros.datasets.taxonomy import Taxonomy
from upsnet_ros.evaluation.categories import Categories
from upsnet_ros.evaluation.errors import EvaluationError
from upsnet_ros.evaluation.evaluation import EvaluationResult, evaluate
from upsnet_ros.evaluation.maps import PanopticMap, Segments, map_of_frame
from upsnet_ros.evaluation.measures import EvaluationFrame, Metrics
from upsnet_ros.evaluation.naming import frame_name, place_in_sequence
from upsnet_ros.evaluation.unknown_scores import unknown_scores
from upsnet_ros.evaluation.video import WINDOWS
from upsnet_ros.inference.frame import LABEL_DIVISOR, PanopticFrame
from upsnet_ros.tracking import Tracker, TrackerSettings

#: Samples that lie ready.
_AHEAD = 2
#: Frames that a set of drawn scenes has, four a street, and their height and width.
_SCENES, _SCENE_SIZE = 100, (512, 1024)

Predict = Callable[[npt.NDArray[np.uint8]], PanopticFrame]


def evaluate_dataset(
    dataset: Dataset,
    predict: Predict,
    *,
    metrics: Metrics | None = None,
    indices: Sequence[int] | None = None,
) -> EvaluationResult:
    """Segment the images of a data set and judge the answers.

    Args:
        dataset: Images with truth.
        predict: A `Predictor`, or whatever answers like one, of the same taxonomy.
        metrics: What to measure beside PQ, mean IoU and unknown objects; video quality has the
            things tracked.
        indices: Which images; by default all.

    Raises:
        EvaluationError: A file cannot be read, or an answer does not fit the truth.
    """
    tracking = metrics is not None and metrics.video
    frames = ModelFrames(dataset, predict, indices=indices, tracking=tracking)
    return evaluate(frames, frames.categories, metrics)


class ModelFrames:
    """The frames of a data set, each segmented when its turn comes.

    Args:
        dataset: Images with truth.
        predict: What segments them.
        indices: Which images; by default all.
        allow_missing: Leave out images that cannot be read, and tell in `notes`.
        tracking: Whether things are followed along each sequence, and go by their track ids.

    Attributes:
        categories: The data set's classes.
        notes: What was left out, a line each.
    """

    def __init__(
        self,
        dataset: Dataset,
        predict: Predict,
        *,
        indices: Sequence[int] | None = None,
        allow_missing: bool = False,
        tracking: bool = False,
    ) -> None:
        self.categories = Categories.of(dataset.taxonomy)
        self.notes: list[str] = []
        self._dataset, self._predict = dataset, predict
        self._indices = range(len(dataset)) if indices is None else indices
        self._allow_missing = allow_missing
        self._trackers = SequenceTrackers() if tracking else None

    def __len__(self) -> int:
        return len(self._indices)

    def __iter__(self) -> Iterator[EvaluationFrame]:
        for read in self._read_ahead():
            try:
                sample = read.result()
            except DatasetError as error:
                if not self._allow_missing:
                    raise EvaluationError(str(error)) from error
                self.notes.append(f"left out: {error}")
                continue
            answer = self._predict(sample.image)
            if self._trackers is not None:
                _check_numbers(sample)
                answer = self._trackers(answer, *place_in_sequence(frame_name(sample.name)))
            tracks = self._trackers is not None
            yield frame_of(sample, answer, self._dataset.taxonomy, tracks=tracks)

    def _read_ahead(self) -> Iterator[Future[Sample]]:
        """Samples in order, the next ones read while one is segmented: a GPU should not wait."""
        with ThreadPoolExecutor(1) as reader:  # one: data sets need not be safe for several
            waiting: deque[Future[Sample]] = deque()
            try:
                for index in self._indices:
                    waiting.append(reader.submit(self._dataset.__getitem__, index))
                    if len(waiting) > _AHEAD:
                        yield waiting.popleft()
                yield from waiting
            finally:
                reader.shutdown(cancel_futures=True)


class SequenceTrackers:
    """Follows things along sequences, whose frames come in order; each sequence begins anew."""

    def __init__(self) -> None:
        # Time is counted in frames of the camera; what no window joins need not be followed.
        self._settings = TrackerSettings(max_gap=max(WINDOWS))
        self._tracker = Tracker(self._settings)
        self._sequence: str | None = None

    def __call__(self, frame: PanopticFrame, sequence: str, number: int) -> PanopticFrame:
        """The frame with track ids, of this number along this sequence."""
        if sequence != self._sequence:
            self._tracker, self._sequence = Tracker(self._settings), sequence
        return self._tracker(frame, time=number)


def open_dataset(kind: str, root: Path | None, split: str | None) -> Dataset:
    """Open a labelled data set in its published layout.

    Args:
        kind: ``cityscapes``, ``coco``, or ``scenes``: driving scenes that are drawn on the way.
        root: Its folder: that of ``gtFine``, or that of ``annotations``; scenes need none.
        split: By default ``val``, of COCO ``val2017``.

    Raises:
        DatasetError: There are no labels, or no such kind of data set.
    """
    if kind == "scenes":
        try:
            return DrawnScenes(split=split or "val", seed=0, length=_SCENES, size=_SCENE_SIZE)
        except ValueError as error:
            raise DatasetError(str(error)) from error
    if root is None:
        raise DatasetError(f"name the folder of the data set {kind}: --root")
    if kind == "cityscapes":
        split = split or "val"
        stills = root / "leftImg8bit" / split
        images = "leftImg8bit" if stills.is_dir() else "leftImg8bit_sequence"
        return Cityscapes(root, split=split, images=images)
    if kind == "coco":
        split = split or "val2017"
        return CocoPanoptic(root / split, root / "annotations" / f"panoptic_{split}.json")
    raise DatasetError(f"unknown data set {kind!r}; use cityscapes, coco or scenes")


def frame_of(
    sample: Sample, answer: PanopticFrame, taxonomy: Taxonomy, *, tracks: bool = False
) -> EvaluationFrame:
    """Set a sample's truth beside the answer to its image.

    The scores of `unknown_scores` are judged where the predictor was asked for them.

    Args:
        sample: The image and its truth.
        answer: Its segmentation.
        taxonomy: Of both.
        tracks: Whether the answer's things go by their track ids.

    Raises:
        EvaluationError: As `map_of_frame`.
    """
    name = frame_name(sample.name)
    sequence, number = place_in_sequence(name)
    return EvaluationFrame(
        name=name,
        sequence=sequence,
        number=number,
        truth=map_of_sample(sample, taxonomy),
        prediction=map_of_frame(answer, tracks=tracks),
        image=sample.image,
        truth_unknown=sample.unknown,
        prediction_unknown=answer.unknown,
        unknown_scores=unknown_scores(answer),
    )


def map_of_sample(sample: Sample, taxonomy: Taxonomy) -> PanopticMap:
    """The truth of a sample, things over stuff.

    Pixels of a thing class that no thing covers are void. Ids last along a sequence where the data
    set numbers its things so: ``class_id * 1000 + number``, and ``class_id`` for groups.
    """
    ids_of = np.zeros(np.iinfo(sample.semantic.dtype).max + 1, np.int32)
    ids_of[: taxonomy.num_stuff] = taxonomy.public_ids[: taxonomy.num_stuff]
    pixels = ids_of[sample.semantic]
    present = np.bincount(sample.semantic.reshape(-1), minlength=taxonomy.num_stuff)
    ids = taxonomy.public_ids[: taxonomy.num_stuff][present[: taxonomy.num_stuff] > 0].tolist()
    classes, crowd = list(ids), [False] * len(ids)
    for thing in sample.things:
        class_id = int(taxonomy.public_ids[thing.semantic_id])
        ids.append(_truth_id(thing, class_id, taken=ids))
        classes.append(class_id)
        crowd.append(thing.crowd)
        if isinstance(thing.shape, Bitmask):
            height, width = thing.shape.mask.shape
            x, y = thing.shape.x, thing.shape.y
            pixels[y : y + height, x : x + width][thing.shape.mask] = ids[-1]
        else:
            rows, columns = (np.arange(length) for length in sample.size)
            pixels[thing.shape.paint(rows, columns) > 0] = ids[-1]
    # Stuff that things cover wholly is not there to be found.
    shown = np.isin(ids, pixels)
    table = Segments.of(
        np.array(ids)[shown], np.array(classes)[shown], crowd=np.array(crowd)[shown]
    )
    return PanopticMap(pixels=pixels, segments=table)


def _truth_id(thing: Thing, class_id: int, *, taken: Sequence[int]) -> int:
    """The id of a thing, whose class numbers all of its things or none."""
    if thing.number is not None:
        return class_id * LABEL_DIVISOR + thing.number
    group = (class_id,) if thing.crowd else ()
    free = chain(group, count(class_id * LABEL_DIVISOR + 1))
    return next(candidate for candidate in free if candidate not in taken)


def _check_numbers(sample: Sample) -> None:
    if any(thing.number is None and not thing.crowd for thing in sample.things):
        raise EvaluationError(
            f"{sample.name}: video quality needs things that keep a number along a sequence, and"
            " this data set does not number them"
        )
