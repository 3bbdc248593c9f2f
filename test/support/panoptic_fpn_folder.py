"""The folder of what detectron2 computed with Panoptic FPN, and the rules that make its inputs.

`PANOPTIC_FPN_PARITY_DIR` names it (layout: test/panoptic_fpn/README.md); by default
test/panoptic_fpn.
"""

from __future__ import annotations

import importlib.util
import os
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

OURS = Path(__file__).parents[1] / "panoptic_fpn"
FOLDER = Path(os.environ.get("PANOPTIC_FPN_PARITY_DIR", OURS))


@cache
def rule(name: str) -> ModuleType:
    """Import one of the rules, make_weights or make_images; ours where the folder has none."""
    path = next(path for path in (FOLDER / f"{name}.py", OURS / f"{name}.py") if path.is_file())
    spec = importlib.util.spec_from_file_location(f"panoptic_fpn_{name}", path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def weights(depth: str, seed: int, overrides: Any = ()) -> dict[str, np.ndarray]:
    """Make weights under detectron2's names; depth is ``r50`` or ``r101``."""
    name = f"state_dict_{depth}.tsv"
    table = next(path for path in (FOLDER / name, OURS / name) if path.is_file())
    return rule("make_weights").make_state_dict(table, seed, overrides)
