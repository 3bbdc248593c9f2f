"""The node's services: ~/enable and ~/reload_weights."""

from __future__ import annotations

import threading
import traceback
from collections.abc import Callable, Generator
from typing import Any

from rclpy.callback_groups import ReentrantCallbackGroup
from rclpy.node import Node
from std_srvs.srv import SetBool, Trigger

from upsnet_ros.ros.transitions import first_line

__all__ = ["Services"]

# How long a turn of the executor waits for the weights, which take a second or so to load.
_PATIENCE_SECONDS = 0.005


class Services:
    """Offers the services.

    Args:
        node: Whose they are.
        enable: Starts or stops taking frames; returns what to tell the caller. May refuse with a
            ValueError or RuntimeError.
        reload: Loads the weights anew, in a thread of its own, and returns what runs now. May
            raise; the answer then says why.
    """

    def __init__(
        self, node: Node, *, enable: Callable[[bool], str], reload: Callable[[], str]
    ) -> None:
        self._node = node
        self._enable = enable
        self._reload = reload
        self._reloading: threading.Thread | None = None
        node.create_service(SetBool, "~/enable", self._on_enable)
        # In a group of its own: others of its group would wait for it, and another request too.
        group = ReentrantCallbackGroup()
        node.create_service(Trigger, "~/reload_weights", self._on_reload, callback_group=group)

    @property
    def loading(self) -> bool:
        """Whether weights are being loaded."""
        return self._reloading is not None and self._reloading.is_alive()

    def wait(self, timeout: float) -> None:
        """Waits so many seconds for weights that are being loaded; see `loading`."""
        if self._reloading is not None:
            self._reloading.join(timeout)

    def _on_enable(self, request: Any, response: Any) -> Any:
        try:
            response.success, response.message = True, self._enable(request.data)
        except (ValueError, RuntimeError) as error:
            response.success, response.message = False, first_line(error)
        return response

    async def _on_reload(self, request: Any, response: Any) -> Any:
        if self._reloading is not None:
            response.success, response.message = False, "the weights are being loaded already"
            return response
        thread = threading.Thread(target=self._run, args=(response,), name="upsnet_reload")
        self._reloading = thread
        try:
            thread.start()
            await _Ended(thread)
        finally:
            self._reloading = None
        return response

    def _run(self, response: Any) -> None:
        try:
            response.message = f"now running: {self._reload()}"
            response.success = True
            self._node.get_logger().info(f"weights reloaded, {response.message}")
        except Exception as error:  # noqa: BLE001 - told to the caller and logged; the old ones go on
            response.success, response.message = False, first_line(error)
            self._node.get_logger().error(
                f"reload_weights failed, the old weights go on: {response.message}"
            )
            self._node.get_logger().debug(traceback.format_exc())


class _Ended:
    """Waits for a thread's end in a coroutine of rclpy's executor."""

    def __init__(self, thread: threading.Thread) -> None:
        self._thread = thread

    def __await__(self) -> Generator[None, None, None]:
        # The executor resumes a coroutine that waits in each of its turns, and does not sleep while
        # there is one: without a little patience here it would take a whole processor.
        while self._thread.is_alive():
            self._thread.join(_PATIENCE_SECONDS)
            yield
