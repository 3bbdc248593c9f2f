"""Reads a bag: a folder or a single file, complete or left behind by a killed recorder.

`open_bag` reads messages; `summarise_bag` reads a whole bag and returns counts, rates and gaps.
"""

from __future__ import annotations

import heapq
import math
from collections.abc import Collection, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from datetime import datetime, timezone
from functools import cached_property
from itertools import pairwise
from pathlib import Path
from typing import Any

import zstandard

from upsnet_ros.bags.messages import MessageTypes
from upsnet_ros.bags.storage import (
    ZSTD_MAGIC,
    Limits,
    StorageFile,
    StoredMessage,
    StoredTopic,
    is_leap,
    open_files,
    raise_it,
    zstd_blocks,
)
from upsnet_ros.errors import BagError, TooLargeError, printable

#: Larger than any time in MCAP, which are unsigned 64-bit.
_FOREVER = 1 << 64


@dataclass(frozen=True, slots=True, kw_only=True)
class TopicInfo(StoredTopic):
    """A topic of a bag, whose ``count`` is of messages in all of its files.

    Attributes:
        known: Whether its messages can be deserialised.
    """

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
        """The deserialised message (a rosbags class): fields as in ROS, numeric arrays as NumPy's.

        Raises:
            BagError: The type is unknown, or the bytes are damaged.
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
        begin_ns: Time at which reading begins, as ``start`` says.
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
        limits: Limits | None = None,
    ) -> None:
        self.path = path
        self._limits = limits or Limits.from_environment()
        self._stack = ExitStack()
        self._losses: list[str] = []
        try:
            self._files = open_files(path, self._stack, self._losses, self._limits)
            self.types = MessageTypes(
                (one for file in self._files for one in file.definitions), self._limits
            )
            self._losses += self.types.unusable
            self.topics = _topics(self._files, self.types)
            self._selection = self._selected(topics)
            filled = [file for file in self._files if any(topic.count for topic in file.topics)]
            self.start_time = min((file.start_ns for file in filled), default=0)
            self.end_time = max((file.end_ns for file in filled), default=0)
            begin = _nanoseconds(start or 0.0, "start")
            self.begin_ns = self._moment(begin) if start else self.start_time
            self._start = self.begin_ns if start else -_FOREVER
            self._stop = _FOREVER
            if duration is not None:
                self._stop = self._moment(begin + _nanoseconds(duration, "duration"))
        except BaseException:
            self._stack.close()
            raise

    @cached_property
    def leaps(self) -> list[tuple[int, int]]:
        """Where the recorder's clock leapt: the time after the leap, and by how much (ns).

        ``start`` and ``duration`` do not count leaps.
        """
        leaps: list[tuple[int, int]] = []
        last: int | None = None
        for start, end in heapq.merge(*(file.spans() for file in self._files)):
            if last is not None and is_leap(last, start):
                leaps.append((start, start - last))
            last = end if last is None else max(last, end)
        return leaps

    @property
    def seconds(self) -> float:
        """Time from the first message to the last one, without leaps of the clock."""
        return (self.end_time - self.start_time - sum(length for _, length in self.leaps)) / 1e9

    @property
    def losses(self) -> list[str]:
        """What could not be read, a line each; complete once the bag was iterated over."""
        lines = [*self._losses, *(line for file in self._files for line in file.losses)]
        return [printable(line) for line in lines]  # they hold names of others

    def __iter__(self) -> Iterator[Record]:
        return self._read(self._selection)

    def select(self, topics: Collection[str]) -> Iterator[Record]:
        """Iterate over a subset of the topics that the bag was opened for."""
        return self._read(self._selection & frozenset(topics))

    def __enter__(self) -> Bag:
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def _read(self, topics: frozenset[str]) -> Iterator[Record]:
        ready = (self._announced(file, topics) for file in self._files)
        for _, stored in heapq.merge(*ready, key=lambda item: item[0]):
            if stored is not None:
                yield Record(self._plain(stored), self.types)

    def _announced(
        self, file: StorageFile, topics: frozenset[str]
    ) -> Iterator[tuple[int, StoredMessage | None]]:
        """Yield the start time of the file, so that it is read only when needed, then messages."""
        yield max(file.start_ns, self._start), None
        for stored in file.messages(topics, self._start, self._stop):
            yield stored.time_ns, stored

    def _moment(self, elapsed_ns: int) -> int:
        """Return the time (ns) after ``elapsed_ns`` of the bag, not counting clock jumps."""
        moment = self.start_time + elapsed_ns
        for after, length in self.leaps:
            if moment > after - length:
                moment += length
        return moment

    def _plain(self, stored: StoredMessage) -> StoredMessage:
        # A killed recorder leaves no metadata that would tell of messages compressed one by one.
        if not stored.raw.startswith(ZSTD_MAGIC):
            return stored
        try:
            limit = self._limits.message_bytes
            return stored._replace(raw=b"".join(zstd_blocks(stored.raw, limit)))
        except (zstandard.ZstdError, TooLargeError) as error:
            large = isinstance(error, TooLargeError)
            state, advice = (
                ("too large", f"; {raise_it('message_bytes')}") if large else ("damaged", "")
            )
            raise BagError(
                f"{self.path}: {stored.topic} at {stored.time_ns} ns is {state}: {error}{advice}"
            ) from None

    def _selected(self, topics: Sequence[str] | None) -> frozenset[str]:
        if isinstance(topics, str):
            raise BagError(f"a list of topics is needed: topics=[{topics!r}], not {topics!r}")
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
    limits: Limits | None = None,
) -> Bag:
    """Open a bag for reading; use the result in a ``with`` statement.

    Args:
        path: Folder of a bag, split or not, with its metadata.yaml or without; or a single .mcap
            or .db3 file. Compressed files (.zstd), messages and chunks are read too.
        topics: Topics to read; default: all.
        start: Start of reading, in seconds after the first message, not counting clock jumps such
            as from time 0 to the current time.
        duration: Duration to read, in seconds; default: to the end.
        limits: Limits on memory, time and disk space; default: `Limits.from_environment`.

    Raises:
        BagError: The path is not a bag, it lacks a topic, or ``topics`` is not a list.
    """
    return Bag(Path(path), topics=topics, start=start, duration=duration, limits=limits)


def _nanoseconds(seconds: float, what: str) -> int:
    if not (math.isfinite(seconds) and seconds >= 0):
        raise BagError(f"{what} must be a number of seconds, not {seconds}")
    return round(seconds * 1e9)


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


@dataclass(frozen=True, slots=True, kw_only=True)
class TopicSummary(TopicInfo):
    """Statistics of one topic, whose ``count`` is of readable messages; times of the recorder.

    Attributes:
        first_ns: Time of the first message; None if there is none.
        last_ns: Time of the last message.
        rate_hz: Mean message rate; None with fewer than two distinct times.
        longest_gap_s: Longest time between two messages in seconds; None as above.
    """

    first_ns: int | None
    last_ns: int | None
    rate_hz: float | None
    longest_gap_s: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class BagSummary:
    """Statistics of a bag.

    Attributes:
        path: Path of the bag.
        topics: Its topics, sorted by name.
        start_ns: Time of the first message; 0 for an empty bag.
        end_ns: Time of the last message.
        size_bytes: Total size of its files.
        losses: One line for each part that cannot be read.
    """

    path: Path
    topics: tuple[TopicSummary, ...]
    start_ns: int
    end_ns: int
    size_bytes: int
    losses: tuple[str, ...]

    @property
    def messages(self) -> int:
        """Number of readable messages."""
        return sum(topic.count for topic in self.topics)

    @property
    def begin(self) -> str:
        """Time of the first message in UTC."""
        moment = datetime.fromtimestamp(self.start_ns / 1e9, timezone.utc)
        return moment.isoformat(sep=" ", timespec="milliseconds").replace("+00:00", " UTC")

    def to_json(self) -> dict[str, Any]:
        """Return the summary as JSON-compatible values."""
        return {**asdict(self), "path": str(self.path), "messages": self.messages}


def summarise_bag(path: Path) -> BagSummary:
    """Return a summary of a bag, which is read completely.

    Raises:
        BagError: The path is not a bag.
    """
    times: dict[tuple[str, str], list[int]] = {}
    with open_bag(path) as bag:
        for record in bag:
            times.setdefault((record.topic, record.msgtype), []).append(record.time_ns)
        topics = []
        for topic in bag.topics:
            moments = times.get((topic.name, topic.msgtype), [])
            seconds = (moments[-1] - moments[0]) / 1e9 if moments else 0.0
            gaps = [after - before for before, after in pairwise(moments)]
            topics.append(
                TopicSummary(
                    **{**asdict(topic), "count": len(moments)},
                    first_ns=moments[0] if moments else None,
                    last_ns=moments[-1] if moments else None,
                    rate_hz=(len(moments) - 1) / seconds if seconds else None,
                    longest_gap_s=max(gaps) / 1e9 if seconds else None,
                )
            )
        files = path.iterdir() if path.is_dir() else [path]
        return BagSummary(
            path=path,
            topics=tuple(topics),
            start_ns=bag.start_time,
            end_ns=bag.end_time,
            size_bytes=sum(file.stat().st_size for file in files if file.is_file()),
            losses=tuple(bag.losses),
        )
