"""What was found in a frame: read from recorded outputs, or asked of a model."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

import numpy as np
import numpy.typing as npt

from upsnet_ros.bags.reader import Record
from upsnet_ros.bags.roles import Role
from upsnet_ros.datasets.taxonomy import Taxonomy
from upsnet_ros.evaluation.errors import EvaluationError
from upsnet_ros.evaluation.maps import VOID, PanopticMap, map_of_frame, map_of_labels
from upsnet_ros.evaluation.measures import Metrics
from upsnet_ros.evaluation.unknown_scores import unknown_scores
from upsnet_ros.inference.frame import Instance, PanopticFrame, StuffSegment
from upsnet_ros.ros.from_messages import segments_from_message
from upsnet_ros.ros.image_codec import to_bgr
from upsnet_ros.ros.plane import plane

if TYPE_CHECKING:
    from upsnet_ros.evaluation.datasets import Predict

__all__ = ["Answer", "AnswerReader", "ModelReader", "OutputReader", "label_map"]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Answer:
    """What was found.

    Attributes:
        prediction: The segments.
        unknown: bool (H, W): pixels called unknown; None where that is not told.
        scores: uint8 (H, W) by name: what grows with the likelihood of unknown.
    """

    prediction: PanopticMap
    unknown: npt.NDArray[np.bool_] | None
    scores: Mapping[str, npt.NDArray[np.uint8]] = field(default_factory=dict)


class AnswerReader(Protocol):
    """Answers frame after frame, in order of their stamps.

    Attributes:
        main: Without this there is no answer.
        roles: What of a frame an answer is made of, where the bag has it.
    """

    main: Role
    roles: frozenset[Role]

    def __call__(self, records: Mapping[Role, Record], sequence: str, number: int) -> Answer:
        """The answer to one frame, of this number along this sequence.

        Raises:
            EvaluationError: It does not fit the classes, or what is to be measured.
            ImageError: A message is malformed.
        """
        ...


class OutputReader:
    """Reads what a node published.

    Args:
        taxonomy: The classes.
        metrics: What is to be measured: AP and video quality need ``instances``.
    """

    main = Role.LABELS

    def __init__(self, taxonomy: Taxonomy, metrics: Metrics) -> None:
        self._taxonomy, self._tracks = taxonomy, metrics.video
        roles = {Role.LABELS, Role.UNKNOWN, Role.UNKNOWN_SCORE, Role.CONFIDENCE}
        if metrics.instances or metrics.video:
            roles.add(Role.INSTANCES)
        self.roles = frozenset(roles)

    def __call__(self, records: Mapping[Role, Record], sequence: str, number: int) -> Answer:
        """See `AnswerReader`."""
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
            prediction = map_of_frame(frame, tracks=self._tracks)
        elif self._tracks:
            raise EvaluationError("video quality needs track ids, and there are no instances")
        else:
            prediction = label_map(labels, self._taxonomy)
        return Answer(
            prediction=prediction,
            unknown=None if unknown is None else frame.unknown,
            scores=unknown_scores(frame),
        )


class ModelReader:
    """Segments the images of the bag.

    Args:
        predict: The model.
        metrics: What is to be measured; video quality has the things tracked.
    """

    main = Role.IMAGE
    roles = frozenset({Role.IMAGE})

    def __init__(self, predict: Predict, metrics: Metrics) -> None:
        # Only here: torch takes seconds to import, and recorded outputs need none of it.
        from upsnet_ros.evaluation.datasets import SequenceTrackers

        self._predict = predict
        self._trackers = SequenceTrackers() if metrics.video else None

    def __call__(self, records: Mapping[Role, Record], sequence: str, number: int) -> Answer:
        """See `AnswerReader`."""
        image = to_bgr(records[Role.IMAGE].message)
        # A bag's bytes cannot be written to, which torch demands of what it takes over.
        frame = self._predict(np.require(image, requirements="W"))
        if self._trackers is not None:
            frame = self._trackers(frame, sequence, number)
        return Answer(
            prediction=map_of_frame(frame, tracks=self._trackers is not None),
            unknown=frame.unknown,
            scores=unknown_scores(frame),
        )


def label_map(labels: npt.NDArray[np.int32], taxonomy: Taxonomy) -> PanopticMap:
    """The segments of a label image, by their ids alone.

    Raises:
        EvaluationError: Ids are of no class; they are named.
    """
    segments = map_of_labels(labels, taxonomy)
    if segments.pixels is not labels:  # ids of no class were taken for void
        strange = np.setdiff1d(labels, [*segments.segments.ids, VOID])
        shown = ", ".join(str(value) for value in strange[:5].tolist())
        raise EvaluationError(f"ids of no class of {taxonomy.name}: {shown}")
    return segments
