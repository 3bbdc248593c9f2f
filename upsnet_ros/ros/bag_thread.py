"""The thread that writes a bag, so that arrivals are timed well."""

from __future__ import annotations

import queue
import threading
from collections.abc import Collection
from pathlib import Path
from types import TracebackType

from upsnet_ros.bags import BagWriter, MessageTypes
from upsnet_ros.bags.writer import Compression, Storage

__all__ = ["BagThread"]

# Messages that wait for the disk: some 200 MiB of large images. Then whoever writes has to wait.
_QUEUE = 32

_Entry = tuple[str, bytes, int, str]


class BagThread:
    """Writes serialised messages into a bag while the caller goes on; use it in a ``with``.

    However the ``with`` ends, what still waits is written and the bag is whole.

    Args:
        path: Folder of the bag; must not exist yet.
        storage: "mcap" or "sqlite3".
        compression: "none" or "zstd".
        types: See `BagWriter`.
        latched: Topics whose last message a player is to keep for late joiners.

    Raises:
        BagError: On entering, if the bag cannot be made; later, if it could not be written.
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
        self.path = path
        self._storage, self._compression, self._types = storage, compression, types
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

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._entries.put(None)
        self._thread.join()
        if error is None:
            self._raise_failure()

    def write(self, topic: str, raw: bytes, time_ns: int, msgtype: str) -> None:
        """Let a message be written (see `BagWriter.write`); waits while the disk is behind."""
        self._raise_failure()
        self._entries.put((topic, raw, time_ns, msgtype))

    def _raise_failure(self) -> None:
        if self._failure is not None:
            raise self._failure

    def _run(self) -> None:
        # SQLite wants the thread that writes to be the one that opened it.
        try:
            writer = BagWriter(
                path=self.path,
                storage=self._storage,
                compression=self._compression,
                types=self._types,
            )
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
                ended = True  # before the writer closes the bag, which may fail too
        except Exception as error:  # noqa: BLE001 - raised again in the other thread
            self._failure = error
            while not ended:  # so that the other thread never waits for room
                ended = self._entries.get() is None
