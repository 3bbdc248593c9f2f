"""Writes a bag that stays readable if its writer is killed; optionally in a separate thread."""

from __future__ import annotations

import queue
import sqlite3
import threading
import time
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
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

from upsnet_ros.bags.messages import MessageTypes
from upsnet_ros.errors import BagError
from upsnet_ros.processes.child_processes import uninterrupted

Storage = Literal["mcap", "sqlite3"]
Compression = Literal["none", "zstd"]

_PLUGINS = {"mcap": StoragePlugin.MCAP, "sqlite3": StoragePlugin.SQLITE3}
# MCAP compresses chunks, which all its readers support; SQLite bags can only compress messages.
_MODES = {"mcap": CompressionMode.STORAGE, "sqlite3": CompressionMode.MESSAGE}
#: Version of metadata.yaml: the newest that Humble can read.
_VERSION = 8
#: Written messages are flushed to the file after so many seconds or bytes.
_FLUSH_SECONDS = 0.5
_FLUSH_BYTES = 1 << 20
_NO_LIMIT = QosTime(9223372036, 854775807)


class _FolderWriter(Writer):
    """The writer of rosbags, which also accepts existing folders."""

    def __init__(self, path: Path, plugin: StoragePlugin) -> None:
        super().__init__(path / "new", version=_VERSION, storage_plugin=plugin)
        self.path, self.metapath = path, path / "metadata.yaml"

    def open(self) -> None:
        self.path.mkdir(parents=True, exist_ok=True)
        self.storage = self.STORAGE_PLUGINS[self.storage_plugin](self.path, self.compression_mode)


class BagWriter:
    """Writes a bag; use it in a ``with``.

    The bag is complete even if the ``with`` ends by an exception or Ctrl-C. If the process is
    killed, everything up to half a second before the last `write` can be read.

    MCAP may be written from any thread, SQLite only from the one that made the writer.

    Args:
        path: Folder of the bag; must not hold one yet.
        storage: "mcap" or "sqlite3".
        compression: "none" or "zstd".
        types: Types of the messages; for records of a `Bag`, those of the bag.

    Raises:
        BagError: The folder holds a bag, cannot be made, or a setting is unknown.
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
        check_form(storage, compression)
        _check_no_bag(self.path)
        self.types = types or MessageTypes()
        self._lock = threading.RLock()
        self._connections: dict[str, Any] = {}
        self._flushed, self._pending = time.monotonic(), 0
        self._writer = _FolderWriter(self.path, _PLUGINS[storage])
        if compression == "zstd":
            self._writer.set_compression(_MODES[storage], CompressionFormat.ZSTD)
        try:
            self._writer.open()
        except OSError as error:
            raise BagError(f"cannot write {self.path}: {error.strerror}") from None
        if storage == "sqlite3":
            # Nothing reaches the file before a commit, so it stays readable.
            self._writer.storage.conn.execute("PRAGMA cache_spill=OFF")
            self._writer.storage.conn.execute("PRAGMA synchronous=NORMAL")

    def add_topic(self, topic: str, msgtype: str, *, latched: bool = False) -> None:
        """Announce a topic; only needed for latched topics, since `write` announces others.

        Args:
            topic: Name of the topic.
            msgtype: Type of its messages.
            latched: Whether players publish it as transient local (latched).

        Raises:
            BagError: The type is unknown, or the topic has another one.
        """
        with self._lock, uninterrupted():
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
        with self._lock, uninterrupted(), self._disk_errors():
            self._writer.write(self._connections[topic], time_ns, raw)
            self._pending += len(raw)
            late = time.monotonic() - self._flushed > _FLUSH_SECONDS
            if late or self._pending > _FLUSH_BYTES:
                self._flush()

    def flush(self) -> None:
        """Flush written messages to the file, so that they survive the process."""
        with self._lock, uninterrupted(), self._disk_errors():
            self._flush()

    def close(self) -> None:
        """Write index and metadata; further calls do nothing."""
        with self._lock, uninterrupted(), self._disk_errors():
            if self._writer.storage is not None:
                self._writer.close()

    def __enter__(self) -> BagWriter:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _flush(self) -> None:
        # rosbags keeps up to a chunk in memory; for SQLite, everything.
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


def check_form(storage: str, compression: str) -> None:
    """Raise `BagError` if storage or compression is unknown."""
    if storage not in _PLUGINS:
        raise BagError(f"storage {storage!r} is none of {', '.join(_PLUGINS)}")
    if compression not in ("none", "zstd"):
        raise BagError(f"compression {compression!r} is none of none, zstd")


def _check_no_bag(path: Path) -> None:
    """Raise `BagError` if the folder contains a file (or link) of a bag."""
    if path.is_dir():
        for entry in path.iterdir():
            if entry.name == "metadata.yaml" or entry.name.startswith(f"{path.name}."):
                raise BagError(f"{entry} exists: remove it, or name another bag")
    elif path.exists() or path.is_symlink():
        raise BagError(f"{path} is not a folder: name another bag")


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


# Maximum number of queued messages (some 200 MiB of large images); then `write` blocks.
_QUEUE = 32

_Entry = tuple[str, bytes, int, str]


class BagThread:
    """Writes serialised messages into a bag in a separate thread; use it in a ``with``.

    However the ``with`` ends, queued messages are written and the bag is complete.

    Args:
        path: Folder of the bag; must not hold one yet.
        storage: "mcap" or "sqlite3".
        compression: "none" or "zstd".
        types: See `BagWriter`.
        latched: Topics that players publish as transient local (latched).

    Raises:
        BagError: On entering, if the bag cannot be created; later, if it cannot be written.
    """

    def __init__(
        self,
        path: Path,
        *,
        storage: Storage = "mcap",
        compression: Compression = "none",
        types: MessageTypes | None = None,
        latched: Collection[str] = (),
    ) -> None:
        self._make_writer = partial(
            BagWriter, path=path, storage=storage, compression=compression, types=types
        )
        self._latched = frozenset(latched)
        self._entries: queue.Queue[_Entry | None] = queue.Queue(_QUEUE)
        self._failure: Exception | None = None
        self._opened = threading.Event()
        self._thread = threading.Thread(target=self._run, name="upsnet_bag")

    def __enter__(self) -> BagThread:
        self._thread.start()
        self._opened.wait()
        if self._failure is not None:
            self._thread.join()
            raise self._failure
        return self

    def __exit__(self, kind: object, error: object, trace: object) -> None:
        self._entries.put(None)
        self._thread.join()
        if error is None:
            self._raise_failure()

    def write(self, topic: str, raw: bytes, time_ns: int, msgtype: str) -> None:
        """Queue a message for writing (see `BagWriter.write`); block while the queue is full."""
        self._raise_failure()
        self._entries.put((topic, raw, time_ns, msgtype))

    def _raise_failure(self) -> None:
        if self._failure is not None:
            raise self._failure

    def _run(self) -> None:
        # SQLite requires that the thread that writes is the one that opened the file.
        try:
            writer = self._make_writer()
        except Exception as error:  # noqa: BLE001 - raised again in the other thread
            self._failure = error
            self._opened.set()
            return
        self._opened.set()
        ended = False
        try:
            with writer:
                while (entry := self._entries.get()) is not None:
                    topic, raw, time_ns, msgtype = entry
                    writer.add_topic(topic, msgtype, latched=topic in self._latched)
                    writer.write(topic, raw, time_ns, msgtype)
                ended = True  # before the writer closes the bag, which may also fail
        except Exception as error:  # noqa: BLE001 - raised again in the other thread
            self._failure = error
            while not ended:  # so that the other thread never blocks on a full queue
                ended = self._entries.get() is None
