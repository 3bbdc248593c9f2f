"""An SQLite file of a bag (.db3), also one whose recorder was killed."""

from __future__ import annotations

import shutil
import sqlite3
from collections.abc import Collection, Iterator
from contextlib import ExitStack, closing
from pathlib import Path
from tempfile import TemporaryDirectory

import apsw
from rosbags.interfaces import Connection, MessageDefinitionFormat, QosDurability
from rosbags.rosbag2 import Reader, ReaderError

from upsnet_ros.bags.errors import BagError
from upsnet_ros.bags.message_types import Definition
from upsnet_ros.bags.storage import StoredMessage, StoredTopic

__all__ = ["SqliteFile"]

_ENCODINGS = {MessageDefinitionFormat.MSG: "ros2msg", MessageDefinitionFormat.IDL: "ros2idl"}
#: What SQLite leaves beside a file that was not closed: changes to take back, or yet to make.
_LEFT_BEHIND = ("-journal", "-wal")


class SqliteFile:
    """See `upsnet_ros.bags.storage.StorageFile`.

    Raises:
        BagError: It is no bag, or too damaged to open.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._stack = ExitStack()
        self.losses: list[str] = []
        try:
            self._reader = self._stack.enter_context(Reader(self._whole(path)))
        except (ReaderError, apsw.Error, sqlite3.Error) as error:
            self.close()
            raise BagError(f"{path} is no SQLite bag, or it is damaged: {error}") from None
        except BaseException:
            self.close()
            raise
        connections = self._reader.connections
        self.topics = [
            StoredTopic(one.topic, one.msgtype, one.msgcount, _latched(one)) for one in connections
        ]
        self.definitions = [
            Definition(one.msgtype, _ENCODINGS[one.msgdef.format], one.msgdef.data)
            for one in connections
            if one.msgdef.format in _ENCODINGS
        ]
        # rosbags gives the moment after the last message.
        filled = self._reader.message_count > 0
        self.start_ns = self._reader.start_time if filled else 0
        self.end_ns = self._reader.end_time - 1 if filled else 0

    def messages(self, topics: Collection[str], start: int, stop: int) -> Iterator[StoredMessage]:
        """See `StorageFile.messages`."""
        connections = [one for one in self._reader.connections if one.topic in topics]
        if not connections:
            return
        try:
            for one, time_ns, raw in self._reader.messages(connections, start, stop):
                yield StoredMessage(time_ns, one.topic, one.msgtype, raw)
        except apsw.Error as error:
            line = f"{self._path.name}: it is damaged, what follows is left out: {error}"
            if line not in self.losses:
                self.losses.append(line)

    def close(self) -> None:
        """See `StorageFile.close`."""
        self._stack.close()

    def _whole(self, path: Path) -> Path:
        """The file, or a repaired copy of one that was not closed; the original stays as it is."""
        beside = [path.with_name(path.name + ending) for ending in _LEFT_BEHIND]
        beside = [file for file in beside if file.exists()]
        if not beside:
            return path
        self.losses.append(f"{path.name}: it was not closed; what its writer still held is lost")
        if not any(file.stat().st_size for file in beside):
            return path
        folder = Path(self._stack.enter_context(TemporaryDirectory(prefix="upsnet_bag_")))
        for file in (path, *beside):
            shutil.copyfile(file, folder / file.name)
        # SQLite repairs a file when it first reads it.
        with closing(sqlite3.connect(folder / path.name)) as database:
            database.execute("SELECT count(*) FROM sqlite_master").fetchone()
            database.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        return folder / path.name


def _latched(connection: Connection) -> bool:
    profiles = connection.ext.offered_qos_profiles
    return any(one.durability == QosDurability.TRANSIENT_LOCAL for one in profiles)
