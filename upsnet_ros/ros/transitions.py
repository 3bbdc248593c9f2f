"""Lifecycle callbacks that may raise."""

from __future__ import annotations

import functools
import traceback
from collections.abc import Callable
from typing import TypeVar

from rclpy.lifecycle import LifecycleNode, LifecycleState, TransitionCallbackReturn

__all__ = ["first_line", "transition"]

Node = TypeVar("Node", bound=LifecycleNode)


def transition(
    callback: Callable[[Node, LifecycleState], None],
) -> Callable[[Node, LifecycleState], TransitionCallbackReturn]:
    """A lifecycle callback ``on_...`` of a method that raises where it does not succeed.

    rclpy would swallow what a callback raises, without a word. What users can mend (files, values,
    devices, memory) is logged in one line and fails the transition, which leaves the node in the
    state in which it was; anything else is logged whole and leads to ``on_error``.
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


def first_line(error: BaseException) -> str:
    """The first line of an error's text; its type where it has none."""
    return (str(error) or type(error).__name__).splitlines()[0]
