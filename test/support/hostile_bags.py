"""Bags as someone might forge them."""

from __future__ import annotations

import shutil
import sqlite3
import struct
from contextlib import closing
from pathlib import Path

import lz4.frame
import zstandard
from bag_messages import IMAGE, TYPES, make_image

from upsnet_ros.bags.writer import BagWriter

SECOND = 10**9
#: Ends a rollback journal that names a super-journal.
MAGIC = bytes.fromhex("d9d505f920a163d7")


def write_bag(path: Path, *, storage: str = "mcap", count: int = 3, size: int = 40) -> Path:
    """A bag of gray images on /a, a second apart from second 1 on; its single file."""
    with BagWriter(path=path, storage=storage) as bag:
        for second in range(1, count + 1):
            bag.write("/a", make_image(second, size), second * SECOND, IMAGE)
    return path / f"{path.name}.{'mcap' if storage == 'mcap' else 'db3'}"


def tear(file: Path) -> Path:
    """Leave an SQLite file as a process that is killed while it writes does; its journal."""
    journal = file.with_name(file.name + "-journal")
    whole = file.with_name("whole")
    with closing(sqlite3.connect(file)) as database:
        # Pages go to the file before the end, and the journal with them.
        database.execute("PRAGMA journal_mode=DELETE")
        database.execute("PRAGMA cache_size=2")
        database.execute("UPDATE messages SET data = randomblob(length(data))")
        shutil.copyfile(file, whole)
        torn = journal.read_bytes()
        database.rollback()
    whole.replace(file)
    journal.write_bytes(torn)
    return journal


def name_super_journal(journal: Path, name: str) -> None:
    """Forge the end of a journal that names the file that SQLite deletes after the rollback."""
    text = name.encode()
    checksum = sum(byte - 256 if byte > 127 else byte for byte in text) & 0xFFFFFFFF
    with journal.open("ab") as file:
        file.write((1 << 20).to_bytes(4, "big") + text + len(text).to_bytes(4, "big"))
        file.write(checksum.to_bytes(4, "big") + MAGIC)


def raw_image(stamp_ns: int) -> bytes:
    """A serialised image."""
    return TYPES.serialize(make_image(stamp_ns), IMAGE)


def write_mcap(
    file: Path,
    *,
    chunks: int = 1,
    compression: str = "",
    data: bytes | None = None,
    topic: bytes = b"/a",
    encoding: str = "cdr",
    definition: str | None = None,
    indexed: int = 1,
    overlap: bool = False,
) -> Path:
    """An MCAP file, record by record, with one message in each chunk.

    Args:
        file: Where to write it.
        chunks: Number of chunks; their times overlap where ``overlap`` is set, else each begins a
            second after the one before.
        compression: "", "zstd", "lz4", or anything else for an unknown one.
        data: Bytes of each message; default: an image.
        topic: Name of the topic.
        encoding: Of the messages.
        definition: Of the message type; default: that of an image.
        indexed: How often the index names each chunk.
        overlap: See ``chunks``.
    """
    if definition is None:
        definition = TYPES.store(IMAGE).generate_msgdef(IMAGE, ros_version=2)[0]
    schema = _record(
        0x03, struct.pack("<H", 1) + _text(IMAGE) + _text("ros2msg") + _text(definition)
    )
    channel = _record(
        0x04, struct.pack("<HH", 1, 1) + _text(topic) + _text(encoding) + struct.pack("<I", 0)
    )
    content = b"\x89MCAP0\r\n" + _record(0x01, _text("ros2") + _text("test"))
    indices = b""
    for number in range(1, chunks + 1):
        raw = raw_image(number) if data is None else data
        time_ns = number * SECOND
        message = _record(0x05, struct.pack("<HIQQ", 1, 0, time_ns, time_ns) + raw)
        plain = schema + channel + message
        packed = {
            "zstd": zstandard.compress,
            "lz4": lz4.frame.compress,
        }.get(compression, bytes)(plain)
        times = (SECOND, chunks * SECOND) if overlap else (time_ns, time_ns)
        head = struct.pack("<QQQI", *times, len(plain), 0) + _text(compression)
        chunk = _record(0x06, head + struct.pack("<Q", len(packed)) + packed)
        sizes = struct.pack("<QQ", len(packed), len(plain))
        where = struct.pack("<QQ", len(content), len(chunk))
        index = struct.pack("<QQ", *times) + where + struct.pack("<IQ", 0, 0)
        indices += indexed * _record(0x08, index + _text(compression) + sizes)
        content += chunk
    content += _record(0x0F, bytes(4))
    start = len(content)
    counts = (chunks * indexed, 1, 1, 0, 0, chunks * indexed)
    statistics = struct.pack("<QHIIIIQQ", *counts, SECOND, chunks * SECOND)
    statistics += struct.pack("<IHQ", 10, 1, chunks * indexed)
    content += schema + channel + indices + _record(0x0B, statistics)
    content += _record(0x02, struct.pack("<QQI", start, 0, 0)) + b"\x89MCAP0\r\n"
    file.write_bytes(content)
    return file


def _record(kind: int, content: bytes) -> bytes:
    return struct.pack("<BQ", kind, len(content)) + content


def _text(text: str | bytes) -> bytes:
    raw = text.encode() if isinstance(text, str) else text
    return struct.pack("<I", len(raw)) + raw
