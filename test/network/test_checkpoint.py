from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from upsnet_ros.network.checkpoint import (
    CheckpointError,
    load_checkpoint,
    read_state_dict,
    save_checkpoint,
)


def _module() -> nn.Module:
    return nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4))


def _same(a: nn.Module, b: nn.Module) -> bool:
    pairs = zip(a.state_dict().values(), b.state_dict().values(), strict=True)
    return all(torch.equal(x, y) for x, y in pairs)


@pytest.mark.parametrize("prefix", ["", "module."])
def test_pth_with_or_without_prefix(tmp_path: Path, prefix: str) -> None:
    saved, loaded = _module(), _module()
    state = {prefix + name: tensor for name, tensor in saved.state_dict().items()}
    torch.save(state, tmp_path / "weights.pth")
    load_checkpoint(loaded, tmp_path / "weights.pth")
    assert _same(saved, loaded)


def test_old_pickle_format_without_batch_counters(tmp_path: Path) -> None:
    saved, loaded = _module(), _module()
    state = {n: t for n, t in saved.state_dict().items() if "num_batches" not in n}
    path = tmp_path / "old.pth"
    torch.save(state, path, _use_new_zipfile_serialization=False)
    load_checkpoint(loaded, path)
    assert _same(saved, loaded)


def test_safetensors_in_half_precision(tmp_path: Path) -> None:
    saved, loaded = _module(), _module()
    save_checkpoint(saved, tmp_path / "weights.safetensors", dtype=torch.float16)
    load_checkpoint(loaded, tmp_path / "weights.safetensors")
    torch.testing.assert_close(saved[0].weight, loaded[0].weight, atol=1e-3, rtol=1e-3)
    assert loaded[0].weight.dtype == torch.float32


def test_what_does_not_fit_is_named(tmp_path: Path) -> None:
    state = dict(_module().state_dict())
    state["2.weight"] = state.pop("0.bias")
    state["0.weight"] = torch.zeros(4, 3, 3, 3)
    torch.save(state, tmp_path / "weights.pth")
    with pytest.raises(CheckpointError) as caught:
        load_checkpoint(_module(), tmp_path / "weights.pth")
    message = str(caught.value)
    assert "missing 0.bias" in message
    assert "surplus 2.weight" in message
    assert "0.weight is (4, 3, 3, 3), not (4, 3, 1, 1)" in message


class _Evil:
    def __reduce__(self) -> tuple[object, tuple[str]]:
        return print, ("run by unpickling",)


@pytest.mark.parametrize("name", ["weights.pth", "weights.safetensors"])
@pytest.mark.parametrize("content", [b"", b"hello", b"PK\x03\x04" + bytes(200), bytes(1000)])
def test_no_checkpoint_at_all(tmp_path: Path, name: str, content: bytes) -> None:
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(CheckpointError, match=name) as caught:
        read_state_dict(path)
    assert "\n" not in str(caught.value)


def test_truncated_checkpoint(tmp_path: Path) -> None:
    path = tmp_path / "weights.pth"
    torch.save(_module().state_dict(), path)
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(CheckpointError, match="damaged"):
        read_state_dict(path)


def test_nothing_is_unpickled_that_runs_code(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    torch.save({"0.weight": _Evil()}, tmp_path / "evil.pth")
    with pytest.raises(CheckpointError, match="plain tensors"):
        read_state_dict(tmp_path / "evil.pth")
    assert "run by" not in capsys.readouterr().out


@pytest.mark.parametrize("content", [[1, 2], {"epoch": 3}, {}, np.arange(3)])
def test_other_content(tmp_path: Path, content: object) -> None:
    torch.save(content, tmp_path / "other.pth")
    with pytest.raises(CheckpointError, match=r"other\.pth"):
        read_state_dict(tmp_path / "other.pth")


@pytest.mark.parametrize("make", [False, True])
def test_missing_file_or_folder(tmp_path: Path, make: bool) -> None:
    path = tmp_path / "nowhere.pth"
    if make:
        path.mkdir()
    with pytest.raises(CheckpointError, match="no weights file"):
        read_state_dict(path)
