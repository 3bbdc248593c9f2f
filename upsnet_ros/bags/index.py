"""Which frames a bag tells something of: found in a first pass, before any is judged."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from upsnet_ros.bags.errors import BagError
from upsnet_ros.bags.messages import stamp_of
from upsnet_ros.bags.reader import Record, open_bag
from upsnet_ros.bags.roles import Role, sort_topics
from upsnet_ros.datasets.taxonomy import Taxonomy
from upsnet_ros.ros.from_messages import taxonomy_from_message

__all__ = ["BagIndex", "FrameKey", "Part", "index_bag", "parts_of"]

_SECOND = 1_000_000_000
_CLASSES = (Role.CLASSES, Role.TRUTH_CLASSES)


class FrameKey(NamedTuple):
    """What joins the messages of one frame: the exact stamp, and the camera's frame_id."""

    stamp_ns: int
    frame_id: str

    def __str__(self) -> str:
        seconds, nanoseconds = divmod(self.stamp_ns, _SECOND)
        return f"{self.frame_id or 'camera'}@{seconds}.{nanoseconds:09d}"


class Part(NamedTuple):
    """A message of a frame."""

    key: FrameKey
    role: Role
    record: Record


@dataclass(frozen=True, slots=True, kw_only=True)
class BagIndex:
    """The frames of a bag.

    Attributes:
        path: The bag.
        roles: The topics that count, and for what.
        arrivals: By role and frame, when the recorder received the message, in ns.
        names: Names of frames, by stamp, where the bag tells them.
        taxonomy: The classes that label_info names; None where there is none.
        losses: What of the bag cannot be read.
    """

    path: Path
    roles: Mapping[str, Role]
    arrivals: Mapping[Role, Mapping[FrameKey, int]]
    names: Mapping[int, str]
    taxonomy: Taxonomy | None
    losses: tuple[str, ...]

    def has(self, role: Role) -> bool:
        """Whether any frame has it."""
        return bool(self.arrivals.get(role))


def index_bag(path: Path, *, outputs: str | None = None, image: str | None = None) -> BagIndex:
    """Read a bag for the headers of what counts; arguments as of `sort_topics`.

    Raises:
        BagError: It is no bag, a message is damaged, two messages on different topics claim to be
            the same of one frame, or two label_info differ.
    """
    arrivals: dict[Role, dict[FrameKey, int]] = {}
    topics: dict[tuple[Role, FrameKey], str] = {}
    names: dict[int, str] = {}
    taxonomies: dict[str, Taxonomy] = {}
    with open_bag(path) as bag:
        roles = sort_topics(bag.topics, outputs=outputs, image=image)
        for record in bag.select(roles):
            role, message = roles[record.topic], record.message
            if role in _CLASSES:
                taxonomies[record.topic] = taxonomy_from_message(message)
            elif role is Role.NAME:
                names[message.stamp.sec * _SECOND + message.stamp.nanosec] = message.frame_id
            else:
                key = FrameKey(stamp_of(message.header), message.header.frame_id)
                other = topics.setdefault((role, key), record.topic)
                if key in arrivals.setdefault(role, {}):
                    raise BagError(
                        f"{path}: {role.value} of frame {key} occurs twice, on {other} and"
                        f" {record.topic}"
                        + ("" if other == record.topic else "; name the topics to judge")
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


def parts_of(index: BagIndex, wanted: frozenset[Role]) -> Iterator[Part]:
    """Read the messages of some roles again, in order of arrival.

    Raises:
        BagError: A message is damaged.
    """
    roles = {name: role for name, role in index.roles.items() if role in wanted}
    with open_bag(index.path) as bag:
        for record in bag.select(roles):
            header = record.message.header
            yield Part(FrameKey(stamp_of(header), header.frame_id), roles[record.topic], record)
