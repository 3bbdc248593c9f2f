"""An MCAP file of a bag: read by its index, or by a scan where a killed recorder left none."""

from __future__ import annotations

import heapq
import struct
from collections import Counter
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import NamedTuple

import zstandard
from mcap.data_stream import ReadDataStream
from mcap.exceptions import McapError
from mcap.reader import SeekingReader
from mcap.records import Channel, Chunk, Footer, Message, Schema
from mcap.stream_reader import StreamReader, breakup_chunk, read_magic

from upsnet_ros.bags.errors import BagError
from upsnet_ros.bags.message_types import Definition
from upsnet_ros.bags.storage import StoredMessage, StoredTopic, is_latched

__all__ = ["McapFile"]

# What the mcap library and its decompressors raise over damaged bytes; lz4 raises RuntimeError.
_DAMAGE = (McapError, zstandard.ZstdError, RuntimeError, ValueError, struct.error)


class _Block(NamedTuple):
    """A record that holds messages: a chunk, or a message outside of any.

    ``channels`` are those of its messages; empty where that is not known.
    """

    start_ns: int
    end_ns: int
    offset: int
    channels: frozenset[int]


class McapFile:
    """See `upsnet_ros.bags.storage.StorageFile`.

    Raises:
        BagError: It is no MCAP file.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._file = path.open("rb")
        self._size = path.stat().st_size
        self.losses: list[str] = []
        self._schemas: dict[int, Schema] = {}
        self._channels: dict[int, Channel] = {}
        self._counts: Counter[int] = Counter()
        self._blocks: list[_Block] = []
        self.start_ns = self.end_ns = 0
        try:
            if not self._read_index():
                self._scan()
        except BaseException:
            self.close()
            raise
        self._blocks.sort()
        self.topics = [
            StoredTopic(
                channel.topic,
                self._msgtype(channel),
                self._counts[key],
                is_latched(channel.metadata.get("offered_qos_profiles", "")),
            )
            for key, channel in sorted(self._channels.items())
        ]
        self.definitions = [
            Definition(schema.name, schema.encoding, schema.data.decode("utf-8", "replace"))
            for schema in self._schemas.values()
        ]

    def messages(self, topics: Collection[str], start: int, stop: int) -> Iterator[StoredMessage]:
        """See `StorageFile.messages`."""
        channels = {key: chan for key, chan in self._channels.items() if chan.topic in topics}
        blocks = [
            block
            for block in self._blocks
            if block.end_ns >= start
            and block.start_ns < stop
            and not (block.channels and block.channels.isdisjoint(channels))
        ]
        # By time, and in the order of the file where that is equal. Each block announces its first
        # moment, and is read only when that has come.
        streams = (self._block_messages(block, channels) for block in blocks)
        for (time_ns, _, _), message in heapq.merge(*streams, key=lambda item: item[0]):
            if message is not None and start <= time_ns < stop:
                channel = channels[message.channel_id]
                yield StoredMessage(time_ns, channel.topic, self._msgtype(channel), message.data)

    def close(self) -> None:
        """See `StorageFile.close`."""
        self._file.close()

    def _block_messages(
        self, block: _Block, channels: Collection[int]
    ) -> Iterator[tuple[tuple[int, int, int], Message | None]]:
        yield (block.start_ns, block.offset, -1), None
        self._file.seek(block.offset)
        try:
            record = next(self._records())[1]
            inside = breakup_chunk(record, validate_crc=True) if isinstance(record, Chunk) else []
        except (*_DAMAGE, StopIteration) as error:
            self._lose_chunk(block.offset, error)
            return
        if isinstance(record, Message):
            inside = [record]
        found = [one for one in inside if isinstance(one, Message) and one.channel_id in channels]
        keyed = [((one.log_time, block.offset, place), one) for place, one in enumerate(found)]
        yield from sorted(keyed, key=lambda item: item[0])

    def _read_index(self) -> bool:
        """Take what the summary at the file's end says; False where there is none to trust."""
        try:
            summary = SeekingReader(self._file, record_size_limit=self._size).get_summary()
        except (*_DAMAGE, OSError, StopIteration):
            return False
        if summary is None or summary.statistics is None:
            return False
        statistics, chunks = summary.statistics, summary.chunk_indexes
        if not chunks or len(chunks) != statistics.chunk_count:
            return False
        if set(statistics.channel_message_counts) - set(summary.channels):
            return False
        self._schemas, self._channels = summary.schemas, summary.channels
        self._counts.update(statistics.channel_message_counts)
        self._blocks = [
            _Block(
                one.message_start_time,
                one.message_end_time,
                one.chunk_start_offset,
                frozenset(one.message_index_offsets),
            )
            for one in chunks
            if one.message_start_time <= one.message_end_time
        ]
        self.start_ns, self.end_ns = statistics.message_start_time, statistics.message_end_time
        return True

    def _scan(self) -> None:
        """Find what there is, from the file's beginning to where it cannot be read any more."""
        self._file.seek(0)
        try:
            read_magic(ReadDataStream(self._file))
        except _DAMAGE:
            raise BagError(f"{self._path} is no MCAP file: it does not begin as one") from None
        readable_end, complete = self._file.tell(), False
        try:
            for offset, record in self._records():
                if isinstance(record, Chunk):
                    self._scan_chunk(offset, record)
                elif isinstance(record, Message):
                    channels = frozenset((record.channel_id,))
                    self._blocks.append(_Block(record.log_time, record.log_time, offset, channels))
                    self._counts[record.channel_id] += 1
                else:
                    self._take(record)
                complete = isinstance(record, Footer)
                readable_end = self._file.tell()
        except _DAMAGE:
            complete = False
        if not complete:
            lost = self._size - readable_end
            self._lose(
                f"it is cut off: its last {lost} bytes are no whole record"
                if lost
                else "it was not closed; what its writer still held is lost"
            )
        if self._blocks:
            self.start_ns = min(block.start_ns for block in self._blocks)
            self.end_ns = max(block.end_ns for block in self._blocks)

    def _scan_chunk(self, offset: int, chunk: Chunk) -> None:
        try:
            inside = breakup_chunk(chunk, validate_crc=True)
        except _DAMAGE as error:
            self._lose_chunk(offset, error)
            return
        times, channels = [], set[int]()
        for record in inside:
            if isinstance(record, Message):
                times.append(record.log_time)
                channels.add(record.channel_id)
                self._counts[record.channel_id] += 1
            else:
                self._take(record)
        if times:
            self._blocks.append(_Block(min(times), max(times), offset, frozenset(channels)))

    def _take(self, record: object) -> None:
        if isinstance(record, Schema):
            self._schemas[record.id] = record
        elif isinstance(record, Channel):
            self._channels[record.id] = record

    def _records(self) -> Iterator[tuple[int, object]]:
        """Records from the current position on, each with where it begins."""
        reader = StreamReader(
            self._file, skip_magic=True, emit_chunks=True, record_size_limit=self._size
        )
        offset = self._file.tell()
        for record in reader.records:
            yield offset, record
            offset = self._file.tell()

    def _msgtype(self, channel: Channel) -> str:
        schema = self._schemas.get(channel.schema_id)
        return schema.name if schema else ""

    def _lose_chunk(self, offset: int, error: BaseException) -> None:
        reason = str(error) or type(error).__name__
        self._lose(f"what lies at byte {offset} is damaged and left out: {reason}")

    def _lose(self, what: str) -> None:
        line = f"{self._path.name}: {what}"
        if line not in self.losses:
            self.losses.append(line)
