"""The ROS 2 node: a managed node that segments the images of one or several cameras."""

from __future__ import annotations

import os
import sys
import time
import traceback
from collections.abc import Sequence
from typing import TYPE_CHECKING

import rclpy
from rclpy.exceptions import ParameterException
from rclpy.executors import SingleThreadedExecutor
from rclpy.lifecycle import LifecycleNode, LifecycleState, TransitionCallbackReturn
from rclpy.logging import get_logger
from rclpy.signals import SignalHandlerOptions
from rclpy.task import Future

from upsnet_ros.ros.camera import Arrival, Camera
from upsnet_ros.ros.converters import converter
from upsnet_ros.ros.diagnostics import RANDOM_WEIGHTS, CameraHealth, Diagnostics, NodeHealth
from upsnet_ros.ros.parameters import NodeParameters
from upsnet_ros.ros.qos import QosWatch
from upsnet_ros.ros.settings import NodeSettings, SettingsError
from upsnet_ros.ros.signals import stop_on_signals
from upsnet_ros.ros.statistics import StageTimes
from upsnet_ros.ros.transitions import first_line, transition
from upsnet_ros.ros.worker import FrameWorker
from upsnet_ros.threads import wait_passively

if TYPE_CHECKING:
    from upsnet_ros.inference.predictor import Predictor  # and torch

__all__ = ["UpsnetNode", "main"]

# `ros2 launch` sends SIGTERM 5 s after SIGINT, and SIGKILL another 5 s later.
_STOP_SECONDS = 4.0


class UpsnetNode(LifecycleNode):
    """UPSNet on camera topics. Its parameters are those of `NodeSettings`.

    configure loads the network and makes the output topics; activate listens to the cameras;
    deactivate stops listening and finishes the frame that was begun; cleanup gives the memory back.
    One thread (the executor's) takes messages and parameters, the worker's computes and publishes.

    Raises:
        SettingsError: Where a parameter's value cannot be used.
        ParameterException: Where it is of the wrong type or out of range.
    """

    def __init__(self, **options: object) -> None:
        super().__init__("upsnet", **{"namespace": "panoptic", **options})
        self._predictor: Predictor | None = None
        self._node_parameters = NodeParameters(
            self, configured=lambda: self._predictor is not None, changed=self._settings_changed
        )
        settings = self._node_parameters.settings
        self._worker: FrameWorker[Arrival] = FrameWorker(
            cameras=settings.cameras, answer=self._answer, failed=self._failed
        )
        self._qos_watch = QosWatch(self)
        self._cameras = {
            name: Camera(
                node=self,
                name=name,
                settings=settings,
                offer=self._worker.offer,
                qos_watch=self._qos_watch,
            )
            for name in settings.cameras
        }
        self._stages = StageTimes()
        self._diagnostics = Diagnostics(
            self, period=settings.diagnostics_period, health=self._health
        )

    @property
    def settings(self) -> NodeSettings:
        """The parameters' values of this moment."""
        return self._node_parameters.settings

    @property
    def state(self) -> str:
        """Label of the lifecycle state."""
        return self._state_machine.current_state[1]

    @property
    def computing(self) -> bool:
        """Whether a frame is still being computed that `stop` did not wait for."""
        return self._worker.left_alone

    def start(self) -> bool:
        """Configures and activates; returns whether that succeeded. If not, the log says why."""
        return all(
            step() is TransitionCallbackReturn.SUCCESS
            for step in (self.trigger_configure, self.trigger_activate)
        )

    def stop(self, *, timeout: float) -> None:
        """Stops listening, waits so many seconds for the frame that was begun, and shuts down."""
        self._drain(timeout)
        if self.computing:
            self.get_logger().warning(f"the last frame takes longer than {timeout:g} s: left alone")
        if self.state in ("unconfigured", "inactive", "active"):
            self.trigger_shutdown()

    @transition
    def on_configure(self, state: LifecycleState) -> None:
        """Loads the network and makes the output topics."""
        settings = self.settings
        settings.require_weights()
        from upsnet_ros.ros.engine import load_predictor

        try:
            converter()
            self._predictor = load_predictor(settings)
            for camera in self._cameras.values():
                camera.create_outputs(settings=settings, taxonomy=self._predictor.taxonomy)
            super().on_configure(state)
        except Exception:
            self._release()
            raise
        self.get_logger().info(f"configured: {', '.join(self._model().values())}")
        if self._predictor.random_weights:
            self.get_logger().warning(RANDOM_WEIGHTS)

    @transition
    def on_activate(self, state: LifecycleState) -> None:
        """Says what the labels mean, and listens to the cameras."""
        super().on_activate(state)
        try:
            self._worker.start()
            for camera in self._cameras.values():
                camera.subscribe()
        except Exception:
            self._drain()
            super().on_deactivate(state)
            raise
        topics = ", ".join(camera.topic for camera in self._cameras.values())
        self.get_logger().info(f"active: listening to {topics}")

    @transition
    def on_deactivate(self, state: LifecycleState) -> None:
        """Stops listening, and finishes the frame that was begun."""
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
        """Ends the worker, then the node."""
        self._drain()
        super().destroy_node()

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
        if self._predictor is not None:
            from upsnet_ros.ros.engine import free_memory

            self._predictor = None
            free_memory()

    def _answer(self, name: str, arrival: Arrival) -> None:
        assert self._predictor is not None, "the worker runs between activate and deactivate only"
        self._stages.add(
            self._cameras[name].answer(arrival, predictor=self._predictor, settings=self.settings)
        )

    def _failed(self, name: str, error: Exception) -> None:
        self._cameras[name].failed(error)
        trace = "".join(traceback.format_exception(error))
        self.get_logger().debug(trace)

    def _settings_changed(self, settings: NodeSettings) -> None:
        if self._predictor is not None:
            self._predictor.set_score_threshold(settings.score_threshold)

    def _model(self) -> dict[str, str]:
        if self._predictor is None:
            return {}
        settings = self.settings
        return {
            "variant": settings.variant,
            "device": str(self._predictor.device),
            "precision": settings.precision,
            "weights": settings.weights or "random weights",
        }

    def _gpu_memory(self) -> dict[str, str]:
        if self._predictor is None:
            return {}
        from upsnet_ros.ros.engine import gpu_memory

        return gpu_memory(self._predictor.device)

    def _health(self) -> NodeHealth:
        now = time.monotonic()
        mismatches = self._qos_watch.mismatches()
        inputs = {
            camera.topic: mismatches.pop(camera.topic, "") for camera in self._cameras.values()
        }
        return NodeHealth(
            state=self.state,
            model=self._model(),
            random_weights=self._predictor is not None and self._predictor.random_weights,
            stages_ms=self._stages.percentiles(),
            gpu_memory=self._gpu_memory(),
            output_mismatches=mismatches,
            cameras=[
                CameraHealth(
                    name=camera.name,
                    topic=camera.topic,
                    publishers=self.count_publishers(camera.topic),
                    qos_mismatch=inputs[camera.topic],
                    report=camera.statistics.report(
                        now=now, stale_after=self.settings.stale_timeout
                    ),
                )
                for camera in self._cameras.values()
            ],
        )


def main(args: Sequence[str] | None = None) -> int:
    """Runs the node until SIGINT or SIGTERM.

    Args:
        args: Command line without the program's name; by default the process's own.

    Returns:
        The exit code: 0, or 1 where the node could not start (the log says why, in one line).
    """
    wait_passively()
    try:
        rclpy.init(
            args=None if args is None else ["upsnet", *args],
            signal_handler_options=SignalHandlerOptions.NO,
        )
    except RuntimeError as error:  # rcl's, of a command line that it cannot read
        # Without the places in rcl's source that it appends.
        print(f"upsnet: {first_line(error).split(', at /')[0]}", file=sys.stderr)
        return 1
    try:
        return _run(stop_on_signals())
    finally:
        rclpy.try_shutdown()


def _run(stop: Future) -> int:
    try:
        node = UpsnetNode()
    except (SettingsError, ParameterException) as error:
        get_logger("upsnet").error(first_line(error))
        return 1
    executor = SingleThreadedExecutor()
    executor.add_node(node)
    try:
        if node.settings.autostart and not node.start():
            return 1
        executor.spin_until_future_complete(stop)
        node.stop(timeout=_STOP_SECONDS)
        return 0
    finally:
        executor.shutdown()
        node.destroy_node()
        if node.computing:
            # Python would wait for that thread, which no signal can end, and whoever stops the node
            # would kill it. All that others see of it is gone by now.
            rclpy.try_shutdown()
            os._exit(0)
