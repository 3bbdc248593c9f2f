"""Reading and writing weights: official ``.pth`` checkpoints and our own safetensors."""

from __future__ import annotations

import pickle
import zipfile
from collections.abc import Iterable, Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load, save_file
from torch import Tensor, nn

_PREFIX = "module."
#: Buffers that came with torch 0.4.1; official checkpoints may be older, and nothing reads them.
_OPTIONAL = "num_batches_tracked"
_NAMES_SHOWN = 5


class CheckpointError(ValueError):
    """The weights cannot be used; the message says which file, what is wrong and what to do."""


def _read(path: Path) -> Mapping[str, object]:
    if path.suffix == ".safetensors":
        try:
            # Not by load_file, which maps the file: one that shrinks meanwhile ends the process.
            return load(path.read_bytes())
        except SafetensorError as error:
            raise CheckpointError(f"{path} is no safetensors file: {error}") from None
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        reason = str(error).splitlines()[0]
        raise CheckpointError(
            f"{path} is no checkpoint of plain tensors, or it is damaged: {reason}"
        ) from None
    except (RuntimeError, EOFError, ValueError, KeyError, zipfile.BadZipFile) as error:
        reason = (str(error) or type(error).__name__).splitlines()[0]
        raise CheckpointError(f"{path} is no checkpoint, or it is damaged: {reason}") from None
    if isinstance(content, Mapping) and isinstance(content.get("state_dict"), Mapping):
        content = content["state_dict"]
    if not isinstance(content, Mapping):
        raise CheckpointError(f"{path} holds a {type(content).__name__}, not named tensors")
    return content


def read_state_dict(path: str | Path) -> dict[str, Tensor]:
    """Read named tensors from a ``.pth`` (never unpickling code) or ``.safetensors`` file.

    A leading ``module.``, which data-parallel training leaves behind, is removed.

    Raises:
        CheckpointError: The file is missing or no checkpoint.
    """
    path = Path(path).expanduser()
    if not path.is_file():
        raise CheckpointError(f"there is no weights file {path}")
    tensors = {}
    for name, value in _read(path).items():
        if not isinstance(value, Tensor):
            raise CheckpointError(f"{path}: entry {name!r} is no tensor; is this a checkpoint?")
        tensors[name.removeprefix(_PREFIX)] = value
    if not tensors:
        raise CheckpointError(f"{path} holds no tensors")
    return tensors


def _some(names: Iterable[str]) -> str:
    shown = sorted(names)
    rest = len(shown) - _NAMES_SHOWN
    return ", ".join(shown[:_NAMES_SHOWN]) + (f" and {rest} more" if rest > 0 else "")


def load_state_dict(module: nn.Module, tensors: Mapping[str, Tensor], *, source: str) -> None:
    """Copy tensors into the module, which must want exactly them.

    Args:
        module: Where the tensors go.
        tensors: Named tensors of any floating dtype.
        source: What the error message calls them, e.g. the file.

    Raises:
        CheckpointError: Tensors are missing, surplus or of another shape; they are named.
    """
    wanted = module.state_dict()
    problems = []
    missing = [n for n in wanted if n not in tensors and not n.endswith(_OPTIONAL)]
    if missing:
        problems.append(f"missing {_some(missing)}")
    surplus = [n for n in tensors if n not in wanted]
    if surplus:
        problems.append(f"surplus {_some(surplus)}")
    misshapen = [
        f"{name} is {tuple(tensor.shape)}, not {tuple(wanted[name].shape)}"
        for name, tensor in tensors.items()
        if name in wanted and tensor.shape != wanted[name].shape
    ]
    if misshapen:
        problems.append(f"misshapen {_some(misshapen)}")
    if problems:
        raise CheckpointError(
            f"{source} does not fit this variant: {'; '.join(problems)}. "
            "Choose the variant the weights were made for."
        )
    module.load_state_dict(dict(tensors), strict=False)


def load_checkpoint(module: nn.Module, path: str | Path) -> None:
    """Load a checkpoint file into a module, exactly.

    Raises:
        CheckpointError: As in `read_state_dict` and `load_state_dict`.
    """
    load_state_dict(module, read_state_dict(path), source=str(path))


def save_checkpoint(
    module: nn.Module, path: str | Path, *, dtype: torch.dtype = torch.float32
) -> None:
    """Write the module's tensors as safetensors, floating ones in the dtype given."""
    tensors = {
        name: (tensor.to(dtype) if tensor.is_floating_point() else tensor).contiguous()
        for name, tensor in module.state_dict().items()
        if not name.endswith(_OPTIONAL)
    }
    save_file(tensors, path)
