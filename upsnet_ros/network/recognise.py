"""Which variant weights belong to, told from the names and shapes of their tensors."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache

import torch
from torch import Tensor

from upsnet_ros.network.upsnet import UPSNet
from upsnet_ros.network.variants import VARIANTS, Variant

#: A buffer that checkpoints may lack.
_OPTIONAL = "num_batches_tracked"


def recognise_variant(tensors: Mapping[str, Tensor]) -> Variant | None:
    """Return the variant that wants exactly tensors of these names and shapes; None for none."""
    shapes = {
        name: tuple(tensor.shape)
        for name, tensor in tensors.items()
        if not name.endswith(_OPTIONAL)
    }
    return next((v for v in VARIANTS.values() if _shapes_of(v.name) == shapes), None)


@cache
def _shapes_of(name: str) -> Mapping[str, tuple[int, ...]]:
    with torch.device("meta"):  # names and shapes without the memory
        network = UPSNet(VARIANTS[name])
    return {
        key: tuple(tensor.shape)
        for key, tensor in network.state_dict().items()
        if not key.endswith(_OPTIONAL)
    }
