"""Replay settings that cannot be meant."""

from __future__ import annotations

from typing import Any

import pytest

from upsnet_ros.playback.settings import ReplaySettings


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"rate": 0.0}, "rate must be above 0"),
        ({"clock_hz": -1.0}, "clock must be above 0"),
        ({"timeout": float("nan")}, "timeout must be above 0"),
        ({"subscribers": 0}, "subscribers must be at least 1"),
        ({"outputs": ()}, "at least one"),
        ({"outputs": ("lables",)}, "output 'lables' is none of"),
        ({"outputs": ("label_info",)}, "output 'label_info' is none of"),
    ],
)
def test_settings_refuse_what_cannot_be_meant(settings: dict[str, Any], says: str) -> None:
    with pytest.raises(ValueError, match=says):
        ReplaySettings(**settings)
