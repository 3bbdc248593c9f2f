from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from upsnet_ros.inference import model as precision
from upsnet_ros.inference.model import PRECISIONS, resolve_precision, sums_in_float32
from upsnet_ros.inference.predictor import Predictor

CPU, CUDA = torch.device("cpu"), torch.device("cuda")


@pytest.mark.parametrize("name", PRECISIONS)
def test_a_precision_that_is_named_is_taken(name: str) -> None:
    assert resolve_precision(name, CUDA) == name


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("flags\t\t: fpu sse4_2 avx512f avx512_bf16", "bf16"),
        ("flags\t\t: fpu amx_tile amx_bf16", "bf16"),
        ("flags\t\t: fpu sse4_2 avx2", "fp32"),
        ("Features\t: fp asimd bf16 i8mm", "bf16"),
        ("Features\t: fp asimd", "fp32"),
        (None, "fp32"),
    ],
)
def test_auto_on_a_cpu_is_what_it_multiplies(
    line: str | None, expected: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cpuinfo = tmp_path / "cpuinfo"
    if line is not None:
        cpuinfo.write_text(f"model name\t: Some CPU\n{line}\npower management:\n")
    monkeypatch.setattr(precision, "Path", lambda _: cpuinfo)
    assert resolve_precision("auto", CPU) == expected


def test_auto_on_a_gpu_is_the_longer_half() -> None:
    assert resolve_precision("auto", CUDA) == "fp16"


def test_what_cannot_be() -> None:
    with pytest.raises(ValueError, match=r"precision 'int8'; .*auto, fp32, fp16, bf16"):
        resolve_precision("int8", CPU)
    with pytest.raises(ValueError, match=r"fp16 .*CUDA"):
        resolve_precision("fp16", CPU)


SUMS = ("allow_fp16_reduced_precision_reduction", "allow_bf16_reduced_precision_reduction")


@pytest.fixture(params=[True, False])
def before(request: pytest.FixtureRequest) -> Iterator[bool]:
    products = torch.backends.cuda.matmul
    found = [getattr(products, name) for name in SUMS]
    for name in SUMS:
        setattr(products, name, request.param)
    yield request.param
    for name, value in zip(SUMS, found, strict=True):
        setattr(products, name, value)


def test_sums_are_in_float32_until_the_last_one_is_done(before: bool) -> None:
    def switches() -> list[bool]:
        return [getattr(torch.backends.cuda.matmul, name) for name in SUMS]

    first, second = sums_in_float32(), sums_in_float32()
    with first:
        assert switches() == [False, False]
        second.__enter__()
    assert switches() == [False, False]  # of two threads the first has ended
    second.__exit__(None, None, None)
    assert switches() == [before, before]
    with pytest.raises(ArithmeticError), sums_in_float32():
        raise ArithmeticError
    assert switches() == [before, before]


@pytest.mark.parametrize(("device", "reduced"), [(CUDA, [False, False]), (CPU, [True, True])])
def test_a_frame_on_a_gpu_is_summed_in_float32(device: torch.device, reduced: list[bool]) -> None:
    """The device is pretended; the frame is computed on the CPU."""
    products = torch.backends.cuda.matmul
    before = [getattr(products, name) for name in SUMS]
    predictor = Predictor(
        variant="cityscapes-r18", device="cpu", scale=32, allow_random_weights=True
    )
    predictor.device = device
    found: list[list[bool]] = []

    def look(*_: object) -> None:
        found.append([getattr(products, name) for name in SUMS])

    predictor.network.rcnn.register_forward_pre_hook(look)
    predictor.network.fcn_head.register_forward_pre_hook(look)
    try:
        for name in SUMS:
            setattr(products, name, True)
        pixels = torch.zeros(32, 64, 3, dtype=torch.uint8)
        predictor.compute_batch([pixels], predictor.settings())
    finally:
        for name, value in zip(SUMS, before, strict=True):
            setattr(products, name, value)
    assert found and all(switches == reduced for switches in found)
