"""Statistics of each node and camera for the web page, from their reports on /diagnostics."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

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

#: Window over which rates are computed, seconds.
_RATE_SECONDS = 10.0
#: A node counts as silent after this many seconds and this many missed reports.
_SILENT_SECONDS, _SILENT_REPORTS = 3.0, 3.0
#: A node that is missing from the ROS graph counts as gone after this many seconds.
_GONE_SECONDS = 1.5
#: Nodes that have been silent for longer are removed from the list, seconds.
_FORGET_SECONDS = 600.0

#: Limits, since any process can publish anything on /diagnostics: number of nodes, cameras per
#: node, values per status, characters per text, and reports kept for rates.
_MOST_NODES, _MOST_CAMERAS, _MOST_VALUES, _MOST_TEXT, _MOST_REPORTS = 50, 50, 200, 500, 200
#: Largest count that a JavaScript number represents exactly.
_MOST_COUNT = 2**53


@dataclass(frozen=True, slots=True)
class Presence:
    """State of a node in the ROS graph.

    Attributes:
        there: Whether the node is in the graph; a killed node stays there for a while.
        overlays: Topic of the overlay by camera, the compressed one if available.
        points: Topic of labelled points by camera, where a points node publishes.
    """

    there: bool
    overlays: Mapping[str, str] = field(default_factory=dict)
    points: Mapping[str, str] = field(default_factory=dict)


class _Node:
    def __init__(self) -> None:
        self.heard_at = 0.0
        self.period = 1.0
        self.model: Any = None
        self.cameras: dict[str, Any] = {}
        self.counts: dict[str, deque[tuple[float, dict[str, int]]]] = {}


class Reports:
    """Collects the reports of all nodes of this package; `figures` returns their statistics."""

    def __init__(self) -> None:
        self._nodes: dict[str, _Node] = {}
        #: Number of reports dropped because of the limit on nodes.
        self.left_out = 0

    @property
    def nodes(self) -> list[str]:
        """Full names of the known nodes, sorted."""
        return sorted(self._nodes)

    def add(self, statuses: Iterable[Any], *, now: float) -> bool:
        """Add the statuses of one report.

        Args:
            statuses: diagnostic_msgs/DiagnosticStatus; those of other packages are ignored.
            now: Monotonic time of arrival, seconds.

        Returns:
            Whether the report is from a node of this package.
        """
        by_node: dict[str, list[Any]] = {}
        for status in statuses:
            by_node.setdefault(status.hardware_id, []).append(status)
        heard = False
        for name, of_node in by_node.items():
            model = next((status for status in of_node if _is_model(status)), None)
            if model is None:
                continue
            heard = True
            node = self._nodes.get(name)
            if node is not None:
                node.period = now - node.heard_at
            elif self._has_room(now):
                node = self._nodes[name] = _Node()
            else:
                self.left_out += 1
                continue
            node.heard_at, node.model = now, model
            prefix = f"{name.lstrip('/')}: "
            for status in of_node:
                camera = _text(status.name.removeprefix(prefix))
                known = camera in node.cameras or len(node.cameras) < _MOST_CAMERAS
                if status is not model and known:
                    # An inactive node does not report its cameras, so keep the last reports.
                    node.cameras[camera] = status
                    history = node.counts.setdefault(camera, deque(maxlen=_MOST_REPORTS))
                    self._count(history, _values(status), now)
        return heard

    def figures(self, presence: Mapping[str, Presence], *, now: float) -> list[dict[str, Any]]:
        """Return JSON-ready statistics of each node.

        Args:
            presence: State in the ROS graph by full name of the node.
            now: Current monotonic time, seconds.
        """
        for name in self.nodes:
            if now - self._nodes[name].heard_at > _FORGET_SECONDS:
                del self._nodes[name]
        return [
            _node_figures(name, self._nodes[name], presence.get(name, Presence(False)), now)
            for name in self.nodes
        ]

    def _has_room(self, now: float) -> bool:
        """Return whether another node can be added; removes the one silent longest if necessary."""
        if len(self._nodes) < _MOST_NODES:
            return True
        oldest = min(self._nodes, key=lambda name: self._nodes[name].heard_at)
        if now - self._nodes[oldest].heard_at <= _SILENT_SECONDS:
            return False
        del self._nodes[oldest]
        return True

    def _count(
        self, history: deque[tuple[float, dict[str, int]]], values: dict[str, str], now: float
    ) -> None:
        counts = {name: _integer(values.get(key)) for name, key in _COUNTS.items()}
        if history and counts["received"] < history[-1][1]["received"]:
            history.clear()  # the node was restarted
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
    overlays, points = (
        {camera or "camera": topic for camera, topic in topics.items()}
        for topics in (presence.overlays, presence.points)
    )
    known = sorted(node.cameras.keys() | overlays.keys())[:_MOST_CAMERAS]
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
                "points": points.get(camera, ""),
                **_camera_figures(node.cameras.get(camera), node.counts.get(camera)),
            }
            for camera in known
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
    return {"level": _LEVELS[min(level, len(_LEVELS) - 1)], "message": _text(status.message)}


def _values(status: Any) -> dict[str, str]:
    return {_text(value.key): _text(value.value) for value in status.values[:_MOST_VALUES]}


def _text(text: str) -> str:
    return text if len(text) <= _MOST_TEXT else f"{text[: _MOST_TEXT - 1]}\N{HORIZONTAL ELLIPSIS}"


def _number(text: str | None) -> float | None:
    """Return a finite number, or None if JSON cannot represent it: "n/a", "nan", "1e999"."""
    try:
        number = float(text) if text is not None else math.nan
    except ValueError:
        return None
    return number if math.isfinite(number) else None


def _integer(text: str | None) -> int:
    return int(min(max(_number(text) or 0.0, 0.0), _MOST_COUNT))
