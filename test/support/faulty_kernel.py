"""The real steps of a self-test with a kernel that goes wrong as FAULT says."""

from __future__ import annotations

import ctypes
import os
from typing import Any

from upsnet_ros.inference.self_test_steps import serve, steps
from upsnet_ros.ops.triton import pyramid as sum_levels_triton

whole = sum_levels_triton.sum_levels


def faulty(*args: Any, **options: Any) -> Any:
    if os.environ["FAULT"] == "raises":
        raise RuntimeError("PTX assembly aborted")
    if os.environ["FAULT"] == "segfaults":
        ctypes.string_at(0)
    result = whole(*args, **options)
    return result.fill_(float("nan")) if os.environ["FAULT"] == "nan" else result.flip(-1)


sum_levels_triton.sum_levels = faulty

if __name__ == "__main__":
    serve(steps)
