from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest

PARITY = Path(os.environ.get("UPSNET_PARITY_DIR", Path(__file__).parents[1] / "parity"))


@pytest.fixture(scope="session")
def parity() -> Path:
    """The folder of what the original computed."""
    return PARITY


@pytest.fixture(scope="session")
def unit_ops(parity: Path) -> Any:
    """Inputs and outputs of the original's small operators."""
    return np.load(parity / "cases" / "unit_ops.npz")
