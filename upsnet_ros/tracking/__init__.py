"""Tracking: ids that things keep from frame to frame."""

from __future__ import annotations

from upsnet_ros.tracking.tracker import Tracker, TrackerSettings

__all__ = ["Tracker", "TrackerSettings"]
