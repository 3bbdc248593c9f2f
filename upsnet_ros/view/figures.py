"""What the page says of each node and camera, read off their reports on /diagnostics."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

__all__ = ["Presence", "Reports"]

_LEVELS = ("ok", "warn", "error", "stale")
_STATE_KEYS = {"state", "enabled"}
_COUNTS = {
    "received": "received_frames",
    "answered": "answered_frames",
    "dropped": "total_dropped_frames",
    "skipped": "skipped_frames",
    "rejected": "rejected_frames",
    "failed": "failed_frames",
    "lost before the node": "frames_lost_before_node",
}
_NOTES = ("last_rejection", "last_failure", "qos_mismatch")
_MEDIAN, _HIGH = "_ms_p50", "_ms_p99"

#: Rates of counts are taken over so many seconds.
_RATE_SECONDS = 10.0
#: A node that reports is taken for silent after so many seconds, or so many missed reports.
_SILENT_SECONDS, _SILENT_REPORTS = 3.0, 3.0
#: One that has left the graph needs no such patience; the graph knows of it a moment late, though.
_GONE_SECONDS = 1.5
#: Nodes that were silent for longer are no longer listed.
_FORGET_SECONDS = 600.0


@dataclass(frozen=True, slots=True)
class Presence:
    """What the ROS graph tells of a node.

    Attributes:
        there: Whether it is there; one that was killed stays a while.
        overlays: Topic of the overlay by camera, compressed where that is offered.
    """

    there: bool
    overlays: Mapping[str, str] = field(default_factory=dict)


class _Node:
    def __init__(self) -> None:
        self.heard_at = 0.0
        self.period = 1.0
        self.model: Any = None
        self.cameras: dict[str, Any] = {}
        self.counts: dict[str, deque[tuple[float, dict[str, int]]]] = {}


class Reports:
    """Collects the reports of all nodes of this package; `figures` is what they come to."""

    def __init__(self) -> None:
        self._nodes: dict[str, _Node] = {}

    @property
    def nodes(self) -> list[str]:
        """Full names of the nodes that were heard of, sorted."""
        return sorted(self._nodes)

    def add(self, statuses: Iterable[Any], *, now: float) -> bool:
        """Takes in the statuses of one report (diagnostic_msgs/DiagnosticStatus).

        Args:
            statuses: Those of other packages are passed over.
            now: Monotonic seconds at which it came.

        Returns:
            Whether it was one of ours.
        """
        statuses = list(statuses)
        models = [status for status in statuses if _is_model(status)]
        for model in models:
            name = model.hardware_id
            node = self._nodes.get(name)
            if node is None:
                node = self._nodes[name] = _Node()
            else:
                node.period = now - node.heard_at
            node.heard_at, node.model = now, model
            prefix = f"{name.lstrip('/')}: "
            cameras = {
                status.name.removeprefix(prefix): status
                for status in statuses
                if status.hardware_id == name and status is not model
            }
            # While it is not active a node says nothing of its cameras, which it has all the same.
            node.cameras |= cameras
            for camera, status in cameras.items():
                self._count(node.counts.setdefault(camera, deque()), _values(status), now)
        return bool(models)

    def figures(self, presence: Mapping[str, Presence], *, now: float) -> list[dict[str, Any]]:
        """One JSON-ready table for each node.

        Args:
            presence: By full name of the node.
            now: Monotonic seconds.
        """
        for name in self.nodes:
            if now - self._nodes[name].heard_at > _FORGET_SECONDS:
                del self._nodes[name]
        return [
            _node_figures(name, self._nodes[name], presence.get(name, Presence(False)), now)
            for name in self.nodes
        ]

    def _count(
        self, history: deque[tuple[float, dict[str, int]]], values: dict[str, str], now: float
    ) -> None:
        counts = {name: _integer(values.get(key)) for name, key in _COUNTS.items()}
        if history and counts["received"] < history[-1][1]["received"]:
            history.clear()  # the node was started anew
        history.append((now, counts))
        while now - history[0][0] > _RATE_SECONDS + 0.5:
            history.popleft()


def _is_model(status: Any) -> bool:
    name = status.hardware_id
    ours = name.startswith("/") and status.name == f"{name.lstrip('/')}: model"
    return ours and _values(status).keys() >= _STATE_KEYS


def _node_figures(name: str, node: _Node, presence: Presence, now: float) -> dict[str, Any]:
    values = _values(node.model)
    stages = [
        {
            "name": key.removesuffix(_MEDIAN),
            "median": _number(value),
            "high": _number(values.get(f"{key.removesuffix(_MEDIAN)}{_HIGH}")),
        }
        for key, value in values.items()
        if key.endswith(_MEDIAN)
    ]
    silent_for = now - node.heard_at
    life = "live"
    if silent_for > max(_SILENT_SECONDS, _SILENT_REPORTS * node.period):
        life = "silent"
    if not presence.there and silent_for > _GONE_SECONDS:
        life = "gone"
    known = node.cameras.keys() | {camera or "camera" for camera in presence.overlays}
    overlays = {camera or "camera": topic for camera, topic in presence.overlays.items()}
    return {
        "name": name,
        "life": life,
        "silent_for": round(silent_for, 1),
        **_standing(node.model),
        "state": values["state"],
        "facts": {key: text for key, text in values.items() if not key.endswith((_MEDIAN, _HIGH))},
        "stages": stages,
        "cameras": [
            {
                "name": camera,
                "overlay": overlays.get(camera, ""),
                **_camera_figures(node.cameras.get(camera), node.counts.get(camera)),
            }
            for camera in sorted(known)
        ],
    }


def _camera_figures(
    status: Any | None, history: deque[tuple[float, dict[str, int]]] | None
) -> dict[str, Any]:
    if status is None or not history:
        return {"level": "", "message": "", "counts": [], "notes": []}
    values = _values(status)
    (first_at, first), (last_at, last) = history[0], history[-1]
    seconds = last_at - first_at

    def rate(name: str) -> float | None:
        return round((last[name] - first[name]) / seconds, 2) if seconds > 0 else None

    return {
        **_standing(status),
        "topic": values.get("topic", ""),
        "arrival_rate": _number(values.get("frame_rate_node")),
        "stamp_rate": _number(values.get("frame_rate_msg")),
        "answer_rate": rate("answered"),
        "delay_ms": _number(values.get("current_delay_from_realtime_ms")),
        "latency_ms": _number(values.get("latency_ms_p50")),
        "latency_high_ms": _number(values.get("latency_ms_p99")),
        "counts": [{"name": name, "total": last[name], "rate": rate(name)} for name in _COUNTS],
        "notes": [f"{key.replace('_', ' ')}: {values[key]}" for key in _NOTES if key in values],
    }


def _standing(status: Any) -> dict[str, str]:
    level = int.from_bytes(status.level, "big")
    return {"level": _LEVELS[min(level, len(_LEVELS) - 1)], "message": status.message}


def _values(status: Any) -> dict[str, str]:
    return {value.key: value.value for value in status.values}


def _number(text: str | None) -> float | None:
    """The number, or None where a status has none: "n/a", or another version's."""
    try:
        return float(text) if text is not None else None
    except ValueError:
        return None


def _integer(text: str | None) -> int:
    return int(_number(text) or 0)
