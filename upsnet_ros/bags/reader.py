"""Reading a bag: a folder of files or a single one, whole or as a killed recorder left it."""

from __future__ import annotations

import heapq
from collections.abc import Collection, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from types import TracebackType
from typing import Any

import zstandard

from upsnet_ros.bags.errors import BagError
from upsnet_ros.bags.files import open_files
from upsnet_ros.bags.message_types import MessageTypes
from upsnet_ros.bags.storage import ZSTD_MAGIC, StorageFile, StoredMessage

__all__ = ["Bag", "Record", "TopicInfo", "open_bag"]

_FOREVER = (1 << 63) - 1


@dataclass(frozen=True, slots=True, kw_only=True)
class TopicInfo:
    """A topic of a bag.

    Attributes:
        name: For example "/camera/image_raw".
        msgtype: For example "sensor_msgs/msg/Image"; empty where the bag does not tell.
        count: Messages in the whole bag.
        latched: Whether its publisher kept the last message for late joiners.
        known: Whether its messages can be deserialised.
    """

    name: str
    msgtype: str
    count: int
    latched: bool
    known: bool


class Record:
    """A message of a bag.

    Attributes:
        topic: On which it was sent.
        time_ns: When the bag's recorder received it, in nanoseconds.
        msgtype: Its type.
        raw: It as CDR bytes.
    """

    def __init__(self, stored: StoredMessage, types: MessageTypes) -> None:
        self.time_ns, self.topic, self.msgtype, self.raw = stored
        self._types = types

    @cached_property
    def message(self) -> Any:
        """The message, of a class of rosbags: fields as in ROS, arrays of numbers as numpy's.

        Raises:
            BagError: Its type is unknown, or its bytes are damaged.
        """
        try:
            return self._types.deserialize(self.raw, self.msgtype)
        except BagError as error:
            raise BagError(f"{self.topic} at {self.time_ns} ns: {error}") from None

    def __repr__(self) -> str:
        return f"Record({self.topic!r}, {self.time_ns}, {self.msgtype!r}, {len(self.raw)} bytes)"


class Bag:
    """A bag open for reading; made by `open_bag`, closed by its ``with``.

    It can be iterated over several times. Records come in order of `Record.time_ns`, across the
    files of a split bag too, however they were written.

    Attributes:
        path: Of the bag.
        topics: All topics of the bag, by name.
        start_time: Time of the first message of the bag in ns; 0 where it is empty.
        end_time: Time of the last one.
        types: Makes and reads messages of the types in this bag; hand it to a `BagWriter` that
            writes what this bag holds.
    """

    def __init__(
        self,
        path: Path,
        *,
        topics: Sequence[str] | None = None,
        start: float | None = None,
        duration: float | None = None,
    ) -> None:
        self.path = path
        self._stack = ExitStack()
        self._losses: list[str] = []
        try:
            self._files = open_files(path, self._stack, self._losses)
            self.types = MessageTypes(d for file in self._files for d in file.definitions)
            self._losses += self.types.unusable
            self.topics = _topics(self._files, self.types)
            self._selection = self._selected(topics)
        except BaseException:
            self._stack.close()
            raise
        filled = [file for file in self._files if any(topic.count for topic in file.topics)]
        self.start_time = min((file.start_ns for file in filled), default=0)
        self.end_time = max((file.end_ns for file in filled), default=0)
        self._start = self.start_time + round((start or 0.0) * 1e9)
        self._stop = _FOREVER if duration is None else self._start + round(duration * 1e9)

    @property
    def losses(self) -> list[str]:
        """What could not be read, a line each; complete once the bag was iterated over."""
        return [*self._losses, *(line for file in self._files for line in file.losses)]

    def __iter__(self) -> Iterator[Record]:
        return self._read(self._selection)

    def select(self, topics: Collection[str]) -> Iterator[Record]:
        """Iterate over some topics of those that the bag was opened for."""
        return self._read(self._selection & frozenset(topics))

    def __enter__(self) -> Bag:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._stack.close()

    def _read(self, topics: frozenset[str]) -> Iterator[Record]:
        ready = (self._announced(file, topics) for file in self._files)
        for _, stored in heapq.merge(*ready, key=lambda item: item[0]):
            if stored is not None:
                yield Record(self._plain(stored), self.types)

    def _announced(
        self, file: StorageFile, topics: frozenset[str]
    ) -> Iterator[tuple[int, StoredMessage | None]]:
        """The file's messages, and first its first moment, so that it is not read before that."""
        yield max(file.start_ns, self._start), None
        for stored in file.messages(topics, self._start, self._stop):
            yield stored.time_ns, stored

    def _plain(self, stored: StoredMessage) -> StoredMessage:
        # A killed recorder leaves no metadata that would tell of messages compressed one by one.
        if not stored.raw.startswith(ZSTD_MAGIC):
            return stored
        try:
            return stored._replace(
                raw=zstandard.ZstdDecompressor().decompressobj().decompress(stored.raw)
            )
        except zstandard.ZstdError as error:
            raise BagError(
                f"{self.path}: {stored.topic} at {stored.time_ns} ns is damaged: {error}"
            ) from None

    def _selected(self, topics: Sequence[str] | None) -> frozenset[str]:
        present = [topic.name for topic in self.topics]
        unknown = [name for name in topics or () if name not in present]
        if unknown:
            has = ", ".join(present) or "no topics"
            raise BagError(f"{self.path} has no topic {', '.join(unknown)}; it has {has}")
        return frozenset(present if topics is None else topics)


def open_bag(
    path: Path | str,
    *,
    topics: Sequence[str] | None = None,
    start: float | None = None,
    duration: float | None = None,
) -> Bag:
    """Open a bag for reading, in a ``with``.

    Args:
        path: Folder of a bag, split or not, with its metadata.yaml or without; or a single .mcap
            or .db3 file. Compressed files (.zstd), messages and chunks are read too.
        topics: Give only these; all by default.
        start: Seconds from the bag's first message to where reading begins.
        duration: Seconds from there to where it ends.

    Raises:
        BagError: It is no bag, or a topic is not in it.
    """
    return Bag(Path(path), topics=topics, start=start, duration=duration)


def _topics(files: Sequence[StorageFile], types: MessageTypes) -> list[TopicInfo]:
    counts: dict[tuple[str, str], int] = {}
    latched: set[tuple[str, str]] = set()
    for topic in (topic for file in files for topic in file.topics):
        key = topic.name, topic.msgtype
        counts[key] = counts.get(key, 0) + topic.count
        if topic.latched:
            latched.add(key)
    return [
        TopicInfo(
            name=name,
            msgtype=msgtype,
            count=count,
            latched=(name, msgtype) in latched,
            known=msgtype in types,
        )
        for (name, msgtype), count in sorted(counts.items())
    ]
