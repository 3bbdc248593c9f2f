"""Synthetic driving scenes: procedural streets with exact panoptic ground truth.

Use `scene_frame` for a single frame, `DrivingScenes` for a dataset, and `upsnet scenes` or
`upsnet_ros.synthetic.dataset.write_scenes` for files in the layout of Cityscapes.
"""

from __future__ import annotations

from upsnet_ros.synthetic.dataset import DrivingScenes, scene_frame
from upsnet_ros.synthetic.renderer import RATE_HZ, SceneFrame

__all__ = ["RATE_HZ", "DrivingScenes", "SceneFrame", "scene_frame"]
