"""UPSNet panoptic segmentation for ROS 2."""

from __future__ import annotations

from pkgutil import extend_path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from upsnet_ros.inference.predictor import Predictor

__all__ = ["Predictor"]

# The generated messages, `upsnet_ros.msg`, lie in a folder of their own on sys.path where the
# modules are an editable install; in a colcon workspace both share one folder, which this keeps.
__path__ = extend_path(__path__, __name__)


def __getattr__(name: str) -> Any:
    """Import `Predictor` on first use: the package itself needs neither torch nor ROS."""
    if name == "Predictor":
        from upsnet_ros.inference.predictor import Predictor

        return Predictor
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
