from __future__ import annotations

import os

import pytest
import torch


@pytest.fixture(params=["interpreter", pytest.param("cuda", marks=pytest.mark.gpu)])
def device(request: pytest.FixtureRequest) -> torch.device:
    """Where a kernel runs: in Triton's interpreter, or on a GPU; one process can do one of them."""
    interpreted = os.environ.get("TRITON_INTERPRET") == "1"
    if request.param == "interpreter":
        if not interpreted:
            pytest.skip("needs TRITON_INTERPRET=1, which is set where there is no GPU")
        return torch.device("cpu")
    if interpreted or not torch.cuda.is_available():
        pytest.skip("needs a CUDA device")
    return torch.device("cuda")
