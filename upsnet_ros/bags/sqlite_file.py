"""Reads an SQLite file of a bag (.db3), also after its recorder was killed."""

from __future__ import annotations

import os
import shutil
import sqlite3
from collections.abc import Collection, Iterator
from contextlib import ExitStack, closing
from pathlib import Path
from tempfile import TemporaryDirectory
from urllib.parse import quote

from upsnet_ros.bags.storage import (
    CDR,
    Definition,
    Limits,
    StoredMessage,
    StoredTopic,
    is_latched,
    raise_it,
)
from upsnet_ros.errors import BagError, printable

#: Suffixes of the files that SQLite leaves beside a database that was not closed.
_JOURNAL, _WAL = "-journal", "-wal"
#: End of a journal that names a super-journal, which SQLite deletes after the rollback.
_SUPER_JOURNAL = bytes.fromhex("d9d505f920a163d7")
#: SQLite's integers have 64 bits.
_FIRST, _LAST = -(1 << 63), (1 << 63) - 1


class SqliteFile:
    """An SQLite storage file; see `upsnet_ros.bags.storage.StorageFile`.

    The file is opened read-only and as immutable, so that SQLite changes neither it nor files
    beside it. Only plain tables are read: a view or computed column of a malicious file could run
    forever.

    Raises:
        BagError: It is not a bag, or too damaged to open.
    """

    def __init__(self, path: Path, limits: Limits) -> None:
        self._path, self._limits = path, limits
        self._stack = ExitStack()
        self.losses: list[str] = []
        try:
            self._database = self._stack.enter_context(closing(_open(self._repaired(path))))
            self._read_schema()
        except (sqlite3.Error, ValueError) as error:
            self.close()
            # SQLite quotes what it cannot read, which may be anything.
            reason = printable(str(error))
            raise BagError(f"{path} is not an SQLite bag, or it is damaged: {reason}") from None
        except BaseException:
            self.close()
            raise

    def messages(self, topics: Collection[str], start: int, stop: int) -> Iterator[StoredMessage]:
        """See `StorageFile.messages`."""
        chosen = {key: topic for key, topic in self._topics.items() if topic.name in topics}
        if not chosen or start > _LAST or stop <= _FIRST:
            return
        # Rows are sorted without their data, which is fetched row by row: without an index, SQLite
        # would sort the data too.
        query = (
            "SELECT rowid, topic_id, timestamp, length(data) FROM messages"
            f" WHERE topic_id IN ({','.join('?' * len(chosen))}) AND timestamp BETWEEN ? AND ?"
            " ORDER BY timestamp, rowid"
        )
        span = max(start, _FIRST), min(stop - 1, _LAST)
        try:
            for row, key, time_ns, size in self._database.execute(query, (*chosen, *span)):
                topic = chosen[key]
                if size is not None and size > self._limits.message_bytes:
                    self._lose(
                        f"{topic.name} at {time_ns} ns has {size} bytes: left out;"
                        f" {raise_it('message_bytes')}"
                    )
                    continue
                fetch = "SELECT data FROM messages WHERE rowid = ?"
                (data,) = self._database.execute(fetch, (row,)).fetchone()
                if isinstance(data, bytes) and isinstance(time_ns, int):
                    yield StoredMessage(time_ns, topic.name, topic.msgtype, data)
                else:
                    self._lose(f"{topic.name} has messages that are not bytes: left out")
        except (sqlite3.Error, ValueError) as error:
            self._lose(f"it is damaged; later messages are left out: {error}")

    def spans(self) -> Iterator[tuple[int, int]]:
        """See `StorageFile.spans`."""
        query = "SELECT timestamp FROM messages WHERE timestamp BETWEEN ? AND ? ORDER BY timestamp"
        try:
            for (time_ns,) in self._database.execute(query, (_FIRST, _LAST)):
                yield time_ns, time_ns
        except sqlite3.Error as error:
            self._lose(f"it is damaged: {error}")

    def close(self) -> None:
        """See `StorageFile.close`."""
        self._stack.close()

    def _read_schema(self) -> None:
        database = self._database
        for table in ("topics", "messages"):
            found = database.execute(
                "SELECT 1 FROM sqlite_master WHERE name = ? AND type = 'table'"
                " AND sql LIKE 'CREATE TABLE%'",
                (table,),
            )
            if found.fetchone() is None:
                raise ValueError(f"it has no table {table}")
            if any(column[6] for column in database.execute(f"PRAGMA table_xinfo({table})")):
                raise ValueError(f"table {table} has computed columns")
        counted = "SELECT topic_id, count(*) FROM messages GROUP BY topic_id"
        counts = dict(database.execute(counted).fetchall())
        columns = {column[1] for column in database.execute("PRAGMA table_info(topics)")}
        qos = "offered_qos_profiles" if "offered_qos_profiles" in columns else "''"
        self._topics: dict[int, StoredTopic] = {}
        query = f"SELECT id, name, type, serialization_format, {qos} FROM topics ORDER BY id"
        for key, name, msgtype, encoding, offered_qos in database.execute(query):
            if not all(isinstance(one, str) for one in (name, msgtype, encoding)):
                raise ValueError("names and types of topics are not text")
            count = counts.get(key, 0)
            if encoding == CDR:
                self._topics[key] = StoredTopic(name, msgtype, count, is_latched(offered_qos))
            elif count:
                self._lose(f"{name} is encoded as {encoding!r}, not as cdr: left out")
        self.topics = list(self._topics.values())
        self.definitions = list(self._read_definitions())
        # SQLite computes each of the two queries from the index on the times.
        times = [
            database.execute(f"SELECT {which}(timestamp) FROM messages").fetchone()[0]
            for which in ("min", "max")
        ]
        self.start_ns, self.end_ns = (time if isinstance(time, int) else 0 for time in times)

    def _read_definitions(self) -> Iterator[Definition]:
        columns = self._database.execute("PRAGMA table_xinfo(message_definitions)").fetchall()
        if not columns or any(column[6] for column in columns):
            return  # before Iron, bags had no definitions
        query = (
            "SELECT topic_type, encoding, encoded_message_definition FROM message_definitions"
            " WHERE length(encoded_message_definition) <= ? ORDER BY id"
        )
        for row in self._database.execute(query, (self._limits.definition_bytes,)):
            if all(isinstance(one, str) for one in row):
                yield Definition(*row)

    def _repaired(self, path: Path) -> Path:
        """Return the file, or a repaired copy if it was not closed; the original is not changed."""
        # SQLite resolves links before it looks for a journal.
        real = path.resolve()
        beside = [real.with_name(real.name + ending) for ending in (_JOURNAL, _WAL)]
        beside = [file for file in beside if file.is_file()]
        if not beside:
            return path
        self._lose("it was not closed; messages that were not yet written are lost")
        beside = [file for file in beside if file.stat().st_size]
        if not beside:
            return path
        size = sum(file.stat().st_size for file in (real, *beside))
        if size > self._limits.unpacked_bytes:
            self._lose(
                f"the copy to repair it would take {size} bytes: read unrepaired;"
                f" {raise_it('unpacked_bytes')}"
            )
            return path
        folder = Path(self._stack.enter_context(TemporaryDirectory(prefix="upsnet_bag_")))
        for file in (real, *beside):
            shutil.copyfile(file, folder / file.name)
        copy = folder / real.name
        # Check the copy: nothing changes it between this check and SQLite's use of it.
        if _names_super_journal(copy.with_name(copy.name + _JOURNAL)):
            self._lose(
                "its journal names another file, which SQLite would delete: read unrepaired, so"
                " its last messages may be half written"
            )
            return path
        # SQLite repairs a file when it first reads it.
        with closing(sqlite3.connect(_address(copy, "mode=rw"), uri=True)) as database:
            _harden(database)
            database.execute("SELECT count(*) FROM sqlite_master").fetchone()
            database.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        return copy

    def _lose(self, what: str) -> None:
        line = f"{self._path.name}: {printable(what)}"
        if line not in self.losses:
            self.losses.append(line)


def _open(path: Path) -> sqlite3.Connection:
    # The bag may be read in another thread than the one that opened it, one at a time.
    database = sqlite3.connect(
        _address(path, "mode=ro&immutable=1"), uri=True, check_same_thread=False
    )
    database.text_factory = _text
    try:
        _harden(database)
        database.set_authorizer(_authorize)
    except BaseException:
        database.close()
        raise
    return database


def _authorize(
    action: int, _first: str | None, _second: str | None, _schema: str | None, view: str | None
) -> int:
    """Allow reading tables, and nothing that goes through a view."""
    allowed = action in (
        sqlite3.SQLITE_SELECT,
        sqlite3.SQLITE_READ,
        sqlite3.SQLITE_FUNCTION,
        sqlite3.SQLITE_PRAGMA,
    )
    return sqlite3.SQLITE_OK if allowed and view is None else sqlite3.SQLITE_DENY


def _harden(database: sqlite3.Connection) -> None:
    """Keep the schema of a malicious file from running functions; check every page."""
    database.execute("PRAGMA trusted_schema=OFF")
    database.execute("PRAGMA cell_size_check=ON")


def _address(path: Path, options: str) -> str:
    """Return the path as an SQLite URI, with `?`, `#` and `%` quoted."""
    return f"file://{quote(os.fsencode(path.absolute()))}?{options}"


def _text(raw: bytes) -> str:
    return raw.decode("utf-8", "replace")


def _names_super_journal(journal: Path) -> bool:
    try:
        with journal.open("rb") as file:
            file.seek(-len(_SUPER_JOURNAL), 2)
            return file.read() == _SUPER_JOURNAL
    except OSError:  # there is none, or it is shorter than that
        return False
