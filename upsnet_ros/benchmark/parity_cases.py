"""The parity cases: networks and pictures made by rules; layout in test/parity/README.md."""

from __future__ import annotations

import importlib.util
import json
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import torch
from safetensors.torch import save_file

from upsnet_ros.benchmark.frames import Image

__all__ = ["ParityCase", "parity_cases"]

# Beside these there are cases of training and of single operators.
_OTHERS = ("train_", "unit_")


@dataclass(frozen=True, slots=True)
class ParityCase:
    """A network and a picture.

    Attributes:
        path: The case's file.
        meta: What the case says of itself.
    """

    path: Path
    meta: dict[str, Any]

    @property
    def variant(self) -> str:
        """Name of the network."""
        return str(self.meta["variant"])

    @property
    def scale(self) -> int:
        """Pixels of the short side at which the network runs."""
        return int(self.meta["target"])

    def image(self) -> Image:
        """Read the picture, uint8 (H, W, 3), BGR."""
        with np.load(self.path) as case:
            return np.asarray(case["image"], np.uint8)

    @contextmanager
    def weights(self) -> Iterator[Path]:
        """Make the network's weights, as a file that is there while the context lasts.

        Raises:
            ValueError: The rule makes others than the case was recorded with.
        """
        folder = self.path.parents[1]
        rule = _rule(folder / "make_weights.py")
        table = folder / f"state_dict_{self.variant}.tsv"
        arrays = rule.make_state_dict(table, self.meta["seed"], self.meta.get("overrides", []))
        if rule.checksum(arrays) != self.meta["weights_checksum"]:
            raise ValueError(f"parity case {self.path}: its weights cannot be made anew here")
        with tempfile.TemporaryDirectory(prefix="upsnet_parity_") as temporary:
            path = Path(temporary) / "weights.safetensors"
            tensors = {name: torch.from_numpy(np.array(value)) for name, value in arrays.items()}
            save_file(tensors, path)
            yield path


def parity_cases(folder: Path) -> list[ParityCase]:
    """Return the cases of whole frames in a folder.

    Raises:
        ValueError: There are none.
    """
    cases = []
    for path in sorted((folder / "cases").glob("*.npz")):
        if not path.name.startswith(_OTHERS):
            with np.load(path) as case:
                cases.append(ParityCase(path, json.loads(str(case["meta_json"]))))
    if not cases:
        raise ValueError(f"{folder} has no parity cases: no cases/*.npz of whole frames")
    return cases


def _rule(path: Path) -> ModuleType:
    """Import a rule, under a name that nothing else has."""
    spec = importlib.util.spec_from_file_location(f"upsnet_ros_parity_{path.stem}", path)
    if spec is None or spec.loader is None or not path.is_file():
        raise ValueError(f"{path} is not there, by which parity cases are made")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
