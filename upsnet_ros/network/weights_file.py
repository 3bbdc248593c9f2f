"""Reads the named tensors of a weights file, in any format, without running code from it.

torch's own reader and safetensors run none. The pickles of detectron2's model zoo hold NumPy
arrays, which torch does not read; `_ArrayUnpickler` supports what arrays need and nothing else.
Tensors of detectron2's Panoptic FPN are renamed to this package's names.
"""

from __future__ import annotations

import os
import pickle
import re
import warnings
import zipfile
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load
from torch import Tensor

from upsnet_ros.errors import CheckpointError, listed, printable

#: The environment variable that sets how many MiB a compressed file may unpack to.
MAX_MIB_VARIABLE = "UPSNET_MAX_WEIGHTS_MIB"
_MAX_MIB = 256
# torch does not compress; weights that somebody else did shrink by a tenth. So a file may also
# unpack to this many times its size.
_MAX_RATIO = 4

# Where training scripts keep the state, beside the epoch, the optimizer and so on. If several are
# there, the first counts; an entry of another name counts if it is the only one with tensors.
_STATE_KEYS = (
    *("state_dict", "model_state_dict", "model_state", "model", "network", "net", "module"),
    *("weights", "params", "state_dict_ema", "model_ema", "ema_state_dict", "ema"),
)
_DEPTH = 4
# What DataParallel and torch.compile put into names, also of a part of a network.
_WRAPPERS = frozenset({"module", "_orig_mod"})
# What the attribute that holds the network puts before all names.
_HOLDERS = frozenset({"model", "network", "net", "ema", "ema_model"})
_COUNTER = "n_averaged"  # of torch's AveragedModel
_MAX_REASON = 200  # characters


def read_state_dict(path: str | Path) -> dict[str, Tensor]:
    """Read named tensors from a ``.pth`` (never unpickling code) or ``.safetensors`` file.

    A ``.pkl`` file of NumPy arrays, as detectron2's model zoo has them, is read too, and tensors of
    detectron2's names are replaced by ours.

    The tensors may lie in an entry such as ``state_dict``, ``model`` or ``ema``, beside others. The
    names are given without what data-parallel training, torch.compile and averaging add to them.

    Raises:
        CheckpointError: The file is missing, not a checkpoint, damaged, or unpacks to too much.
    """
    path = Path(path).expanduser()
    if not path.is_file():
        raise CheckpointError(f"there is no weights file {path}")
    if path.suffix == ".safetensors":
        content = _read_safetensors(path)
    elif path.suffix == ".pkl" and not zipfile.is_zipfile(path):
        content = read_arrays(path)
    else:
        content = read_torch_file(path)
    if not isinstance(content, Mapping):
        raise CheckpointError(f"{path} holds a {type(content).__name__}, not named tensors")
    state = _find_state(content, _DEPTH)
    if state is None:
        entries = listed(sorted(map(str, content))) or "nothing"
        raise CheckpointError(f"{path} holds no named tensors but {short(entries)}")
    tensors: dict[str, Tensor] = {}
    for name, tensor in _plain_names(state):
        if name in tensors:
            raise CheckpointError(f"{path} holds {short(name)} twice, with and without a prefix")
        if tensor.layout is not torch.strided or tensor.is_meta or tensor.is_quantized:
            raise CheckpointError(f"{path}: {short(name)} is not a dense tensor of numbers")
        tensors[name] = tensor
    return from_detectron2(tensors) if is_detectron2(tensors) else tensors


def read_arrays(path: Path) -> dict[str, Tensor]:
    """Read a pickle of detectron2's model zoo: NumPy arrays by name, under ``model``.

    Raises:
        CheckpointError: The file cannot be read, or holds anything else.
    """
    try:
        with path.open("rb") as file:
            content = _ArrayUnpickler(file, encoding="latin1").load()
    except Exception as error:  # noqa: BLE001 - of pickle, on a file of any content
        raise CheckpointError(f"cannot read {path} as a checkpoint: {_reason(error)}") from None
    model = content.get("model") if isinstance(content, dict) else None
    if not isinstance(model, dict) or not model:
        raise CheckpointError(f"{path} holds no named arrays under 'model'")
    tensors: dict[str, Tensor] = {}
    for name, array in model.items():
        # A float type that torch has; what NumPy calls float128 it has not.
        numbers = isinstance(array, np.ndarray) and array.dtype.kind in "fiub"
        if not isinstance(name, str) or not numbers or array.dtype.itemsize > 8:
            raise CheckpointError(f"{path}: {short(str(name))} is not an array of numbers")
        # A copy, as what lies in the pickle may be of the other byte order, or for reading only.
        exact = np.array(array, dtype=array.dtype.newbyteorder("="), order="C")
        try:
            tensors[name] = torch.from_numpy(exact)
        except TypeError:
            raise CheckpointError(f"{path}: {short(name)} has a type torch lacks") from None
    return tensors


class _ArrayUnpickler(pickle.Unpickler):
    """Makes NumPy arrays and plain containers; anything else that a pickle names is refused."""

    def find_class(self, module: str, name: str) -> Any:
        """Return what a name stands for; nothing is imported."""
        try:
            return _array_globals()[module, name]
        except KeyError:
            raise pickle.UnpicklingError(f"GLOBAL {module}.{name} is not allowed") from None


def _array_globals() -> dict[tuple[str, str], Any]:
    """Return what pickles of arrays call, by module and name; new, so that no pickle changes it."""
    rebuild: Any = np.zeros(0).__reduce__()[0]
    number: Any = np.float64(0).__reduce__()[0]
    from_buffer: Any = np.zeros(1).__reduce_ex__(5)[0]

    def empty(kind: Any, shape: Any, code: Any) -> Any:
        # The shape comes with the values; a large one here would only take memory.
        if kind is not np.ndarray or shape != (0,):
            raise pickle.UnpicklingError("an array of a kind that is not written by NumPy")
        return rebuild(kind, shape, code)

    def encode(text: Any, encoding: Any = "latin1") -> bytes:
        # How protocol 2 writes bytes.
        if not isinstance(text, str) or encoding != "latin1":
            raise pickle.UnpicklingError("text in an encoding other than latin1")
        return text.encode("latin1")

    known: dict[tuple[str, str], Any] = {
        ("numpy", "ndarray"): np.ndarray,
        ("numpy", "dtype"): np.dtype,
        ("_codecs", "encode"): encode,
        ("collections", "OrderedDict"): OrderedDict,
    }
    for core in ("numpy.core", "numpy._core"):
        known[f"{core}.multiarray", "_reconstruct"] = empty
        known[f"{core}.multiarray", "scalar"] = number
        known[f"{core}.numeric", "_frombuffer"] = from_buffer
    return known


def read_torch_file(path: Path) -> Any:
    """Read what `torch.save` wrote, if it is tensors, numbers and text in plain containers.

    Raises:
        CheckpointError: The file cannot be read, holds anything else, or unpacks to too much.
    """
    _check_unpacked_size(path)
    try:
        # torch and NumPy warn of what damaged files hold; the error is all that users need.
        with warnings.catch_warnings(), torch.serialization.safe_globals(_numpy_globals()):
            warnings.simplefilter("ignore")
            return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # noqa: BLE001 - of torch's parsers, on a file of any content
        raise CheckpointError(f"cannot read {path} as a checkpoint: {_reason(error)}") from None


def _read_safetensors(path: Path) -> Mapping[str, Tensor]:
    try:
        # Not by load_file, which maps the file: if it shrinks while mapped, the process is killed.
        return load(path.read_bytes())
    except Exception as error:  # noqa: BLE001 - of its parser, on a file of any content
        raise CheckpointError(f"cannot read {path} as safetensors: {_reason(error)}") from None


def _check_unpacked_size(path: Path) -> None:
    """Checks how much a file unpacks to, by its list of contents.

    Raises:
        CheckpointError: It is more than allowed, or the file cannot be read.
    """
    try:
        if not zipfile.is_zipfile(path):
            return
        with zipfile.ZipFile(path) as archive:
            unpacked = sum(member.file_size for member in archive.infolist())
        limit = max(_max_mib() << 20, _MAX_RATIO * path.stat().st_size)
    except (OSError, ValueError, zipfile.BadZipFile, NotImplementedError) as error:
        if isinstance(error, CheckpointError):
            raise
        raise CheckpointError(f"cannot read {path} as a checkpoint: {_reason(error)}") from None
    if unpacked > limit:
        raise CheckpointError(
            f"{path} unpacks to {unpacked >> 20} MiB, more than the {limit >> 20} MiB allowed; if"
            f" you trust it, set {MAX_MIB_VARIABLE}={(unpacked >> 20) + 1}"
        )


def _max_mib() -> int:
    text = os.environ.get(MAX_MIB_VARIABLE, "") or str(_MAX_MIB)
    if not (text.isascii() and text.isdecimal() and len(text) < 10):
        raise CheckpointError(f"{MAX_MIB_VARIABLE} is {text!r}, not a whole number of MiB")
    return int(text)


def _numpy_globals() -> list[Any]:
    """What torch has to know to read NumPy's numbers and arrays, which hold no code.

    NumPy 2 renamed the module that older files name.
    """
    number = np.float64(0).__reduce__()[0]
    array = np.zeros(0).__reduce__()[0]
    rebuild = [
        (function, f"numpy.{core}.multiarray.{name}")
        for core in ("core", "_core")
        for name, function in (("scalar", number), ("_reconstruct", array))
    ]
    dtypes = {type(np.dtype(code)) for code in np.typecodes["All"] if code != "O"}
    return [np.dtype, np.ndarray, *dtypes, *rebuild]


def _find_state(content: Mapping[Any, Any], depth: int) -> Mapping[str, Any] | None:
    """The mapping of names to tensors in what a training script saved; None if there is none."""
    nested = [content[key] for key in _STATE_KEYS if isinstance(content.get(key), Mapping)]
    if depth > 0:
        for one in nested:
            found = _find_state(one, depth - 1)
            if found is not None:
                return found
    if _names_tensors(content):
        return content
    others = [one for one in content.values() if isinstance(one, Mapping) and _names_tensors(one)]
    return others[0] if len(others) == 1 else None


def _names_tensors(content: Mapping[Any, Any]) -> bool:
    return any(isinstance(key, str) and isinstance(one, Tensor) for key, one in content.items())


def _plain_names(state: Mapping[Any, Any]) -> Iterator[tuple[str, Tensor]]:
    """The tensors of a state, by the names that the network itself gives them."""
    named = [
        ([part for part in name.split(".") if part not in _WRAPPERS], value)
        for name, value in state.items()
        if isinstance(name, str) and isinstance(value, Tensor) and name != _COUNTER
    ]
    skip = 0
    while all(len(parts) > skip + 1 and parts[skip] in _HOLDERS for parts, _ in named) and named:
        skip += 1
    for parts, value in named:
        yield ".".join(parts[skip:]), value


def _reason(error: Exception) -> str:
    """Why a parser refused a file, in one line."""
    text = re.sub(r"\x1b\[[0-9;]*m", "", str(error))
    refused = re.search(r"GLOBAL ([\w.]+)", text)
    if refused:
        return f"it holds a {refused[1]}; only tensors, numbers and text are read"
    text = text.rpartition("WeightsUnpickler error: ")[2].strip() or type(error).__name__
    if isinstance(error, OSError) and error.strerror:
        text = error.strerror
    return f"it is damaged, or of another kind ({short(text.splitlines()[0].split('. ')[0])})"


def short(text: str) -> str:
    """Text of a file for an error's message: printable, and not too long."""
    text = printable(text)
    return text if len(text) <= _MAX_REASON else text[:_MAX_REASON] + "..."


#: Only files of detectron2 have tensors whose names begin like this.
_MARK = "backbone.bottom_up."
#: What old files of its model zoo hold besides, and nothing reads.
_IGNORED = re.compile(r"pixel_(mean|std)|proposal_generator\.anchor_generator\.cell_anchors\.\d")

_NAMES = tuple(
    (re.compile(pattern), ours)
    for pattern, ours in (
        (r"backbone\.bottom_up\.stem\.conv1\.norm\.(\w+)", r"resnet_backbone.conv1.bn1.\1"),
        (r"backbone\.bottom_up\.stem\.conv1\.weight", r"resnet_backbone.conv1.conv1.weight"),
        (
            r"backbone\.bottom_up\.(res\d)\.(\d+)\.conv(\d)\.norm\.(\w+)",
            r"resnet_backbone.\1.layers.\2.bn\3.\4",
        ),
        (
            r"backbone\.bottom_up\.(res\d)\.(\d+)\.conv(\d)\.weight",
            r"resnet_backbone.\1.layers.\2.conv\3.weight",
        ),
        (
            r"backbone\.bottom_up\.(res\d)\.(\d+)\.shortcut\.norm\.(\w+)",
            r"resnet_backbone.\1.layers.\2.downsample.1.\3",
        ),
        (
            r"backbone\.bottom_up\.(res\d)\.(\d+)\.shortcut\.weight",
            r"resnet_backbone.\1.layers.\2.downsample.0.weight",
        ),
        (r"backbone\.fpn_lateral(\d)\.(\w+)", r"fpn.fpn_p\1_1x1.\2"),
        (r"backbone\.fpn_output(\d)\.(\w+)", r"fpn.fpn_p\1.\2"),
        (r"proposal_generator\.rpn_head\.conv\.(\w+)", r"rpn.conv_proposal.0.\1"),
        (r"proposal_generator\.rpn_head\.objectness_logits\.(\w+)", r"rpn.cls_score.\1"),
        (r"proposal_generator\.rpn_head\.anchor_deltas\.(\w+)", r"rpn.bbox_pred.\1"),
        (r"roi_heads\.box_head\.fc1\.(\w+)", r"rcnn.fc6.0.\1"),
        (r"roi_heads\.box_head\.fc2\.(\w+)", r"rcnn.fc7.0.\1"),
        (r"roi_heads\.box_predictor\.(cls_score|bbox_pred)\.(\w+)", r"rcnn.\1.\2"),
        (r"roi_heads\.mask_head\.mask_fcn(\d)\.(\w+)", r"mask_branch.mask_conv\1.0.\2"),
        (r"roi_heads\.mask_head\.deconv\.(\w+)", r"mask_branch.mask_deconv1.0.\1"),
        (r"roi_heads\.mask_head\.predictor\.(\w+)", r"mask_branch.mask_score.\1"),
        (r"sem_seg_head\.predictor\.(\w+)", r"fcn_head.score.\1"),
    )
)
# Convolutions and upsamplings take turns in detectron2's lists of layers.
_LAYER = re.compile(r"sem_seg_head\.(p\d)\.(\d)\.(norm\.)?(\w+)")


def _after_zeros(rows: int) -> Callable[[Tensor], Tensor]:
    """Return what puts rows of zeros in front, for the background that detectron2 leaves out."""
    return lambda x: torch.cat((x.new_zeros((rows, *x.shape[1:])), x))


#: By the module: to our order of rows, where the background is the first class and all things are
#: the last channel of the semantic head.
_ROWS: dict[str, Callable[[Tensor], Tensor]] = {
    "rcnn.cls_score": lambda x: torch.cat((x[-1:], x[:-1])),
    "rcnn.bbox_pred": _after_zeros(4),
    "mask_branch.mask_score": _after_zeros(1),
    "fcn_head.score": lambda x: torch.cat((x[1:], x[:1])),
}


def is_detectron2(tensors: Mapping[str, Tensor]) -> bool:
    """Return whether the tensors have detectron2's names."""
    return any(name.startswith(_MARK) for name in tensors)


def from_detectron2(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return tensors of detectron2 under our names and in our order of rows.

    Names that Panoptic FPN does not have stay as they are, so that an error can name them.
    Statistics that a Caffe2-style norm lacks are zeros and ones.
    """
    renamed: dict[str, Tensor] = {}
    for name, tensor in tensors.items():
        if _IGNORED.fullmatch(name):
            continue
        ours = _our_name(name)
        module = ours.rpartition(".")[0]
        reorder = _ROWS.get(module)
        # What has no rows is of no network, and the check of shapes says so.
        renamed[ours] = reorder(tensor) if reorder is not None and tensor.dim() else tensor
    for name in [name for name in renamed if re.search(r"\.(bn\d|downsample\.1)\.weight$", name)]:
        module, weight = name.rpartition(".")[0], renamed[name]
        renamed.setdefault(f"{module}.running_mean", torch.zeros_like(weight))
        renamed.setdefault(f"{module}.running_var", torch.ones_like(weight))
    return renamed


def _our_name(name: str) -> str:
    for pattern, ours in _NAMES:
        found = pattern.fullmatch(name)
        if found:
            return found.expand(ours)
    layer = _LAYER.fullmatch(name)
    if layer and int(layer[2]) % 2 == 0:
        return f"fcn_head.{layer[1]}.{int(layer[2]) // 2}.{layer[3] or 'conv.'}{layer[4]}"
    return name
