"""Hot operators, each with a reference implementation that defines its result: docs/kernels.md."""

from upsnet_ros.ops.dispatch import failures, set_enabled

__all__ = ["failures", "set_enabled"]
