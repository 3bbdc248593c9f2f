from __future__ import annotations

from pathlib import Path

import pytest
import torch

from upsnet_ros.inference import precision
from upsnet_ros.inference.precision import PRECISIONS, resolve_precision

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
    with pytest.raises(ValueError, match="unknown precision 'int8'; use auto, fp32, fp16, bf16"):
        resolve_precision("int8", CPU)
    with pytest.raises(ValueError, match="fp16 needs a CUDA device"):
        resolve_precision("fp16", CPU)
