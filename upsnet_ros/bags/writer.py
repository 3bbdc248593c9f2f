"""Writing a bag that can be read whenever its writer ends."""

from __future__ import annotations

import signal
import sqlite3
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType, TracebackType
from typing import Any, Literal

from rosbags.interfaces import (
    Qos,
    QosDurability,
    QosHistory,
    QosLiveliness,
    QosReliability,
    QosTime,
)
from rosbags.rosbag2 import CompressionFormat, CompressionMode, StoragePlugin, Writer
from rosbags.rosbag2.storage_mcap import McapWriter

from upsnet_ros.bags.errors import BagError
from upsnet_ros.bags.message_types import MessageTypes

__all__ = ["BagWriter", "Compression", "Storage"]

Storage = Literal["mcap", "sqlite3"]
Compression = Literal["none", "zstd"]

_PLUGINS = {"mcap": StoragePlugin.MCAP, "sqlite3": StoragePlugin.SQLITE3}
# MCAP compresses chunks, which all its readers know; SQLite has no place for compression but in
# the messages.
_MODES = {"mcap": CompressionMode.STORAGE, "sqlite3": CompressionMode.MESSAGE}
#: Format of metadata.yaml: the newest that Humble reads too.
_VERSION = 8
#: After so many seconds or bytes, what was written goes to the file, where it outlasts the process.
_FLUSH_SECONDS = 0.5
_FLUSH_BYTES = 1 << 20
_NO_LIMIT = QosTime(9223372036, 854775807)


class BagWriter:
    """Writes a bag; use it in a ``with``.

    It is whole however the ``with`` ends, by an exception or Ctrl-C too. Of a process that is
    killed, what was written up to half a second before the last `write` can be read.

    MCAP may be written from any thread, SQLite only from the one that made the writer.

    Args:
        path: Folder of the bag; must not exist yet.
        storage: "mcap" or "sqlite3".
        compression: "none" or "zstd".
        types: Of the messages to come; those of a `Bag` whose records are to be written.

    Raises:
        BagError: The folder exists, cannot be made, or a setting is unknown.
    """

    def __init__(
        self,
        *,
        path: Path | str,
        storage: Storage = "mcap",
        compression: Compression = "none",
        types: MessageTypes | None = None,
    ) -> None:
        self.path = Path(path)
        if storage not in _PLUGINS:
            raise BagError(f"storage {storage!r} is none of {', '.join(_PLUGINS)}")
        if compression not in ("none", "zstd"):
            raise BagError(f"compression {compression!r} is none of none, zstd")
        if self.path.exists():
            raise BagError(f"{self.path} exists: remove it, or name another bag")
        self.types = types or MessageTypes()
        self._lock = threading.RLock()
        self._connections: dict[str, Any] = {}
        self._flushed, self._pending = time.monotonic(), 0
        self._writer = Writer(self.path, version=_VERSION, storage_plugin=_PLUGINS[storage])
        if compression == "zstd":
            self._writer.set_compression(_MODES[storage], CompressionFormat.ZSTD)
        try:
            self._writer.open()
        except OSError as error:
            raise BagError(f"cannot write {self.path}: {error.strerror}") from None
        if storage == "sqlite3":
            # Until it is committed, nothing of it reaches the file, which stays readable.
            self._writer.storage.conn.execute("PRAGMA cache_spill=OFF")
            self._writer.storage.conn.execute("PRAGMA synchronous=NORMAL")

    def add_topic(self, topic: str, msgtype: str, *, latched: bool = False) -> None:
        """Announce a topic; `write` does it by itself, but for those that are latched.

        Args:
            topic: Its name.
            msgtype: Of all its messages.
            latched: A player is to keep its last message for late joiners.

        Raises:
            BagError: The type is unknown, or the topic has another one.
        """
        with self._lock, _uninterrupted():
            known = self._connections.get(topic)
            if known is None:
                self._connections[topic] = self._writer.add_connection(
                    topic,
                    msgtype,
                    typestore=self.types.store(msgtype),
                    offered_qos_profiles=[_qos(latched)],
                )
            elif known.msgtype != msgtype:
                raise BagError(f"{topic} is of {known.msgtype}, not of {msgtype}")

    def write(self, topic: str, message: Any, time_ns: int, msgtype: str) -> None:
        """Write a message.

        Args:
            topic: On which it was received.
            message: Of the classes of rosbags (as `MessageTypes.make` makes them and `Record` has
                them), or its CDR bytes. Of rclpy's messages give ``serialize_message(message)``.
            time_ns: When it was received, in nanoseconds.
            msgtype: Its type.

        Raises:
            BagError: The type is unknown, the message is not of it, or the disk is full.
        """
        raw = (
            bytes(message)
            if isinstance(message, bytes | bytearray | memoryview)
            else self.types.serialize(message, msgtype)
        )
        self.add_topic(topic, msgtype)
        with self._lock, _uninterrupted(), self._disk_errors():
            self._writer.write(self._connections[topic], time_ns, raw)
            self._pending += len(raw)
            late = time.monotonic() - self._flushed > _FLUSH_SECONDS
            if late or self._pending > _FLUSH_BYTES:
                self._flush()

    def flush(self) -> None:
        """Bring what was written to the file, so that it outlasts the process."""
        with self._lock, _uninterrupted(), self._disk_errors():
            self._flush()

    def close(self) -> None:
        """Write index and metadata; once is enough."""
        with self._lock, _uninterrupted(), self._disk_errors():
            if self._writer.storage is not None:
                self._writer.close()

    def __enter__(self) -> BagWriter:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def _flush(self) -> None:
        # rosbags itself leaves up to a chunk in memory, and with SQLite everything.
        storage = self._writer.storage
        if isinstance(storage, McapWriter):
            if storage.chunk.msgs:
                storage.close_chunk()
            storage.bio.flush()
        else:
            storage.conn.commit()
        self._flushed, self._pending = time.monotonic(), 0

    @contextmanager
    def _disk_errors(self) -> Iterator[None]:
        try:
            yield
        except (OSError, sqlite3.Error) as error:
            reason = getattr(error, "strerror", None) or error
            raise BagError(f"cannot write {self.path}: {reason}") from None


def _qos(latched: bool) -> Qos:
    return Qos(
        history=QosHistory.KEEP_LAST,
        depth=1 if latched else 10,
        reliability=QosReliability.RELIABLE,
        durability=QosDurability.TRANSIENT_LOCAL if latched else QosDurability.VOLATILE,
        deadline=_NO_LIMIT,
        lifespan=_NO_LIMIT,
        liveliness=QosLiveliness.AUTOMATIC,
        liveliness_lease_duration=_NO_LIMIT,
        avoid_ros_namespace_conventions=False,
    )


@contextmanager
def _uninterrupted() -> Iterator[None]:
    """Put a Ctrl-C off to the end, so that no record is left half written."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    pressed: list[int] = []

    def remember(number: int, frame: FrameType | None) -> None:
        pressed.append(number)

    before = signal.getsignal(signal.SIGINT)
    if before is None:  # set by C code, which Python can neither call nor restore
        yield
        return
    signal.signal(signal.SIGINT, remember)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
        if pressed:
            signal.raise_signal(signal.SIGINT)
