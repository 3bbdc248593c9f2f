"""Workers, wherever they run, as `upsnet_ros.cluster.spread.spread` sees them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from upsnet_ros.bags.judging import BagTask
from upsnet_ros.cluster.worker import Greeting, Verdict

__all__ = ["Broken", "Pool", "Report"]


@dataclass(frozen=True, slots=True)
class Broken:
    """A worker that was lost, or stumbled over something that is nobody's known fault.

    Attributes:
        reason: What happened.
    """

    reason: str


@dataclass(frozen=True, slots=True)
class Report:
    """News of a worker.

    Attributes:
        worker: Its number.
        news: That it is ready, what came of its bag, or that it is no more.
    """

    worker: int
    news: Greeting | Verdict | Broken


class Pool(Protocol):
    """Workers by number, none of which is given a second bag before it has answered.

    Attributes:
        size: How many may work at a time.
    """

    size: int

    def start(self) -> int:
        """Begin to start a worker; a `Greeting` reports that it is there, which may take long."""
        ...

    def submit(self, worker: int, task: BagTask) -> None:
        """Hand a bag to a worker that is there; a `Verdict` reports what came of it."""
        ...

    def discard(self, worker: int) -> None:
        """End a worker that broke; no more news comes of it."""
        ...

    def wait(self) -> list[Report]:
        """Wait for news: at least one, and `Broken` at most once of a worker."""
        ...
