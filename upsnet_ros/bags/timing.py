"""What a bag of outputs tells of time: how long answers took, and which images got none."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from upsnet_ros.bags.index import BagIndex, FrameKey
from upsnet_ros.bags.roles import Role
from upsnet_ros.evaluation.report.page import Series

__all__ = ["Timing"]

_SECOND = 1_000_000_000
#: Beyond this, the two clocks have nothing to do with each other.
_LONGEST = 60 * _SECOND
_BY_ARRIVAL = "Latency from image to labels, as they came into the bag, ms"
_BY_STAMP = "Latency from the image's stamp to when labels came into the bag, ms"


@dataclass(frozen=True, slots=True, kw_only=True)
class Timing:
    """Arrivals of answers.

    Attributes:
        what: How latency was measured; empty where clocks do not tell.
        waits: Latency in ns by frame.
        dropped: Images without an answer.
        images: Number of images; 0 where the bag has none.
    """

    what: str
    waits: Mapping[FrameKey, int]
    dropped: tuple[FrameKey, ...]
    images: int

    @classmethod
    def of(cls, outputs: BagIndex, images: BagIndex) -> Timing:
        """Compare when outputs arrived with when images did, or were stamped."""
        arrived = outputs.arrivals.get(Role.LABELS, {})
        sent = images.arrivals.get(Role.IMAGE, {})
        by_arrival = {key: arrived[key] - sent[key] for key in arrived if key in sent}
        by_stamp = {key: time_ns - key.stamp_ns for key, time_ns in arrived.items()}
        what, waits = "", dict[FrameKey, int]()
        for title, candidate in ((_BY_ARRIVAL, by_arrival), (_BY_STAMP, by_stamp)):
            if candidate and all(0 <= wait < _LONGEST for wait in candidate.values()):
                what, waits = title, candidate
                break
        dropped = tuple(sorted(key for key in sent if key not in arrived))
        return cls(what=what, waits=waits, dropped=dropped, images=len(sent))

    def series(self, *, name: str = "") -> list[Series]:
        """A plot over the time of the stamps, where latency is known."""
        if not self.waits:
            return []
        keys = sorted(self.waits)
        begin = min([*keys, *self.dropped]).stamp_ns
        return [
            Series(
                title=f"{name}: {self.what}" if name else self.what,
                times=[(key.stamp_ns - begin) / _SECOND for key in keys],
                values=[self.waits[key] / 1e6 for key in keys],
                marks=[(key.stamp_ns - begin) / _SECOND for key in self.dropped],
                marks_title="images without an answer" if self.dropped else "",
            )
        ]
