"""Weights under detectron2's names, and the pickles of its model zoo."""

from __future__ import annotations

import os
import pickle
from collections import OrderedDict
from pathlib import Path
from typing import Any

import numpy as np
import panoptic_fpn_folder
import pytest
import torch
from safetensors.torch import save_file

from upsnet_ros.errors import CheckpointError
from upsnet_ros.network.checkpoint import load_state_dict, recognise_variant
from upsnet_ros.network.upsnet import UPSNet
from upsnet_ros.network.variants import get_variant
from upsnet_ros.network.weights_file import from_detectron2, read_state_dict

PROTOCOLS = range(6)
#: Few rows, but the names and the order that matter.
PARTS = {
    "backbone.bottom_up.stem.conv1.weight": (4, 3, 7, 7),
    "backbone.bottom_up.stem.conv1.norm.weight": (4,),
    "roi_heads.box_predictor.cls_score.weight": (3, 2),
    "roi_heads.box_predictor.bbox_pred.weight": (8, 2),
    "roi_heads.mask_head.predictor.bias": (2,),
    "sem_seg_head.predictor.bias": (4,),
    "sem_seg_head.p5.4.norm.bias": (2,),
}


def _arrays(parts: dict[str, Any] = PARTS) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    return {name: rng.normal(size=shape).astype(np.float32) for name, shape in parts.items()}


def _table(depth: str) -> dict[str, tuple[int, ...]]:
    lines = (panoptic_fpn_folder.OURS / f"state_dict_{depth}.tsv").read_text().splitlines()[1:]
    rows = (line.split("\t") for line in lines)
    return {name: tuple(map(int, shape.split(","))) for name, shape, *_ in rows}


@pytest.mark.parametrize("extra", [(), ("pixel_mean", "pixel_std")])
@pytest.mark.parametrize("depth", ["r50", "r101"])
def test_names_and_shapes_are_a_variant_s(depth: str, extra: tuple[str, ...]) -> None:
    with torch.device("meta"):
        tensors = {name: torch.empty(shape) for name, shape in _table(depth).items()}
        tensors |= {name: torch.empty(3, 1, 1) for name in extra}
        tensors |= {
            f"proposal_generator.anchor_generator.cell_anchors.{level}": torch.empty(3, 4)
            for level in range(5 if extra else 0)
        }
        renamed = from_detectron2(tensors)
        variant = recognise_variant(renamed)
        assert variant is get_variant(f"coco-fpn-{depth}")
        load_state_dict(UPSNet(variant), renamed, source="the table")


def test_rows_are_brought_to_our_order() -> None:
    arrays = _arrays()
    got = from_detectron2({name: torch.from_numpy(x) for name, x in arrays.items()})
    classes = arrays["roi_heads.box_predictor.cls_score.weight"]
    np.testing.assert_array_equal(got["rcnn.cls_score.weight"], classes[[2, 0, 1]])
    boxes = got["rcnn.bbox_pred.weight"].numpy()
    assert not boxes[:4].any()
    np.testing.assert_array_equal(boxes[4:], arrays["roi_heads.box_predictor.bbox_pred.weight"])
    masks = arrays["roi_heads.mask_head.predictor.bias"]
    np.testing.assert_array_equal(got["mask_branch.mask_score.bias"], [0, *masks])
    things, *stuff = arrays["sem_seg_head.predictor.bias"]
    np.testing.assert_array_equal(got["fcn_head.score.bias"], [*stuff, things])
    assert "fcn_head.p5.2.norm.bias" in got


def test_norms_without_statistics_have_none() -> None:
    got = from_detectron2({name: torch.from_numpy(x) for name, x in _arrays().items()})
    assert got["resnet_backbone.conv1.bn1.running_mean"].tolist() == [0] * 4
    assert got["resnet_backbone.conv1.bn1.running_var"].tolist() == [1] * 4


@pytest.mark.parametrize("protocol", PROTOCOLS)
@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("container", [dict, OrderedDict])
def test_pickles_are_read(tmp_path: Path, protocol: int, order: str, container: Any) -> None:
    arrays = _arrays()
    arrays["backbone.bottom_up.stem.conv1.weight"] = np.asfortranarray(
        arrays["backbone.bottom_up.stem.conv1.weight"]
    )
    kept = {name: x.astype(x.dtype.newbyteorder(order)) for name, x in arrays.items()}
    content = {"model": container(kept), "__author__": "somebody", "matching_heuristics": True}
    path = tmp_path / "model_final.pkl"
    path.write_bytes(pickle.dumps(content, protocol=protocol))
    want = from_detectron2({name: torch.from_numpy(x.copy()) for name, x in arrays.items()})
    got = read_state_dict(path)
    assert got.keys() == want.keys()
    assert all(torch.equal(got[name], want[name]) for name in want)
    assert all(x.is_contiguous() and x.dtype == torch.float32 for x in got.values())


def test_python_2_s_pickles_are_read(tmp_path: Path) -> None:
    """Its text is bytes: names come as latin1, values as text of it."""
    raw = np.array([1.5, -2.0], "<f4")
    body = (
        b"(dS'model'\n(dS'backbone.bottom_up.x'\n"
        b"cnumpy.core.multiarray\n_reconstruct\n(cnumpy\nndarray\n(I0\ntS'b'\ntR"
        b"(I1\n(I2\ntcnumpy\ndtype\n(S'f4'\nI0\nI1\ntR(I3\nS'<'\nNNNI-1\nI-1\nI0\ntb"
        b"I00\nS" + repr(raw.tobytes())[1:].encode() + b"\ntbss."
    )
    path = tmp_path / "old.pkl"
    path.write_bytes(body)
    assert read_state_dict(path)["backbone.bottom_up.x"].tolist() == raw.tolist()


def test_safetensors_of_its_names_are_read(tmp_path: Path) -> None:
    tensors = {name: torch.from_numpy(x) for name, x in _arrays().items()}
    save_file(tensors, tmp_path / "a.safetensors")
    got, want = read_state_dict(tmp_path / "a.safetensors"), from_detectron2(tensors)
    assert got.keys() == want.keys() and all(torch.equal(got[name], want[name]) for name in want)


class _Calls:
    """Pickled as a call."""

    def __init__(self, function: Any, *arguments: Any, state: Any = None) -> None:
        self._call = (function, arguments, *(() if state is None else (state,)))

    def __reduce__(self) -> Any:
        return self._call


def _rebuild() -> Any:
    return np.zeros(0).__reduce__()[0]


REFUSED = {
    "a command": lambda folder: _Calls(os.system, f"touch {folder / 'ran'}"),
    "code": lambda folder: _Calls(eval, f"open({str(folder / 'ran')!r}, 'w')"),
    "an import": lambda folder: _Calls(__import__, "antigravity"),
    "an attribute": lambda folder: _Calls(getattr, {}, "keys"),
    "a file to read": lambda folder: _Calls(np.load, "x.npy"),
    "a tensor": lambda folder: torch.zeros(2),
    "objects": lambda folder: np.array([{}, None], object),
    "text": lambda folder: np.array(["a"]),
    "a list": lambda folder: [1.0, 2.0],
    "complex numbers": lambda folder: np.zeros(2, np.complex64),
    "long doubles": lambda folder: np.zeros(2, np.longdouble),
    "another codec": lambda folder: _Calls(pickle.codecs.encode, "x", "zip"),
    "an array of any size": lambda folder: _Calls(_rebuild(), np.ndarray, (10**12,), b"b"),
    "another class": lambda folder: _Calls(_rebuild(), np.matrix, (0,), b"b"),
}


@pytest.mark.parametrize("protocol", [0, 2, 4, 5])
@pytest.mark.parametrize("kind", REFUSED)
def test_anything_but_arrays_of_numbers_is_refused(
    tmp_path: Path, kind: str, protocol: int
) -> None:
    content = {"model": {**_arrays(), "x": REFUSED[kind](tmp_path)}}
    path = tmp_path / "evil.pkl"
    path.write_bytes(pickle.dumps(content, protocol=protocol))
    with pytest.raises(CheckpointError, match=r"evil\.pkl") as caught:
        read_state_dict(path)
    assert "\n" not in str(caught.value)
    assert sorted(tmp_path.iterdir()) == [path], "code ran"


@pytest.mark.parametrize(
    "content",
    [b"", b"\x80", b"garbage", pickle.dumps({"model": {}}), pickle.dumps([1]), pickle.dumps(None)]
    + [pickle.dumps({"model": _arrays()})[:length] for length in (20, 200, 400)]
    + [pickle.dumps({"weights": _arrays()}), pickle.dumps({"model": {1: np.zeros(2)}})],
    ids=range(11),
)
def test_damaged_and_other_pickles_end_in_one_line(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "a.pkl"
    path.write_bytes(content)
    with pytest.raises(CheckpointError, match=r"a\.pkl") as caught:
        read_state_dict(path)
    assert "\n" not in str(caught.value)


def test_what_a_pickle_does_to_the_allowed_names_ends_with_it(tmp_path: Path) -> None:
    """A state given to a function would set its attributes for all later files."""
    path = tmp_path / "a.pkl"
    # REDUCE nothing: push the function, and BUILD it with a state.
    body = b"\x80\x02}U\x05model}U\x01xc_codecs\nencode\n}U\x0c__defaults__(U\x04utf8tsb}ss."
    path.write_bytes(body)
    with pytest.raises(CheckpointError):
        read_state_dict(path)
    good = tmp_path / "good.pkl"
    good.write_bytes(pickle.dumps({"model": _arrays()}, protocol=2))
    assert read_state_dict(good)
