"""Publishes the node's health as a diagnostic_msgs/DiagnosticArray, periodically.

The keys of a camera's rates, delay and drops are those of greenwave_monitor and NITROS, so that
monitors for these can read them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus, KeyValue
from rclpy.clock import Clock, ClockType
from rclpy.node import Node

from upsnet_ros.node.statistics import CameraReport, CameraState
from upsnet_ros.node.topics import stamp_of

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
    """The health of one camera.

    Attributes:
        name: Name of the camera; empty for a single one.
        topic: Topic of its images, fully resolved.
        listening: Whether the node is subscribed to it; False if the node is disabled.
        publishers: Number of publishers of that topic.
        qos_mismatch: Why the QoS of some of them is incompatible; empty otherwise.
        silence: Why no image arrives (`Camera.why_silent`); empty otherwise.
        report: Its counts and rates.
    """

    name: str
    topic: str
    listening: bool
    publishers: int
    qos_mismatch: str
    report: CameraReport
    silence: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeHealth:
    """The health of the node at one moment.

    Attributes:
        state: Label of its lifecycle state.
        enabled: Whether it takes frames while it is active.
        model: Properties of the model: variant, device and so on; empty if not configured.
        random_weights: Whether the weights are random, so that results are meaningless.
        stages_ms: 50th and 99th percentile by stage.
        gpu_memory: Keys and values about the GPU's memory; empty on a CPU.
        output_mismatches: Why the QoS of subscribers of outputs is incompatible, by topic.
        cameras: Health of each camera.
        kernel_failures: Why kernels failed (their references run instead), by name.
        refusals: Number of messages and requests whose callback raised, by name.
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
    refusals: Mapping[str, int] = field(default_factory=dict)


class Diagnostics:
    """Publishes on /diagnostics what ``statuses`` returns, every ``period`` s of real time."""

    def __init__(
        self, node: Node, *, period: float, statuses: Callable[[], list[DiagnosticStatus]]
    ) -> None:
        self._node = node
        self._statuses = statuses
        self._publisher = node.create_publisher(DiagnosticArray, "/diagnostics", 10)
        # Not the node's clock, which stops while a simulation or bag is paused.
        clock = Clock(clock_type=ClockType.STEADY_TIME)
        self._timer = node.create_timer(period, self.publish, clock=clock)

    def publish(self) -> None:
        """Publish one report now."""
        stamped = DiagnosticArray(status=self._statuses())
        stamped.header.stamp = stamp_of(self._node.get_clock().now().nanoseconds)
        self._publisher.publish(stamped)


def health_statuses(node: str, health: NodeHealth) -> list[DiagnosticStatus]:
    """Return the status of the node, and of its cameras while it is active."""
    cameras = health.cameras if health.state == "active" else ()
    return [
        node_status(node, health),
        *(camera_status(node, one, random_weights=health.random_weights) for one in cameras),
    ]


def node_status(node: str, health: NodeHealth) -> DiagnosticStatus:
    """Return the status of the node and its network."""
    values = {"state": health.state, "enabled": str(health.enabled).lower(), **health.model}
    if health.model:
        values["random_weights"] = str(health.random_weights).lower()
    for stage, (median, high) in health.stages_ms.items():
        values[f"{stage}_ms_p50"], values[f"{stage}_ms_p99"] = f"{median:.2f}", f"{high:.2f}"
    values |= health.gpu_memory
    values |= {f"qos_mismatch {topic}": text for topic, text in health.output_mismatches.items()}
    values |= {f"kernel_failed {name}": text for name, text in health.kernel_failures.items()}
    values |= {f"refused {what}": str(count) for what, count in health.refusals.items()}
    well = (
        health.state == "active"
        and health.enabled
        and not health.output_mismatches
        and not health.kernel_failures
        and "gpu_error" not in health.gpu_memory
    )
    level = DiagnosticStatus.OK if well else DiagnosticStatus.WARN
    message = health.state if health.enabled else f"{health.state}, disabled"
    return status(
        f"{node}: model", node, level, message, values, random_weights=health.random_weights
    )


def camera_status(node: str, camera: CameraHealth, *, random_weights: bool) -> DiagnosticStatus:
    """Return the status of one camera."""
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
    return status(name, node, level, _sentence(camera), values, random_weights=random_weights)


def _sentence(camera: CameraHealth) -> str:
    report = camera.report
    if not camera.listening:
        return "disabled"
    if report.state is CameraState.WAITING:
        if camera.qos_mismatch:
            return f"waiting: incompatible QoS: {camera.qos_mismatch}"
        if camera.silence:
            return f"waiting: {camera.silence}"
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


def status(
    name: str,
    hardware_id: str,
    level: bytes,
    message: str,
    values: Mapping[str, str],
    *,
    random_weights: bool = False,
) -> DiagnosticStatus:
    """Return one status of /diagnostics."""
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
