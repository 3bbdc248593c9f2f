"""What makes two tasks the same: the files they read, and everything that is set."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict
from functools import cache
from pathlib import Path

from upsnet_ros.bags.judging import BagTask
from upsnet_ros.cluster.model import ModelSettings
from upsnet_ros.weights import SHIPPED_VARIANT, shipped_weights

__all__ = ["code_digest", "describe"]

#: Packages that have a say in the figures.
_FIGURES = (
    "bags", "datasets", "evaluation", "inference", "kernels", "network", "ros", "tracking",
)  # fmt: skip


def describe(task: BagTask, model: ModelSettings | None) -> str:
    """All that the result of a task depends on, as JSON in one fixed order.

    Files go by path, size and time of change. A file that is missing has neither: whoever reads
    it says so.
    """
    content = {
        "code": code_digest(),
        "task": asdict(task),
        "bag": _files(task.bag),
        "truth": None if task.truth is None else _files(task.truth),
        "model": None if model is None else asdict(model),
        "weights": None if model is None else _weights(model),
    }
    return json.dumps(content, sort_keys=True, default=str)


@cache
def code_digest() -> str:
    """Digest of the modules that have a say in the figures."""
    digest = hashlib.sha256()
    root = Path(__file__).parents[1]
    for package in _FIGURES:
        for file in sorted((root / package).rglob("*.py")):
            digest.update(f"{file.relative_to(root)}\0".encode() + file.read_bytes())
    return digest.hexdigest()


def _files(path: Path) -> list[tuple[str, int, int]]:
    """Name, size and time of change of a bag's files."""
    files = sorted(path.iterdir()) if path.is_dir() else [path]
    stats = [(file, file.stat()) for file in files if file.exists()]
    return [(str(file.absolute()), stat.st_size, stat.st_mtime_ns) for file, stat in stats]


def _weights(model: ModelSettings) -> list[tuple[str, int, int]]:
    path = model.weights or shipped_weights(model.variant or SHIPPED_VARIANT)
    return [] if path is None else _files(path.expanduser())
