"""UPSNet panoptic segmentation for ROS 2.

The public names are imported on first use, so that ``import upsnet_ros`` needs neither torch nor
ROS: docs/api.md describes them.
"""

from __future__ import annotations

from importlib import import_module
from pkgutil import extend_path
from typing import TYPE_CHECKING, Any

from upsnet_ros.processes import wait_passively

if TYPE_CHECKING:
    from upsnet_ros.bags import open_bag
    from upsnet_ros.drawing.export import CocoFrame, draw, save_cityscapes_png, to_coco
    from upsnet_ros.inference.frame import PanopticFrame
    from upsnet_ros.inference.pipeline import Pipeline
    from upsnet_ros.inference.predictor import Predictor
    from upsnet_ros.network.variants import variants
    from upsnet_ros.tracking import Tracker

__all__ = [
    "CocoFrame",
    "PanopticFrame",
    "Pipeline",
    "Predictor",
    "Tracker",
    "__version__",
    "draw",
    "open_bag",
    "save_cityscapes_png",
    "to_coco",
    "variants",
]

__version__ = "0.1.0"

_MODULES = {
    "CocoFrame": "upsnet_ros.drawing.export",
    "PanopticFrame": "upsnet_ros.inference.frame",
    "Pipeline": "upsnet_ros.inference.pipeline",
    "Predictor": "upsnet_ros.inference.predictor",
    "Tracker": "upsnet_ros.tracking",
    "draw": "upsnet_ros.drawing.export",
    "open_bag": "upsnet_ros.bags",
    "save_cityscapes_png": "upsnet_ros.drawing.export",
    "to_coco": "upsnet_ros.drawing.export",
    "variants": "upsnet_ros.network.variants",
}

# The generated messages, `upsnet_ros.msg`, lie in a folder of their own on sys.path where the
# modules are an editable install; in a colcon workspace both share one folder, which this keeps.
__path__ = extend_path(__path__, __name__)

# Here, because it has to be done before torch is imported.
wait_passively()


def __getattr__(name: str) -> Any:
    """Import a public name on first use."""
    if name in _MODULES:
        value = getattr(import_module(_MODULES[name]), name)
        globals()[name] = value
        return value
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
