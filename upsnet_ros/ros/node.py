"""The ROS 2 node: a managed node that segments the images of one or several cameras."""

from __future__ import annotations

import time
from collections.abc import Mapping

from rclpy.lifecycle import LifecycleNode, LifecycleState, TransitionCallbackReturn

from upsnet_ros.inference.frame import PanopticFrame
from upsnet_ros.ros.camera import Camera
from upsnet_ros.ros.camera_image import Arrival, CameraImage, ImageKind
from upsnet_ros.ros.camera_settings import CameraSettings
from upsnet_ros.ros.converters import converter
from upsnet_ros.ros.diagnostics import RANDOM_WEIGHTS, CameraHealth, Diagnostics, NodeHealth
from upsnet_ros.ros.frame_steps import FrameSteps
from upsnet_ros.ros.model import SHIPPED_WEIGHTS, Model
from upsnet_ros.ros.parameters import NodeParameters
from upsnet_ros.ros.qos import QosWatch
from upsnet_ros.ros.service_guard import guard_services
from upsnet_ros.ros.services import Services
from upsnet_ros.ros.settings import NodeSettings
from upsnet_ros.ros.statistics import StageTimes
from upsnet_ros.ros.transitions import transition
from upsnet_ros.ros.worker import FrameWorker

__all__ = ["UpsnetNode"]


class UpsnetNode(LifecycleNode):
    """UPSNet on camera topics. Its parameters are those of `NodeSettings`.

    configure loads the network, warms it up and makes the output topics; activate listens to the
    cameras; deactivate stops listening and finishes the frames that were begun; cleanup gives the
    memory back. One thread (the executor's) takes messages and parameters, the worker's two decode
    and publish, the pipeline's compute, and another loads weights on request.

    Args:
        name: Of the node, where several are in one process; remapped as ROS does it.
        options: As rclpy's nodes take them: namespace, context, cli_args and so on.

    Raises:
        SettingsError: Where a parameter's value cannot be used.
        ParameterException: Where it is of the wrong type or out of range.
    """

    def __init__(self, name: str = "upsnet", **options: object) -> None:
        super().__init__(name, **{"namespace": "panoptic", **options})
        self.model = Model()
        self._takes_frames = True
        self._cameras: dict[str, Camera] = {}
        self._node_parameters = NodeParameters(
            self,
            configured=lambda: self.model.predictor is not None,
            changed=self._settings_changed,
        )
        cameras = self._node_parameters.cameras
        self._stages = StageTimes()
        self._worker: FrameWorker[Arrival, CameraImage, PanopticFrame] = FrameWorker(
            cameras=tuple(cameras),
            steps=FrameSteps(
                cameras=self._cameras,
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
        self._offered_services = Services(self, enable=self._set_enabled, reload=self._reload)
        self._diagnostics = Diagnostics(
            self, period=self.settings.diagnostics_period, health=self._health
        )
        guard_services(self)

    @property
    def settings(self) -> NodeSettings:
        """The parameters' values of this moment."""
        return self._node_parameters.settings

    @property
    def camera_settings(self) -> dict[str, CameraSettings]:
        """Each camera's settings of this moment, by its name."""
        return self._node_parameters.cameras

    @property
    def state(self) -> str:
        """Label of the lifecycle state."""
        return self._state_machine.current_state[1]

    @property
    def computing(self) -> bool:
        """Whether a frame or weights are still at work that `stop` did not wait for."""
        return self._worker.left_alone or self._offered_services.loading

    def start(self) -> bool:
        """Configures and activates; returns whether that succeeded. If not, the log says why."""
        return all(
            step() is TransitionCallbackReturn.SUCCESS
            for step in (self.trigger_configure, self.trigger_activate)
        )

    def stop(self, *, timeout: float) -> None:
        """Stops listening, waits so many seconds for what was begun, and shuts down."""
        end = time.monotonic() + timeout
        self._drain(timeout)
        self._offered_services.wait(max(0.0, end - time.monotonic()))
        if self.computing:
            what = "last frames take" if self._worker.left_alone else "new weights take"
            self.get_logger().warning(f"the {what} longer than {timeout:g} s: left alone")
        if self.state in ("unconfigured", "inactive", "active"):
            self.trigger_shutdown()

    @transition
    def on_configure(self, state: LifecycleState) -> None:
        """Loads the network, warms it up and makes the output topics."""
        settings = self.settings
        try:
            converter()
            predictor = self.model.load(settings, kinds=self._last_kinds())
            for camera in self._cameras.values():
                camera.create_outputs(settings=settings, taxonomy=predictor.taxonomy)
            super().on_configure(state)
        except Exception:
            self._release()
            raise
        self.get_logger().info(f"configured: {', '.join(self.model.describe().values())}")
        if predictor.random_weights:
            self.get_logger().warning(RANDOM_WEIGHTS)
        elif predictor.origin.value == "shipped":
            self.get_logger().warning(SHIPPED_WEIGHTS)

    @transition
    def on_activate(self, state: LifecycleState) -> None:
        """Says what the labels mean, and listens to the cameras unless that was disabled."""
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
        does = "listening to" if self._takes_frames else "disabled, else listening to"
        self.get_logger().info(f"active: {does} {topics}")

    @transition
    def on_deactivate(self, state: LifecycleState) -> None:
        """Stops listening, and finishes the frames that were begun."""
        self._drain()
        super().on_deactivate(state)

    @transition
    def on_cleanup(self, state: LifecycleState) -> None:
        """Gives the network's memory and the output topics back."""
        super().on_cleanup(state)
        self._release()

    @transition
    def on_shutdown(self, state: LifecycleState) -> None:
        """Does what deactivate and cleanup do, from whatever state."""
        self._drain()
        super().on_shutdown(state)
        self._release()

    @transition
    def on_error(self, state: LifecycleState) -> None:
        """Gives everything back, so that configure can begin anew."""
        self._drain()
        super().on_error(state)
        self._release()

    def destroy_node(self) -> None:
        """Ends the worker and the node, and gives the network's memory back."""
        self._drain()
        super().destroy_node()
        # Else the pipeline's thread would keep it until the process ends.
        self.model.release(wait=not self._worker.left_alone)

    def _drain(self, timeout: float | None = None) -> None:
        for camera in self._cameras.values():
            camera.unsubscribe()
        for name in self._worker.stop(timeout=timeout):
            self._cameras[name].statistics.dropped()

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
                    camera.unsubscribe()  # what was taken before is answered
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

    def _settings_changed(
        self, settings: NodeSettings, cameras: Mapping[str, CameraSettings]
    ) -> None:
        try:
            for camera in self._cameras.values():
                camera.update_outputs(settings)
        except (ValueError, RuntimeError):
            for camera in self._cameras.values():
                camera.update_outputs(self.settings)
            raise
        self.model.apply(settings)
        for name, camera in self._cameras.items():
            camera.set_max_rate(cameras[name].max_rate)

    def _health(self) -> NodeHealth:
        now, predictor = time.monotonic(), self.model.predictor
        mismatches = self._qos_watch.mismatches()
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
            cameras=[
                CameraHealth(
                    name=camera.name,
                    topic=camera.topic,
                    listening=camera.listening,
                    publishers=self.count_publishers(camera.topic),
                    qos_mismatch=inputs[camera.topic],
                    report=camera.statistics.report(
                        now=now, stale_after=self.settings.stale_timeout
                    ),
                )
                for camera in self._cameras.values()
            ],
        )
