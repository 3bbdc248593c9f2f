"""Driving scenes: procedural streets with exact panoptic ground truth, drawn by this project.

Use `scene_frame` for any frame by its address, `DrivingScenes` for a set to learn from, and
`upsnet scenes` or `upsnet_ros.datasets.scenes.writer` for files in the layout of Cityscapes.
"""

from __future__ import annotations

from upsnet_ros.datasets.scenes.dataset import DrivingScenes, scene_frame
from upsnet_ros.datasets.scenes.renderer import RATE_HZ, SceneFrame

__all__ = ["RATE_HZ", "DrivingScenes", "SceneFrame", "scene_frame"]
