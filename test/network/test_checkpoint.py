from __future__ import annotations

import argparse
import itertools
import json
import pathlib
import struct
import zipfile
from collections import OrderedDict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from upsnet_ros.errors import CheckpointError
from upsnet_ros.network.checkpoint import load_checkpoint, load_state_dict, save_checkpoint
from upsnet_ros.network.upsnet import UPSNet
from upsnet_ros.network.variants import get_variant
from upsnet_ros.network.weights_file import read_state_dict


def _module() -> nn.Module:
    return nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4))


def _same(a: nn.Module, b: nn.Module) -> bool:
    pairs = zip(a.state_dict().values(), b.state_dict().values(), strict=True)
    return all(torch.equal(x, y) for x, y in pairs)


PREFIXES = [
    *("", "module.", "_orig_mod.", "module._orig_mod.", "_orig_mod.module.", "module.module."),
    *("model.", "net.", "model._orig_mod.", "module.model.", "model.module.", "ema.module."),
]
WRAPPINGS: dict[str, Any] = {
    "bare": lambda state: state,
    "ordered": OrderedDict,
    "state_dict": lambda state: {"state_dict": state, "epoch": 3, "arch": "upsnet"},
    "model": lambda state: {"optimizer": {"state": {0: {"step": torch.ones(1)}}}, "model": state},
    "ema": lambda state: {"ema": state, "best": np.float64(0.5), "seen": np.int32(7)},
    "nested": lambda state: {"model": {"state_dict": state}, "step": torch.tensor(5)},
    "averaged": lambda state: {**state, "n_averaged": torch.tensor(5)},
    "numbers": lambda state: {**state, "epoch": 3, "loss": np.float32(0.5), "name": "x", "n": None},
    "another name": lambda state: {"upsnet": state, "optimizer": {"state": {0: {"step": 1}}}},
    "arrays": lambda state: {"model": state, "curve": np.arange(3.0), "ok": np.bool_(True)},
}


@pytest.mark.parametrize("prefix", PREFIXES)
@pytest.mark.parametrize("wrapping", WRAPPINGS)
@pytest.mark.parametrize("zipped", [True, False])
def test_a_state_under_any_prefix_and_beside_anything(
    tmp_path: Path, prefix: str, wrapping: str, zipped: bool
) -> None:
    saved, loaded = _module(), _module()
    state = {prefix + name: tensor for name, tensor in saved.state_dict().items()}
    path = tmp_path / "weights.pth"
    torch.save(WRAPPINGS[wrapping](state), path, _use_new_zipfile_serialization=zipped)
    load_checkpoint(loaded, path)
    assert _same(saved, loaded)


@pytest.mark.parametrize("middle", ["_orig_mod", "module"])
def test_a_part_that_was_compiled_or_parallel(tmp_path: Path, middle: str) -> None:
    saved, loaded = _module(), _module()
    state = {name.replace(".", f".{middle}."): one for name, one in saved.state_dict().items()}
    torch.save(state, tmp_path / "weights.pth")
    load_checkpoint(loaded, tmp_path / "weights.pth")
    assert _same(saved, loaded)


def test_numbers_of_an_older_numpy(tmp_path: Path) -> None:
    saved, loaded = _module(), _module()
    path = tmp_path / "old.pth"
    state = {**saved.state_dict(), "best": np.float64(0.5)}
    torch.save(state, path, _use_new_zipfile_serialization=False)
    content = path.read_bytes()
    assert b"numpy._core.multiarray" in content
    path.write_bytes(content.replace(b"numpy._core.multiarray", b"numpy.core.multiarray"))
    load_checkpoint(loaded, path)
    assert _same(saved, loaded)


def test_a_name_that_is_there_twice(tmp_path: Path) -> None:
    torch.save({"a": torch.ones(1), "module.a": torch.ones(1)}, tmp_path / "weights.pth")
    with pytest.raises(CheckpointError, match="holds a twice"):
        read_state_dict(tmp_path / "weights.pth")


def test_several_states_of_unknown_names_are_refused(tmp_path: Path) -> None:
    torch.save({"a": {"w": torch.ones(1)}, "b": {"w": torch.ones(1)}}, tmp_path / "weights.pth")
    with pytest.raises(CheckpointError, match=r"weights\.pth holds no named tensors but a, b"):
        read_state_dict(tmp_path / "weights.pth")


@pytest.mark.filterwarnings("error")
def test_a_damaged_file_gives_an_error_and_no_warning(tmp_path: Path) -> None:
    path = tmp_path / "weights.pth"
    torch.save({"w": torch.ones(1)}, path, _use_new_zipfile_serialization=False)
    content = path.read_bytes()
    path.write_bytes(content.replace(b"\x80\x02", b"\x80\x47"))  # another protocol
    assert read_state_dict(path)["w"] == 1
    path.write_bytes(content[:-3])
    with pytest.raises(CheckpointError, match="cannot read"):
        read_state_dict(path)


def test_a_script_is_not_a_checkpoint(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "script.pt", "w") as archive:
        archive.writestr("script/constants.pkl", b"\x80\x02).")
        archive.writestr("script/data.pkl", b"\x80\x02).")
        archive.writestr("script/version", b"3\n")
    with pytest.raises(CheckpointError, match=r"cannot read .*script\.pt as a checkpoint"):
        read_state_dict(tmp_path / "script.pt")


@pytest.mark.parametrize(
    ("value", "named"),
    [
        (argparse.Namespace(lr=0.1), "argparse.Namespace"),
        (pathlib.PurePosixPath("x"), "pathlib.PurePosixPath"),
        (nn.Linear(1, 1), "torch.nn.modules.linear.Linear"),
        (print, "print"),
    ],
)
def test_what_torch_refuses_is_named_in_one_clean_line(
    tmp_path: Path, value: object, named: str
) -> None:
    torch.save({"state_dict": _module().state_dict(), "args": value}, tmp_path / "weights.pth")
    with pytest.raises(CheckpointError, match=rf"weights\.pth .*it holds a .*{named};") as caught:
        read_state_dict(tmp_path / "weights.pth")
    assert str(caught.value).isprintable()
    assert len(str(caught.value)) < 300


@pytest.mark.parametrize("method", [zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2])
def test_a_small_file_does_not_unpack_to_much(
    tmp_path: Path, method: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, packed = tmp_path / "weights.pth", tmp_path / "packed.pth"
    torch.save({"a": torch.zeros(2 << 20)}, path)
    with zipfile.ZipFile(path) as plain, zipfile.ZipFile(packed, "w", method) as small:
        for member in plain.infolist():
            small.writestr(member.filename, plain.read(member))
    monkeypatch.setenv("UPSNET_MAX_WEIGHTS_MIB", "4")
    assert read_state_dict(path)["a"].numel() == 2 << 20, "which is as large as it says"
    with pytest.raises(CheckpointError, match=r"unpacks to 8 MiB, more than the 4 MiB allowed"):
        read_state_dict(packed)
    monkeypatch.setenv("UPSNET_MAX_WEIGHTS_MIB", "many")
    with pytest.raises(CheckpointError, match="'many', not a whole number of MiB"):
        read_state_dict(packed)
    if method == zipfile.ZIP_DEFLATED:  # which torch can read
        monkeypatch.setenv("UPSNET_MAX_WEIGHTS_MIB", "9")
        assert read_state_dict(packed)["a"].numel() == 2 << 20


def safetensors(header: object, data: bytes = bytes(16)) -> bytes:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + data


def entry(dtype: object = "F32", shape: object = (4,), ends: object = (0, 16)) -> dict[str, Any]:
    return {"a": {"dtype": dtype, "shape": shape, "data_offsets": ends}}


@pytest.mark.parametrize(
    "content",
    [
        *(safetensors(entry(dtype)) for dtype in ("F4", "F6_E2M3", "F8_E8M0", "F99", 7, None)),
        *(safetensors(entry(shape=shape)) for shape in ([-1], [2**40], ["4"], None, 4)),
        *(safetensors(entry(ends=ends)) for ends in ([0, 8], [16, 0], [0, 2**70], [], "x")),
        safetensors(entry("F4", [2], [0, 1]), b"\0"),
        safetensors(entry("F6_E2M3", [4], [0, 3]), bytes(3)),
        safetensors(entry("F32", [0, 2**63], [0, 0]), b""),
        *(safetensors(text) for text in (b"[]", b"{", b"\xff", b"{}", b"null", b'{"a": 1}')),
        safetensors({"__metadata__": {"a": 1}}),
        struct.pack("<Q", 2**63) + b"{}",
    ],
)
def test_any_header_of_safetensors_is_refused_in_one_line(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "weights.safetensors"
    path.write_bytes(content)
    with pytest.raises(CheckpointError, match=r"weights\.safetensors") as caught:
        read_state_dict(path)
    assert str(caught.value).isprintable()
    assert len(str(caught.value)) < 400


def test_tensors_without_numbers_are_refused(tmp_path: Path) -> None:
    for tensor in (torch.eye(3).to_sparse(), torch.empty(3, device="meta")):
        torch.save({"a": tensor}, tmp_path / "weights.pth")
        with pytest.raises(CheckpointError, match="a is not a dense tensor"):
            read_state_dict(tmp_path / "weights.pth")


@pytest.mark.parametrize(
    ("asked", "saved"), itertools.permutations(["cityscapes-r18", "cityscapes-r50", "coco-r50"], 2)
)
def test_another_variant_is_named(asked: str, saved: str) -> None:
    with torch.device("meta"):
        network, other = UPSNet(get_variant(asked)), UPSNet(get_variant(saved))
    with pytest.raises(CheckpointError) as caught:
        load_state_dict(network, other.state_dict(), source="w.pth")
    assert str(caught.value).startswith(f"w.pth does not fit {asked}: it holds weights of {saved};")
    assert len(str(caught.value)) < 160


def test_names_of_a_file_are_made_printable(tmp_path: Path) -> None:
    torch.save({"\x1b[31m\n" + "x" * 5000: torch.ones(1)}, tmp_path / "weights.pth")
    with pytest.raises(CheckpointError) as caught:
        load_checkpoint(_module(), tmp_path / "weights.pth")
    assert str(caught.value).isprintable()
    assert len(str(caught.value)) < 400


def test_almost_a_variant_is_told_in_short() -> None:
    with torch.device("meta"):
        network = UPSNet(get_variant("cityscapes-r18"))
    state = {n: t for n, t in network.state_dict().items() if "fpn" not in n}
    with pytest.raises(
        CheckpointError, match=r"w\.pth does not fit cityscapes-r18: missing fpn\."
    ) as c:
        load_state_dict(network, state, source="w.pth")
    assert len(str(c.value)) < 160


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
    with pytest.raises(CheckpointError, match="it holds a print; only tensors"):
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
