"""Reading and writing weights, and telling which variant they belong to."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from pathlib import Path

import torch
from safetensors.torch import save
from torch import Tensor, nn

from upsnet_ros.errors import CheckpointError, DivergedError, listed
from upsnet_ros.network.upsnet import UPSNet
from upsnet_ros.network.variants import VARIANTS, Variant
from upsnet_ros.network.weights_file import read_state_dict, short

#: Buffers that came with torch 0.4.1; official checkpoints may be older, and nothing reads them.
_OPTIONAL = "num_batches_tracked"


def load_state_dict(module: nn.Module, tensors: Mapping[str, Tensor], *, source: str) -> None:
    """Copy tensors into the module, which must want exactly them.

    Args:
        module: Where the tensors go.
        tensors: Named tensors of any floating dtype.
        source: What the error message calls them, e.g. the file.

    Raises:
        CheckpointError: Tensors are missing, surplus or of another shape; they are named.
    """
    shapes = {name: tuple(tensor.shape) for name, tensor in module.state_dict().items()}
    _check_shapes(shapes, tensors, source=source)
    module.load_state_dict(dict(tensors), strict=False)


def check_tensors(variant: Variant, tensors: Mapping[str, Tensor], *, source: str) -> None:
    """Check that tensors are the weights of a variant: all names and shapes, finite values.

    Raises:
        CheckpointError: They are not; the message says why. It is a `DivergedError` where values
            are not finite.
    """
    shapes = {name: x for name, x in tensors.items() if not name.endswith(_OPTIONAL)}
    _check_shapes(_shapes_of(variant.name), shapes, source=source)
    broken = [name for name, tensor in tensors.items() if not tensor.isfinite().all()]
    if broken:
        raise DivergedError(
            f"{source} has infinite values or NaN in {listed(sorted(broken), most=1)}"
        )


def _check_shapes(
    wanted: Mapping[str, tuple[int, ...]], tensors: Mapping[str, Tensor], *, source: str
) -> None:
    problems = []
    missing = [n for n in wanted if n not in tensors and not n.endswith(_OPTIONAL)]
    if missing:
        problems.append(f"missing {listed(sorted(missing), most=1)}")
    surplus = [n for n in tensors if n not in wanted]
    if surplus:
        problems.append(f"surplus {listed(sorted(surplus), most=1)}")
    misshapen = [
        f"{name} is {tuple(tensor.shape)}, not {wanted[name]}"
        for name, tensor in tensors.items()
        if name in wanted and tuple(tensor.shape) != wanted[name]
    ]
    if misshapen:
        problems.append(f"misshapen {listed(sorted(misshapen), most=1)}")
    if problems:
        own, other = _variant_of(wanted), recognise_variant(tensors)
        if own and other:
            raise CheckpointError(
                f"{source} does not fit {own.name}: it holds weights of {other.name}; choose that"
                " variant, or other weights"
            )
        name = own.name if own else "this network"
        raise CheckpointError(f"{source} does not fit {name}: {short('; '.join(problems))}")


def load_checkpoint(module: nn.Module, path: str | Path) -> None:
    """Load a checkpoint file into a module, exactly.

    Raises:
        CheckpointError: As in `read_state_dict` and `load_state_dict`.
    """
    load_state_dict(module, read_state_dict(path), source=str(path))


def save_checkpoint(
    module: nn.Module,
    path: str | Path,
    *,
    dtype: torch.dtype = torch.float32,
    metadata: Mapping[str, str] | None = None,
) -> None:
    """Write the module's tensors as safetensors, floating ones in the dtype given.

    One with values that are too large for that dtype stays as it is. The metadata, if any, goes
    into the file.

    Raises:
        OSError: The file cannot be written.
    """
    tensors = {
        name: _as_dtype(tensor, dtype).contiguous()
        for name, tensor in module.state_dict().items()
        if not name.endswith(_OPTIONAL)
    }
    # `save_file` raises an error of its own for a full disk.
    Path(path).write_bytes(save(tensors, metadata=dict(metadata) if metadata else None))


def _as_dtype(tensor: Tensor, dtype: torch.dtype) -> Tensor:
    if not tensor.is_floating_point():
        return tensor
    converted = tensor.to(dtype)
    return converted if torch.equal(converted.isfinite(), tensor.isfinite()) else tensor


def recognise_variant(tensors: Mapping[str, Tensor]) -> Variant | None:
    """Return the variant that wants exactly tensors of these names and shapes; None for none."""
    return _variant_of({name: tuple(tensor.shape) for name, tensor in tensors.items()})


def _variant_of(shapes: Mapping[str, tuple[int, ...]]) -> Variant | None:
    needed = {name: shape for name, shape in shapes.items() if not name.endswith(_OPTIONAL)}
    return next((v for v in VARIANTS.values() if _shapes_of(v.name) == needed), None)


@cache
def _shapes_of(name: str) -> Mapping[str, tuple[int, ...]]:
    with torch.device("meta"):  # names and shapes without the memory
        network = UPSNet.uninitialised(VARIANTS[name])
    return {
        key: tuple(tensor.shape)
        for key, tensor in network.state_dict().items()
        if not key.endswith(_OPTIONAL)
    }
