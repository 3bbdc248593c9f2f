"""When a message arrived, as well as the middleware tells."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from rclpy.subscription import Subscription

__all__ = ["with_arrival"]

# From Jazzy on a callback can learn when DDS received the message; a busy executor calls later.
_TELLS_ARRIVAL = hasattr(Subscription, "CallbackType")


def with_arrival(callback: Callable[[Any, int], None]) -> Callable[..., None]:
    """A subscription's callback made of one that also takes the time at which the message came.

    Args:
        callback: Called with the message and the nanoseconds since 1970, by the system's clock, at
            which the middleware received it; where it does not tell, at which the executor called.
    """

    def with_info(message: Any, info: Any) -> None:
        callback(message, info["received_timestamp"] or time.time_ns())

    if _TELLS_ARRIVAL:
        return with_info
    return lambda message: callback(message, time.time_ns())
