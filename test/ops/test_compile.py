"""All kernels compile for a GPU, which the interpreter alone would not tell."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("triton")

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "kernel_resources.py"
KERNELS = {
    "camera",
    "resize",
    "relu_pool",
    "bias_relu",
    "add_coarse",
    "sum_levels",
    "decode",
    "overlap",
    "suppress",
    "walk",
    "fpn_roi_align",
    "deform_conv",
    "deform_conv_pipelined",
    "count",
    "drop",
    "finish",
    "panoptic",
    "merge",
    "tally",
    "decide",
    "paint",
}


@pytest.mark.long
def test_kernels_compile_for_hopper_once_and_spill_no_registers(tmp_path: Path) -> None:
    # A cache of its own, so that it compiles what is here now.
    environment = {**os.environ, "TRITON_CACHE_DIR": str(tmp_path)}
    result = subprocess.run(
        [sys.executable, SCRIPT, "--json"],
        capture_output=True,
        text=True,
        env=environment,
        timeout=280,
    )
    assert result.returncode == 0, result.stderr
    usages = json.loads(result.stdout)
    assert {usage["kernel"] for usage in usages} == KERNELS
    assert [usage for usage in usages if usage["spilled_bytes"]] == []
    recompiled = [usage for usage in usages if usage["batch"] != 1]
    assert recompiled == [], "recompiled for another batch"
