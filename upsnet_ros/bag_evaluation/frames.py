"""Pairs the messages of one or two bags into frames and reads the prediction of each frame."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple, Protocol

import numpy as np
import numpy.typing as npt

from upsnet_ros.bags.index import BagIndex, FrameKey, Part, Role, parts_of
from upsnet_ros.bags.reader import Record
from upsnet_ros.datasets.taxonomy import Taxonomy
from upsnet_ros.errors import EvaluationError, listed
from upsnet_ros.evaluation.maps import (
    VOID,
    PanopticMap,
    map_from_frame,
    map_from_labels,
    sequence_position,
)
from upsnet_ros.evaluation.metrics import Metrics
from upsnet_ros.evaluation.unknown import unknown_scores
from upsnet_ros.inference.frame import Instance, PanopticFrame, StuffSegment
from upsnet_ros.messages.frames import segments_from_message
from upsnet_ros.messages.images import plane, to_bgr

if TYPE_CHECKING:
    from upsnet_ros.evaluation.datasets import Predict


class FramePosition(NamedTuple):
    """The name of a frame, its sequence and its number along the sequence."""

    name: str
    sequence: str
    number: int


@dataclass(frozen=True, slots=True, kw_only=True)
class FramePositions:
    """Maps frame keys to names and positions in sequences.

    If the bag names its frames, as `upsnet bag make` does, these names are used, and names of the
    Cityscapes form also give the sequence. Otherwise each camera is one sequence, numbered by time.

    Attributes:
        prefix: Prepended to names and sequences to distinguish bags; may be empty.
        bag: Name of the bag.
        names: Frame names by stamp in ns; empty if there are several cameras, because stamps alone
            do not identify a frame then.
        clocks: First stamp and median frame period in ns, by frame_id.
    """

    prefix: str
    bag: str
    names: Mapping[int, str]
    clocks: Mapping[str, tuple[int, int]]

    @classmethod
    def from_bags(cls, truth: BagIndex, images: BagIndex, *, prefix: str = "") -> FramePositions:
        """Collect frame names and frame periods from the ground-truth bag and the image bag."""
        stamps: dict[str, list[int]] = {}
        for role, index in ((Role.TRUTH, truth), (Role.IMAGE, images)):
            for key in index.arrivals.get(role, {}):
                stamps.setdefault(key.frame_id, []).append(key.stamp_ns)
        clocks = {}
        for frame_id, values in stamps.items():
            moments = np.unique(values)
            period = int(np.median(np.diff(moments))) if len(moments) > 1 else 1
            clocks[frame_id] = (int(moments[0]), max(period, 1))
        cameras = {key.frame_id for key in truth.arrivals.get(Role.TRUTH, {})}
        names = truth.names if len(cameras) == 1 else {}
        return cls(prefix=prefix, bag=truth.path.stem, names=names, clocks=clocks)

    def __getitem__(self, key: FrameKey) -> FramePosition:
        name = self.names.get(key.stamp_ns, str(key))
        sequence, number = sequence_position(name)
        if sequence == name:
            begin, period = self.clocks[key.frame_id]
            sequence = f"{self.bag}/{key.frame_id or 'camera'}"
            number = round((key.stamp_ns - begin) / period)
        space = f"{self.prefix}/" if self.prefix else ""
        return FramePosition(space + name, space + sequence, number)


@dataclass(frozen=True, slots=True, kw_only=True)
class Pairing:
    """The complete frames, and the bag that each kind of message is read from.

    Attributes:
        homes: The bag that each role is read from.
        keys: Keys of the complete frames, sorted by stamp.
        notes: One line for each group of frames that was left out.
    """

    homes: Mapping[Role, BagIndex]
    keys: list[FrameKey]
    notes: list[str]

    @classmethod
    def from_bags(
        cls,
        homes: Mapping[Role, BagIndex],
        *,
        truth: BagIndex,
        outputs: BagIndex,
        main: Role,
        allow_missing: bool,
    ) -> Pairing:
        """Select the frames that have a message for every role present in the bags.

        Args:
            homes: The bag that each role is read from; only roles that occur in that bag.
            truth: The bag with the ground truth, at least one frame of it.
            outputs: The bag to evaluate.
            main: The role that every evaluated frame needs.
            allow_missing: Leave out incomplete frames instead of raising.

        Raises:
            EvaluationError: The bag lacks the main role, the bags have no frame in common, or a
                message is missing.
        """
        labelled = truth.arrivals[Role.TRUTH]
        if main not in homes:
            raise EvaluationError(f"{outputs.path} has no topic with {main.value} to evaluate")
        predicted = homes[main].arrivals[main]
        if not any(key in predicted for key in labelled):
            raise EvaluationError(
                f"{homes[main].path} and {truth.path} have no frame in common: "
                + _difference(list(predicted), list(labelled))
            )
        notes, left_out = [], set[FrameKey]()
        for role in sorted(homes, key=lambda role: (role is not main, role.value)):
            index = homes[role]
            if role is Role.IMAGE and role is not main:
                continue  # only for the report
            absent = [key for key in sorted(labelled) if key not in index.arrivals[role]]
            if not absent:
                continue
            names = listed(truth.names.get(key.stamp_ns, str(key)) for key in absent)
            line = f"{index.path} lacks {role.value} of frames: {names}"
            if not allow_missing:
                raise EvaluationError(f"{line} (--allow-missing leaves these frames out)")
            notes.append(f"left out: {line}")
            left_out.update(absent)
        unlabelled = sum(key not in labelled for key in predicted)
        if unlabelled:
            path = homes[main].path
            notes.append(f"{unlabelled} frames of {path} have no ground truth: not evaluated")
        keys = [key for key in sorted(labelled) if key not in left_out]
        if not keys:
            raise EvaluationError(f"no frame of {truth.path} is complete: {'; '.join(notes)}")
        return cls(homes=homes, keys=keys, notes=notes)

    def read(self, keys: Sequence[FrameKey]) -> Iterator[tuple[FrameKey, dict[Role, Record]]]:
        """Yield the messages of the given frames, frame by frame; early messages are buffered.

        Raises:
            BagError: A message is damaged.
            EvaluationError: A message that was indexed is no longer in the bag.
        """
        wanted = frozenset(keys)
        roles: dict[Path, set[Role]] = {}
        for role, index in self.homes.items():
            roles.setdefault(index.path, set()).add(role)
        streams: dict[Path, Iterator[Part]] = {
            index.path: parts_of(index, frozenset(roles[index.path]))
            for index in self.homes.values()
        }
        waiting: dict[FrameKey, dict[Role, Record]] = {}
        for key in keys:
            own = waiting.setdefault(key, {})
            for role, index in self.homes.items():
                while role not in own and key in index.arrivals[role]:
                    part = next(streams[index.path], None)
                    if part is None:
                        raise EvaluationError(
                            f"{key}: cannot read {role.value} again; did the bag change?"
                        )
                    if part.key in wanted:
                        waiting.setdefault(part.key, {})[part.role] = part.record
            yield key, waiting.pop(key)


def _difference(predicted: Collection[FrameKey], labelled: Collection[FrameKey]) -> str:
    """Return why the two have no key in common."""
    stamps = {key.stamp_ns for key in predicted} & {key.stamp_ns for key in labelled}
    if not stamps:
        return f"their first frames are {min(predicted)} and {min(labelled)}"
    ids, others = ({key.frame_id for key in keys} for keys in (predicted, labelled))
    return (
        f"stamps agree, but frame_id is {_quoted(ids)} in the first and {_quoted(others)} in the"
        " second"
    )


def _quoted(names: Collection[str]) -> str:
    return ", ".join(repr(name) for name in sorted(names))


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class BagPrediction:
    """The prediction for one frame.

    Attributes:
        prediction: The segments.
        unknown: bool (H, W): pixels predicted as unknown; None if the bag has no unknown mask.
        scores: uint8 (H, W) by name; higher means more likely unknown.
    """

    prediction: PanopticMap
    unknown: npt.NDArray[np.bool_] | None
    scores: Mapping[str, npt.NDArray[np.uint8]] = field(default_factory=dict)


class PredictionReader(Protocol):
    """Produces the prediction of each frame; called in the order of stamps.

    Attributes:
        main: The role that every frame needs.
        roles: All roles that are used if the bag has them.
    """

    main: Role
    roles: frozenset[Role]

    def __call__(self, records: Mapping[Role, Record], sequence: str, number: int) -> BagPrediction:
        """Return the prediction of one frame.

        Args:
            records: The frame's messages.
            sequence: The sequence that the frame belongs to.
            number: The frame's number along the sequence.

        Raises:
            EvaluationError: The prediction does not fit the classes or the requested metrics.
            ImageError: A message is malformed.
        """
        ...


class OutputReader:
    """Reads predictions from the topics that a node published.

    Args:
        taxonomy: The classes.
        metrics: The metrics to compute; AP and video quality need ``instances``.
    """

    main = Role.LABELS

    def __init__(self, taxonomy: Taxonomy, metrics: Metrics) -> None:
        self._taxonomy, self._tracks = taxonomy, metrics.video
        roles = {Role.LABELS, Role.UNKNOWN, Role.UNKNOWN_SCORE, Role.CONFIDENCE}
        if metrics.instances or metrics.video:
            roles.add(Role.INSTANCES)
        self.roles = frozenset(roles)

    def __call__(self, records: Mapping[Role, Record], sequence: str, number: int) -> BagPrediction:
        """See `PredictionReader`."""
        labels = plane(records[Role.LABELS].message).astype(np.int32, copy=False)
        unknown, score, confidence = (
            plane(records[role].message) if role in records else None
            for role in (Role.UNKNOWN, Role.UNKNOWN_SCORE, Role.CONFIDENCE)
        )
        things: tuple[Instance, ...] = ()
        stuff: tuple[StuffSegment, ...] = ()
        if Role.INSTANCES in records:
            things, stuff = segments_from_message(records[Role.INSTANCES].message)
        frame = PanopticFrame(
            labels=labels,
            unknown=np.zeros(labels.shape, bool) if unknown is None else unknown != 0,
            instances=things,
            stuff=stuff,
            unknown_score=score,
            confidence=confidence,
        )
        if Role.INSTANCES in records:
            prediction = map_from_frame(frame, tracks=self._tracks)
        elif self._tracks:
            raise EvaluationError("video quality needs track ids, but the bag has no instances")
        else:
            prediction = label_map(labels, self._taxonomy)
        return BagPrediction(
            prediction=prediction,
            unknown=None if unknown is None else frame.unknown,
            scores=unknown_scores(frame),
        )


class ModelReader:
    """Predicts by running a model on the images of the bag.

    Args:
        predict: The model.
        metrics: The metrics to compute; for video quality, things are tracked.
    """

    main = Role.IMAGE
    roles = frozenset({Role.IMAGE})

    def __init__(self, predict: Predict, metrics: Metrics) -> None:
        # Imported here because torch takes seconds to import and recorded outputs do not need it.
        from upsnet_ros.evaluation.datasets import SequenceTrackers

        self._predict = predict
        self._trackers = SequenceTrackers() if metrics.video else None

    def __call__(self, records: Mapping[Role, Record], sequence: str, number: int) -> BagPrediction:
        """See `PredictionReader`."""
        image = to_bgr(records[Role.IMAGE].message)
        # The bag's buffer is read-only, but torch requires a writable array.
        frame = self._predict(np.require(image, requirements="W"))
        if self._trackers is not None:
            frame = self._trackers(frame, sequence, number)
        return BagPrediction(
            prediction=map_from_frame(frame, tracks=self._trackers is not None),
            unknown=frame.unknown,
            scores=unknown_scores(frame),
        )


def label_map(labels: npt.NDArray[np.int32], taxonomy: Taxonomy) -> PanopticMap:
    """Return the panoptic map of a label image, int32 (H, W).

    Raises:
        EvaluationError: The image contains ids that belong to no class.
    """
    segments = map_from_labels(labels, taxonomy)
    if segments.pixels is not labels:  # ids of no class were replaced by void
        strange = np.setdiff1d(labels, [*segments.segments.ids, VOID])
        shown = ", ".join(str(value) for value in strange[:5].tolist())
        raise EvaluationError(f"ids of no class of {taxonomy.name}: {shown}")
    return segments
