"""Evaluation tasks of bags (files, settings, code, model), and their results as files.

Results are encoded without pickle and stored in a folder for resuming. The dataclasses are the
schema, and every field is checked against it when a file is read. Unlike pickle, decoding runs no
code, so files from untrusted sources are safe to read. Arrays are encoded as
``[dtype, shape, bytes]``; floats keep every bit.
"""

from __future__ import annotations

import hashlib
import json
import re
from dataclasses import asdict, dataclass, replace
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args, get_origin

import msgspec
import numpy as np

from upsnet_ros.bag_evaluation.scoring import BagTask
from upsnet_ros.datasets.label_map import label_map_path
from upsnet_ros.errors import ClusterError, EvaluationError, OutputError, ResultError
from upsnet_ros.evaluation.run import PartialResult
from upsnet_ros.output_files import write_whole
from upsnet_ros.weights import SHIPPED_VARIANT, find_weights, shipped_weights

if TYPE_CHECKING:
    from upsnet_ros.inference.model import Model
    from upsnet_ros.inference.predictor import Predictor

#: Packages whose code affects the metrics.
METRIC_PACKAGES = (
    "bag_evaluation", "bags", "datasets", "evaluation", "inference", "messages", "network", "ops",
    "tracking",
)  # fmt: skip


def describe(task: BagTask, model: ModelSettings | None) -> str:
    """Return everything that the result of a task depends on, as JSON with sorted keys.

    Files are identified by path, size and modification time. Missing files are skipped here and
    reported when they are read.
    """
    label_map = None if model is None else model.label_map
    content = {
        "code": code_digest(),
        "task": asdict(task),
        "bag": _files(task.bag),
        "truth": None if task.truth is None else _files(task.truth),
        "model": None if model is None else asdict(model),
        "weights": None if model is None else _weights(model),
        "label_map": None if label_map is None else _files(label_map_path(label_map)),
    }
    return json.dumps(content, sort_keys=True, default=str)


@cache
def code_digest() -> str:
    """Return the SHA-256 digest of the modules in `METRIC_PACKAGES`, as hex digits."""
    digest = hashlib.sha256()
    root = Path(__file__).parents[1]
    for package in METRIC_PACKAGES:
        for file in sorted((root / package).rglob("*.py")):
            digest.update(f"{file.relative_to(root)}\0".encode() + file.read_bytes())
    return digest.hexdigest()


def _files(path: Path) -> list[tuple[str, int, int]]:
    """Return path, size in bytes and modification time in ns of a bag's files."""
    files = sorted(path.iterdir()) if path.is_dir() else [path]
    stats = [(file, file.stat()) for file in files if file.exists()]
    return [(str(file.absolute()), stat.st_size, stat.st_mtime_ns) for file, stat in stats]


def _weights(model: ModelSettings) -> list[tuple[str, int, int]]:
    if model.weights is not None:
        return _files(find_weights(model.weights))
    path = shipped_weights(model.variant or SHIPPED_VARIANT)
    return [] if path is None else _files(path)


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelSettings:
    """Arguments of `upsnet_ros.inference.predictor.Predictor`.

    Raises:
        EvaluationError: The device has a GPU index; the cluster assigns GPUs to workers.
    """

    weights: str | Path | None = None
    variant: str | None = None
    device: str = "auto"
    precision: str = "fp32"
    scale: int | None = None
    score_threshold: float | None = None
    unknown_threshold: float = 0.5
    label_resize: str = "nearest"
    merge: str = "auto"
    label_map: str | None = None
    allow_random_weights: bool = False

    def __post_init__(self) -> None:
        if re.fullmatch(r"cuda:\d+", self.device):
            raise EvaluationError(
                f"device {self.device} cannot be chosen on a cluster, which assigns one GPU to each"
                " worker: use auto, cpu or cuda"
            )

    def predictor(self) -> Predictor:
        """Return a predictor with these settings.

        Raises:
            EvaluationError: A setting or the checkpoint is invalid.
        """
        # Imported here because torch takes seconds to import.
        from upsnet_ros.inference.predictor import Predictor

        try:
            return Predictor(unknown_score=True, semantic=True, max_logit=True, **asdict(self))
        except ValueError as error:  # of checkpoint or settings
            raise EvaluationError(str(error)) from error

    def model(self) -> Model:
        """Load the network and its weights.

        Raises:
            EvaluationError: The weights cannot be read, or the variant does not exist.
        """
        from upsnet_ros.inference.model import load_model

        try:
            return load_model(
                self.weights,
                variant=self.variant,
                allow_random_weights=self.allow_random_weights,
                seed=0,
            )
        except ValueError as error:
            raise EvaluationError(str(error)) from error


def encode(result: PartialResult) -> bytes:
    """Return a result as msgpack bytes.

    The sum of IoUs of one class in one frame must be below 2^64 units, i.e. 2048 perfect matches,
    twice as many things per class as a label image can hold.

    Raises:
        OverflowError: A sum is too large.
    """
    return msgspec.msgpack.encode(result, enc_hook=_plain)


def decode(data: bytes | msgspec.Raw) -> PartialResult:
    """Return the result that `encode` wrote, bit for bit.

    Raises:
        ResultError: The bytes are damaged or come from another version.
    """
    try:
        return _decoder().decode(data)
    except msgspec.DecodeError as error:  # includes schema errors
        raise ResultError(str(error)) from error


@cache
def _decoder() -> msgspec.msgpack.Decoder[PartialResult]:
    return msgspec.msgpack.Decoder(PartialResult, dec_hook=_typed)


def _plain(value: Any) -> Any:
    if isinstance(value, np.ndarray):
        return value.dtype.str, value.shape, value.tobytes()
    if isinstance(value, np.generic):
        return value.item()
    raise TypeError(f"a result cannot contain {type(value).__name__}")


def _typed(kind: Any, value: Any) -> Any:
    if get_origin(kind) is not np.ndarray:
        raise TypeError(f"a result cannot contain {kind}")
    (wanted,) = get_args(get_args(kind)[1])
    try:
        name, shape, data = msgspec.convert(value, tuple[str, tuple[int, ...], bytes])
        if np.dtype(name) != np.dtype(wanted):
            raise ValueError(f"an array has dtype {name}, not {np.dtype(wanted).str}")
        return np.frombuffer(data, wanted).reshape(shape)
    except (TypeError, msgspec.ValidationError) as error:  # invalid dtype or list
        raise ValueError(str(error)) from error


class _Stored(msgspec.Struct):
    """The content of a file: the description of the task (see `describe`) and its result."""

    task: str
    result: msgspec.Raw


class State:
    """A folder with the results of bags.

    A stored result is only used if the bag, the settings and the code are unchanged. Several runs
    may share a folder.

    Args:
        folder: The folder; created if it does not exist.
        model: The model that is run on bags of images; None: recorded outputs are evaluated.

    Raises:
        ClusterError: The folder cannot be created.
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
        """Return the result of a task; None if there is none or its file is damaged.

        The current state of the bag is remembered for `store`, because the bag may change during
        the evaluation.
        """
        self._tasks[task] = describe(task, self._model)
        # The result of a complete bag does not depend on allow_missing.
        strict = describe(replace(task, allow_missing=False), self._model)
        for description in dict.fromkeys((strict, self._tasks[task])):
            found = self._read(task, description)
            if found is not None:
                return found
        return None

    def store(self, task: BagTask, data: bytes) -> None:
        """Store the encoded result of a task; `load` must have been called for it before.

        Raises:
            ClusterError: The folder cannot be written to.
        """
        description = self._tasks[task]
        path = self._path(task, description)
        try:
            write_whole(path, msgspec.msgpack.encode(_Stored(description, msgspec.Raw(data))))
        except OutputError as error:
            raise ClusterError(str(error)) from None

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
