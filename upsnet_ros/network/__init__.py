"""The UPSNet network in plain PyTorch: no ROS, no OpenCV, no files but checkpoints."""

from upsnet_ros.network.checkpoint import CheckpointError, load_checkpoint, save_checkpoint
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
