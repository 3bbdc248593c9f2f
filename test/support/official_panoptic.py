"""The panoptic evaluation of cityscapesscripts, run by an interpreter of its own.

It forks worker processes. In a test's process, where torch, OpenCV and DDS have threads, a worker
inherits locks that nobody releases, and waits for one of them forever.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

SECONDS = 240


def official_panoptic_quality(
    gt_json: Path, gt_dir: Path, pred_json: Path, pred_dir: Path, *, results: Path
) -> dict[str, Any]:
    """Return what the official tool says about predictions.

    Args:
        gt_json: Ground truth in COCO's panoptic format.
        gt_dir: Its PNG files.
        pred_json: The predictions in the same format.
        pred_dir: Their PNG files.
        results: The JSON file that the tool is to write.

    Returns:
        ``pq``, ``sq`` and ``rq`` of ``All``, ``Things`` and ``Stuff``; and under ``per_class`` of
        each class id.

    Raises:
        AssertionError: If the tool fails, with what it printed.
    """
    command = [sys.executable, "-m", "cityscapesscripts.evaluation.evalPanopticSemanticLabeling"]
    command += ["--gt-json-file", str(gt_json), "--gt-folder", str(gt_dir)]
    command += ["--prediction-json-file", str(pred_json), "--prediction-folder", str(pred_dir)]
    done = subprocess.run(
        [*command, "--results_file", str(results)],
        env=os.environ | {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=SECONDS,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    found: dict[str, Any] = json.loads(results.read_text())
    found["per_class"] = {int(number): row for number, row in found["per_class"].items()}
    return found
