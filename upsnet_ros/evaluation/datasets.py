"""Evaluates a model on a labelled dataset, without ROS."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from itertools import chain, count
from pathlib import Path

import numpy as np
import numpy.typing as npt

from upsnet_ros.datasets.base import Bitmask, Dataset, Sample, Thing
from upsnet_ros.datasets.readers import Cityscapes
from upsnet_ros.datasets.taxonomy import Taxonomy
from upsnet_ros.errors import DatasetError, EvaluationError
from upsnet_ros.evaluation.maps import (
    Categories,
    PanopticMap,
    Segments,
    frame_name,
    map_from_frame,
    sequence_position,
)
from upsnet_ros.evaluation.metrics import EvaluationFrame, EvaluationResult, Metrics, evaluate
from upsnet_ros.evaluation.panoptic_quality import WINDOWS
from upsnet_ros.evaluation.unknown import unknown_scores
from upsnet_ros.inference.frame import LABEL_DIVISOR, PanopticFrame
from upsnet_ros.synthetic.dataset import SceneDataset

#: Number of samples that are read ahead of inference.
_AHEAD = 2
#: Frames in a set of synthetic scenes (four per street), and their height and width.
_SCENES, _SCENE_SIZE = 100, (512, 1024)

#: Segments an image, uint8 (H, W, 3) BGR, as `Predictor` does.
Predict = Callable[[npt.NDArray[np.uint8]], PanopticFrame]


def evaluate_dataset(
    dataset: Dataset,
    predict: Predict,
    *,
    metrics: Metrics | None = None,
    indices: Sequence[int] | None = None,
) -> EvaluationResult:
    """Run a model on the images of a dataset and return its metrics.

    Args:
        dataset: Images with ground truth.
        predict: A `Predictor` or a compatible callable with the same taxonomy.
        metrics: Metrics in addition to PQ, mean IoU and unknown objects; for video quality, things
            are tracked.
        indices: Indices of the images; default: all.

    Raises:
        EvaluationError: A file cannot be read, or a prediction does not fit the ground truth.
    """
    tracking = metrics is not None and metrics.video
    frames = ModelFrames(dataset, predict, indices=indices, tracking=tracking)
    return evaluate(frames, frames.categories, metrics)


class ModelFrames:
    """The frames of a dataset, predicted by a model while iterating.

    Args:
        dataset: Images with ground truth.
        predict: The model.
        indices: Indices of the images; default: all.
        allow_missing: Leave out images that cannot be read and add a note, instead of raising.
        tracking: Track things along each sequence and use track ids as segment ids.

    Attributes:
        categories: The classes of the dataset.
        notes: One line for each image that was left out.
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
        self.categories = Categories.from_taxonomy(dataset.taxonomy)
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
            prediction = self._predict(sample.image)
            if self._trackers is not None:
                _check_numbers(sample)
                prediction = self._trackers(
                    prediction, *sequence_position(frame_name(sample.name), video=True)
                )
            tracks = self._trackers is not None
            yield evaluation_frame(sample, prediction, self._dataset.taxonomy, tracks=tracks)

    def _read_ahead(self) -> Iterator[Future[Sample]]:
        """Yield samples in order; the next ones are read during inference to keep a GPU busy."""
        with ThreadPoolExecutor(1) as reader:  # one thread: datasets need not be thread-safe
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
    """Tracks things along sequences with a new tracker for each; frames must come in order."""

    def __init__(self) -> None:
        from upsnet_ros.tracking.tracker import (  # imports SciPy, which is slow to load
            Tracker,
            TrackerSettings,
        )

        # Time is measured in camera frames; gaps longer than any window need not be bridged.
        self._new_tracker = partial(Tracker, TrackerSettings(max_gap=max(WINDOWS)))
        self._tracker = self._new_tracker()
        self._sequence: str | None = None

    def __call__(self, frame: PanopticFrame, sequence: str, number: int) -> PanopticFrame:
        """Return the frame with track ids.

        Args:
            frame: The prediction.
            sequence: The sequence that the frame belongs to.
            number: The frame's number along the sequence.
        """
        if sequence != self._sequence:
            self._tracker, self._sequence = self._new_tracker(), sequence
        return self._tracker(frame, time=number)


def open_dataset(kind: str, root: Path | None, split: str | None) -> Dataset:
    """Return a labelled dataset in its published layout.

    Args:
        kind: ``cityscapes``, ``coco``, or ``scenes`` (synthetic driving scenes, rendered on
            demand).
        root: The folder that contains ``gtFine`` or ``annotations``; not used for scenes.
        split: Default: ``val``; for COCO ``val2017``.

    Raises:
        DatasetError: There are no labels, or the kind is unknown.
    """
    if kind == "scenes":
        try:
            return SceneDataset(split=split or "val", seed=0, length=_SCENES, size=_SCENE_SIZE)
        except ValueError as error:
            raise DatasetError(str(error)) from error
    if root is None:
        raise DatasetError(f"dataset {kind} needs its folder: pass --root")
    if kind == "cityscapes":
        split = split or "val"
        stills = root / "leftImg8bit" / split
        images = "leftImg8bit" if stills.is_dir() else "leftImg8bit_sequence"
        return Cityscapes(root, split=split, images=images)
    if kind == "coco":
        from upsnet_ros.datasets.readers import CocoPanoptic  # imports kornia_rs

        split = split or "val2017"
        return CocoPanoptic(root / split, root / "annotations" / f"panoptic_{split}.json")
    raise DatasetError(f"unknown dataset {kind!r}; use cityscapes, coco or scenes")


def evaluation_frame(
    sample: Sample, prediction: PanopticFrame, taxonomy: Taxonomy, *, tracks: bool = False
) -> EvaluationFrame:
    """Combine the ground truth of a sample with the prediction for its image.

    Args:
        sample: The image and its ground truth.
        prediction: The prediction; its optional score maps are evaluated too.
        taxonomy: The taxonomy of both.
        tracks: Use track ids as segment ids.
    """
    name = sample.frame or frame_name(sample.name)
    sequence, number = sequence_position(name, video=tracks)
    return EvaluationFrame(
        name=name,
        sequence=sequence,
        number=number,
        truth=map_from_sample(sample, taxonomy),
        prediction=map_from_frame(prediction, tracks=tracks),
        image=sample.image,
        truth_unknown=sample.unknown,
        prediction_unknown=prediction.unknown,
        unknown_scores=unknown_scores(prediction),
    )


def map_from_sample(sample: Sample, taxonomy: Taxonomy) -> PanopticMap:
    """Return the ground-truth map of a sample, with things painted over stuff.

    Pixels of a thing class that no thing covers are void. The ids are ``class_id * 1000 + number``,
    and ``class_id`` for groups; they persist along a sequence if the dataset's numbers do.
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
    # Drop segments that are completely covered.
    shown = np.isin(ids, pixels)
    table = Segments.from_arrays(
        np.array(ids)[shown], np.array(classes)[shown], crowd=np.array(crowd)[shown]
    )
    return PanopticMap(pixels=pixels, segments=table)


def _truth_id(thing: Thing, class_id: int, *, taken: Sequence[int]) -> int:
    """Return the id of a thing; either all things of a class have numbers or none."""
    if thing.number is not None:
        return class_id * LABEL_DIVISOR + thing.number
    group = (class_id,) if thing.crowd else ()
    free = chain(group, count(class_id * LABEL_DIVISOR + 1))
    return next(candidate for candidate in free if candidate not in taken)


def _check_numbers(sample: Sample) -> None:
    if any(thing.number is None and not thing.crowd for thing in sample.things):
        raise EvaluationError(
            f"{sample.name}: video quality needs things with numbers that persist along a sequence,"
            " which this dataset does not have"
        )
