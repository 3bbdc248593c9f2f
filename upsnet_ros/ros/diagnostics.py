"""The node's health as a diagnostic_msgs/DiagnosticArray, once a second whatever happens.

The keys of a camera's rates, delay and drops are those that greenwave_monitor and NITROS use, so
that monitors made for these read them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus, KeyValue
from rclpy.clock import Clock, ClockType
from rclpy.node import Node

from upsnet_ros.ros.statistics import CameraReport, CameraState

__all__ = ["CameraHealth", "Diagnostics", "NodeHealth", "camera_status", "node_status"]

RANDOM_WEIGHTS = "random weights: results mean nothing"

_LEVELS = {
    CameraState.WAITING: DiagnosticStatus.WARN,
    CameraState.ACTIVE: DiagnosticStatus.OK,
    CameraState.STALE: DiagnosticStatus.ERROR,
    CameraState.REJECTED: DiagnosticStatus.ERROR,
    CameraState.FAILED: DiagnosticStatus.ERROR,
    CameraState.DISABLED: DiagnosticStatus.OK,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class CameraHealth:
    """A camera's part of the report.

    Attributes:
        name: The camera's; empty for a single one.
        topic: Its images', fully resolved.
        listening: Whether its images are taken; not where the node was disabled.
        publishers: How many there are of that topic.
        qos_mismatch: Why some of them cannot be heard; else empty.
        report: Its counts and rates.
    """

    name: str
    topic: str
    listening: bool
    publishers: int
    qos_mismatch: str
    report: CameraReport


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeHealth:
    """The node at one moment.

    Attributes:
        state: Label of its lifecycle state.
        enabled: Whether it takes frames while it is active.
        model: What runs, as key and text: variant, device, and so on; empty if not configured.
        random_weights: Whether the results mean nothing.
        stages_ms: 50th and 99th percentile by stage.
        gpu_memory: Keys and values about the GPU's memory; empty on a CPU.
        output_mismatches: Why some subscribers of outputs get nothing, by topic.
        cameras: Each camera's.
        kernel_failures: Kernels whose plain forms run instead, by name, and why.
    """

    state: str
    enabled: bool
    model: dict[str, str]
    random_weights: bool
    stages_ms: dict[str, tuple[float, float]]
    gpu_memory: dict[str, str]
    output_mismatches: dict[str, str]
    cameras: Sequence[CameraHealth]
    kernel_failures: dict[str, str] = field(default_factory=dict)


class Diagnostics:
    """Publishes on /diagnostics what ``health`` returns, every ``period`` seconds of real time."""

    def __init__(self, node: Node, *, period: float, health: Callable[[], NodeHealth]) -> None:
        self._node = node
        self._health = health
        self._publisher = node.create_publisher(DiagnosticArray, "/diagnostics", 10)
        # Not the node's clock, which stands still while a simulation or a bag is paused.
        clock = Clock(clock_type=ClockType.STEADY_TIME)
        self._timer = node.create_timer(period, self.publish, clock=clock)

    def publish(self) -> None:
        """Publishes one report now."""
        health = self._health()
        node = self._node.get_fully_qualified_name()
        statuses = [node_status(node, health)]
        if health.state == "active":
            statuses += [
                camera_status(node, camera, random_weights=health.random_weights)
                for camera in health.cameras
            ]
        stamped = DiagnosticArray(status=statuses)
        stamped.header.stamp = self._node.get_clock().now().to_msg()
        self._publisher.publish(stamped)


def node_status(node: str, health: NodeHealth) -> DiagnosticStatus:
    """The status of the node and its network."""
    values = {"state": health.state, "enabled": str(health.enabled).lower(), **health.model}
    if health.model:
        values["random_weights"] = str(health.random_weights).lower()
    for stage, (median, high) in health.stages_ms.items():
        values[f"{stage}_ms_p50"], values[f"{stage}_ms_p99"] = f"{median:.2f}", f"{high:.2f}"
    values |= health.gpu_memory
    values |= {f"qos_mismatch {topic}": text for topic, text in health.output_mismatches.items()}
    values |= {f"kernel_failed {name}": text for name, text in health.kernel_failures.items()}
    well = (
        health.state == "active"
        and health.enabled
        and not health.output_mismatches
        and not health.kernel_failures
        and "gpu_error" not in health.gpu_memory
    )
    level = DiagnosticStatus.OK if well else DiagnosticStatus.WARN
    message = health.state if health.enabled else f"{health.state}, disabled"
    return _status(f"{node}: model", node, level, message, values, health.random_weights)


def camera_status(node: str, camera: CameraHealth, *, random_weights: bool) -> DiagnosticStatus:
    """The status of one camera."""
    report, counts = camera.report, camera.report.counts
    state = report.state if camera.listening else CameraState.DISABLED
    values = {
        "state": state.value,
        "topic": camera.topic,
        "publishers": str(camera.publishers),
        "frame_rate_node": f"{report.arrival_rate:.2f}",
        "frame_rate_msg": f"{report.stamp_rate:.2f}",
        "current_delay_from_realtime_ms": _number(report.delay_ms),
        "total_dropped_frames": str(counts.dropped),
        "received_frames": str(counts.received),
        "answered_frames": str(counts.answered),
        "skipped_frames": str(counts.skipped),
        "rejected_frames": str(counts.rejected),
        "failed_frames": str(counts.failed),
        "frames_without_stamp": str(counts.zero_stamps),
        "stamps_backwards": str(counts.backward_stamps),
        "frames_lost_before_node": str(counts.lost),
        "lost_before_node_percent": f"{100 * report.lost_share:.1f}",
        "latency_ms_p50": _number(report.latency_ms and report.latency_ms[0]),
        "latency_ms_p99": _number(report.latency_ms and report.latency_ms[1]),
    }
    optional = {
        "last_rejection": counts.last_rejection,
        "last_failure": counts.last_failure,
        "qos_mismatch": camera.qos_mismatch,
    }
    values |= {key: text for key, text in optional.items() if text}
    level = _LEVELS[state]
    if camera.listening and (camera.qos_mismatch or counts.zero_stamps or report.loses_frames):
        level = max(level, DiagnosticStatus.WARN)
    name = f"{node}: {camera.name or 'camera'}"
    return _status(name, node, level, _sentence(camera), values, random_weights)


def _sentence(camera: CameraHealth) -> str:
    report = camera.report
    if not camera.listening:
        return "disabled"
    if report.state is CameraState.WAITING:
        if camera.qos_mismatch:
            return f"waiting: incompatible QoS: {camera.qos_mismatch}"
        return f"waiting: no frame yet from {camera.publishers} publishers of {camera.topic}"
    if report.state is CameraState.STALE:
        return f"stale: no frame for {report.age:.1f} s on {camera.topic}"
    if report.state is CameraState.REJECTED:
        return f"rejected: {report.counts.last_rejection}"
    if report.state is CameraState.FAILED:
        return f"failed: {report.counts.last_failure}"
    if report.counts.zero_stamps:
        return "active, but frames come without a stamp"
    if report.loses_frames:
        return (
            f"active, but {100 * report.lost_share:.0f} % of the frames were lost before the node,"
            " by their stamps"
        )
    return "active"


def _status(
    name: str,
    hardware_id: str,
    level: bytes,
    message: str,
    values: dict[str, str],
    random_weights: bool,
) -> DiagnosticStatus:
    if random_weights:
        level, message = max(level, DiagnosticStatus.WARN), f"{message} ({RANDOM_WEIGHTS})"
    return DiagnosticStatus(
        level=level,
        name=name.lstrip("/"),
        message=message,
        hardware_id=hardware_id,
        values=[KeyValue(key=key, value=value) for key, value in values.items()],
    )


def _number(value: float | None) -> str:
    return "n/a" if value is None else f"{value:.2f}"
