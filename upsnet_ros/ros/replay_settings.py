"""How to replay, and what is asked of the bag that is replayed."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Protocol

from upsnet_ros.ros.replay_topics import OUTPUTS

__all__ = ["Bag", "BagMessage", "Record", "ReplaySettings"]


class BagMessage(Protocol):
    """What is asked of a record of `upsnet_ros.bags.open_bag`."""

    @property
    def topic(self) -> str: ...  # noqa: D102

    @property
    def time_ns(self) -> int: ...  # noqa: D102

    @property
    def msgtype(self) -> str: ...  # noqa: D102

    @property
    def raw(self) -> bytes: ...  # noqa: D102


class Bag(Protocol):
    """A bag that can be read again and again."""

    def __iter__(self) -> Iterator[BagMessage]: ...


#: Called with topic, serialised message, nanoseconds on the bag's time line, and message type.
Record = Callable[[str, bytes, int, str], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class ReplaySettings:
    """How to replay.

    Attributes:
        rate: Bag seconds in a second. None is lockstep: each message follows at once, but an image
            only when the one before it was answered.
        loop: Begin anew at the end.
        clock_hz: How often at least to publish the bag's time on /clock; None leaves /clock alone.
        outputs: Names of the node's outputs to wait for and to hand on.
        timeout: Seconds to wait for the node, and for each answer.

    Raises:
        ValueError: For a value that cannot be meant.
    """

    rate: float | None = None
    loop: bool = False
    clock_hz: float | None = None
    outputs: tuple[str, ...] = ("labels", "instances", "unknown_mask")
    timeout: float = 60.0

    def __post_init__(self) -> None:
        if self.rate is not None and not 0 < self.rate <= 1000:
            raise ValueError(f"rate must be above 0 and at most 1000, not {self.rate}")
        if self.clock_hz is not None and not 0 < self.clock_hz <= 1000:
            raise ValueError(f"clock must be above 0 and at most 1000 Hz, not {self.clock_hz}")
        if not self.timeout > 0:
            raise ValueError(f"timeout must be above 0 s, not {self.timeout}")
        if not self.outputs:
            raise ValueError("outputs must name at least one topic that answers")
        for name in self.outputs:
            if name not in OUTPUTS or name == "label_info":
                known = ", ".join(sorted(OUTPUTS.keys() - {"label_info"}))
                raise ValueError(f"output {name!r} is none of {known}")
