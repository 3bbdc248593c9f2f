"""Part of an evaluation, such as one bag's, that is judged anywhere and merged exactly.

`PartialResult` is what a worker sends back: it can be pickled, is some kilobytes a frame beside
its pictures, and holds counts, not figures. `PartialResult.merged` of the parts, in any order and
grouping, gives `PartialResult.result` the very figures of judging all frames in one go.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from upsnet_ros.evaluation.categories import Categories
from upsnet_ros.evaluation.errors import EvaluationError
from upsnet_ros.evaluation.evaluation import EvaluationResult, summarise
from upsnet_ros.evaluation.measures import FrameMeasures
from upsnet_ros.evaluation.report.page import Series
from upsnet_ros.evaluation.report.shelf import Shelf
from upsnet_ros.evaluation.run import Judged
from upsnet_ros.evaluation.snapshot import Snapshot


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class PartialResult:
    """What was judged of one part.

    Attributes:
        categories: The classes.
        frames: What is kept of each frame.
        pictures: The part's choice for a report, each with its frame's quality.
        notes: What was left out, a line each.
        series: Measured along the part, such as latency.
    """

    categories: Categories
    frames: tuple[FrameMeasures, ...]
    pictures: tuple[tuple[Snapshot, float], ...] = ()
    notes: tuple[str, ...] = ()
    series: tuple[Series, ...] = ()

    @classmethod
    def of(
        cls,
        judged: Iterable[Judged],
        categories: Categories,
        *,
        pictures: int = 0,
        notes: Iterable[str] = (),
        series: Iterable[Series] = (),
    ) -> PartialResult:
        """Keep what was judged.

        Args:
            judged: The frames.
            categories: The classes.
            pictures: How many frames' pictures to keep at most.
            notes: Read after the last frame.
            series: Read after the last frame.
        """
        shelf, frames, qualities = Shelf(pictures), [], {}
        for item in judged:
            frames.append(item.measures)
            if item.snapshot is not None and pictures:
                shelf.put(item.snapshot, item.quality)
                qualities[item.snapshot.name] = item.quality
        return cls(
            categories=categories,
            frames=tuple(frames),
            pictures=tuple((shot, qualities[shot.name]) for shot in shelf.snapshots()),
            notes=tuple(notes),
            series=tuple(series),
        )

    @classmethod
    def merged(cls, parts: Iterable[PartialResult]) -> PartialResult:
        """Put parts together.

        Raises:
            EvaluationError: There is none, or they have different classes.
        """
        parts = list(parts)
        if not parts:
            raise EvaluationError("there is nothing to evaluate")
        categories = parts[0].categories
        if any(part.categories != categories for part in parts):
            raise EvaluationError("parts of different classes cannot be evaluated together")
        return cls(
            categories=categories,
            frames=tuple(frame for part in parts for frame in part.frames),
            pictures=tuple(picture for part in parts for picture in part.pictures),
            notes=tuple(note for part in parts for note in part.notes),
            series=tuple(series for part in parts for series in part.series),
        )

    def merge(self, other: PartialResult) -> PartialResult:
        """`merged` of the two."""
        return self.merged((self, other))

    def result(self) -> EvaluationResult:
        """The figures.

        Raises:
            EvaluationError: As `summarise`.
        """
        return summarise(self.frames, self.categories)

    def snapshots(self, places: int) -> list[Snapshot]:
        """At most so many of the pictures, in the order that the frames came."""
        shelf = Shelf(places)
        for shot, quality in self.pictures:
            shelf.put(shot, quality)
        return shelf.snapshots()
