from __future__ import annotations

import os
import signal

from upsnet_ros.threads import wait_passively

# Before any test module imports torch.
wait_passively()

# A shell's background jobs ignore SIGINT, and so would the processes whose end by it is tested.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

import torch  # noqa: E402

# Without a GPU, kernels run in Triton's interpreter. Triton has to know when it is imported, which
# torchvision does.
if not torch.cuda.is_available():
    os.environ.setdefault("TRITON_INTERPRET", "1")
