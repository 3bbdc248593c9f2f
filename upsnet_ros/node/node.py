"""The ROS 2 node: a managed (lifecycle) node that segments the images of one or more cameras.

`main` runs it as a process: `upsnet node`, and `ros2 run upsnet_ros upsnet_node`.
"""

from __future__ import annotations

import os
import time
import traceback
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future

from rclpy.clock import Clock, ClockType
from rclpy.executors import SingleThreadedExecutor
from rclpy.impl.rcutils_logger import RcutilsLogger
from rclpy.lifecycle import LifecycleState

from upsnet_ros.errors import first_line
from upsnet_ros.inference.frame import PanopticFrame
from upsnet_ros.messages.images import converter
from upsnet_ros.node.camera import Camera
from upsnet_ros.node.camera_image import Arrival, CameraImage, ImageKind
from upsnet_ros.node.diagnostics import (
    RANDOM_WEIGHTS,
    CameraHealth,
    Diagnostics,
    NodeHealth,
    health_statuses,
)
from upsnet_ros.node.lifecycle import ManagedNode, Services, transition
from upsnet_ros.node.model import SHIPPED_WEIGHTS, Model
from upsnet_ros.node.parameter_server import LenientParameters, NodeParameters
from upsnet_ros.node.parameters import CameraSettings, NodeSettings
from upsnet_ros.node.process import TEARDOWN_SECONDS, RosProcess, end_within
from upsnet_ros.node.segment_service import SERVICE, SegmentService
from upsnet_ros.node.statistics import StageTimes
from upsnet_ros.node.topics import QosWatch, is_named_twice
from upsnet_ros.node.worker import FrameWorker
from upsnet_ros.processes.child_processes import end_children, protect_children


class FrameSteps:
    """What the node's `FrameWorker` does with a frame: these are its `worker.Steps`.

    Args:
        cameras: By name, the service ~/segment among them.
        model: What segments.
        stages: Told how long each stage took.
        settings: Returns the node's of the moment.
        logger: The node's.
    """

    def __init__(
        self,
        *,
        cameras: Mapping[str, Camera | SegmentService],
        model: Model,
        stages: StageTimes,
        settings: Callable[[], NodeSettings],
        logger: RcutilsLogger,
    ) -> None:
        self._cameras = cameras
        self._model = model
        self._stages = stages
        self._settings = settings
        self._logger = logger

    def decode(self, camera: str, frame: Arrival) -> CameraImage | None:
        """Reads a message; None where it is malformed, which the camera counts."""
        return self._cameras[camera].decode(frame, takes=self._model.takes)

    def submit(self, images: Sequence[CameraImage]) -> list[Future[PanopticFrame]]:
        """Hands images to the network."""
        topics = set[str]().union(*(camera.subscribed() for camera in self._cameras.values()))
        return self._model.submit(
            images,
            # The regions listed in `instances` have a mean score.
            unknown_score=not topics.isdisjoint({"unknown_score", "instances"}),
            semantic=not topics.isdisjoint({"semantic", "confidence"}),
        )

    def publish(self, camera: str, image: CameraImage, result: PanopticFrame) -> None:
        """Answers the camera."""
        self._stages.add(self._cameras[camera].publish(image, result, settings=self._settings()))

    def failed(self, camera: str, error: Exception) -> None:
        """Counts and tells it, and gives memory back where it was for want of it."""
        self._cameras[camera].failed(error)
        self._logger.debug("".join(traceback.format_exception(error)))
        try:
            self._model.recover(error)
        except RuntimeError as failure:  # of a device that does not work any more
            self._logger.error(f"memory was not given back: {first_line(failure)}")


# Seconds between checks of the ROS graph.
_LOOK_SECONDS = 1.0


class UpsnetNode(LenientParameters, ManagedNode):
    """UPSNet on camera topics. Its parameters are those of `NodeSettings`.

    configure loads the network, warms it up and creates the publishers; activate subscribes to the
    cameras; deactivate unsubscribes and finishes the frames that were started; cleanup frees the
    memory. The executor's thread receives messages and parameters, the worker's two threads decode
    and publish, the pipeline's compute, and another one loads weights on request.

    Args:
        name: Name of the node, if several are in one process; can be remapped.
        options: Options of rclpy's nodes: namespace, context, cli_args and so on.

    Raises:
        SettingsError: If a parameter's value cannot be used.
        ParameterException: If ``use_sim_time`` is not a boolean (rclpy's own check).
    """

    def __init__(self, name: str = "upsnet", **options: object) -> None:
        super().__init__(name, **{"namespace": "panoptic", **options})
        self.model = Model()
        self._takes_frames = True
        self._cameras: dict[str, Camera] = {}
        self._node_parameters = NodeParameters(
            self,
            configured=lambda: self.model.predictor is not None,
            check=self._check_settings,
            changed=self._settings_changed,
        )
        cameras = self._node_parameters.cameras
        self._stages = StageTimes()
        sources: dict[str, Camera | SegmentService] = {}
        self._worker: FrameWorker[Arrival, CameraImage, PanopticFrame] = FrameWorker(
            cameras=(*cameras, SERVICE),
            steps=FrameSteps(
                cameras=sources,
                model=self.model,
                stages=self._stages,
                settings=lambda: self.settings,
                logger=self.get_logger(),
            ),
        )
        self._qos_watch = QosWatch(self)
        for camera, settings in cameras.items():
            self._cameras[camera] = Camera(
                node=self,
                name=camera,
                settings=settings,
                offer=self._worker.offer,
                idle=lambda: self._worker.idle,
                qos_watch=self._qos_watch,
            )
        self._segment = SegmentService(self, offer=self._worker.offer)
        sources.update(self._cameras)
        sources[SERVICE] = self._segment
        self._offered_services = Services(self, enable=self._set_enabled, reload=self._reload)
        self._mismatches: dict[str, str] = {}
        self._silences: dict[str, str] = {}
        self._is_named_twice = False
        # Not the node's clock, which stops while a simulation or bag is paused.
        self._look_timer = self.create_timer(
            min(_LOOK_SECONDS, self.settings.diagnostics_period),
            self._look_around,
            clock=Clock(clock_type=ClockType.STEADY_TIME),
        )
        self._diagnostics = Diagnostics(
            self,
            period=self.settings.diagnostics_period,
            statuses=lambda: health_statuses(self.get_fully_qualified_name(), self._health()),
        )

    @property
    def settings(self) -> NodeSettings:
        """Current values of the parameters."""
        return self._node_parameters.settings

    @property
    def camera_settings(self) -> dict[str, CameraSettings]:
        """Current settings of each camera, by name."""
        return self._node_parameters.cameras

    @property
    def computing(self) -> bool:
        """Whether a frame or weights are still being processed for which `stop` did not wait."""
        return self._worker.left_alone or self._offered_services.loading

    def stop(self, *, timeout: float) -> None:
        """Unsubscribe, wait at most so many seconds for started frames, and shut down."""
        end = time.monotonic() + timeout
        self._drain(timeout)
        self._offered_services.wait(max(0.0, end - time.monotonic()))
        if self.computing:
            what = "last frames take" if self._worker.left_alone else "new weights take"
            self.get_logger().warning(f"the {what} longer than {timeout:g} s: not waiting for them")
        if self.state in ("unconfigured", "inactive", "active"):
            self.trigger_shutdown()

    @transition
    def on_configure(self, state: LifecycleState) -> None:
        """Load the network, warm it up and create the publishers."""
        settings = self.settings
        self.get_logger().info(f"configuring: loading {settings.model_text}")
        try:
            converter()
            predictor = self.model.load(settings, kinds=self._last_kinds())
            settings.class_ids(predictor.taxonomy)
            for camera in self._cameras.values():
                camera.create_outputs(
                    settings=settings,
                    taxonomy=predictor.taxonomy,
                    score_threshold=predictor.variant.panoptic_score_threshold,
                )
            super().on_configure(state)
        except Exception:
            self._release()
            raise
        seconds = self.model.warm_up_seconds
        warm_up = "no warm-up" if seconds is None else f"warm-up took {seconds:.1f} s"
        self.get_logger().info(
            f"configured: {', '.join(self.model.describe().values())}; {warm_up}"
        )
        if predictor.random_weights:
            self.get_logger().warning(RANDOM_WEIGHTS)
        elif predictor.origin.value == "shipped":
            self.get_logger().warning(SHIPPED_WEIGHTS)

    @transition
    def on_activate(self, state: LifecycleState) -> None:
        """Publish label_info, and subscribe to the cameras unless disabled."""
        super().on_activate(state)
        pipeline = self.model.pipeline
        assert pipeline is not None, "configure comes before activate"
        try:
            self._worker.start(batch=pipeline.batch, depth=pipeline.depth)
            for camera in self._cameras.values():
                camera.announce()
                if self._takes_frames:
                    camera.subscribe()
        except Exception:
            self._drain()
            super().on_deactivate(state)
            raise
        topics = ", ".join(camera.topic for camera in self._cameras.values())
        does = "listening to" if self._takes_frames else "disabled by ~/enable, not listening to"
        self.get_logger().info(f"active: {does} {topics}")

    @transition
    def on_deactivate(self, state: LifecycleState) -> None:
        """Unsubscribe, and finish the frames that were started."""
        self._drain()
        super().on_deactivate(state)
        self.get_logger().info("deactivated: not listening to any camera")

    @transition
    def on_cleanup(self, state: LifecycleState) -> None:
        """Free the network's memory and destroy the publishers."""
        super().on_cleanup(state)
        self._release()
        self.get_logger().info("cleaned up: the network is unloaded")

    @transition
    def on_shutdown(self, state: LifecycleState) -> None:
        """Deactivate and clean up, from any state."""
        self._drain()
        super().on_shutdown(state)
        self._release()
        self.get_logger().info("shut down")

    @transition
    def on_error(self, state: LifecycleState) -> None:
        """Release everything, so that configure can start again."""
        self._drain()
        super().on_error(state)
        self._release()

    def destroy_node(self) -> None:
        """End the worker and the node, and free the network's memory."""
        self._drain()
        super().destroy_node()
        # Otherwise the pipeline's thread keeps it until the process ends.
        self.model.release(wait=not self._worker.left_alone)

    def _drain(self, timeout: float | None = None) -> None:
        for camera in self._cameras.values():
            camera.unsubscribe()
        for name in self._worker.stop(timeout=timeout):
            if name in self._cameras:
                self._cameras[name].statistics.dropped()
        self._segment.refuse_all("the node was deactivated")

    def _release(self) -> None:
        for camera in self._cameras.values():
            camera.destroy_outputs()
        self._qos_watch.forget()
        self._stages.clear()
        self.model.release(wait=not self._worker.left_alone)

    def _set_enabled(self, wished: bool) -> str:
        self._takes_frames = wished
        if self.state != "active":
            return f"{'enabled' if wished else 'disabled'}, once the node is active"
        try:
            for camera in self._cameras.values():
                if not wished:
                    camera.unsubscribe()  # frames taken before get results
                elif not camera.listening:
                    camera.subscribe()
        except (ValueError, RuntimeError):
            self._set_enabled(False)
            raise
        return "enabled" if wished else "disabled"

    def _reload(self) -> str:
        return self.model.reload(self.settings, kinds=self._last_kinds())

    def _last_kinds(self) -> list[ImageKind]:
        return [one.last_kind for one in self._cameras.values() if one.last_kind is not None]

    def _check_settings(self, settings: NodeSettings) -> None:
        """Refuse settings whose topics cannot be created; changes nothing."""
        if self.model.predictor is not None:
            settings.class_ids(self.model.predictor.taxonomy)
        for camera in self._cameras.values():
            camera.check_outputs(settings)

    def _settings_changed(
        self, settings: NodeSettings, cameras: Mapping[str, CameraSettings]
    ) -> None:
        for name, camera in self._cameras.items():
            camera.set_max_rate(cameras[name].max_rate)
            try:
                camera.update_outputs(settings)
            except (ValueError, RuntimeError) as error:
                # What can be foreseen was refused before.
                self.get_logger().error(f"outputs could not be changed: {first_line(error)}")
        self.model.apply(settings)

    def _look_around(self) -> None:
        """Looks what is wrong in the ROS graph; the log says each thing once."""
        self._mismatches = self._qos_watch.mismatches()
        now, stale_after = time.monotonic(), self.settings.stale_timeout
        self._silences = {
            camera.topic: camera.why_silent(now=now, stale_after=stale_after)
            for camera in self._cameras.values()
            if camera.topic not in self._mismatches
        }
        for camera in self._cameras.values():
            camera.look_at_camera_info(now=now)
        twice = is_named_twice(self)
        if twice and not self._is_named_twice:
            self.get_logger().warning(
                f"there is another node named {self.get_fully_qualified_name()} (or one that was"
                " killed less than half a minute ago): their topics and services mix; name this one"
                " by --ros-args -r __node:=NAME or -r __ns:=NAMESPACE"
            )
        self._is_named_twice = twice

    def _health(self) -> NodeHealth:
        now, predictor = time.monotonic(), self.model.predictor
        mismatches = dict(self._mismatches)
        inputs = {
            camera.topic: mismatches.pop(camera.topic, "") for camera in self._cameras.values()
        }
        return NodeHealth(
            state=self.state,
            enabled=self._takes_frames,
            model=self.model.describe(),
            random_weights=predictor is not None and predictor.random_weights,
            stages_ms=self._stages.percentiles(),
            gpu_memory=self.model.gpu_memory(),
            kernel_failures=self.model.kernel_failures(),
            output_mismatches=mismatches,
            refusals=dict(self.refusals),
            cameras=[
                CameraHealth(
                    name=camera.name,
                    topic=camera.topic,
                    listening=camera.listening,
                    publishers=self.count_publishers(camera.topic),
                    qos_mismatch=inputs[camera.topic],
                    silence=self._silences.get(camera.topic, ""),
                    report=camera.statistics.report(
                        now=now, stale_after=self.settings.stale_timeout
                    ),
                )
                for camera in self._cameras.values()
            ],
        )


# `ros2 launch` sends SIGTERM 5 s after SIGINT, and SIGKILL another 5 s later.
_STOP_SECONDS = 4.0
# What is loaded is thrown away, so nothing is waited for but a callback that ends at once.
_STOP_LOADING_SECONDS = 1.0


def main(args: Sequence[str] | None = None) -> int:
    """Runs the node until SIGINT or SIGTERM, over shared memory where the user chose nothing else.

    Args:
        args: Command line without the program's name; by default the process's own.

    Returns:
        The exit code: 0, or 1 where the node could not start (the log says why, in one line).
    """
    protect_children()
    with RosProcess(args) as ros:
        node = ros.make(UpsnetNode, log="upsnet")
        if node is None:
            return ros.exit_code
        ros.exit_code = _run(node, ros)
    if node.computing:
        # Python would wait for that thread, which no signal can end, and whoever stops the node
        # would kill it. All that others see of it is gone by now.
        os._exit(ros.exit_code)
    return ros.exit_code


def _run(node: UpsnetNode, ros: RosProcess) -> int:
    executor = SingleThreadedExecutor()
    executor.add_node(node)
    ros.stop.add_done_callback(lambda _: _stop_loading(node))
    try:
        if not node.settings.autostart:
            node.get_logger().info(
                "autostart is false: waiting to be configured and activated, as by `ros2 lifecycle"
                f" set {node.get_fully_qualified_name()} configure`"
            )
        elif not node.start(stopped=ros.stop.done) and not ros.stop.done():
            return 1
        executor.spin_until_future_complete(ros.stop)
        end_within(_STOP_SECONDS + TEARDOWN_SECONDS, 0)
        node.stop(timeout=_STOP_SECONDS)
        return 0
    finally:
        executor.shutdown()


def _stop_loading(node: UpsnetNode) -> None:
    """Ends the process soon if it is loading, which nothing can interrupt.

    Called as soon as a signal came, in the thread that waits for it.
    """
    if node.state == "configuring":
        node.get_logger().info("stopped while loading")
        end_within(_STOP_LOADING_SECONDS, 0)
        end_children()
