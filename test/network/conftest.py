from __future__ import annotations

from typing import Any

import parity_folder
import pytest


@pytest.fixture(scope="session")
def unit_ops() -> Any:
    """Inputs and outputs of the original's small operators."""
    return parity_folder.unit_ops()
