"""Hot operators, each beside a plain twin that defines what it must return: docs/kernels.md."""

from upsnet_ros.kernels.dispatch import failures, set_enabled

__all__ = ["failures", "set_enabled"]
