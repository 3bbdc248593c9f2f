"""cv_bridge itself comes with ROS only; a stand-in with its interface shows which one is chosen."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import pytest

CALL = "from upsnet_ros.messages.images import converter; print(converter().__name__)"
RIGHT = """
import numpy as np

class CvBridge:
    def imgmsg_to_cv2(self, msg, desired_encoding="passthrough"):
        pixels = np.ndarray((msg.height, msg.step // 3, 3), np.uint8, msg.data)
        return pixels[:, :, ::-1] if desired_encoding == "bgr8" else pixels
"""


def chosen(folder: Path, code: str | None) -> str:
    if code is not None:
        (folder / "cv_bridge.py").write_text(code)
    path = os.pathsep.join([str(folder), os.environ.get("PYTHONPATH", "")])
    done = subprocess.run(
        [sys.executable, "-c", CALL],
        env={**os.environ, "PYTHONPATH": path},
        capture_output=True,
        text=True,
        check=True,
    )
    return done.stdout.strip()


@pytest.mark.skipif(
    importlib.util.find_spec("cv_bridge") is not None, reason="cv_bridge is installed here"
)
def test_rosbags_image_where_there_is_no_cv_bridge(tmp_path):
    assert chosen(tmp_path, None) == "by_rosbags"


def test_cv_bridge_where_it_works(tmp_path):
    assert chosen(tmp_path, RIGHT) == "by_cv_bridge"


@pytest.mark.parametrize(
    "code",
    [
        "raise ImportError('numpy.core.multiarray failed to import')",
        "class CvBridge:\n    def imgmsg_to_cv2(self, msg, **how):\n        return msg.data",
        "import os; os.abort()",
    ],
    ids=["does not import", "converts wrongly", "crashes"],
)
def test_a_broken_cv_bridge_is_passed_over(tmp_path, code):
    assert chosen(tmp_path, code) == "by_rosbags"
