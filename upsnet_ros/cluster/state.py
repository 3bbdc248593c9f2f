"""A folder with one file for each bag that was judged, so that none is judged twice."""

from __future__ import annotations

import hashlib
import os
from dataclasses import replace
from pathlib import Path
from tempfile import NamedTemporaryFile

import msgspec

from upsnet_ros.bags.judging import BagTask
from upsnet_ros.cluster.errors import ClusterError
from upsnet_ros.cluster.identity import describe
from upsnet_ros.cluster.model import ModelSettings
from upsnet_ros.cluster.results import ResultError, decode
from upsnet_ros.evaluation.partial import PartialResult

__all__ = ["State"]


class _Stored(msgspec.Struct):
    """A file: what was judged, as `describe` tells it, and what came of it."""

    task: str
    result: msgspec.Raw


class State:
    """Results of bags.

    A bag that has changed since, or is judged otherwise, is another one. Several runs may share a
    folder.

    Args:
        folder: Made where it does not exist.
        model: What judges bags of images.

    Raises:
        ClusterError: The folder cannot be made.
    """

    def __init__(self, folder: Path, model: ModelSettings | None) -> None:
        self.folder = folder
        self._model = model
        self._tasks: dict[BagTask, str] = {}
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise ClusterError(f"cannot write results to {folder}: {error.strerror}") from None

    def load(self, task: BagTask) -> PartialResult | None:
        """The result of a task; None where there is none, or its file is damaged.

        Remembers how the bag is now, for `store`: it may change while it is judged.
        """
        self._tasks[task] = describe(task, self._model)
        # Of a bag that lacks nothing, it makes no difference whether something may be missing.
        strict = describe(replace(task, allow_missing=False), self._model)
        for description in dict.fromkeys((strict, self._tasks[task])):
            found = self._read(task, description)
            if found is not None:
                return found
        return None

    def store(self, task: BagTask, data: bytes) -> None:
        """Keep the encoded result of a task that was asked for by `load`.

        Raises:
            ClusterError: The folder cannot be written to.
        """
        description = self._tasks[task]
        path = self._path(task, description)
        try:
            _replace(path, msgspec.msgpack.encode(_Stored(description, msgspec.Raw(data))))
        except OSError as error:
            raise ClusterError(f"cannot write {path}: {error.strerror}") from None

    def _read(self, task: BagTask, description: str) -> PartialResult | None:
        try:
            content = self._path(task, description).read_bytes()
            stored = msgspec.msgpack.decode(content, type=_Stored)
            return decode(stored.result) if stored.task == description else None
        except (FileNotFoundError, msgspec.DecodeError, ResultError):
            return None

    def _path(self, task: BagTask, description: str) -> Path:
        digest = hashlib.sha256(description.encode()).hexdigest()
        return self.folder / f"{task.bag.stem}-{digest[:16]}.result"


def _replace(path: Path, content: bytes) -> None:
    """Write a file of which other processes, and those after a power cut, see all or nothing."""
    with NamedTemporaryFile(dir=path.parent, suffix=".part", delete=False) as part:
        try:
            part.write(content)
            part.flush()
            os.fsync(part.fileno())
            Path(part.name).replace(path)
        except BaseException:
            Path(part.name).unlink()
            raise
