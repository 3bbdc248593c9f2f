"""Indexes a bag for evaluation: which frames it contains, and with which kinds of messages."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import Any, NamedTuple

from upsnet_ros.bags.messages import (
    COMPRESSED,
    HEADER,
    IMAGE,
    INSTANCES,
    LABEL_INFO,
    POINT_CLOUD,
    TRUTH,
    stamp_of,
)
from upsnet_ros.bags.reader import Record, TopicInfo, open_bag
from upsnet_ros.datasets.taxonomy import Taxonomy
from upsnet_ros.errors import BagError
from upsnet_ros.messages.frames import taxonomy_from_message

_SECOND = 1_000_000_000


class Role(Enum):
    """The role of a message in an evaluation."""

    IMAGE = "image"
    TRUTH = "truth labels"
    TRUTH_UNKNOWN = "truth unknown_mask"
    TRUTH_POINTS = "truth points"
    NAME = "name"
    TRUTH_CLASSES = "truth label_info"
    LABELS = "labels"
    INSTANCES = "instances"
    UNKNOWN = "unknown_mask"
    UNKNOWN_SCORE = "unknown_score"
    CONFIDENCE = "confidence"
    POINTS = "points"
    CLASSES = "label_info"


_TRUTH_ROLES = {
    ("labels", IMAGE): Role.TRUTH,
    ("unknown_mask", IMAGE): Role.TRUTH_UNKNOWN,
    ("points", POINT_CLOUD): Role.TRUTH_POINTS,
    ("frame", HEADER): Role.NAME,
    ("label_info", LABEL_INFO): Role.TRUTH_CLASSES,
}
_OUTPUT_ROLES = {
    ("labels", IMAGE): Role.LABELS,
    ("instances", INSTANCES): Role.INSTANCES,
    ("unknown_mask", IMAGE): Role.UNKNOWN,
    ("unknown_score", IMAGE): Role.UNKNOWN_SCORE,
    ("confidence", IMAGE): Role.CONFIDENCE,
    ("points", POINT_CLOUD): Role.POINTS,
    ("label_info", LABEL_INFO): Role.CLASSES,
}
#: Images that are not a camera's: depth, and visualisations that the node publishes.
_NOT_CAMERAS = ("/depth", "/semantic", "/color_mask", "/overlay", "/overlay/compressed")


def topic_roles(
    topics: Sequence[TopicInfo], *, outputs: str | None = None, image: str | None = None
) -> dict[str, Role]:
    """Return the role of each topic that has one, from names and types.

    Args:
        topics: The topics of the bag.
        outputs: Namespace of the outputs, such as "/panoptic"; None: any.
        image: Topic of the images; None: all images that are not outputs, preferring raw over
            compressed.
    """
    roles: dict[str, Role] = {}
    nodes = {one.name.removesuffix("/labels") for one in topics if one.name.endswith("/labels")}
    for topic in topics:
        space, _, last = topic.name.rpartition("/")
        if _within(space, TRUTH):
            role = _TRUTH_ROLES.get((last, topic.msgtype))
        elif (last, topic.msgtype) in _OUTPUT_ROLES:
            wanted = outputs is None or _within(space, outputs)
            # Lidars, too, publish on a topic named points: labelled ones lie beside the labels.
            wanted = wanted and (topic.msgtype != POINT_CLOUD or space in nodes)
            role = _OUTPUT_ROLES[last, topic.msgtype] if wanted else None
        elif topic.msgtype in (IMAGE, COMPRESSED) and not topic.name.endswith(_NOT_CAMERAS):
            role = Role.IMAGE if image in (None, topic.name) else None
        else:
            role = None
        if role is not None:
            roles[topic.name] = role
    for name in [name for name, role in roles.items() if role is Role.IMAGE]:
        if name.endswith("/compressed") and roles.get(name.removesuffix("/compressed")):
            del roles[name]
    return roles


def _within(space: str, other: str) -> bool:
    other = other.rstrip("/")
    return space == other or space.startswith(f"{other}/")


_CLASSES = (Role.CLASSES, Role.TRUTH_CLASSES)


class FrameKey(NamedTuple):
    """Identifies the messages of one frame: exact stamp and frame_id of the camera."""

    stamp_ns: int
    frame_id: str

    def __str__(self) -> str:
        seconds, nanoseconds = divmod(self.stamp_ns, _SECOND)
        return f"{self.frame_id or 'camera'}@{seconds}.{nanoseconds:09d}"


class Part(NamedTuple):
    """A message with the frame and the role it belongs to."""

    key: FrameKey
    role: Role
    record: Record


@dataclass(frozen=True, slots=True, kw_only=True)
class BagIndex:
    """The frames of a bag.

    Attributes:
        path: The bag.
        roles: Role of each topic that has one.
        arrivals: Receive time in ns of each message, by role and frame.
        names: Names of frames by stamp in ns, if the bag contains them.
        taxonomy: The classes from label_info; None if there is none.
        losses: One line for each part of the bag that cannot be read.
    """

    path: Path
    roles: Mapping[str, Role]
    arrivals: Mapping[Role, Mapping[FrameKey, int]]
    names: Mapping[int, str]
    taxonomy: Taxonomy | None
    losses: tuple[str, ...]

    def has(self, role: Role) -> bool:
        """Return whether any frame has a message of this role."""
        return bool(self.arrivals.get(role))


def index_bag(path: Path, *, outputs: str | None = None, image: str | None = None) -> BagIndex:
    """Read the headers of all messages with a role; arguments as in `topic_roles`.

    Raises:
        BagError: The path is not a bag, a message is damaged, a frame has two messages of the same
            role, or two label_info messages differ.
    """
    arrivals: dict[Role, dict[FrameKey, int]] = {}
    topics: dict[tuple[Role, FrameKey], str] = {}
    names: dict[int, str] = {}
    taxonomies: dict[str, Taxonomy] = {}
    with open_bag(path) as bag:
        roles = topic_roles(bag.topics, outputs=outputs, image=image)
        for record in bag.select(roles):
            role = roles[record.topic]
            if role in _CLASSES:
                taxonomies[record.topic] = _taxonomy_of(record)
            elif role is Role.NAME:
                key = _key_of(record, record.message)
                names[key.stamp_ns] = key.frame_id
            else:
                key = _key_of(record)
                other = topics.setdefault((role, key), record.topic)
                if key in arrivals.setdefault(role, {}):
                    raise BagError(
                        f"{path}: {role.value} of frame {key} occurs twice, on {other} and"
                        f" {record.topic}"
                        + ("" if other == record.topic else "; specify the topics to evaluate")
                    )
                arrivals[role][key] = record.time_ns
        if len(set(taxonomies.values())) > 1:
            raise BagError(f"{path}: {' and '.join(taxonomies)} name different classes")
        return BagIndex(
            path=path,
            roles=roles,
            arrivals=arrivals,
            names=names,
            taxonomy=next(iter(taxonomies.values()), None),
            losses=tuple(bag.losses),
        )


def recorded_classes(path: Path) -> Taxonomy | None:
    """Return the classes of a bag's ground truth, from its first message with them; None without.

    Raises:
        BagError: The path is not a bag, or the message is damaged.
    """
    with open_bag(path) as bag:
        roles = topic_roles(bag.topics)
        topics = [name for name, role in roles.items() if role is Role.TRUTH_CLASSES]
        return next(map(_taxonomy_of, bag.select(topics)), None)


def parts_of(index: BagIndex, wanted: frozenset[Role]) -> Iterator[Part]:
    """Yield the messages of some roles in the order of arrival.

    Raises:
        BagError: A message is damaged.
    """
    roles = {name: role for name, role in index.roles.items() if role in wanted}
    with open_bag(index.path) as bag:
        for record in bag.select(roles):
            yield Part(_key_of(record), roles[record.topic], record)


def _key_of(record: Record, header: Any = None) -> FrameKey:
    """Return the frame of a message."""
    try:
        header = record.message.header if header is None else header
        return FrameKey(stamp_of(header), str(header.frame_id))
    except (AttributeError, TypeError) as error:
        raise BagError(f"{record.topic} is of another {record.msgtype}: {error}") from None


def _taxonomy_of(record: Record) -> Taxonomy:
    """Return the classes of a label_info message."""
    try:
        return taxonomy_from_message(record.message)
    except BagError:
        raise
    except (ValueError, AttributeError, TypeError, IndexError) as error:
        raise BagError(f"{record.topic} at {record.time_ns} ns is no label_info: {error}") from None
