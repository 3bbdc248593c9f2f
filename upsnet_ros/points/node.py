"""The points node: gives points of a depth camera or a lidar the panoptic labels of a camera.

It reads the outputs of the segmenting node (`upsnet_ros.node.node`). `main` runs it as a process:
`upsnet points`, and `ros2 run upsnet_ros upsnet_points`.
"""

from __future__ import annotations

import re
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

from diagnostic_msgs.msg import DiagnosticStatus
from rclpy.clock import Clock, ClockType
from rclpy.executors import SingleThreadedExecutor
from rclpy.lifecycle import LifecycleState
from rclpy.qos import QoSProfile
from rclpy.qos_overriding_options import QoSOverridingOptions
from rclpy.serialization import deserialize_message
from sensor_msgs.msg import CameraInfo, Image, PointCloud2

from upsnet_ros.errors import PointsError, UpsnetError, first_line, listed
from upsnet_ros.messages.cdr_image import read_cloud, read_image
from upsnet_ros.messages.frames import NearestJoiner, StampJoiner
from upsnet_ros.msg import PanopticInstanceArray, PanopticLabelInfo, PanopticObjectArray
from upsnet_ros.node.diagnostics import Diagnostics, status
from upsnet_ros.node.lifecycle import ManagedNode, transition
from upsnet_ros.node.parameter_server import DeclaredParameters, LenientParameters
from upsnet_ros.node.process import TEARDOWN_SECONDS, RosProcess, end_within
from upsnet_ros.node.topics import (
    QosWatch,
    input_qos,
    label_info_qos,
    output_qos,
    stamp_ns,
    transforms_qos,
)
from upsnet_ros.points.labelling import LabelledPoints, PointLabeller, tf_message
from upsnet_ros.points.objects import detections_message, find_objects, objects_message, vision_msgs
from upsnet_ros.points.parameters import PointsSettings

#: Topics that are always published; `detections_3d` too, where vision_msgs is.
OUTPUTS: dict[str, type] = {
    "points": PointCloud2,
    "objects": PanopticObjectArray,
    "unknown_points": PointCloud2,
}

#: Topics of the segmenting node that make up the labels of a frame, with what reads each.
_LABELS = {"labels": Image, "instances": PanopticInstanceArray, "unknown_mask": Image}
_DETECTIONS = "detections_3d"
_STATIC, _MOVING = "/tf_static", "/tf"
_TYPES = {"depth": "sensor_msgs/msg/Image", "cloud": "sensor_msgs/msg/PointCloud2"}
# Seconds between looks for subscribers of the outputs. Inputs are subscribed only while there are.
_LOOK_SECONDS = 0.2
_LOG_SECONDS = 5.0
_NUMBER = re.compile(r"[\d.]+")
# Frames of labels of which some topics have come, and complete ones that are kept for points.
_LABEL_FRAMES = 10
# So many sensor messages in a row without labels are reported: fewer are dropped frames.
_UNPAIRED = 10


class PointsNode(LenientParameters, ManagedNode):
    """Labels of points. Its parameters are those of `PointsSettings`.

    configure creates the publishers; while the node is active and an output has a subscriber, it
    subscribes to the inputs. Everything runs in the executor's thread.

    Args:
        name: Name of the node, if several are in one process; can be remapped.
        options: Options of rclpy's nodes: namespace, context, cli_args and so on.

    Raises:
        SettingsError: If a parameter's value cannot be used.
        ParameterException: If ``use_sim_time`` is not a boolean (rclpy's own check).
    """

    def __init__(self, name: str = "panoptic_points", **options: object) -> None:
        super().__init__(name, **{"namespace": "panoptic", **options})
        self._outputs: dict[str, Any] = {}  # publishers by topic
        self._points_parameters = DeclaredParameters(
            self,
            configured=lambda: bool(self._outputs),
            check=lambda _: None,  # the settings check themselves
            changed=self._settings_changed,
        )
        self._points_parameters.declare(PointsSettings)
        self._points_parameters.answer()
        self._inputs: dict[str, Any] = {}  # subscriptions by topic
        self._last_input: dict[str, float] = {}  # monotonic seconds of the last message
        self._counts: Counter[str] = Counter()
        self._qos_watch = QosWatch(self)
        self._mismatches: dict[str, str] = {}
        self._milliseconds: float | None = None
        self._warned: dict[str, float] = {}  # monotonic seconds, by text without numbers
        self._silence = ""  # the last state that was reported
        self._listens_since = 0.0  # monotonic seconds
        self._forget_inputs()
        # Not the node's clock, which stops while a simulation or bag is paused.
        self._look_timer = self.create_timer(
            _LOOK_SECONDS, self._look_around, clock=Clock(clock_type=ClockType.STEADY_TIME)
        )
        self._diagnostics = Diagnostics(
            self, period=self.settings.diagnostics_period, statuses=lambda: [self._status()]
        )

    @property
    def settings(self) -> PointsSettings:
        """Current values of the parameters."""
        return self._points_parameters.settings_of()

    @property
    def sensor(self) -> str:
        """Name of the input that has the points."""
        return "depth" if self.settings.input == "depth" else "points_in"

    @transition
    def on_configure(self, state: LifecycleState) -> None:
        """Create the publishers."""
        if self.settings.reads_transforms:
            tf_message()  # says what to do where there is none
        outputs = dict(OUTPUTS)
        vision = vision_msgs()
        if vision is not None:
            outputs[_DETECTIONS] = vision.Detection3DArray
        try:
            for topic, message in outputs.items():
                name = self._name(topic)
                self._outputs[topic] = self.create_lifecycle_publisher(
                    message,
                    topic,
                    output_qos(),
                    event_callbacks=self._qos_watch.publisher_events(name),
                    qos_overriding_options=QoSOverridingOptions.with_default_policies(),
                )
            super().on_configure(state)
        except Exception:
            self._destroy_outputs()
            raise
        self.get_logger().info(f"configured: points come from {self._name(self.sensor)}")

    @transition
    def on_activate(self, state: LifecycleState) -> None:
        """Start to look for subscribers of the outputs."""
        super().on_activate(state)
        self.get_logger().info(
            f"active: reads {self._name(self.sensor)} and {self._name('labels')} while"
            f" {listed(map(self._name, self._outputs))} have subscribers"
        )

    @transition
    def on_deactivate(self, state: LifecycleState) -> None:
        """Unsubscribe from the inputs."""
        self._listen(False)
        super().on_deactivate(state)
        self.get_logger().info("deactivated")

    @transition
    def on_cleanup(self, state: LifecycleState) -> None:
        """Destroy the publishers."""
        super().on_cleanup(state)
        self._destroy_outputs()
        self.get_logger().info("cleaned up")

    @transition
    def on_shutdown(self, state: LifecycleState) -> None:
        """Deactivate and clean up, from any state."""
        self._listen(False)
        super().on_shutdown(state)
        self._destroy_outputs()
        self.get_logger().info("shut down")

    @transition
    def on_error(self, state: LifecycleState) -> None:
        """Release everything, so that configure can start again."""
        self._listen(False)
        super().on_error(state)
        self._destroy_outputs()

    def _destroy_outputs(self) -> None:
        for publisher in self._outputs.values():
            self.destroy_lifecycle_publisher(publisher)
        self._outputs.clear()
        self._qos_watch.forget()

    def _name(self, topic: str) -> str:
        return self.resolve_topic_name(topic)

    def _settings_changed(self) -> None:
        self._pairs.max_offset_ns = self.settings.max_offset_ns

    # Subscriptions.

    def _look_around(self) -> None:
        """Subscribe while somebody listens to an output; look for endpoints that do not match."""
        self._listen(self.state == "active" and bool(self._wanted()))
        self._mismatches = self._qos_watch.mismatches()

    def _wanted(self) -> set[str]:
        """Return the outputs with subscribers."""
        return {name for name, one in self._outputs.items() if one.get_subscription_count()}

    def _listen(self, wanted: bool) -> None:
        if wanted == bool(self._inputs):
            return
        if not wanted:
            for topic, subscription in self._inputs.items():
                self.destroy_subscription(subscription)
                self._qos_watch.forget(self._name(topic))
            self._inputs.clear()
            self._counts["unpaired"] += self._pairs.dropped + self._pairs.waiting
            self._counts["incomplete_label_frames"] += self._frames.given_up
            self._forget_inputs()
            return
        self._listens_since = time.monotonic()
        if self.settings.reads_transforms:
            self._subscribe(_STATIC, tf_message(), self._on_setting, transforms_qos())
            # Some publish fixed frames there; and it says whether the lidar moves.
            self._subscribe(_MOVING, tf_message(), self._on_setting, input_qos("best_effort"))
        self._subscribe("camera_info", CameraInfo, self._on_setting, input_qos("best_effort"))
        for topic, message in _LABELS.items():
            self._subscribe(topic, message, self._on_labels, output_qos())
        # Endpoints are discovered in the order of their creation: when label_info arrives, the
        # segmenting node has discovered the subscriptions to the other labels too.
        self._subscribe("label_info", PanopticLabelInfo, self._on_setting, label_info_qos())

    def _listen_to_sensor(self) -> None:
        """Subscribe to the points, unless it has been done.

        This is done once label_info has arrived: no point can be labelled before, and who sees
        this subscription, as `upsnet replay` does, knows that labels do not get lost.
        """
        if self.sensor not in self._inputs:
            self._subscribe(
                self.sensor,
                Image if self.settings.input == "depth" else PointCloud2,
                self._on_sensor,
                input_qos(self.settings.sensor_reliability),
            )

    def _subscribe(
        self, topic: str, message: type, callback: Callable[[str, Any], None], qos: QoSProfile
    ) -> None:
        def received(serialized: bytes) -> None:
            self._last_input[topic] = time.monotonic()
            self._counts["received"] += topic == self.sensor
            if topic == _MOVING and not self._labeller.transforms.may_concern(serialized):
                return
            message = self._read(topic, serialized)
            if message is not None:
                callback(topic, message)
            if topic == "label_info":
                self._listen_to_sensor()

        name = self._name(topic)
        self._inputs[topic] = self.create_subscription(
            message,
            name,
            received,
            qos,
            event_callbacks=self._qos_watch.subscription_events(name),
            qos_overriding_options=QoSOverridingOptions.with_default_policies(),
            # For a malformed message rclpy would raise in the executor, which ends the node.
            raw=True,
        )

    def _forget_inputs(self) -> None:
        """Forget what inputs said; the counts are kept."""
        settings = self.settings
        self._last_input.clear()
        self._frames = StampJoiner(tuple(_LABELS), limit=_LABEL_FRAMES)
        self._pairs = NearestJoiner(
            max_offset_ns=settings.max_offset_ns, limit=settings.queue, references=_LABEL_FRAMES
        )
        self._labeller = PointLabeller()
        self._rejection = ""  # why the last sensor message was rejected; empty if it was not
        self._warning = ""  # about the last one that was answered

    # Messages. What cannot be used is counted and logged, and the next one is waited for.

    def _reject(self, topic: str, reason: str) -> None:
        """Count a message that cannot be used, and log why."""
        self._counts[f"rejected_{topic.strip('/')}"] += 1
        self._rejection = reason
        self._warn(reason)

    def _warn(self, text: str) -> None:
        """Log a warning, unless the same, but for its numbers, was logged a moment ago."""
        now = time.monotonic()
        self._warned = {one: at for one, at in self._warned.items() if now - at < _LOG_SECONDS}
        if self._warned.setdefault(_NUMBER.sub("", text), now) == now:
            self.get_logger().warning(text)

    def _read(self, topic: str, serialized: bytes) -> Any:
        """Return the message; None if it cannot be read, which is counted."""
        message = self._inputs[topic].msg_type
        try:
            if message is Image:
                return read_image(serialized)
            if message is PointCloud2:
                return read_cloud(serialized)
            return deserialize_message(serialized, message)
        except (UpsnetError, RuntimeError) as error:  # RMWError is one
            self._reject(topic, f"{topic}: a message cannot be read: {first_line(error)}")
            return None

    def _on_setting(self, topic: str, message: Any) -> None:
        """Take label_info, camera_info, /tf_static or /tf."""
        takes: dict[str, Callable[[Any], None]] = {
            "label_info": self._labeller.set_label_info,
            "camera_info": self._labeller.set_camera_info,
            _STATIC: partial(self._labeller.set_transforms, static=True),
            _MOVING: partial(self._labeller.set_transforms, static=False),
        }
        try:
            takes[topic](message)
        except PointsError as error:
            self._reject(error.topic, str(error))

    def _on_labels(self, topic: str, message: Any) -> None:
        stamp = stamp_ns(message.header.stamp)
        joined = self._frames.add(topic, stamp, message, received=time.monotonic())
        if joined is not None:
            self._counts["label_frames"] += 1
            self._answer(self._pairs.add_reference(stamp, joined.messages))

    def _on_sensor(self, topic: str, message: Any) -> None:
        self._answer(self._pairs.add(stamp_ns(message.header.stamp), message))

    def _answer(self, pairs: Sequence[tuple[Any, Mapping[str, Any]]]) -> None:
        settings = self.settings
        labeller = self._labeller
        label = labeller.label_depth if settings.input == "depth" else labeller.label_cloud
        for message, frame in pairs:
            started = time.monotonic()
            try:
                points = label(message, frame, settings=settings)
            except PointsError as error:
                self._reject(error.topic, str(error))
                continue
            self._publish(points, message.header)
            self._counts["answered"] += 1
            self._rejection, self._warning = "", points.warning
            if points.warning:
                self._warn(points.warning)
            self._milliseconds = 1e3 * (time.monotonic() - started)

    def _publish(self, points: LabelledPoints, header: Any) -> None:
        """Publish what somebody subscribes to."""
        wanted = self._wanted()
        if "points" in wanted:
            self._outputs["points"].publish(points.cloud.serialize())
        if "unknown_points" in wanted:
            unknown = points.cloud.select(points.unknown)
            self._outputs["unknown_points"].publish(unknown.serialize())
        if wanted.isdisjoint({"objects", _DETECTIONS}):
            return
        settings = self.settings
        objects = find_objects(
            points, quantile=settings.object_quantile, min_points=settings.object_min_points
        )
        if "objects" in wanted:
            self._outputs["objects"].publish(objects_message(objects, header))
        if _DETECTIONS in wanted:
            self._outputs[_DETECTIONS].publish(detections_message(objects, header))

    # Diagnostics.

    def _status(self) -> DiagnosticStatus:
        node, topic = self.get_fully_qualified_name(), self._name(self.sensor)
        level, message = self._sentence()
        self._log_silence(message)
        pairs, counts = self._pairs, self._counts
        values = {
            "state": message.partition(":")[0],
            "topic": topic,
            "publishers": str(self.count_publishers(topic)),
            "received": str(counts["received"]),
            "answered": str(counts["answered"]),
            "unpaired": str(counts["unpaired"] + pairs.dropped),
            "waiting": str(pairs.waiting),
            "label_frames": str(counts["label_frames"]),
            "incomplete_label_frames": str(
                counts["incomplete_label_frames"] + self._frames.given_up
            ),
            "last_ms": "n/a" if self._milliseconds is None else f"{self._milliseconds:.2f}",
        }
        rejected = {key: one for key, one in counts.items() if key.startswith("rejected_")}
        values |= {key: str(count) for key, count in sorted(rejected.items())}
        values |= {f"qos_mismatch {name}": text for name, text in self._mismatches.items()}
        values |= {f"refused {what}": str(count) for what, count in self.refusals.items()}
        return status(f"{node}: points", node, level, message, values)

    def _sentence(self) -> tuple[bytes, str]:
        """Return the level, and the state with what is wrong, in one line."""
        now, settings = time.monotonic(), self.settings
        if self.state != "active":
            return DiagnosticStatus.WARN, self.state
        if not self._inputs:
            return DiagnosticStatus.OK, "idle: no output has a subscriber"
        # The sensor's topic is subscribed to last, but it is the one that users name.
        expected = dict.fromkeys([self.sensor, *self._inputs])
        # One of the two is enough.
        optional = {_MOVING, *((_STATIC,) if _MOVING in self._last_input else ())}
        missing = [one for one in expected if one not in self._last_input.keys() | optional]
        if missing:
            names = listed(
                self._name_and_publishers(topic) for topic in expected if topic in missing
            )
            return DiagnosticStatus.WARN, f"waiting: no message yet on {names}"
        silent = {
            topic: now - self._last_input[topic]
            for topic in (self.sensor, *_LABELS)
            if now - self._last_input[topic] > settings.stale_timeout
        }
        if silent:
            names = listed(self._name_and_publishers(topic) for topic in silent)
            return (
                DiagnosticStatus.ERROR,
                f"stale: no message for {max(silent.values()):.1f} s on {names}",
            )
        if self._rejection:
            return DiagnosticStatus.ERROR, f"rejected: {self._rejection}"
        if self._pairs.dropped_in_a_row >= _UNPAIRED:
            return DiagnosticStatus.ERROR, f"unpaired: {self._why_unpaired()}"
        if self._mismatches:
            return DiagnosticStatus.WARN, f"active, but QoS differs: {listed(self._mismatches)}"
        if self._warning:
            return DiagnosticStatus.WARN, f"active, but {self._warning}"
        return DiagnosticStatus.OK, "active"

    def _why_unpaired(self) -> str:
        offset = self._pairs.last_offset_ns
        seconds = "" if offset is None else f"; the nearest are {offset / 1e9:+.3f} s away"
        asked = (
            "depth needs the stamp of the camera's image"
            if self.settings.input == "depth"
            else f"see max_offset, {self.settings.max_offset:g} s"
        )
        return (
            f"the last {self._pairs.dropped_in_a_row} messages on {self._name(self.sensor)} have no"
            f" labels of their time{seconds}: {asked}"
        )

    def _log_silence(self, sentence: str) -> None:
        """Log the sentence if it says that nothing comes or pairs, and the last one did not."""
        state = sentence.partition(":")[0]
        waited = time.monotonic() - self._listens_since
        if state == "waiting" and waited < self.settings.stale_timeout:
            return
        if state != self._silence and state in ("waiting", "stale", "unpaired"):
            self._warn(sentence)
        self._silence = state

    def _name_and_publishers(self, topic: str) -> str:
        name = self._name(topic)
        types = {one.topic_type for one in self.get_publishers_info_by_topic(name)}
        if not types:
            return f"{name} (no publisher)"
        if topic == self.sensor and (wanted := _TYPES[self.settings.input]) not in types:
            return f"{name} (published as {listed(sorted(types))}, not {wanted})"
        return name


def main(args: Sequence[str] | None = None) -> int:
    """Run the node until SIGINT or SIGTERM.

    Args:
        args: Command line without the program's name; by default the process's own.

    Returns:
        The exit code: 0, or 1 where the node could not start (the log says why, in one line).
    """
    with RosProcess(args) as ros:
        node = ros.make(PointsNode, log="panoptic_points")
        if node is None:
            return ros.exit_code
        executor = SingleThreadedExecutor()
        executor.add_node(node)
        try:
            if node.settings.autostart and not node.start():
                ros.exit_code = 1
                return 1
            executor.spin_until_future_complete(ros.stop)
            end_within(TEARDOWN_SECONDS, 0)
            node.trigger_shutdown()
        finally:
            executor.shutdown()
    return ros.exit_code
