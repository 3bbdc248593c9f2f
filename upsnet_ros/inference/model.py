"""Which network runs, on which device, in which precision, with which weights.

Random weights, for demos and benchmarks, are sampled so that frames still show segments: a fresh
initialisation makes every pixel one class and every box background. The samples keep activations
near 1 through the whole network, so that all stages have their usual work to do. The segments mean
nothing.
"""

from __future__ import annotations

import math
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from enum import Enum
from pathlib import Path

import torch
from torch import Tensor, nn

from upsnet_ros.errors import CheckpointError, SettingsError
from upsnet_ros.network.checkpoint import load_state_dict, recognise_variant
from upsnet_ros.network.upsnet import UPSNet
from upsnet_ros.network.variants import VARIANTS, Variant, get_variant
from upsnet_ros.network.weights_file import read_state_dict
from upsnet_ros.weights import SHIPPED_VARIANT, find_weights, shipped_weights

#: Gain over He initialisation of weights whose names match; the first match counts.
_GAINS = (
    (r"resnet_backbone\.conv1\.", 0.02),  # images are not divided by their deviation
    (r"conv2_offset\.weight", 1.6),
    (r"fpn_gap\.", 0.3),
    (r"fpn_p5_1x1\.", 2.0),
    (r"fpn_p3_1x1\.", 0.6),
    (r"fpn_p2_1x1\.", 0.5),
    (r"fpn_p\d\.", 0.7),
    (r"rpn\.cls_score\.", 0.8),
    (r"rpn\.bbox_pred\.", 0.15),
    (r"rcnn\.fc\d\.", 1.3),
    (r"rcnn\.cls_score\.", 1.6),
    (r"rcnn\.bbox_pred\.", 0.6),
    (r"mask_score\.", 4.0),
    (r"conv_offset\.", 0.6),
    (r"fcn_head\.score\.", 1.5),
)


#: Mean and deviation of biases whose names match; the first match counts.
_BIASES = (
    (r"rpn\.cls_score\.", -2.5, 0.1),
    (r"mask_score\.", 0.6, 0.3),
    (r"(offset|rcnn\.cls_score|fcn_head\.score)\.", 0.0, 0.3),
    (r"", 0.0, 0.05),
)
#: Lead of the background class: most proposals are background, some dozens are not.
_BACKGROUND = 10.0
_BATCH_NORM_SCALE = 0.8


def _gain(name: str) -> float:
    return next((gain for pattern, gain in _GAINS if re.search(pattern, name)), 1.0)


def _fan_in(name: str, weight: Tensor) -> int:
    # Every output of the 2x2 deconvolution with stride 2 sees one tap.
    return weight.shape[0] if "deconv" in name else math.prod(weight.shape[1:])


def _draw(name: str, tensor: Tensor, generator: torch.Generator) -> Tensor:
    normal = torch.randn(tensor.shape, generator=generator)
    if re.search(r"(bn\d|downsample\.1|norm)\.", name):
        kind = name.rpartition(".")[2]
        if kind == "running_var":
            return torch.ones_like(tensor)
        if kind == "weight":
            return torch.full_like(tensor, _BATCH_NORM_SCALE)
        return 0.1 * normal
    if tensor.dim() > 1:
        normal *= _gain(name) * math.sqrt(2 / _fan_in(name, tensor))
        inputs = (0,) if "deconv" in name else tuple(range(1, tensor.dim()))
        # Behind a ReLU all inputs are positive: a row with a mean would have one sign everywhere.
        return normal - normal.mean(dim=inputs, keepdim=True)
    mean, std = next((m, s) for pattern, m, s in _BIASES if re.search(pattern, name))
    normal = mean + std * normal
    if name.endswith("rcnn.cls_score.bias"):
        normal[0] += _BACKGROUND
    return normal


@torch.no_grad()
def draw_weights_(model: nn.Module, *, seed: int) -> None:
    """Fill all parameters and buffers in place, reproducibly from the seed.

    Args:
        model: A UPSNet or a part of one.
        seed: Of the draws, which also depend on the order of the tensors.
    """
    generator = torch.Generator().manual_seed(seed)
    for name, tensor in model.state_dict().items():
        if tensor.is_floating_point():
            tensor.copy_(_draw(name, tensor, generator))


def resolve_device(device: str) -> torch.device:
    """Return the device of that name; ``auto`` is the GPU if there is one.

    A GPU without a number is this thread's. It gets its number, since to other threads the same
    name may mean another one.

    Raises:
        ValueError: No such device here.
    """
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        resolved = torch.device(device)
    except RuntimeError:
        raise SettingsError(f"unknown device {device!r}; use auto, cpu, cuda or cuda:N") from None
    if resolved.type == "cuda" and (resolved.index or 0) >= torch.cuda.device_count():
        raise SettingsError(
            f"device {device!r} is not here: torch sees {torch.cuda.device_count()} GPUs; use cpu"
        )
    if resolved.type not in ("cpu", "cuda"):
        raise SettingsError(f"device {device!r} is not supported; use auto, cpu, cuda or cuda:N")
    if resolved.type == "cuda" and resolved.index is None:
        # Asking for the current one would initialise CUDA, before the self-test has run.
        index = torch.cuda.current_device() if torch.cuda.is_initialized() else 0
        return torch.device("cuda", index)
    return resolved


PRECISIONS = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}

# Of CPUs that multiply bfloat16: x86 with either extension, ARM by one name.
_MULTIPLY_BF16 = {"avx512_bf16", "amx_bf16", "bf16"}


def resolve_precision(precision: str, device: torch.device) -> str:
    """Return the precision of that name; ``auto`` is half of it where the device multiplies it.

    That is fp16 on CUDA, whose mantissa is three bits longer than bf16's, and bf16 on CPUs with
    AVX512-BF16, AMX or ARM's equivalents; fp32 on others.

    Raises:
        ValueError: There is no such precision, or the device cannot do it.
    """
    if precision == "auto":
        if device.type == "cuda":
            return "fp16"
        return "bf16" if _cpu_flags() & _MULTIPLY_BF16 else "fp32"
    if precision not in PRECISIONS:
        raise SettingsError(f"unknown precision {precision!r}; use auto, {', '.join(PRECISIONS)}")
    if precision == "fp16" and device.type != "cuda":
        raise SettingsError("precision fp16 needs a CUDA device; a CPU has fp32 and bf16")
    return precision


class _Sums:
    """Torch's two switches for partial sums in half precision, and who wants them off.

    They are the process's, so whoever comes first turns them off, and whoever goes last brings back
    what was set before.
    """

    _NAMES = ("allow_fp16_reduced_precision_reduction", "allow_bf16_reduced_precision_reduction")

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._users = 0
        self._before: list[object] = []

    @contextmanager
    def in_float32(self) -> Iterator[None]:
        """Return a context in which CUDA's products in half precision add up in float32 throughout.

        By default cuBLAS may split a long sum and round its parts to half precision, as of the box
        head's 12544 factors.
        """
        products = torch.backends.cuda.matmul
        with self._lock:
            if self._users == 0:
                self._before = [getattr(products, name) for name in self._NAMES]
                for name in self._NAMES:
                    setattr(products, name, False)
            self._users += 1
        try:
            yield
        finally:
            with self._lock:
                self._users -= 1
                if self._users == 0:
                    for name, value in zip(self._NAMES, self._before, strict=True):
                        setattr(products, name, value)


sums_in_float32 = _Sums().in_float32


def _cpu_flags() -> frozenset[str]:
    """What the processor can do beside its basics, as Linux names it; empty elsewhere."""
    cpuinfo = Path("/proc/cpuinfo")
    # "flags" on x86, "Features" on ARM.
    flags = re.search(
        r"^(?:flags|Features)\s*:\s*(.+)$",
        cpuinfo.read_text() if cpuinfo.exists() else "",
        re.MULTILINE,
    )
    return frozenset(flags[1].split()) if flags else frozenset()


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
        weights: A checkpoint, by path or name; None for the bundled ones, or random ones where
            they are allowed.
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
        network = UPSNet.uninitialised(chosen)
        draw_weights_(network, seed=seed)
        return Model(network, chosen, Origin.RANDOM, None)
    if weights is None:
        path = _shipped(wanted)
        return _from_file(path, wanted or get_variant(SHIPPED_VARIANT), Origin.SHIPPED)
    return _from_file(find_weights(weights), wanted, Origin.FILE)


def _shipped(variant: Variant | None) -> Path:
    name = SHIPPED_VARIANT if variant is None else variant.name
    path = shipped_weights(name)
    if path is None:
        raise CheckpointError(
            f"no weights given, and none are bundled for {name}, only for {SHIPPED_VARIANT}: pass a"
            f" file or the name {name} (`upsnet weights get {name}`), or set allow_random_weights"
            " to try things out with labels that mean nothing"
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
    network = UPSNet.uninitialised(variant)
    load_state_dict(network, tensors, source=str(path))
    return Model(network, variant, origin, path)
