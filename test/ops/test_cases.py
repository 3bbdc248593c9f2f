"""The benchmarks' cases: references run anywhere, and on a GPU kernels equal them at full size."""

from __future__ import annotations

from types import ModuleType
from typing import Any

import pytest
import torch
from benchmark_script import load
from torch import Tensor

pytest.importorskip("triton")


@pytest.fixture(scope="module")
def kernel_cases() -> ModuleType:
    return load("kernel_cases")


def tensors_of(result: Any) -> list[Tensor]:
    return [result] if isinstance(result, Tensor) else [x for x in result if x is not None]


def test_twins_take_the_cases(kernel_cases: ModuleType) -> None:
    torch.manual_seed(0)
    sizes = kernel_cases.Sizes(image=(64, 128), proposals=20, instances=4, channels=8)
    made = kernel_cases.cases("cpu", torch.float32, batch=2, sizes=sizes)
    for case in made:
        results = tensors_of(case.reference())
        assert all(x.float().isfinite().all() for x in results), case.name
        assert any(len(x.unique()) > 1 for x in results), case.name
    assert len({case.name for case in made}) == len(made)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("batch", [1, 3])
def test_kernels_equal_their_twins_at_full_size(kernel_cases: ModuleType, batch: int) -> None:
    torch.manual_seed(0)
    for case in kernel_cases.cases("cuda", torch.bfloat16, batch=batch):
        with torch.inference_mode():
            pairs = zip(tensors_of(case.kernel()), tensors_of(case.reference()), strict=True)
        for got, want in pairs:
            assert got.shape == want.shape and got.dtype == want.dtype, case.name
            near = torch.isclose(got.float(), want.float(), rtol=0.02, atol=0.02)
            # Sums in another order decide some equals otherwise.
            assert near.float().mean() > 0.999, case.name
