"""Which images were answered, and how long that took."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

__all__ = ["ReplayTally", "SentImage", "histogram", "latency_figures"]

# Images that wait for their answers. The node computes one and keeps one; what is older is lost.
_OUTSTANDING = 1000
_BINS = 20


@dataclass(slots=True)
class SentImage:
    """An image on its way.

    Attributes:
        stamp_ns: Of its header.
        bag_ns: When the bag received it.
        sent_ns: When it was published.
        answers: When each output for it came, by name.
    """

    stamp_ns: int
    bag_ns: int
    sent_ns: int
    answers: dict[str, int] = field(default_factory=dict)


class ReplayTally:
    """Counts images sent, answered and missed.

    Args:
        outputs: Names of the outputs that make an answer.
    """

    def __init__(self, outputs: Sequence[str]) -> None:
        self._outputs = frozenset(outputs)
        self._outstanding: OrderedDict[int, SentImage] = OrderedDict()
        self._latencies_ms: list[float] = []
        self._partial = 0
        self.sent = 0
        self.answered = 0
        self.repeated_stamps = 0

    @property
    def missed(self) -> int:
        """Images that were not answered, as far as is known now."""
        return self.sent - self.answered

    def send(self, *, stamp_ns: int, bag_ns: int, sent_ns: int) -> SentImage:
        """Note an image that is published now."""
        self.sent += 1
        image = SentImage(stamp_ns, bag_ns, sent_ns)
        if (older := self._outstanding.pop(stamp_ns, None)) is not None:
            self.repeated_stamps += 1
            self._partial += bool(older.answers)
        self._outstanding[stamp_ns] = image
        if len(self._outstanding) > _OUTSTANDING:
            self._partial += bool(self._outstanding.popitem(last=False)[1].answers)
        return image

    def answer(self, output: str, stamp_ns: int, *, received_ns: int) -> SentImage | None:
        """Note an output that came.

        Returns:
            The image that it answers; None where no such image is waited for.
        """
        image = self._outstanding.get(stamp_ns)
        if image is None or output in image.answers:
            return None
        image.answers[output] = received_ns
        if image.answers.keys() >= self._outputs:
            del self._outstanding[stamp_ns]
            self.answered += 1
            last_ns = max(image.answers[name] for name in self._outputs)
            self._latencies_ms.append((last_ns - image.sent_ns) / 1e6)
        return image

    def waits_for(self, image: SentImage) -> list[str]:
        """The outputs that did not come for an image, by name."""
        return sorted(self._outputs - image.answers.keys())

    def report(self) -> dict[str, Any]:
        """Counts and latencies, fit for JSON.

        Returns:
            ``sent``, ``answered``, ``missed`` (with ``missed_share`` of what was sent),
            ``partly_answered`` (of the missed), ``repeated_stamps``, ``latency_ms`` (see
            `latency_figures`) and ``histogram`` (see `histogram`).
        """
        partly = self._partial + sum(bool(image.answers) for image in self._outstanding.values())
        return {
            "sent": self.sent,
            "answered": self.answered,
            "missed": self.missed,
            "missed_share": self.missed / self.sent if self.sent else 0.0,
            "partly_answered": partly,
            "repeated_stamps": self.repeated_stamps,
            "latency_ms": latency_figures(self._latencies_ms),
            "histogram": histogram(self._latencies_ms),
        }


def latency_figures(latencies_ms: Sequence[float]) -> dict[str, float] | None:
    """Mean, extremes and percentiles; None of nothing."""
    if not latencies_ms:
        return None
    p50, p90, p99 = np.percentile(latencies_ms, (50, 90, 99)).tolist()
    figures = {
        "mean": float(np.mean(latencies_ms)),
        "min": min(latencies_ms),
        "p50": p50,
        "p90": p90,
        "p99": p99,
        "max": max(latencies_ms),
    }
    return {name: round(value, 3) for name, value in figures.items()}


def histogram(latencies_ms: Sequence[float]) -> dict[str, list[float] | list[int]]:
    """How many latencies lie where, in at most 20 bins of a round width.

    Returns:
        ``edges_ms``, one more than there are bins, and ``counts``; both empty of nothing.
    """
    if not latencies_ms:
        return {"edges_ms": [], "counts": []}
    low, high = min(latencies_ms), max(latencies_ms)
    # With one bin to spare, for neither extreme lies on an edge.
    least = max((high - low) / (_BINS - 1), 1e-3)
    power = 10.0 ** np.floor(np.log10(least))
    width = next(step * power for step in (1, 2, 5, 10) if step * power >= least * (1 - 1e-9))
    first, last = np.floor(low / width), np.floor(high / width) + 1
    edges = np.arange(first, last + 1) * width
    counts, _ = np.histogram(latencies_ms, edges)
    return {"edges_ms": [round(float(edge), 4) for edge in edges], "counts": counts.tolist()}
