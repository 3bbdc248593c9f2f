"""Lifecycle callbacks and services of the node, and a guard against invalid requests.

An exception in a callback ends the process through rclpy's executor, and rclpy's own callbacks
raise as well: if a transition does not exist in the current state (ros2/rclpy#1209), a parameter
has no type, or /clock is before 1970. Anybody on the network could end the node.
"""

from __future__ import annotations

import functools
import inspect
import threading
import time
import traceback
from collections import Counter
from collections.abc import Callable, Generator
from typing import TYPE_CHECKING, Any, TypeVar

from rclpy.callback_groups import ReentrantCallbackGroup
from rclpy.executors import SingleThreadedExecutor
from rclpy.lifecycle import LifecycleNode, LifecycleState, TransitionCallbackReturn
from rclpy.node import Node as RosNode
from rclpy.service import Service
from std_srvs.srv import SetBool, Trigger

from upsnet_ros.errors import first_line

#: Longest time for which `SpinningNode.spin_until` does not look whether to end.
POLL_SECONDS = 0.1

Node = TypeVar("Node", bound=LifecycleNode)


def transition(
    callback: Callable[[Node, LifecycleState], None],
) -> Callable[[Node, LifecycleState], TransitionCallbackReturn]:
    """Make a lifecycle callback ``on_...`` of a method that raises if it does not succeed.

    rclpy silently discards exceptions of these callbacks. Recoverable errors (files, values,
    devices, memory) are logged in one line and fail the transition; the state does not change.
    Others are logged with their traceback and lead to ``on_error``.
    """

    @functools.wraps(callback)
    def wrapped(self: Node, state: LifecycleState) -> TransitionCallbackReturn:
        what = callback.__name__.removeprefix("on_")
        try:
            callback(self, state)
        except (ValueError, OSError, ImportError, RuntimeError, MemoryError) as error:
            self.get_logger().error(f"{what} failed: {first_line(error)}")
            self.get_logger().debug(traceback.format_exc())
            return TransitionCallbackReturn.FAILURE
        except Exception:  # noqa: BLE001 - logged whole
            self.get_logger().error(f"{what} failed:\n{traceback.format_exc()}")
            return TransitionCallbackReturn.ERROR
        return TransitionCallbackReturn.SUCCESS

    return wrapped


_LOG_SECONDS = 5.0

if TYPE_CHECKING:
    from rclpy.node import Node as _Base
else:
    _Base = object  # a mixin for any of rclpy's node classes


class Guarded(_Base):
    """A mixin for rclpy's nodes: exceptions of callbacks are logged and counted, nothing else.

    It guards subscriptions, timers, guard conditions and services, including those of rclpy. If a
    service raises, the default response is returned, in which ``success`` (if any) is False.
    Coroutines are not guarded.
    """

    def __init__(self, *args: Any, **options: Any) -> None:
        #: Number of exceptions by topic, service or kind of callback.
        self.refusals: Counter[str] = Counter()
        super().__init__(*args, **options)
        # rclpy creates some without `create_service`: those of the lifecycle and of types.
        for service in self.services:
            self._guard_service(service)

    def create_subscription(
        self, msg_type: Any, topic: str, callback: Callable[..., Any], *args: Any, **options: Any
    ) -> Any:
        """As in rclpy; the callback is guarded."""
        guarded = self._guarded(callback, lambda: f"message on {self.resolve_topic_name(topic)}")
        return super().create_subscription(msg_type, topic, guarded, *args, **options)

    def create_timer(
        self, timer_period_sec: float, callback: Callable[..., Any], *args: Any, **options: Any
    ) -> Any:
        """As in rclpy; the callback is guarded."""
        guarded = self._guarded(callback, lambda: "turn of a timer")
        return super().create_timer(timer_period_sec, guarded, *args, **options)

    def create_guard_condition(
        self, callback: Callable[..., Any], *args: Any, **options: Any
    ) -> Any:
        """As in rclpy; the callback is guarded."""
        guarded = self._guarded(callback, lambda: "trigger of a guard condition")
        return super().create_guard_condition(guarded, *args, **options)

    def create_service(self, *args: Any, **options: Any) -> Any:
        """As in rclpy; the callback is guarded."""
        service = super().create_service(*args, **options)
        self._guard_service(service)
        return service

    def _guard_service(self, service: Service) -> None:
        callback = service.callback
        if inspect.iscoroutinefunction(callback) or hasattr(callback, "guarded"):
            return

        @functools.wraps(callback)
        def answer(request: Any, response: Any) -> Any:
            try:
                return callback(request, response)
            except Exception as error:  # noqa: BLE001 - logged, and the request refused
                self._refuse(f"request of {service.srv_name}", error)
                return type(response)()

        answer.guarded = True  # type: ignore[attr-defined]
        service.callback = answer

    def _guarded(self, callback: Callable[..., Any], what: Callable[[], str]) -> Callable[..., Any]:
        if inspect.iscoroutinefunction(callback):
            return callback

        @functools.wraps(callback)  # rclpy inspects the number of arguments
        def guarded(*arguments: Any) -> Any:
            try:
                return callback(*arguments)
            except Exception as error:  # noqa: BLE001 - logged and counted
                self._refuse(what(), error)
                return None

        return guarded

    def _refuse(self, what: str, error: Exception) -> None:
        self.refusals[what] += 1
        self.get_logger().error(
            f"{what} refused: {first_line(error)} (refused so far: {self.refusals[what]})",
            throttle_duration_sec=_LOG_SECONDS,
        )


class GuardedNode(Guarded, RosNode):
    """A node of rclpy with guarded callbacks."""


class SpinningNode(GuardedNode):
    """A node whose own methods spin it while they wait, in the thread that calls them."""

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self._executor = SingleThreadedExecutor(context=self.context)
        self._executor.add_node(self)

    def spin_until(self, over: Callable[[], bool], *, until: float) -> None:
        """Handle callbacks until ``over`` returns True, or monotonic time ``until``.

        ``over`` is called before the first callback, and then at least every `POLL_SECONDS`.
        """
        while not over():
            left = until - time.monotonic()
            if left <= 0:
                return
            self._executor.spin_once(timeout_sec=min(left, POLL_SECONDS))

    def destroy_node(self) -> None:
        """Destroy the node and shut down its executor."""
        self._executor.shutdown()
        super().destroy_node()


class ManagedNode(Guarded, LifecycleNode):
    """A managed (lifecycle) node of rclpy with guarded callbacks."""

    @property
    def state(self) -> str:
        """Label of the lifecycle state."""
        return self._state_machine.current_state[1]

    def start(self, *, stopped: Callable[[], bool] = lambda: False) -> bool:
        """Configure and activate; return whether that succeeded. If not, the log says why.

        Args:
            stopped: Returns whether the user has stopped the node, which ends the start.
        """
        return all(
            not stopped() and step() is TransitionCallbackReturn.SUCCESS
            for step in (self.trigger_configure, self.trigger_activate)
        )

    def destroy_node(self) -> None:
        """Destroy the node, and leave DDS."""
        super().destroy_node()
        # rclpy forgets it. It holds the node in DDS, whose threads would still run while the C++
        # objects that they use are destroyed at the end of the process, and crash.
        self._state_machine.destroy_when_not_in_use()


# Seconds that each turn of the executor waits for the other thread.
_PATIENCE_SECONDS = 0.005


class Services:
    """The services ~/enable and ~/reload_weights.

    Args:
        node: Node that offers them.
        enable: Starts or stops taking frames; returns the message for the caller. May raise
            ValueError or RuntimeError.
        reload: Reloads the weights, in a separate thread, and returns a description of the model.
            If it raises, the response says why.
    """

    def __init__(
        self, node: RosNode, *, enable: Callable[[bool], str], reload: Callable[[], str]
    ) -> None:
        self._node = node
        self._enable = enable
        self._reload = reload
        self._reloading: threading.Thread | None = None
        node.create_service(SetBool, "~/enable", self._on_enable)
        # In a separate group: otherwise other callbacks and further requests would wait for it.
        group = ReentrantCallbackGroup()
        node.create_service(Trigger, "~/reload_weights", self._on_reload, callback_group=group)

    @property
    def loading(self) -> bool:
        """Whether weights are being loaded."""
        return self._reloading is not None and self._reloading.is_alive()

    def wait(self, timeout: float) -> None:
        """Wait at most so many seconds for weights that are being loaded; see `loading`."""
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
            await Waiting(functools.partial(_ended, thread))
        finally:
            self._reloading = None
        return response

    def _run(self, response: Any) -> None:
        try:
            response.message = f"now running: {self._reload()}"
            response.success = True
            self._node.get_logger().info(f"weights reloaded, {response.message}")
        except Exception as error:  # noqa: BLE001 - returned to the caller and logged
            response.success, response.message = False, first_line(error)
            self._node.get_logger().error(
                f"reload_weights failed, keeping the current weights: {response.message}"
            )
            self._node.get_logger().debug(traceback.format_exc())


class Waiting:
    """Awaitable for coroutines of rclpy's executor that waits for another thread.

    Args:
        done: Waits at most the given seconds; returns whether the thread is done.
    """

    def __init__(self, done: Callable[[float], bool]) -> None:
        self._done = done

    def __await__(self) -> Generator[None, None, None]:
        # The executor resumes a waiting coroutine in each of its turns and does not sleep while
        # there is one: without a short wait here it would use a whole CPU core.
        while not self._done(_PATIENCE_SECONDS):
            yield


def _ended(thread: threading.Thread, seconds: float) -> bool:
    thread.join(seconds)
    return not thread.is_alive()
