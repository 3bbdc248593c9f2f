from __future__ import annotations

import os

from upsnet_ros.threads import wait_passively

# Before any test module imports torch.
wait_passively()

import torch  # noqa: E402

# Without a GPU, kernels run in Triton's interpreter. Triton has to know when it is imported, which
# torchvision does.
if not torch.cuda.is_available():
    os.environ.setdefault("TRITON_INTERPRET", "1")
