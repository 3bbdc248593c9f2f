from __future__ import annotations

from upsnet_ros.threads import wait_passively

# Before any test module imports torch.
wait_passively()
