"""What a bag's reader asks of a file, whatever its format."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from typing import NamedTuple, Protocol

from upsnet_ros.bags.message_types import Definition

#: The first bytes of a zstd frame. A CDR message begins with a 0.
ZSTD_MAGIC = b"\x28\xb5\x2f\xfd"


@dataclass(frozen=True, slots=True)
class StoredTopic:
    """A topic of one file.

    Attributes:
        name: As it was recorded.
        msgtype: For example "sensor_msgs/msg/Image".
        count: Messages in the file.
        latched: Whether its publisher kept the last message for late joiners.
    """

    name: str
    msgtype: str
    count: int
    latched: bool = False


class StoredMessage(NamedTuple):
    """A message of one file: when it was received (ns), on what, and its bytes."""

    time_ns: int
    topic: str
    msgtype: str
    raw: bytes


def is_latched(offered_qos: str) -> bool:
    """Whether QoS profiles as rosbag2 writes them ask to keep messages for late joiners.

    Older releases write the policy as a number, newer ones by its name.
    """
    return re.search(r"durability: (1|transient_local)\b", offered_qos) is not None


class StorageFile(Protocol):
    """One file of a bag, open for reading."""

    topics: list[StoredTopic]
    definitions: list[Definition]
    start_ns: int
    end_ns: int
    losses: list[str]

    def messages(self, topics: Collection[str], start: int, stop: int) -> Iterator[StoredMessage]:
        """Messages of some topics from ``start`` to before ``stop`` (ns), in order of time.

        What turns out to be unreadable on the way is left out, and told in `losses`.
        """
        ...

    def close(self) -> None:
        """Let the file go."""
        ...
