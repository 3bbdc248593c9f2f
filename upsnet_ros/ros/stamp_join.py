"""Messages of several topics, put together by equal stamps."""

from __future__ import annotations

from collections import Counter, OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

__all__ = ["JoinedSet", "StampJoiner"]


@dataclass(frozen=True, slots=True, eq=False)
class JoinedSet:
    """One message of each topic, all with the same stamp.

    Attributes:
        stamp_ns: Their stamp, nanoseconds.
        messages: By topic.
        received: Seconds at which they arrived, all by one clock, by topic.
    """

    stamp_ns: int
    messages: Mapping[str, Any]
    received: Mapping[str, float]


@dataclass(slots=True, eq=False)
class _Pending:
    messages: dict[str, Any] = field(default_factory=dict)
    received: dict[str, float] = field(default_factory=dict)


class StampJoiner:
    """Collects messages until each topic has sent one with the same stamp.

    Args:
        topics: What a set consists of.
        limit: Number of incomplete sets that wait; one more pushes out the one with the oldest
            arrival, which is counted with what it lacked.
    """

    def __init__(self, topics: Sequence[str], *, limit: int = 100) -> None:
        self._topics = frozenset(topics)
        self._limit = limit
        self._pending: OrderedDict[int, _Pending] = OrderedDict()
        self._given_up = 0
        self._missing: Counter[str] = Counter()

    def add(self, topic: str, stamp_ns: int, message: Any, *, received: float) -> JoinedSet | None:
        """Take in a message that arrived at second ``received``.

        Returns:
            The set that it completes, if any.
        """
        pending = self._pending.setdefault(stamp_ns, _Pending())
        pending.messages[topic] = message
        pending.received[topic] = received
        if pending.messages.keys() == self._topics:
            del self._pending[stamp_ns]
            return JoinedSet(stamp_ns, pending.messages, pending.received)
        if len(self._pending) > self._limit:
            self._give_up(self._pending.popitem(last=False)[1])
        return None

    def finish(self) -> None:
        """Give up on everything that still waits."""
        while self._pending:
            self._give_up(self._pending.popitem(last=False)[1])

    @property
    def given_up(self) -> int:
        """Sets that were never complete."""
        return self._given_up

    @property
    def missing(self) -> Mapping[str, int]:
        """In how many of those each topic was missing."""
        return dict(self._missing)

    def _give_up(self, pending: _Pending) -> None:
        self._given_up += 1
        self._missing.update(self._topics - pending.messages.keys())
