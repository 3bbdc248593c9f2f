"""A frame's way through the node, from a camera's message to its answer on the topics."""

from __future__ import annotations

import traceback
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future

from rclpy.impl.rcutils_logger import RcutilsLogger

from upsnet_ros.inference.frame import PanopticFrame
from upsnet_ros.ros.camera import Camera
from upsnet_ros.ros.camera_image import Arrival, CameraImage
from upsnet_ros.ros.model import Model
from upsnet_ros.ros.settings import NodeSettings
from upsnet_ros.ros.statistics import StageTimes
from upsnet_ros.ros.transitions import first_line

__all__ = ["FrameSteps"]


class FrameSteps:
    """What the node's `FrameWorker` does with a frame: these are its `worker.Steps`.

    Args:
        cameras: By name.
        model: What segments.
        stages: Told how long each stage took.
        settings: Returns the node's of the moment.
        logger: The node's.
    """

    def __init__(
        self,
        *,
        cameras: Mapping[str, Camera],
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
        return self._model.submit(images)

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
