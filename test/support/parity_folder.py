"""The folder of what the original computed, and the rules that generate its inputs.

`UPSNET_PARITY_DIR` names it (layout: test/parity/README.md); by default test/parity.
"""

from __future__ import annotations

import importlib.util
import os
import sys
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import torch
from torch import Tensor

OURS = Path(__file__).parents[1] / "parity"
FOLDER = Path(os.environ.get("UPSNET_PARITY_DIR", OURS))


@cache
def rule(name: str) -> ModuleType:
    """Import one of the folder's rules: make_weights, make_images or make_labels."""
    spec = importlib.util.spec_from_file_location(name, FOLDER / f"{name}.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # make_labels imports make_images
    spec.loader.exec_module(module)
    return module


def weights(meta: dict[str, Any]) -> tuple[dict[str, Tensor], int]:
    """Make the weights of a case; return them under the official names, and their checksum."""
    table = FOLDER / f"state_dict_{meta['variant']}.tsv"
    make = rule("make_weights")
    arrays = make.make_state_dict(table, meta["seed"], meta.get("overrides", []))
    tensors = {name: torch.from_numpy(np.asarray(value)) for name, value in arrays.items()}
    return tensors, make.checksum(arrays)


def image(meta: dict[str, Any]) -> np.ndarray:
    """Make the image of a case: uint8 (H, W, 3), BGR."""
    return rule("make_images").make_image(meta["src_h"], meta["src_w"], meta["seed"])


@cache
def unit_ops() -> Any:
    """Read the recorded small operators; ours where the folder has none."""
    path = FOLDER / "cases" / "unit_ops.npz"
    return np.load(path if path.is_file() else OURS / "cases" / "unit_ops.npz")


def names(prefix: str, suffix: str) -> list[str]:
    """Return what stands between prefix and suffix in the small operators' names."""
    found = (key for key in unit_ops().files if key.startswith(prefix) and key.endswith(suffix))
    return [key[len(prefix) : -len(suffix)] for key in found]
