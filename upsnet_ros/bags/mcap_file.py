"""Reads an MCAP file of a bag by its index, or by a scan if a killed recorder left no index."""

from __future__ import annotations

import heapq
import struct
import zlib
from collections import Counter
from collections.abc import Collection, Iterator
from io import BytesIO
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

import lz4.frame
import zstandard
from mcap.data_stream import ReadDataStream
from mcap.exceptions import EndOfFile, McapError
from mcap.opcode import Opcode
from mcap.records import Channel, Chunk, ChunkIndex, Footer, Schema, Statistics
from mcap.stream_reader import MAGIC_SIZE, read_magic

from upsnet_ros.bags.storage import (
    CDR,
    Definition,
    Limits,
    StoredMessage,
    StoredTopic,
    is_latched,
    is_leap,
    raise_it,
    zstd_blocks,
)
from upsnet_ros.errors import BagError, TooLargeError

# Exceptions of the mcap library and its decompressors for damaged data; lz4: RuntimeError.
_DAMAGE = (
    McapError, zstandard.ZstdError, RuntimeError, ValueError, OverflowError, struct.error,
)  # fmt: skip
_READERS = {
    Opcode.FOOTER: Footer.read,
    Opcode.SCHEMA: Schema.read,
    Opcode.CHANNEL: Channel.read,
    Opcode.CHUNK: Chunk.read,
    Opcode.CHUNK_INDEX: ChunkIndex.read,
    Opcode.STATISTICS: Statistics.read,
}
_DESCRIBING = (Opcode.SCHEMA, Opcode.CHANNEL)
#: Header of a record: opcode and length of the content.
_RECORD = struct.Struct("<BQ")
#: Header of a message: channel, sequence, log time and publish time.
_MESSAGE = struct.Struct("<HIQQ")
#: Memory overhead of a message object in bytes.
_OVERHEAD = 400


class _Message(NamedTuple):
    time_ns: int
    channel_id: int
    data: memoryview


class _Block(NamedTuple):
    """A record with messages: a chunk, or a message outside chunks.

    ``channels`` are those of its messages; empty if unknown. ``length`` is the length of the record
    according to the index; 0 without an index.
    """

    start_ns: int
    end_ns: int
    offset: int
    channels: frozenset[int]
    length: int = 0


class McapFile:
    """An MCAP file; see `upsnet_ros.bags.storage.StorageFile`.

    Raises:
        BagError: The file is not an MCAP file.
    """

    def __init__(self, path: Path, limits: Limits) -> None:
        self._path, self._limits = path, limits
        self._file = path.open("rb")
        self._size = path.stat().st_size
        self.losses: list[str] = []
        self._schemas: dict[int, Schema] = {}
        self._channels: dict[int, Channel] = {}
        self._counts: Counter[int] = Counter()
        self._blocks: list[_Block] = []
        self._held_bytes = 0
        self.start_ns = self.end_ns = 0
        try:
            if not self._read_index():
                self._scan()
        except BaseException:
            self.close()
            raise
        self._blocks.sort()
        self._leave_out_other_encodings()
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
            if len(schema.data) <= limits.definition_bytes
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
        # Sorted by time, then by position in the file. Each block first yields its start time, so
        # that it is read only when that time is reached.
        streams = (self._block_messages(block, channels) for block in blocks)
        for (time_ns, _, _), message in heapq.merge(*streams, key=lambda item: item[0]):
            if message is not None and start <= time_ns < stop:
                channel = channels[message.channel_id]
                if len(message.data) > self._limits.message_bytes:
                    self._lose(
                        f"{channel.topic} at {time_ns} ns has {len(message.data)} bytes: left out;"
                        f" {raise_it('message_bytes')}"
                    )
                    continue
                raw = bytes(message.data)
                yield StoredMessage(time_ns, channel.topic, self._msgtype(channel), raw)

    def spans(self) -> Iterator[tuple[int, int]]:
        """See `StorageFile.spans`."""
        for block in self._blocks:
            if is_leap(block.start_ns, block.end_ns):
                for (time_ns, _, _), message in self._block_messages(block, self._channels):
                    if message is not None:
                        yield time_ns, time_ns
            else:
                yield block.start_ns, block.end_ns

    def close(self) -> None:
        """See `StorageFile.close`."""
        self._file.close()

    def _block_messages(
        self, block: _Block, channels: Collection[int]
    ) -> Iterator[tuple[tuple[int, int, int], _Message | None]]:
        yield (block.start_ns, block.offset, -1), None
        held = 0
        try:
            self._file.seek(block.offset)
            record = self._read_record()[1]
            if 0 < block.length != self._file.tell() - block.offset:
                raise ValueError("the index gives it another length")
            if isinstance(record, Chunk):
                data = self._unpack(record)
                del record
                found = [one for one in _messages(data) if one.channel_id in channels]
                held = len(data) + _OVERHEAD * len(found)
                if self._held_bytes + held > self._limits.memory_bytes:
                    held = 0
                    raise TooLargeError(
                        "chunks of the same time take more than"
                        f" {self._limits.memory_bytes} bytes of memory; {raise_it('memory_bytes')}"
                    )
            else:
                found = [record] if isinstance(record, _Message) else []
        except _DAMAGE as error:
            self._lose_chunk(block.offset, error)
            return
        self._held_bytes += held
        try:
            keyed = [((one.time_ns, block.offset, row), one) for row, one in enumerate(found)]
            keyed.sort(key=lambda item: item[0])
            yield from keyed
        finally:
            self._held_bytes -= held

    def _read_index(self) -> bool:
        """Read the summary at the end of the file; return False if it is missing or invalid."""
        channels: dict[int, Channel] = {}
        schemas: dict[int, Schema] = {}
        chunks: list[ChunkIndex] = []
        statistics: Statistics | None = None
        try:
            end = self._size - MAGIC_SIZE - _RECORD.size - 20
            self._file.seek(max(end, 0))
            footer = self._read_record()[1]
            read_magic(ReadDataStream(self._file))
            if not isinstance(footer, Footer) or not 0 < footer.summary_start <= end:
                return False
            self._file.seek(footer.summary_start)
            while self._file.tell() < end:
                record = self._read_record()[1]
                if isinstance(record, Schema):
                    schemas[record.id] = record
                elif isinstance(record, Channel):
                    channels[record.id] = record
                elif isinstance(record, ChunkIndex):
                    chunks.append(record)
                elif isinstance(record, Statistics):
                    statistics = record
        except _DAMAGE:
            return False
        if statistics is None or not chunks or len(chunks) != statistics.chunk_count:
            return False
        if set(statistics.channel_message_counts) - set(channels):
            return False
        if any(one.chunk_start_offset + one.chunk_length > self._size for one in chunks):
            return False
        # Reject an index with overlapping chunks, which would be read repeatedly.
        chunks.sort(key=lambda one: one.chunk_start_offset)
        if any(
            before.chunk_start_offset + before.chunk_length > after.chunk_start_offset
            for before, after in pairwise(chunks)
        ):
            self._lose("its index names the same bytes as several chunks: read without the index")
            return False
        self._schemas, self._channels = schemas, channels
        self._counts.update(statistics.channel_message_counts)
        self._blocks = [
            _Block(
                one.message_start_time,
                one.message_end_time,
                one.chunk_start_offset,
                frozenset(one.message_index_offsets),
                one.chunk_length,
            )
            for one in chunks
            if one.message_start_time <= one.message_end_time
        ]
        self.start_ns, self.end_ns = statistics.message_start_time, statistics.message_end_time
        return True

    def _scan(self) -> None:
        """Scan the file from the beginning up to the first unreadable record."""
        self._file.seek(0)
        try:
            read_magic(ReadDataStream(self._file))
        except _DAMAGE:
            raise BagError(f"{self._path} is no MCAP file: it does not begin as one") from None
        readable_end, complete = self._file.tell(), False
        try:
            while not complete:
                offset = self._file.tell()
                opcode, record = self._read_record()
                if isinstance(record, Chunk):
                    self._scan_chunk(offset, record)
                elif isinstance(record, _Message):
                    channels = frozenset((record.channel_id,))
                    self._blocks.append(_Block(record.time_ns, record.time_ns, offset, channels))
                    self._counts[record.channel_id] += 1
                else:
                    self._take(record)
                if opcode == Opcode.FOOTER:
                    read_magic(ReadDataStream(self._file))
                    complete = True
                readable_end = self._file.tell()
        except _DAMAGE:
            complete = False
        if not complete:
            lost = self._size - readable_end
            self._lose(
                f"it is cut off: its last {lost} bytes are no whole record"
                if lost
                else "it was not closed; messages that were not yet written are lost"
            )
        if self._blocks:
            self.start_ns = min(block.start_ns for block in self._blocks)
            self.end_ns = max(block.end_ns for block in self._blocks)

    def _scan_chunk(self, offset: int, chunk: Chunk) -> None:
        start, end, counts = None, 0, Counter[int]()
        others: list[object] = []
        try:
            data = self._unpack(chunk)
            for message in _messages(data, others, limit=self._limits.record_bytes):
                start = message.time_ns if start is None else min(start, message.time_ns)
                end = max(end, message.time_ns)
                counts[message.channel_id] += 1
        except _DAMAGE as error:
            self._lose_chunk(offset, error)
            return
        for record in others:
            self._take(record)
        if start is not None:
            self._counts.update(counts)
            self._blocks.append(_Block(start, end, offset, frozenset(counts)))

    def _take(self, record: object) -> None:
        if isinstance(record, Schema):
            self._schemas[record.id] = record
        elif isinstance(record, Channel):
            self._channels[record.id] = record

    def _read_record(self) -> tuple[int, object]:
        """Return opcode and content of the record at the current position; None if not needed.

        Raises:
            EndOfFile: The record is truncated.
        """
        offset = self._file.tell()
        opcode, length = _RECORD.unpack(self._file.read(_RECORD.size))
        end = offset + _RECORD.size + length
        if end > self._size:
            raise EndOfFile
        if opcode == Opcode.MESSAGE or opcode in _READERS:
            name = {Opcode.CHUNK: "chunk_bytes", Opcode.MESSAGE: "message_bytes"}.get(opcode)
            name = name or "record_bytes"
            if length > getattr(self._limits, name):
                too_large = TooLargeError(f"it has {length} bytes; {raise_it(name)}")
                self._lose_chunk(offset, too_large)
            elif opcode == Opcode.MESSAGE:
                return opcode, _message(memoryview(self._file.read(length)))
            else:
                return opcode, _record(opcode, self._file.read(length))
        self._file.seek(end)
        return opcode, None

    def _unpack(self, chunk: Chunk) -> bytes:
        """Return the decompressed content of a chunk.

        Raises:
            TooLargeError: The content exceeds the limit.
            Exception: One of _DAMAGE if the chunk is damaged.
        """
        limit = self._limits.chunk_bytes
        data = bytes(chunk.data)
        try:
            if chunk.compression == "zstd":
                data = b"".join(zstd_blocks(data, limit))
            elif chunk.compression == "lz4":
                data = lz4.frame.LZ4FrameDecompressor().decompress(data, limit + 1)
            elif chunk.compression:
                raise ValueError(f"compression {chunk.compression!r} is unknown")
            if len(data) > limit:
                raise TooLargeError(f"it decompresses to more than {limit} bytes")
        except TooLargeError as error:
            raise TooLargeError(f"{error}; {raise_it('chunk_bytes')}") from None
        if chunk.uncompressed_crc and zlib.crc32(data) != chunk.uncompressed_crc:
            raise ValueError("its checksum is wrong")
        return data

    def _leave_out_other_encodings(self) -> None:
        for key, channel in list(self._channels.items()):
            if channel.message_encoding != CDR:
                del self._channels[key]
                if self._counts[key]:
                    self._lose(
                        f"{channel.topic} is encoded as {channel.message_encoding!r}, not as cdr:"
                        " left out"
                    )

    def _msgtype(self, channel: Channel) -> str:
        schema = self._schemas.get(channel.schema_id)
        return schema.name if schema else ""

    def _lose_chunk(self, offset: int, error: Exception) -> None:
        reason = str(error) or type(error).__name__
        state = "too large" if isinstance(error, TooLargeError) else "damaged"
        self._lose(f"what lies at byte {offset} is {state} and left out: {reason}")

    def _lose(self, what: str) -> None:
        line = f"{self._path.name}: {what}"
        if line not in self.losses:
            self.losses.append(line)


class _Stream(ReadDataStream):
    """The bytes of one record; invalid UTF-8 in strings is replaced."""

    def read(self, length: int) -> bytes:
        data = super().read(length)
        if len(data) != length:
            raise EndOfFile
        return data

    def read_prefixed_string(self) -> str:
        return self.read(self.read4()).decode("utf-8", "replace")


def _record(opcode: int, content: bytes) -> object:
    return _READERS[Opcode(opcode)](_Stream(BytesIO(content)))


def _message(content: memoryview) -> _Message:
    channel_id, _, time_ns, _ = _MESSAGE.unpack_from(content)
    return _Message(time_ns, channel_id, content[_MESSAGE.size :])


def _messages(
    data: bytes, others: list[object] | None = None, *, limit: int = 0
) -> Iterator[_Message]:
    """Yield the messages in the content of a chunk, in the order of the file.

    Args:
        data: The content.
        others: Receives schemas and channels.
        limit: Larger schemas and channels are skipped, in bytes.

    Raises:
        Exception: One of _DAMAGE if the content is damaged.
    """
    view, begin = memoryview(data), 0
    while begin < len(data):
        opcode, length = _RECORD.unpack_from(view, begin)
        begin, end = begin + _RECORD.size, begin + _RECORD.size + length
        if end > len(data):
            raise EndOfFile
        if opcode == Opcode.MESSAGE:
            yield _message(view[begin:end])
        elif others is not None and opcode in _DESCRIBING and length <= limit:
            others.append(_record(opcode, bytes(view[begin:end])))
        begin = end
