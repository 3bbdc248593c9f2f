"""The UPSNet network in plain PyTorch: no ROS, no OpenCV, no files but checkpoints.

Names are imported on first use, because `variants` is needed where torch is not (yet) imported.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from upsnet_ros.errors import CheckpointError
    from upsnet_ros.network.checkpoint import load_checkpoint, save_checkpoint
    from upsnet_ros.network.upsnet import PanopticResult, UPSNet
    from upsnet_ros.network.variants import VARIANTS, Variant, get_variant

__all__ = [
    "VARIANTS",
    "CheckpointError",
    "PanopticResult",
    "UPSNet",
    "Variant",
    "get_variant",
    "load_checkpoint",
    "save_checkpoint",
]

_MODULES = {
    "VARIANTS": "upsnet_ros.network.variants",
    "CheckpointError": "upsnet_ros.errors",
    "PanopticResult": "upsnet_ros.network.upsnet",
    "UPSNet": "upsnet_ros.network.upsnet",
    "Variant": "upsnet_ros.network.variants",
    "get_variant": "upsnet_ros.network.variants",
    "load_checkpoint": "upsnet_ros.network.checkpoint",
    "save_checkpoint": "upsnet_ros.network.checkpoint",
}


def __getattr__(name: str) -> Any:
    if name in _MODULES:
        return getattr(import_module(_MODULES[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
