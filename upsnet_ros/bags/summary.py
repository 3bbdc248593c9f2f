"""What a bag holds, counted by reading it."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from datetime import datetime, timezone
from itertools import pairwise
from pathlib import Path
from typing import Any

from upsnet_ros.bags.reader import open_bag

__all__ = ["BagSummary", "TopicSummary", "summarise_bag"]


@dataclass(frozen=True, slots=True, kw_only=True)
class TopicSummary:
    """One topic; times are the recorder's.

    Attributes:
        name: The topic.
        msgtype: Its type.
        known: Whether its messages can be read.
        latched: Whether its publisher kept the last message for late joiners.
        count: Messages that can be read.
        first_ns: Time of the first one; None where there is none.
        last_ns: Time of the last one.
        rate_hz: Messages a second between the two; None with fewer than two moments.
        longest_gap_s: Longest time without a message between the two.
    """

    name: str
    msgtype: str
    known: bool
    latched: bool
    count: int
    first_ns: int | None
    last_ns: int | None
    rate_hz: float | None
    longest_gap_s: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class BagSummary:
    """A bag.

    Attributes:
        path: Of the bag.
        topics: By name.
        start_ns: Time of the first message; 0 in an empty bag.
        end_ns: Time of the last message.
        size_bytes: Of its files.
        losses: What cannot be read, a line each.
    """

    path: Path
    topics: tuple[TopicSummary, ...]
    start_ns: int
    end_ns: int
    size_bytes: int
    losses: tuple[str, ...]

    @property
    def messages(self) -> int:
        """Messages that can be read."""
        return sum(topic.count for topic in self.topics)

    @property
    def begin(self) -> str:
        """Time of the first message in UTC."""
        moment = datetime.fromtimestamp(self.start_ns / 1e9, timezone.utc)
        return moment.isoformat(sep=" ", timespec="milliseconds").replace("+00:00", " UTC")

    def to_json(self) -> dict[str, Any]:
        """As plain numbers and texts."""
        return {**asdict(self), "path": str(self.path), "messages": self.messages}


def summarise_bag(path: Path) -> BagSummary:
    """Read a bag from end to end.

    Raises:
        BagError: It is no bag.
    """
    times: dict[tuple[str, str], list[int]] = {}
    with open_bag(path) as bag:
        for record in bag:
            times.setdefault((record.topic, record.msgtype), []).append(record.time_ns)
        topics = []
        for topic in bag.topics:
            moments = times.get((topic.name, topic.msgtype), [])
            seconds = (moments[-1] - moments[0]) / 1e9 if moments else 0.0
            gaps = [after - before for before, after in pairwise(moments)]
            topics.append(
                TopicSummary(
                    name=topic.name,
                    msgtype=topic.msgtype,
                    known=topic.known,
                    latched=topic.latched,
                    count=len(moments),
                    first_ns=moments[0] if moments else None,
                    last_ns=moments[-1] if moments else None,
                    rate_hz=(len(moments) - 1) / seconds if seconds else None,
                    longest_gap_s=max(gaps) / 1e9 if seconds else None,
                )
            )
        files = path.iterdir() if path.is_dir() else [path]
        return BagSummary(
            path=path,
            topics=tuple(topics),
            start_ns=bag.start_time,
            end_ns=bag.end_time,
            size_bytes=sum(file.stat().st_size for file in files if file.is_file()),
            losses=tuple(bag.losses),
        )
