"""The network to run: its variant, and where its weights come from."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from pathlib import Path

from upsnet_ros.network.checkpoint import CheckpointError, load_state_dict, read_state_dict
from upsnet_ros.network.random_weights import draw_weights_
from upsnet_ros.network.recognise import recognise_variant
from upsnet_ros.network.upsnet import UPSNet
from upsnet_ros.network.variants import VARIANTS, Variant, get_variant
from upsnet_ros.weights import SHIPPED_VARIANT, shipped_weights

#: Of random weights, where no variant is named.
DEFAULT_VARIANT = "cityscapes-r50"
#: Stands for the variant that the weights are of.
AUTO = "auto"


class Origin(str, Enum):
    """Where weights come from."""

    FILE = "file"  # one that the user named
    SHIPPED = "shipped"
    RANDOM = "random"


@dataclass(frozen=True, slots=True)
class Model:
    """A network with its weights.

    Attributes:
        network: In evaluation mode, on the CPU, float32.
        variant: Its configuration.
        origin: Where its weights come from.
        path: Their file; None for random ones.
    """

    network: UPSNet
    variant: Variant
    origin: Origin
    path: Path | None


def load_model(
    weights: str | Path | None, *, variant: str | None, allow_random_weights: bool, seed: int
) -> Model:
    """Make a network and load its weights.

    Args:
        weights: A checkpoint; None for those that ship, or random ones where they are allowed.
        variant: Name of the network; None or ``auto`` for the one that the weights are of.
        allow_random_weights: Whether to draw weights where none are named.
        seed: Of random weights.

    Raises:
        CheckpointError: The weights are missing or do not fit.
        ValueError: There is no such variant.
    """
    wanted = None if variant in (None, AUTO) else get_variant(variant or "")
    if weights is None and allow_random_weights:
        chosen = wanted or get_variant(DEFAULT_VARIANT)
        network = UPSNet(chosen)
        draw_weights_(network, seed=seed)
        return Model(network, chosen, Origin.RANDOM, None)
    if weights is None:
        path = _shipped(wanted)
        return _from_file(path, wanted or get_variant(SHIPPED_VARIANT), Origin.SHIPPED)
    return _from_file(Path(weights).expanduser(), wanted, Origin.FILE)


def _shipped(variant: Variant | None) -> Path:
    name = SHIPPED_VARIANT if variant is None else variant.name
    path = shipped_weights(name)
    if path is None:
        raise CheckpointError(
            f"no weights given, and none ship for {name}, only for {SHIPPED_VARIANT}: name a .pth "
            "or .safetensors file, or set allow_random_weights to try things out with labels that "
            "mean nothing"
        )
    return path


def _from_file(path: Path, variant: Variant | None, origin: Origin) -> Model:
    tensors = read_state_dict(path)
    variant = variant or recognise_variant(tensors)
    if variant is None:
        raise CheckpointError(
            f"{path} holds the weights of no variant known here ({', '.join(VARIANTS)}); name the "
            "variant they should be of, and the error will say what does not fit"
        )
    network = UPSNet(variant)
    load_state_dict(network, tensors, source=str(path))
    return Model(network, variant, origin, path)
