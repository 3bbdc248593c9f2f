"""The service ~/segment: one image in, its segmentation out, by the way of the cameras' frames."""

from __future__ import annotations

import threading
import time
import traceback
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from rclpy.callback_groups import ReentrantCallbackGroup
from rclpy.lifecycle import LifecycleNode

from upsnet_ros.errors import ImageError, first_line
from upsnet_ros.inference.frame import PanopticFrame, keep_classes
from upsnet_ros.messages import results as messages
from upsnet_ros.messages.images import check
from upsnet_ros.node.camera_image import Arrival, CameraImage
from upsnet_ros.node.lifecycle import Waiting
from upsnet_ros.node.parameters import NodeSettings
from upsnet_ros.srv import Segment

#: The service's name in the node, and among the cameras' names in the worker, where none has a ~.
SERVICE = "~/segment"
#: Requests that wait at most; each holds an image.
_LIMIT = 8


@dataclass(slots=True, eq=False)
class _Request:
    arrival: Arrival
    done: threading.Event = field(default_factory=threading.Event)
    response: Any = None


class SegmentService:
    """Answers requests one after the other, as if they were the frames of another camera.

    The worker chooses between cameras and the service in turn, so that neither waits for more than
    one frame of the other. Nothing that is counted or tracked for the cameras changes.

    `decode`, `publish` and `failed` are called in the worker's threads, the rest in the executor's.

    Args:
        node: Offers the service.
        offer: Takes an arrival for inference; returns it where the worker does not run
            (`FrameWorker.offer`).
    """

    def __init__(
        self, node: LifecycleNode, *, offer: Callable[[str, Arrival], Arrival | None]
    ) -> None:
        self._node = node
        self._offer = offer
        self._lock = threading.Lock()
        self._current: _Request | None = None
        self._queue: deque[_Request] = deque()
        node.create_service(
            # In a group of its own: others of its group would wait for it.
            Segment, SERVICE, self._on_request, callback_group=ReentrantCallbackGroup()
        )  # fmt: skip

    def subscribed(self) -> set[str]:
        """The outputs that a request in progress needs."""
        return set() if self._current is None else {"instances"}

    def decode(self, arrival: Arrival, *, takes: Callable[[str], bool]) -> CameraImage | None:
        """Makes of a request what the network takes; None where its image is malformed."""
        try:
            return CameraImage.read(arrival, takes=takes)
        except ImageError as error:
            self._finish(_refusal(str(error)))
            return None

    def publish(
        self, image: CameraImage, frame: PanopticFrame, *, settings: NodeSettings
    ) -> dict[str, float]:
        """Answers the request; its times are not those of the cameras, so it returns none."""
        taxonomy = frame.taxonomy
        assert taxonomy is not None, "predictors name the classes of their frames"
        class_ids = settings.class_ids(taxonomy)
        if class_ids is not None:
            frame = keep_classes(frame, class_ids)
        encoding = settings.resolved_labels_encoding(max(taxonomy.by_id))
        self._finish(
            Segment.Response(
                success=True,
                labels=messages.labels_message(frame, image.header, encoding=encoding),
                instances=messages.instances_message(
                    frame, image.header, unknown_min_area=settings.unknown_min_area
                ),
                unknown_mask=messages.unknown_mask_message(frame, image.header),
            )
        )
        return {}

    def failed(self, error: Exception) -> None:
        """Answers a request whose inference raised."""
        self._node.get_logger().error(f"{SERVICE} failed: {type(error).__name__}: {error}")
        self._finish(_refusal(f"{type(error).__name__}: {first_line(error)}"))

    def refuse_all(self, reason: str) -> None:
        """Answers all requests that are still here."""
        with self._lock:
            left = [*([self._current] if self._current else []), *self._queue]
            self._current = None
            self._queue.clear()
        for request in left:
            _answer(request, _refusal(reason))

    async def _on_request(self, request: Any, response: Any) -> Any:
        # What a coroutine raises ends the executor, and with it the node.
        try:
            return await self._segment(request.image)
        except Exception as error:  # noqa: BLE001 - logged, and told to the caller
            self._node.get_logger().error(f"{SERVICE} failed:\n{traceback.format_exc()}")
            return _refusal(first_line(error))

    async def _segment(self, image: Any) -> Any:
        try:
            check(image)
        except ImageError as error:
            return _refusal(str(error))
        waiting = _Request(Arrival(image, time.monotonic()))
        with self._lock:
            if len(self._queue) >= _LIMIT:
                return _refusal(f"busy: {_LIMIT} requests are waiting already")
            self._queue.append(waiting)
        self._begin_next()
        await Waiting(waiting.done.wait)
        return waiting.response

    def _begin_next(self) -> None:
        with self._lock:
            if self._current is not None or not self._queue:
                return
            self._current = self._queue.popleft()
            arrival = self._current.arrival
        if self._offer(SERVICE, arrival) is not None:
            self.refuse_all("the node is not active: activate it first")

    def _finish(self, response: Any) -> None:
        """Answers the request in progress, and begins the next one."""
        with self._lock:
            request, self._current = self._current, None
        if request is not None:  # else it has been refused
            _answer(request, response)
        self._begin_next()


def _answer(request: _Request, response: Any) -> None:
    request.response = response
    request.done.set()


def _refusal(reason: str) -> Any:
    return Segment.Response(success=False, message=reason.splitlines()[0])
