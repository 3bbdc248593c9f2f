"""What a run leaves in its folder; a file is replaced whole or not at all."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import yaml
from torch import nn
from torch.utils.tensorboard import SummaryWriter

from upsnet_ros.network.checkpoint import CheckpointError, save_checkpoint


def replace_file(path: Path, write: Callable[[Path], None]) -> None:
    """Let ``write`` make a new file and put it in the place of ``path`` in one step.

    Whatever happens in between, a power cut included, ``path`` is the old file or the new one.
    """
    new = path.with_name(f".{path.name}.new")
    write(new)
    with new.open("rb") as file:
        os.fsync(file.fileno())
    new.replace(path)


@dataclass(frozen=True, slots=True)
class RunFiles:
    """The files of a run in its folder."""

    folder: Path

    @property
    def checkpoint(self) -> Path:
        """Everything that resuming needs."""
        return self.folder / "checkpoint.pt"

    @property
    def last(self) -> Path:
        """Weights of the last checkpoint."""
        return self.folder / "weights_last.safetensors"

    @property
    def best(self) -> Path:
        """Weights of the best evaluation."""
        return self.folder / "weights_best.safetensors"

    @property
    def curve(self) -> Path:
        """Losses and evaluations, a JSON object a line."""
        return self.folder / "curve.jsonl"

    @property
    def settings(self) -> Path:
        """The settings in full."""
        return self.folder / "settings.yaml"

    def prepare(self, settings: Mapping[str, Any]) -> None:
        """Make the folder and write the settings."""
        self.folder.mkdir(parents=True, exist_ok=True)
        text = yaml.safe_dump(dict(settings), sort_keys=False)
        replace_file(self.settings, lambda new: _write_text(new, text))

    def save_checkpoint(self, state: Mapping[str, Any]) -> None:
        """Write tensors and plain values."""
        replace_file(self.checkpoint, lambda new: torch.save(dict(state), new))

    def load_checkpoint(self) -> dict[str, Any]:
        """Read what `save_checkpoint` wrote.

        Raises:
            CheckpointError: There is none.
        """
        if not self.checkpoint.is_file():
            raise CheckpointError(f"there is no checkpoint {self.checkpoint} to resume from")
        return torch.load(self.checkpoint, map_location="cpu", weights_only=True)

    def save_weights(self, network: nn.Module, path: Path) -> None:
        """Write the network's tensors as safetensors."""
        replace_file(path, lambda new: save_checkpoint(network, new))


def _write_text(path: Path, text: str) -> None:
    path.write_text(text, encoding="utf-8")


class Curve:
    """Losses and evaluations by iteration, for people (TensorBoard) and programs (JSON lines).

    Args:
        files: Of the run.
        start: First iteration to come; entries from there on, left by an interrupted run, go.
    """

    def __init__(self, files: RunFiles, *, start: int) -> None:
        kept: list[str] = []
        if start and files.curve.is_file():
            lines = files.curve.read_text(encoding="utf-8").splitlines(keepends=True)
            # A killed run may leave half a line.
            whole = [line for line in lines if line.endswith("\n")]
            kept = [line for line in whole if json.loads(line)["iteration"] < start]
        replace_file(files.curve, lambda new: _write_text(new, "".join(kept)))
        self._file = files.curve.open("a", encoding="utf-8", buffering=1)
        self._board = SummaryWriter(files.folder / "tensorboard", purge_step=start)

    def add(self, iteration: int, group: str, values: Mapping[str, float]) -> None:
        """Append values measured in an iteration, such as ``train`` or ``validation``."""
        entry = {"iteration": iteration, "group": group, **values}
        self._file.write(json.dumps(entry) + "\n")
        for name, value in values.items():
            self._board.add_scalar(f"{group}/{name}", value, iteration)

    def close(self) -> None:
        """Write what is left."""
        self._file.close()
        self._board.close()
