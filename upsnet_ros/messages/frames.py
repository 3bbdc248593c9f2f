"""Converts the node's messages back to a `PanopticFrame`, and joins topics by their stamps."""

from __future__ import annotations

from collections import Counter, OrderedDict, deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from upsnet_ros.datasets.taxonomy import ClassInfo, Taxonomy
from upsnet_ros.errors import ImageError
from upsnet_ros.inference.frame import Instance, PanopticFrame, StuffSegment
from upsnet_ros.messages.images import plane

if TYPE_CHECKING:
    from sensor_msgs.msg import Image, RegionOfInterest

    from upsnet_ros.msg import PanopticInstanceArray, PanopticLabelInfo


def frame_from_messages(
    labels: Image,
    instances: PanopticInstanceArray,
    unknown_mask: Image,
    *,
    taxonomy: Taxonomy | None = None,
) -> PanopticFrame:
    """Return the frame that the node published under one stamp.

    The original detection boxes are not published: ``detection_box`` is set to the box of the
    visible pixels.

    Args:
        labels: 16UC1 or 32SC1.
        instances: Segments of the same frame.
        unknown_mask: mono8, of the same size as ``labels``.
        taxonomy: Classes of the frame; see `taxonomy_from_message`.

    Raises:
        ImageError: If an image is malformed, or the two differ in size.
    """
    values, unknown = plane(labels), plane(unknown_mask)
    if values.shape != unknown.shape:
        raise ImageError(f"labels are {values.shape}, the unknown mask is {unknown.shape}")
    things, stuff = segments_from_message(instances)
    return PanopticFrame(
        labels=values.astype(np.int32, copy=False),
        unknown=unknown != 0,
        instances=things,
        stuff=stuff,
        taxonomy=taxonomy,
    )


def segments_from_message(
    instances: PanopticInstanceArray,
) -> tuple[tuple[Instance, ...], tuple[StuffSegment, ...]]:
    """Return the things and the stuff of a frame, as in `frame_from_messages`."""
    things = tuple(
        Instance(
            id=message.id,
            class_id=message.class_id,
            class_name=message.class_name,
            score=message.score,
            box=_box(message.roi),
            detection_box=_box(message.roi),
            area=message.area,
            track_id=message.track_id,
        )
        for message in instances.instances
    )
    stuff = tuple(
        StuffSegment(
            id=message.id,
            class_id=message.class_id,
            class_name=message.class_name,
            box=_box(message.roi),
            area=message.area,
        )
        for message in instances.stuff
    )
    return things, stuff


def taxonomy_from_message(label_info: PanopticLabelInfo) -> Taxonomy:
    """Return the classes that a `label_info` message lists, whichever node sent it.

    Raises:
        ValueError: If there are none, or they violate the rules of `Taxonomy`.
    """
    if not label_info.classes:
        raise ValueError("label_info names no class")
    return Taxonomy(
        label_info.dataset,
        tuple(
            ClassInfo(
                id=message.id,
                name=message.name,
                is_thing=message.is_thing,
                color=(int(message.color[0]), int(message.color[1]), int(message.color[2])),
                semantic_id=index,
            )
            for index, message in enumerate(label_info.classes)
        ),
    )


def _box(roi: RegionOfInterest) -> tuple[int, int, int, int]:
    """Return (x1, y1, x2, y2), inclusive corners."""
    return (
        roi.x_offset,
        roi.y_offset,
        roi.x_offset + roi.width - 1,
        roi.y_offset + roi.height - 1,
    )


@dataclass(frozen=True, slots=True, eq=False)
class JoinedSet:
    """One message of each topic, all with the same stamp.

    Attributes:
        stamp_ns: The common stamp, nanoseconds.
        messages: Message by topic.
        received: Arrival time in seconds by topic, all on the same clock.
    """

    stamp_ns: int
    messages: dict[str, Any] = field(default_factory=dict)
    received: dict[str, float] = field(default_factory=dict)


class StampJoiner:
    """Collects messages until every topic has one with the same stamp.

    Args:
        topics: Topics that make up a complete set.
        limit: Maximum number of incomplete sets. When it is exceeded, the set that was started
            first is dropped and counted, along with the topics it lacked.
    """

    def __init__(self, topics: Sequence[str], *, limit: int = 100) -> None:
        self._topics = frozenset(topics)
        self._limit = limit
        self._pending: OrderedDict[int, JoinedSet] = OrderedDict()
        #: Number of incomplete sets that were dropped, by the topics that they lacked.
        self.dropped: Counter[frozenset[str]] = Counter()

    def add(self, topic: str, stamp_ns: int, message: Any, *, received: float) -> JoinedSet | None:
        """Add a message that arrived at ``received`` (seconds).

        Returns:
            The set that it completes, or None.
        """
        pending = self._pending.setdefault(stamp_ns, JoinedSet(stamp_ns))
        pending.messages[topic] = message
        pending.received[topic] = received
        if pending.messages.keys() == self._topics:
            del self._pending[stamp_ns]
            return pending
        if len(self._pending) > self._limit:
            self._drop()
        return None

    def finish(self) -> None:
        """Drop and count all sets that are still incomplete."""
        while self._pending:
            self._drop()

    @property
    def given_up(self) -> int:
        """Number of incomplete sets that were dropped."""
        return self.dropped.total()

    @property
    def missing(self) -> Counter[str]:
        """Number of dropped sets that lacked each topic."""
        counts: Counter[str] = Counter()
        for lacking, count in self.dropped.items():
            counts.update(dict.fromkeys(lacking, count))
        return counts

    def _drop(self) -> None:
        _, oldest = self._pending.popitem(last=False)
        self.dropped[self._topics.difference(oldest.messages)] += 1


class NearestJoiner:
    """Pairs messages with the reference nearest in time, once no nearer one can come.

    References are expected in the order of their stamps. A message waits for the first reference
    that is not earlier.

    Args:
        max_offset_ns: Largest difference between the stamps of a pair, nanoseconds; may change.
        limit: Maximum number of messages that wait. When there are more, the oldest gets the
            nearest reference that there is.
        references: Number of references that are kept.
    """

    def __init__(self, *, max_offset_ns: int, limit: int, references: int = 10) -> None:
        self.max_offset_ns = max_offset_ns
        #: Number of messages that were dropped because no reference was near enough.
        self.dropped = 0
        #: Messages dropped since the last pair, and how far from the last one the nearest
        #: reference was, nanoseconds (reference minus message); None if there was no reference.
        self.dropped_in_a_row = 0
        self.last_offset_ns: int | None = None
        self._limit = limit
        self._waiting: deque[tuple[int, Any]] = deque()
        self._references: deque[tuple[int, Any]] = deque(maxlen=references)

    def add(self, stamp_ns: int, message: Any) -> list[tuple[Any, Any]]:
        """Add a message; return the pairs (message, reference) that are decided now."""
        self._waiting.append((stamp_ns, message))
        pairs = self._decide()
        if len(self._waiting) > self._limit:
            pairs += self._pair(*self._waiting.popleft())
        return pairs

    def add_reference(self, stamp_ns: int, reference: Any) -> list[tuple[Any, Any]]:
        """Add a reference; return the pairs that are decided now, as `add` does."""
        if self._references and stamp_ns < self._references[-1][0]:
            self._references.clear()  # time went back, as when a bag is restarted
        self._references.append((stamp_ns, reference))
        return self._decide()

    @property
    def waiting(self) -> int:
        """Number of messages that wait for a reference."""
        return len(self._waiting)

    def _decide(self) -> list[tuple[Any, Any]]:
        if not self._references:
            return []
        newest = self._references[-1][0]
        decided = [one for one in self._waiting if one[0] <= newest]
        if decided:
            self._waiting = deque(one for one in self._waiting if one[0] > newest)
        return [pair for one in decided for pair in self._pair(*one)]

    def _pair(self, stamp_ns: int, message: Any) -> list[tuple[Any, Any]]:
        """Return the message with its reference, or nothing, and count it."""
        nearest = min(self._references, key=lambda one: abs(one[0] - stamp_ns), default=None)
        self.last_offset_ns = None if nearest is None else nearest[0] - stamp_ns
        if nearest is None or abs(nearest[0] - stamp_ns) > self.max_offset_ns:
            self.dropped += 1
            self.dropped_in_a_row += 1
            return []
        self.dropped_in_a_row = 0
        return [(message, nearest[1])]
